{{/* Values that contradict each other, refused with a sentence. What a single value may be is in values.schema.json. */}}

{{- define "armoserve.checks" -}}
{{- include "armoserve.checks.scaling" . -}}
{{- include "armoserve.checks.weights" . -}}
{{- include "armoserve.checks.settings" . -}}
{{- include "armoserve.checks.access" . -}}
{{- end -}}

{{- define "armoserve.checks.scaling" -}}
{{- $values := .Values -}}
{{- $budget := $values.podDisruptionBudget -}}
{{- if and $values.hpa.enabled $values.keda.enabled }}{{ fail "hpa.enabled and keda.enabled are both true: two autoscalers would undo each other; enable one" }}{{ end -}}
{{- if and (include "armoserve.autoscaled" .) (ne (toString $values.replicas) "") }}{{ fail (printf "replicas = %s with an autoscaler: leave replicas empty, and set scaling.minReplicas and scaling.maxReplicas" (include "armoserve.plain" $values.replicas)) }}{{ end -}}
{{- if gt (int $values.scaling.minReplicas) (int $values.scaling.maxReplicas) }}{{ fail (printf "scaling.minReplicas = %d is more than scaling.maxReplicas = %d" (int $values.scaling.minReplicas) (int $values.scaling.maxReplicas)) }}{{ end -}}
{{- if and $values.keda.enabled (not $values.keda.prometheusAddress) }}{{ fail "keda.enabled needs keda.prometheusAddress, such as http://prometheus.monitoring.svc:9090" }}{{ end -}}
{{- if and (include "armoserve.isNone" $values.strategy.maxSurge) (include "armoserve.isNone" $values.strategy.maxUnavailable) }}{{ fail "strategy.maxSurge and strategy.maxUnavailable are both 0: no update could begin; let one be above 0" }}{{ end -}}
{{- if $budget.enabled -}}
{{- if eq (eq (toString $budget.minAvailable) "") (eq (toString $budget.maxUnavailable) "") }}{{ fail "podDisruptionBudget takes one of minAvailable and maxUnavailable; leave the other empty (\"\")" }}{{ end -}}
{{- $least := int (include "armoserve.leastReplicas" .) -}}
{{- $asks := toString $budget.minAvailable -}}
{{- if or (eq $asks "100%") (and (regexMatch "^[0-9]+$" $asks) (ge (int $asks) $least)) }}{{ fail (printf "podDisruptionBudget.minAvailable = %s with %s %d replicas would let no node be drained; set less, or maxUnavailable" $asks (ternary "as few as" "at most" (eq (include "armoserve.autoscaled" .) "true")) $least) }}{{ end -}}
{{- if include "armoserve.isNone" $budget.maxUnavailable }}{{ fail (printf "podDisruptionBudget.maxUnavailable = %s would let no node be drained; set 1, or podDisruptionBudget.enabled = false" (toString $budget.maxUnavailable)) }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "armoserve.checks.weights" -}}
{{- $weights := .Values.weights -}}
{{- if and (eq $weights.source "claim") (not $weights.claim.existingClaim) }}{{ fail "weights.source = claim needs weights.claim.existingClaim, a PersistentVolumeClaim that holds weights" }}{{ end -}}
{{- if eq $weights.source "hub" -}}
{{- if not $weights.hub.id }}{{ fail "weights.source = hub needs weights.hub.id, OWNER/NAME of the hub" }}{{ end -}}
{{- if not $weights.hub.revision }}{{ fail "weights.source = hub needs weights.hub.revision, a commit of 40 hexadecimal digits: branches move" }}{{ end -}}
{{- if not $weights.hub.sha256 }}{{ fail "weights.source = hub needs weights.hub.sha256, the SHA-256 of every *.safetensors: {file: digest}" }}{{ end -}}
{{- end -}}
{{- if eq $weights.source "archive" -}}
{{- if eq (empty $weights.archive.url) (empty $weights.archive.urlSecret.name) }}{{ fail "weights.source = archive needs one of weights.archive.url and weights.archive.urlSecret.name" }}{{ end -}}
{{- if not $weights.archive.sha256 }}{{ fail "weights.source = archive needs weights.archive.sha256: an archive without a digest is never opened" }}{{ end -}}
{{- end -}}
{{- if and (include "armoserve.fetches" .) $weights.storage.persistent (not $weights.storage.existingClaim) -}}
{{- if not (has "ReadWriteMany" $weights.storage.accessModes) -}}
{{- if gt (int (include "armoserve.mostReplicas" .)) 1 }}{{ fail (printf "weights.storage.accessModes without ReadWriteMany serves one replica, and there may be %s; use ReadWriteMany, or storage.persistent = false" (include "armoserve.mostReplicas" .)) }}{{ end -}}
{{- if not (include "armoserve.isNone" .Values.strategy.maxSurge) }}{{ fail (printf "weights.storage.accessModes without ReadWriteMany and strategy.maxSurge = %s: an update would wait for ever where the new Pod is on another node than the claim; set strategy: {maxSurge: 0, maxUnavailable: 1}" (include "armoserve.plain" .Values.strategy.maxSurge)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "armoserve.checks.settings" -}}
{{- $settings := .Values.settings -}}
{{- $drain := int64 (include "armoserve.drainSeconds" .) -}}
{{- if le (int64 (include "armoserve.graceSeconds" .)) $drain }}{{ fail (printf "terminationGracePeriodSeconds = %s would kill a Pod while it drains: it needs more than drain_delay_seconds + drain_timeout_seconds = %d; leave it empty" (include "armoserve.graceSeconds" .) $drain) }}{{ end -}}
{{- range .Values.extraEnv }}{{ if hasPrefix "ARMOSERVE_" .name }}{{ fail (printf "extraEnv sets %s: that belongs to settings" .name) }}{{ end }}{{ end -}}
{{- if and .Values.gpu.enabled (eq $settings.device "cpu") }}{{ fail "gpu.enabled with settings.device = cpu would hold a GPU idle; use auto or cuda" }}{{ end -}}
{{- if regexMatch "^cuda:0*[1-9]" $settings.device }}{{ fail (printf "settings.device = %s: a Pod has one GPU, which is cuda:0 in it; use auto or cuda" $settings.device) }}{{ end -}}
{{- if and (not .Values.gpu.enabled) (hasPrefix "cuda" $settings.device) }}{{ fail (printf "settings.device = %s needs gpu.enabled: a Pod sees no GPU that it did not ask for" $settings.device) }}{{ end -}}
{{- if and $settings.max_conversation_tokens (gt (int64 $settings.max_conversation_tokens) (int64 $settings.max_pack_tokens)) }}{{ fail (printf "settings.max_conversation_tokens = %d is more than settings.max_pack_tokens = %d: the conversation would fit no pack" (int64 $settings.max_conversation_tokens) (int64 $settings.max_pack_tokens)) }}{{ end -}}
{{- end -}}

{{- define "armoserve.checks.access" -}}
{{- $values := .Values -}}
{{- $provider := $values.promptAffinity.provider -}}
{{- if and $values.apiKeys.keys $values.apiKeys.existingSecret }}{{ fail "apiKeys.keys and apiKeys.existingSecret are both set; use one" }}{{ end -}}
{{- if and $values.settings.metrics_auth (not (include "armoserve.hasKeys" .)) }}{{ fail "settings.metrics_auth guards nothing without keys; set apiKeys.keys or apiKeys.existingSecret" }}{{ end -}}
{{- if and $values.settings.metrics_auth $values.serviceMonitor.enabled (not $values.serviceMonitor.keySecret.name) }}{{ fail "settings.metrics_auth with serviceMonitor.enabled needs serviceMonitor.keySecret.name, or Prometheus is answered 401" }}{{ end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) }}{{ fail "ingress.enabled needs ingress.hosts, at least one host name" }}{{ end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) }}{{ fail "httpRoute.enabled needs httpRoute.parentRefs, the Gateway that it belongs to" }}{{ end -}}
{{- if and (eq $provider "ingress-nginx") (not (and $values.ingress.enabled (eq $values.ingress.controller "ingress-nginx"))) }}{{ fail "promptAffinity.provider = ingress-nginx needs ingress.enabled and ingress.controller = ingress-nginx" }}{{ end -}}
{{- if and (eq $provider "envoy-gateway") (not $values.httpRoute.enabled) }}{{ fail "promptAffinity.provider = envoy-gateway needs httpRoute.enabled: its policy is attached to the route" }}{{ end -}}
{{- end -}}

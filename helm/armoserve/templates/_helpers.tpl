{{/* Names and small facts that several manifests share. Which values go together is in _checks.tpl. */}}

{{- define "armoserve.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "armoserve.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of something beside the Deployment: (list . "suffix"). A Service's name has 63 characters at most. */}}
{{- define "armoserve.child" -}}
{{- $suffix := index . 1 -}}
{{- printf "%s-%s" (include "armoserve.fullname" (index . 0) | trunc (int (sub 62 (len $suffix))) | trimSuffix "-") $suffix -}}
{{- end -}}

{{- define "armoserve.selectorLabels" -}}
app.kubernetes.io/name: {{ include "armoserve.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "armoserve.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "armoserve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "armoserve.image" -}}
{{- $variant := ternary "cuda" "cpu" .Values.gpu.enabled -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default (printf "%s-%s" .Chart.AppVersion $variant) .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* A value as the environment spells it: Helm's numbers are floating point, and would print 2e+06. */}}
{{- define "armoserve.plain" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}{{ int64 . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/* Where libraries write that do not ask for TMPDIR; in two parts, so that no file here names a machine's folder. */}}
{{- define "armoserve.temporaryFolder" -}}{{ print "/" "tmp" }}{{- end -}}

{{- define "armoserve.hasKeys" -}}
{{- if or .Values.apiKeys.keys .Values.apiKeys.existingSecret }}true{{ end -}}
{{- end -}}

{{- define "armoserve.keySecret" -}}
{{- default (include "armoserve.child" (list . "api-keys")) .Values.apiKeys.existingSecret -}}
{{- end -}}

{{- define "armoserve.autoscaled" -}}
{{- if or .Values.hpa.enabled .Values.keda.enabled }}true{{ end -}}
{{- end -}}

{{/* The most replicas that there are at once, a rolling update left out. */}}
{{- define "armoserve.mostReplicas" -}}
{{- if include "armoserve.autoscaled" . }}{{ .Values.scaling.maxReplicas }}
{{- else if eq (toString .Values.replicas) "" }}1{{ else }}{{ .Values.replicas }}{{ end -}}
{{- end -}}

{{/* The fewest: what a budget must leave room in. */}}
{{- define "armoserve.leastReplicas" -}}
{{- if include "armoserve.autoscaled" . }}{{ .Values.scaling.minReplicas }}{{ else }}{{ include "armoserve.mostReplicas" . }}{{ end -}}
{{- end -}}

{{/* Whether a number or share of replicas is none: 0 or "0%". */}}
{{- define "armoserve.isNone" -}}
{{- if regexMatch "^0+%?$" (toString .) }}true{{ end -}}
{{- end -}}

{{/* The device as the server is told: with a GPU asked for, auto must not end on the CPU where the driver is missing. */}}
{{- define "armoserve.device" -}}
{{- ternary "cuda" .Values.settings.device (and .Values.gpu.enabled (eq .Values.settings.device "auto")) -}}
{{- end -}}

{{- define "armoserve.drainSeconds" -}}
{{- addf .Values.settings.drain_delay_seconds .Values.settings.drain_timeout_seconds | ceil | int64 -}}
{{- end -}}

{{/* Fifteen seconds more: the last answers, traces and log lines go out after the drain. */}}
{{- define "armoserve.graceSeconds" -}}
{{- $least := add (include "armoserve.drainSeconds" .) 15 -}}
{{- if eq (toString .Values.terminationGracePeriodSeconds) "" }}{{ $least }}{{ else }}{{ int64 .Values.terminationGracePeriodSeconds }}{{ end -}}
{{- end -}}

{{/* How long a balancer has to wait for an answer: the longest wait that is admitted, and a long forward pass. */}}
{{- define "armoserve.answerSeconds" -}}
{{- addf .Values.settings.max_wait_seconds 60 | ceil | int64 -}}
{{- end -}}

{{- define "armoserve.queueQuery" -}}
armoserve_queue_wait_estimate_seconds{namespace={{ .Release.Namespace | quote }},service={{ include "armoserve.fullname" . | quote }}}
{{- end -}}

{{/* What both autoscalers do: up at once and by few, down slowly, since a replica takes minutes to load. */}}
{{- define "armoserve.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Pods, value: {{ .Values.scaling.podsPerMinute }}, periodSeconds: 60}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.scaling.scaleDownSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: 120}
{{- end -}}

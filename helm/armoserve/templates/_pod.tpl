{{/* The Pod: the server, and before it the init container where weights are fetched. */}}

{{- define "armoserve.pod" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
serviceAccountName: {{ .Values.serviceAccountName }}
automountServiceAccountToken: false
# Else Kubernetes sets ARMOSERVE_PORT=tcp://… and the like for a Service called armoserve, and settings would be those.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "armoserve.graceSeconds" . }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.topologySpread.enabled }}
topologySpreadConstraints:
  - topologyKey: {{ .Values.topologySpread.topologyKey }}
    maxSkew: {{ .Values.topologySpread.maxSkew }}
    whenUnsatisfiable: {{ .Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "armoserve.selectorLabels" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- if include "armoserve.fetches" . }}
initContainers:
  - {{- include "armoserve.fetchContainer" . | nindent 4 }}
{{- end }}
containers:
  - {{- include "armoserve.serverContainer" . | nindent 4 }}
volumes: {{- include "armoserve.volumes" . | nindent 2 }}
{{- end -}}

{{- define "armoserve.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "armoserve.serverContainer" -}}
name: armoserve
image: {{ include "armoserve.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
securityContext: {{- include "armoserve.containerSecurity" . | nindent 2 }}
ports:
  - {name: http, containerPort: {{ .Values.service.port }}, protocol: TCP}
envFrom:
  - configMapRef: {name: {{ include "armoserve.child" (list . "settings") }}}
env:
  # Caches of libraries go where a file may be written.
  - {name: HOME, value: /var/tmp}
  # Weights are there before the server starts; it asks no hub.
  - {name: HF_HUB_OFFLINE, value: "1"}
  # Else there would be a thread per core of the node, whatever this container may use of them.
  - name: OMP_NUM_THREADS
    valueFrom: {resourceFieldRef: {resource: {{ include "armoserve.cpuBound" . }}, divisor: "1"}}
  {{- with .Values.extraEnv }}{{ toYaml . | nindent 2 }}{{ end }}
{{- include "armoserve.probes" . }}
resources: {{- include "armoserve.resources" . | nindent 2 }}
volumeMounts:
  - {name: temporary, mountPath: /var/tmp, subPath: own}
  - {name: temporary, mountPath: {{ include "armoserve.temporaryFolder" . }}, subPath: any}
  {{- if include "armoserve.hasKeys" . }}
  - {name: api-keys, mountPath: /etc/armoserve/keys, readOnly: true}
  {{- end }}
  {{- if ne .Values.weights.source "image" }}
  - {name: weights, mountPath: /weights, readOnly: true}
  {{- end }}
{{- end -}}

{{- define "armoserve.cpuBound" -}}
{{- $isRequested := hasKey (default dict .Values.resources.requests) "cpu" -}}
{{- $isLimited := hasKey (default dict .Values.resources.limits) "cpu" -}}
{{- ternary "requests.cpu" "limits.cpu" (and $isRequested (not $isLimited)) -}}
{{- end -}}

{{/* Until the startup probe has passed once, the others are not asked. */}}
{{- define "armoserve.probes" }}
startupProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: {{ .Values.probes.timeoutSeconds }}
  failureThreshold: {{ divf .Values.probes.startupSeconds 5 | ceil | int64 }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: {{ .Values.probes.periodSeconds }}
  timeoutSeconds: {{ .Values.probes.timeoutSeconds }}
  # A queue that is full for a moment takes nobody off the Service: were it all of them, nobody would be answered.
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /livez, port: http}
  # An engine that hangs finishes nothing, so there is no drain to wait for.
  terminationGracePeriodSeconds: 10
  periodSeconds: {{ mul .Values.probes.periodSeconds 2 }}
  timeoutSeconds: {{ .Values.probes.timeoutSeconds }}
  failureThreshold: 3
{{- end -}}

{{- define "armoserve.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $_ := set $resources "limits" (set (default dict $resources.limits) .Values.gpu.resource 1) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "armoserve.fetchContainer" -}}
{{- $secret := include "armoserve.fetchSecret" . | fromJson -}}
name: fetch-weights
image: {{ include "armoserve.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [python3, /etc/armoserve/script/fetch_weights.py, /etc/armoserve/script/order.json]
securityContext: {{- include "armoserve.containerSecurity" . | nindent 2 }}
env:
  - {name: HOME, value: /var/tmp}
  {{- if and $secret.name (eq .Values.weights.source "hub") }}
  - {name: HF_TOKEN_PATH, value: /etc/armoserve/fetch/secret}
  {{- end }}
resources: {{- toYaml .Values.weights.initResources | nindent 2 }}
volumeMounts:
  - {name: temporary, mountPath: /var/tmp, subPath: own}
  - {name: temporary, mountPath: {{ include "armoserve.temporaryFolder" . }}, subPath: any}
  - {name: weights, mountPath: /weights}
  - {name: fetch-script, mountPath: /etc/armoserve/script, readOnly: true}
  {{- if $secret.name }}
  - {name: fetch-secret, mountPath: /etc/armoserve/fetch, readOnly: true}
  {{- end }}
{{- end -}}

{{- define "armoserve.volumes" -}}
- {name: temporary, emptyDir: {}}
{{- if include "armoserve.hasKeys" . }}
- name: api-keys
  secret:
    secretName: {{ include "armoserve.keySecret" . }}
    defaultMode: 0440
    items: [{key: {{ .Values.apiKeys.secretKey }}, path: api-keys}]
{{- end }}
{{- if ne .Values.weights.source "image" }}
- name: weights
  {{- include "armoserve.weightsVolume" . | indent 2 }}
{{- end }}
{{- if include "armoserve.fetches" . }}
{{- $secret := include "armoserve.fetchSecret" . | fromJson }}
- name: fetch-script
  configMap: {name: {{ include "armoserve.child" (list . "fetch") }}}
{{- if $secret.name }}
- name: fetch-secret
  secret:
    secretName: {{ $secret.name }}
    defaultMode: 0440
    items: [{key: {{ $secret.key }}, path: secret}]
{{- end }}
{{- end }}
{{- end -}}

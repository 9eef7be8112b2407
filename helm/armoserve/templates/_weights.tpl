{{/* Where the weights come from, and what the init container is told. */}}

{{- define "armoserve.fetches" -}}
{{- if has .Values.weights.source (list "hub" "archive") }}true{{ end -}}
{{- end -}}

{{/* What decides the bytes: its digest names the folder, so new weights never touch those that are being served. */}}
{{- define "armoserve.weightsIdentity" -}}
{{- $weights := .Values.weights -}}
{{- if eq $weights.source "hub" -}}
{{- dict "hub" (pick $weights.hub "id" "revision" "sha256") | toJson -}}
{{- else -}}
{{- dict "archive" (pick $weights.archive "sha256") | toJson -}}
{{- end -}}
{{- end -}}

{{- define "armoserve.weightsPath" -}}
{{- $weights := .Values.weights -}}
{{- if eq $weights.source "image" -}}{{ $weights.image.path }}
{{- else if eq $weights.source "claim" -}}{{ printf "/weights/%s" $weights.claim.path | trimSuffix "/" }}
{{- else -}}/weights/{{ include "armoserve.weightsIdentity" . | sha256sum | trunc 16 }}
{{- end -}}
{{- end -}}

{{/* The order that scripts/fetch_weights.py reads. */}}
{{- define "armoserve.weightsOrder" -}}
{{- $weights := .Values.weights -}}
{{- $order := dict "folder" (include "armoserve.weightsPath" .) -}}
{{- if eq $weights.source "hub" -}}
{{- $_ := set $order "hub" (pick $weights.hub "id" "revision" "sha256") -}}
{{- else if $weights.archive.urlSecret.name -}}
{{- $_ := set $order "archive" (dict "url_file" "/etc/armoserve/fetch/secret" "sha256" $weights.archive.sha256) -}}
{{- else -}}
{{- $_ := set $order "archive" (pick $weights.archive "url" "sha256") -}}
{{- end -}}
{{- $order | toJson -}}
{{- end -}}

{{- define "armoserve.fetchSecret" -}}
{{- $secret := ternary .Values.weights.hub.tokenSecret .Values.weights.archive.urlSecret (eq .Values.weights.source "hub") -}}
{{- $secret | toJson -}}
{{- end -}}

{{- define "armoserve.weightsClaim" -}}
{{- if eq .Values.weights.source "claim" -}}{{ .Values.weights.claim.existingClaim }}
{{- else -}}{{ default (include "armoserve.child" (list . "weights")) .Values.weights.storage.existingClaim }}
{{- end -}}
{{- end -}}

{{- define "armoserve.weightsVolume" -}}
{{- if eq .Values.weights.source "claim" }}
persistentVolumeClaim: {claimName: {{ include "armoserve.weightsClaim" . }}, readOnly: true}
{{- else if .Values.weights.storage.persistent }}
persistentVolumeClaim: {claimName: {{ include "armoserve.weightsClaim" . }}}
{{- else }}
emptyDir: {sizeLimit: {{ .Values.weights.storage.size }}}
{{- end }}
{{- end -}}

{{/* The port that weights are fetched from, for the NetworkPolicy. */}}
{{- define "armoserve.fetchPort" -}}
{{- $url := urlParse (ternary "https://hub" (default "https://signed" .Values.weights.archive.url) (eq .Values.weights.source "hub")) -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- default (ternary "80" "443" (eq $url.scheme "http")) $port -}}
{{- end -}}

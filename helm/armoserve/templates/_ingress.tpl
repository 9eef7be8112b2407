{{/* One Ingress, and what ingress-nginx is told for each kind of request. */}}

{{- define "armoserve.ingress" }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ .name }}
  labels: {{- include "armoserve.labels" .root | nindent 4 }}
  {{- with merge (dict) .root.Values.ingress.annotations .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .root.Values.ingress.className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with .root.Values.ingress.tls }}
  tls: {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    {{- range .root.Values.ingress.hosts }}
    - host: {{ . | quote }}
      http:
        paths:
          - path: {{ $.path }}
            pathType: {{ $.pathType }}
            backend: {service: {name: {{ $.service }}, port: {name: http}}}
    {{- end }}
{{- end -}}

{{/* Bodies and waits that the service allows, the balancer allows. */}}
{{- define "armoserve.ingress.answers" -}}
{{- if eq .Values.ingress.controller "ingress-nginx" -}}
nginx.ingress.kubernetes.io/proxy-body-size: {{ include "armoserve.plain" .Values.settings.max_body_bytes | quote }}
nginx.ingress.kubernetes.io/proxy-read-timeout: {{ include "armoserve.answerSeconds" . | quote }}
{{- end -}}
{{- end -}}

{{/* A stream goes both ways at once, as long as it likes. Bulk may wait for hours, in which nothing comes or goes: the
service itself ends streams whose caller stands still, so the balancer need not. */}}
{{- define "armoserve.ingress.streams" -}}
nginx.ingress.kubernetes.io/proxy-body-size: "0"
nginx.ingress.kubernetes.io/proxy-request-buffering: "off"
nginx.ingress.kubernetes.io/proxy-buffering: "off"
nginx.ingress.kubernetes.io/proxy-http-version: "1.1"
nginx.ingress.kubernetes.io/proxy-read-timeout: "86400"
nginx.ingress.kubernetes.io/proxy-send-timeout: "86400"
{{- end -}}

{{/* Requests with the header leave the main Ingress, which takes turns, for this one, which hashes. Were the hash on the
main one, an absent header would be an empty key, and one replica would have all such requests. */}}
{{- define "armoserve.ingress.affine" -}}
nginx.ingress.kubernetes.io/canary: "true"
nginx.ingress.kubernetes.io/canary-by-header: {{ .Values.promptAffinity.header | quote }}
nginx.ingress.kubernetes.io/canary-by-header-pattern: ".+"
nginx.ingress.kubernetes.io/upstream-hash-by: {{ printf "$http_%s" (.Values.promptAffinity.header | lower | replace "-" "_") | quote }}
{{- end -}}

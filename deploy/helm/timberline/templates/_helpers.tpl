{{- define "timberline.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "timberline.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "timberline.labels" -}}
{{ include "timberline.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "timberline.modelName" -}}
{{- regexFind "^[^@,]+" .Values.model -}}
{{- end -}}

{{- /* What the service may take after SIGTERM, the wait before it, and ten seconds to write its last lines. */ -}}
{{- define "timberline.graceS" -}}
{{- $drain := .Values.settings.TIMBERLINE_SERVE_DRAIN_S | float64 -}}
{{- $grace := .Values.settings.TIMBERLINE_SERVE_SHUTDOWN_GRACE_S | float64 -}}
{{- addf .Values.preStopS $drain $grace 10 | ceil | int -}}
{{- end -}}

{{- define "timberline.podSecurity" -}}
runAsNonRoot: true
{{- with get .Values "user" }}
runAsUser: {{ . | int }}
runAsGroup: {{ . | int }}
fsGroup: {{ . | int }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "timberline.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "timberline.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* Variables of a bucket; `secret` has the account. */ -}}
{{- define "timberline.bucketEnv" -}}
{{- if eq .root.Values.storage.kind "bucket" }}
{{- with .root.Values.storage.bucket.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .root.Values.storage.bucket.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- with .secret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.secret }}, key: {{ . }}}}
{{- end }}
- name: AWS_SESSION_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_SESSION_TOKEN, optional: true}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "timberline.claim" -}}
{{- .Values.storage.volume.claim | default (printf "%s-models" (include "timberline.name" .)) -}}
{{- end -}}

{{- /* The port that the bucket listens on. */ -}}
{{- define "timberline.bucketPort" -}}
{{- $url := urlParse (.Values.storage.bucket.endpoint | default "https://s3") -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "http" | ternary "80" "443") -}}
{{- end -}}

{{- /* Names and the bucket, where there is one; nothing otherwise. */ -}}
{{- define "timberline.bucketEgress" -}}
{{- if eq .Values.storage.kind "bucket" -}}
- ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
- ports: [{protocol: TCP, port: {{ include "timberline.bucketPort" . }}}]
  {{- with .Values.networkPolicy.bucket }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{- /* What a scaler scales. */ -}}
{{- define "timberline.scaled" -}}
{{- if .Values.rollout.enabled -}}
{apiVersion: argoproj.io/v1alpha1, kind: Rollout, name: {{ include "timberline.name" . }}}
{{- else -}}
{apiVersion: apps/v1, kind: Deployment, name: {{ include "timberline.name" . }}}
{{- end -}}
{{- end -}}

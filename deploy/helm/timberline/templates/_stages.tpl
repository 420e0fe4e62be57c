{{- define "timberline.stages" -}}
["fetch", "etl", "train", "evaluate", "export", "gate", "promote"]
{{- end -}}

{{- /* One stage's container. `stage`, `root`; `model` if not every version, `script` in place of the stage's own call. */ -}}
{{- define "timberline.stage" -}}
{{- $values := .root.Values -}}
{{- $limits := index $values.stages.resources .stage -}}
name: {{ .stage }}
image: {{ has .stage (list "fetch" "promote") | ternary $values.images.tools $values.images.train }}
imagePullPolicy: {{ $values.images.pullPolicy }}
{{- with get . "script" }}
command: [sh, -euc]
args:
  - | {{- . | nindent 4 }}
{{- else }}
args: [{{ .stage }}]
{{- end }}
env:
  - {name: MODEL, value: {{ get . "model" | default (include "timberline.modelName" .root) | quote }}}
  {{- if eq $values.storage.kind "bucket" }}
  - {name: REGISTRY, value: {{ $values.storage.bucket.registry | quote }}}
  - {name: DATA, value: {{ $values.storage.bucket.data | quote }}}
  - {name: TIMBERLINE_CACHE, value: /tmp/cache}
  {{- with include "timberline.bucketEnv" (dict "root" .root "secret" $values.storage.bucket.writeSecret) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- range $name, $value := $values.stages.settings }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- if and (eq .stage "fetch") $values.stages.sourceSecret }}
envFrom:
  - secretRef: {name: {{ $values.stages.sourceSecret }}}
{{- end }}
securityContext: {{- include "timberline.containerSecurity" .root | nindent 2 }}
resources:
  requests: {{- toYaml $limits | nindent 4 }}
  limits: {{- toYaml $limits | nindent 4 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if eq $values.storage.kind "volume" }}
  - {name: timberline, mountPath: /var/timberline}
  {{- end }}
{{- end -}}

{{- /* What a job does: `stages` one after the other, the last one as the container. `component`, `root`; `labels` more, `ttl`, and as a stage. */ -}}
{{- define "timberline.job" -}}
{{- $values := .root.Values -}}
backoffLimit: 0
ttlSecondsAfterFinished: {{ get . "ttl" | default 86400 }}
template:
  metadata:
    labels:
      {{- include "timberline.labels" . | nindent 6 }}
      {{- with get . "labels" }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "timberline.name" .root }}-{{ .component }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    securityContext: {{- include "timberline.podSecurity" .root | nindent 6 }}
    {{- with include "timberline.pullSecrets" .root | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with $values.stages.nodeSelector }}
    nodeSelector: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.stages.tolerations }}
    tolerations: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with initial .stages }}
    initContainers:
      {{- range . }}
      - {{ include "timberline.stage" (dict "root" $.root "stage" .) | nindent 8 | trim }}
      {{- end }}
    {{- end }}
    containers:
      - {{ include "timberline.stage" (dict "root" .root "stage" (last .stages) "model" (get . "model") "script" (get . "script")) | nindent 8 | trim }}
    volumes:
      - name: tmp
        emptyDir: {sizeLimit: {{ $values.stages.scratchSize }}}
      {{- if eq $values.storage.kind "volume" }}
      - name: timberline
        persistentVolumeClaim: {claimName: {{ include "timberline.claim" .root }}}
      {{- end }}
{{- end -}}

{{- define "timberline.cronApi" -}}
{{- semverCompare ">=1.21-0" .Capabilities.KubeVersion.Version | ternary "batch/v1" "batch/v1beta1" -}}
{{- end -}}

{{- /* The gate of a rollout: it ends with 0 where Argo Rollouts has to ask what it said. */ -}}
{{- define "timberline.gateJob" -}}
{{- $labels := dict "timberline/judges" "{{args.pods}}" -}}
{{- $script := include "timberline.gateScript" . -}}
{{- include "timberline.job" (dict "root" . "component" "gate" "stages" (list "gate") "model" .Values.model "labels" $labels "script" $script "ttl" 300) -}}
{{- end -}}

{{- define "timberline.gateScript" -}}
code=0
stage gate > /tmp/gate.json || code=$?
cat /tmp/gate.json
# 2 is also the code of a wrong setting, which has no outcome.
if [ "$code" = 2 ] && grep -q '"outcome": *"INCONCLUSIVE"' /tmp/gate.json; then
  printf INCONCLUSIVE > /dev/termination-log
  exit 0
fi
[ "$code" != 0 ] || printf PASS > /dev/termination-log
exit "$code"
{{- end -}}

{{- /* The service's pod: of the Deployment, and of the Rollout. */ -}}
{{- define "timberline.pod" -}}
metadata:
  labels: {{- include "timberline.labels" (dict "root" . "component" "serve") | nindent 4 }}
  annotations:
    checksum/settings: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
spec:
  serviceAccountName: {{ include "timberline.name" . }}-serve
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "timberline.graceS" . }}
  securityContext: {{- include "timberline.podSecurity" . | nindent 4 }}
  {{- with include "timberline.pullSecrets" . | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "timberline.selector" (dict "root" $ "component" "serve") | nindent 10 }}
    {{- end }}
  {{- if eq .Values.storage.kind "image" }}
  initContainers:
    - name: registry
      image: {{ required "storage.image.reference is needed" .Values.storage.image.reference }}
      imagePullPolicy: {{ .Values.images.pullPolicy }}
      command: [cp, -R, {{ .Values.storage.image.path }}/., /var/timberline/registry/]
      securityContext: {{- include "timberline.containerSecurity" . | nindent 8 }}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: registry, mountPath: /var/timberline/registry}
  {{- end }}
  containers:
    - name: serve
      image: {{ .Values.images.serve }}
      imagePullPolicy: {{ .Values.images.pullPolicy }}
      envFrom:
        - configMapRef: {name: {{ include "timberline.name" . }}}
      {{- with include "timberline.bucketEnv" (dict "root" . "secret" .Values.storage.bucket.readSecret) | trim }}
      env: {{- . | nindent 8 }}
      {{- end }}
      ports:
        - {name: http, containerPort: 8000}
        - {name: metrics, containerPort: 8001}
      # Nothing can connect before the version is loaded, which may take the 60 s of TIMBERLINE_SERVE_LOAD_TIMEOUT_S.
      startupProbe:
        httpGet: {path: /v2/health/ready, port: http}
        periodSeconds: 1
        timeoutSeconds: 3
        failureThreshold: 90
      readinessProbe:
        httpGet: {path: /v2/health/ready, port: http}
        periodSeconds: 2
        timeoutSeconds: 3
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /v2/health/live, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 3
      lifecycle:
        preStop: {exec: {command: [sleep, {{ .Values.preStopS | quote }}]}}
      securityContext: {{- include "timberline.containerSecurity" . | nindent 8 }}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if eq .Values.storage.kind "volume" }}
        - {name: timberline, mountPath: /var/timberline, readOnly: true}
        {{- else if eq .Values.storage.kind "bucket" }}
        - {name: cache, mountPath: /var/cache/timberline}
        {{- else }}
        - {name: registry, mountPath: /var/timberline/registry, readOnly: true}
        {{- end }}
        {{- if .Values.tokensSecret }}
        - {name: tokens, mountPath: /etc/timberline, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- if eq .Values.storage.kind "volume" }}
    - name: timberline
      persistentVolumeClaim: {claimName: {{ include "timberline.claim" . }}, readOnly: true}
    {{- else if eq .Values.storage.kind "bucket" }}
    - name: cache
      emptyDir: {sizeLimit: {{ .Values.storage.bucket.cacheSize }}}
    {{- else }}
    - name: registry
      emptyDir: {}
    {{- end }}
    {{- with .Values.tokensSecret }}
    - name: tokens
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
{{- end -}}

{{- /* What the gateway and what prepares its topics have in common. */}}

{{- define "carillon.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end }}

{{- define "carillon.environment" -}}
- name: CARILLON_WORKERS
  value: {{ .Values.workers | quote }}
- name: CARILLON_HTTP__HOST
  value: 0.0.0.0
- name: CARILLON_HTTP__PORT
  value: "8080"
- name: CARILLON_QUEUE__PATH
  value: /data/carillon.db
# Prometheus has no credential; callers need one.
- name: CARILLON_ACCESS__PROBES
  value: anyone
{{- if eq .Values.queue "kafka" }}
- name: CARILLON_KAFKA__SERVERS
  value: {{ .Values.kafka.servers | toJson | quote }}
- name: CARILLON_KAFKA__PREFIX
  value: {{ .Values.kafka.prefix }}
# The pod's name stays when it is started again, and so do its partitions.
- name: CARILLON_KAFKA__INSTANCE
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
{{- end }}

{{- define "carillon.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "carillon.mounts" -}}
- name: data
  mountPath: /data
# The file alone: a folder could not hold the mount of the keys.
- name: config
  mountPath: /etc/carillon/carillon.toml
  subPath: carillon.toml
  readOnly: true
{{- if .Values.keysSecret }}
- name: keys
  mountPath: /etc/carillon/keys
  readOnly: true
{{- end }}
{{- end }}

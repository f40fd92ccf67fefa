{{- define "sockstate-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "sockstate-exporter.fullname" -}}
{{- $name := include "sockstate-exporter.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sockstate-exporter.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "sockstate-exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sockstate-exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "sockstate-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sockstate-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sockstate-exporter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/component: metrics
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "sockstate-exporter.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sockstate-exporter.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository is missing: where the image of sockstate_exporter is, such as registry.internal/sockstate_exporter" $image.repository -}}
{{- with default $image.registry .Values.global.imageRegistry -}}
{{- $repository = printf "%s/%s" . $repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The capabilities of the features, as docs/privileges.md has them; a test compares both. */}}
{{- define "sockstate-exporter.capabilities" -}}
{{- $features := .Values.features -}}
{{- $added := list -}}
{{- range .Values.extraCapabilities -}}
{{- $added = append $added (trimPrefix "CAP_" .) -}}
{{- end -}}
{{- if or $features.bindTracing $features.reuseFlags $features.owners -}}
{{- $added = concat $added (list "BPF" "PERFMON") -}}
{{- if $features.fallbacks -}}
{{- $added = append $added "DAC_READ_SEARCH" -}}
{{- end -}}
{{- end -}}
{{- if and $features.fallbacks (or $features.reuseFlags $features.owners) -}}
{{- $added = append $added "SYS_PTRACE" -}}
{{- end -}}
{{- if $features.namespaces.processes -}}
{{- $added = concat $added (list "SYS_ADMIN" "SYS_PTRACE") -}}
{{- end -}}
{{- range $name := $features.namespaces.names -}}
{{- $added = append $added "SYS_ADMIN" -}}
{{- if contains "/" $name -}}
{{- $added = append $added "DAC_READ_SEARCH" -}}
{{- end -}}
{{- if hasPrefix "/proc/" $name -}}
{{- $added = append $added "SYS_PTRACE" -}}
{{- end -}}
{{- end -}}
{{- if lt (int .Values.port) 1024 -}}
{{- $added = append $added "NET_BIND_SERVICE" -}}
{{- end -}}
{{- $added | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "sockstate-exporter.args" -}}
{{- $features := .Values.features -}}
- --web.listen-address={{ .Values.listenAddress }}:{{ .Values.port }}
{{- if include "sockstate-exporter.webSecret" . }}
- --web.config.file=/etc/sockstate_exporter/web.yml
{{- end }}
{{- if not $features.bindTracing }}
- --no-collector.bind
- --no-collector.connect
{{- end }}
{{- if not $features.reuseFlags }}
- --no-collector.reuse
{{- end }}
{{- if not $features.owners }}
- --no-collector.owner
{{- end }}
{{- if $features.namespaces.processes }}
- --netns.processes
{{- end }}
{{- range $features.namespaces.names }}
- {{ printf "--netns=%s" . | quote }}
{{- end }}
{{- if .Values.podNames.containerd }}
- {{ printf "--containers.containerd=%s" (clean .Values.podNames.containerdTasks) | quote }}
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The Secret that holds web.yml; empty without. */}}
{{- define "sockstate-exporter.webSecret" -}}
{{- if and .Values.web.config .Values.web.existingSecret -}}
{{- fail "web.config and web.existingSecret are both set: choose one" -}}
{{- end -}}
{{- if and .Values.web.tlsSecret (not .Values.web.config) (not .Values.web.existingSecret) -}}
{{- fail "web.tlsSecret is set, and no web.yml names its files: set web.config or web.existingSecret" -}}
{{- end -}}
{{- if .Values.web.config -}}
{{- include "sockstate-exporter.fullname" . }}-web
{{- else -}}
{{- .Values.web.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "sockstate-exporter.scheme" -}}
{{- ternary "https" "http" (hasKey .Values.web.config "tls_server_config") -}}
{{- end -}}

{{/* A probe of a page. The kubelet has neither a password nor a certificate. */}}
{{- define "sockstate-exporter.probe" -}}
{{- $root := .root -}}
{{- $web := $root.Values.web -}}
{{- $tls := $web.config.tls_server_config | default dict -}}
{{- if or $web.existingSecret $web.config.basic_auth_users (hasPrefix "Require" ($tls.client_auth_type | default "")) -}}
tcpSocket:
  {{- with $root.Values.listenAddress }}
  host: {{ trimAll "[]" . | quote }}
  {{- end }}
  port: metrics
{{- else -}}
httpGet:
  {{- with $root.Values.listenAddress }}
  host: {{ trimAll "[]" . | quote }}
  {{- end }}
  path: {{ .path }}
  port: metrics
  scheme: {{ include "sockstate-exporter.scheme" $root | upper }}
{{- end }}
timeoutSeconds: 5
{{- end -}}

{{/* The endpoint of a PodMonitor and of a ServiceMonitor. */}}
{{- define "sockstate-exporter.endpoint" -}}
{{- $monitor := .monitor -}}
port: metrics
scheme: {{ default (include "sockstate-exporter.scheme" .root) $monitor.scheme }}
interval: {{ $monitor.interval }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- range $key := list "tlsConfig" "basicAuth" "authorization" }}
{{- with get $monitor $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
# namespace, pod and container are those that a metric is about, as in cAdvisor's metrics. So they
# are not those of the exporter.
honorLabels: true
relabelings:
  # A pod's name changes, its node's does not.
  - sourceLabels: [__meta_kubernetes_pod_node_name]
    targetLabel: instance
  - action: labeldrop
    regex: namespace|pod|container
  {{- with $monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sockstate-exporter.runbookUrl" -}}
{{- required "runbookUrl is missing: the address where docs/runbooks is served, such as that of the folder on your git server. Alerts and dashboards link to it" .Values.runbookUrl | trimSuffix "/" -}}
{{- end -}}

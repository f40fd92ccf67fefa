{{/* Folders of the node, by the name of their volume, mounted read-only at the same path. */}}
{{- define "sockstate-exporter.folders" -}}
{{- $folders := dict -}}
{{- if and .Values.features.bindTracing .Values.features.fallbacks -}}
{{- $_ := set $folders "tracefs" "/sys/kernel/tracing" -}}
{{- end -}}
{{- if .Values.podNames.kubelet -}}
{{- $_ := set $folders "container-logs" "/var/log/containers" -}}
{{- $_ := set $folders "pod-logs" "/var/log/pods" -}}
{{- end -}}
{{- if .Values.podNames.containerd -}}
{{- $tasks := clean .Values.podNames.containerdTasks -}}
{{- if not (hasSuffix "/io.containerd.runtime.v2.task" $tasks) -}}
{{- fail (printf "podNames.containerdTasks is %s: it has to end with /io.containerd.runtime.v2.task. The folder above it has the socket of containerd, which gives root on the node" $tasks) -}}
{{- end -}}
{{- $_ := set $folders "containerd-tasks" $tasks -}}
{{- end -}}
{{- $folders | toJson -}}
{{- end -}}

{{/* Whether a namespace is named as in /run/netns, without a path. */}}
{{- define "sockstate-exporter.runNetns" -}}
{{- range .Values.features.namespaces.names -}}
{{- if not (contains "/" .) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sockstate-exporter.volumeMounts" -}}
{{- range $name, $path := include "sockstate-exporter.folders" . | fromJson }}
- name: {{ $name }}
  mountPath: {{ $path }}
  readOnly: true
{{- end }}
{{- if include "sockstate-exporter.runNetns" . }}
# A namespace that is added later is a mount that has to propagate.
- name: netns
  mountPath: /run/netns
  mountPropagation: HostToContainer
  readOnly: true
{{- end }}
{{- if include "sockstate-exporter.webSecret" . }}
- name: web
  mountPath: /etc/sockstate_exporter
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sockstate-exporter.volumes" -}}
{{- range $name, $path := include "sockstate-exporter.folders" . | fromJson }}
- name: {{ $name }}
  hostPath:
    path: {{ $path }}
    type: Directory
{{- end }}
{{- if include "sockstate-exporter.runNetns" . }}
- name: netns
  hostPath:
    path: /run/netns
    type: DirectoryOrCreate
{{- end }}
{{- with include "sockstate-exporter.webSecret" . }}
- name: web
  projected:
    defaultMode: 0400
    sources:
      - secret:
          name: {{ . }}
      {{- with $.Values.web.tlsSecret }}
      - secret:
          name: {{ . }}
      {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

// Package container finds what people call a container: the pod and the container's name in it on
// Kubernetes, or its name in Docker and Podman. It asks no runtime. It reads files.
//
// # Files
//
// A kubelet keeps names that are the same for every runtime. Only the names of these files are read:
//
//	/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log
//	/var/log/pods/NAMESPACE_POD_UID/
//
// The runtimes keep a folder for each container, by its id:
//
//	containerd     /run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json
//	CRI-O, Podman  /var/lib/containers/storage/DRIVER-containers/ID/userdata/config.json,
//	               and for Podman the names in DRIVER-containers/containers.json
//	Docker         /var/lib/docker/containers/ID/config.v2.json and hostconfig.json
//
// CRI-O is as its documentation says; no test has run it.
//
// The kubelet's names come first. A runtime is looked for under the id of a container that was seen, so
// one that is not there costs a system call for each container.
//
// # What may be trusted
//
// The folders are root's. But a pod's users choose annotations, and images choose labels. A name counts
// only if the runtime itself writes it, and it has the form that Kubernetes, Docker or Podman gives
// names. No path is made from what was read: the only variable part of a path is the id, 64 hexadecimal
// digits. A file is at most maxFile bytes long, and not nested deeper than encoding/json allows. Links
// are not followed.
//
// # Privileges
//
// Root's folders take CAP_DAC_READ_SEARCH.
package container

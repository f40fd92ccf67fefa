// Package containers runs the exporter beside real containers: pods of containerd's CRI plugin, as a
// kubelet makes them, and containers of Docker and Podman.
//
// Each runtime runs in namespaces of its own (a node). When the node ends, the kernel ends everything that
// runs in it, and removes its mounts, network namespaces and bridges. So nothing stays, not even of a test
// that was killed, but the folders of cgroups: the next test removes those.
package containers

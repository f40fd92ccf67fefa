// Command demo replays what the exporter is for (`make demo`): a server without SO_REUSEADDR
// that cannot be restarted, one with it that can, and the first restart after the mistake is
// mended, which fails once more. At each step it shows what the exporter and its check command
// say. It takes seconds.
//
// Everything happens in a network namespace of its own, which ends with the demo, also when
// that is killed: nothing is left and nothing on the host is touched. That needs root, or a
// kernel that lets ordinary users have user namespaces; without root, the reuse flags of
// sockets in TIME_WAIT (eBPF) are not known, and failed binds are not counted.
package main

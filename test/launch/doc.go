// Package launch builds and runs the exporter for tests.
//
// It builds the exporter in the exporter's own module, once per test process, so that the binary
// links the versions that users get. The binary stays open and has no name: other users can run
// it, and nothing is left when the tests are killed. An exporter runs in a network namespace and
// dies with the process that started it.
//
// It needs the go command, the source beside the test module, and what
// sockstate_exporter/internal/kerneltest needs for namespaces.
package launch

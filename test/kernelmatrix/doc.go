// Command kernelmatrix runs the exporter's kernel tests inside Debian's cloud
// kernels under qemu:
//
//	go -C test run ./kernelmatrix [flags] [PACKAGE...]
//
// The kernels are of amd64, and of arm64 where the name says so (6.12:arm64).
// Unless packages or tests are named, or with -long, it leaves out slow tests
// (slow in targets.go), and on arm64 runs some of the tests only (short).
//
// For every kernel it takes the newest package that apt knows, cross builds
// the packages' test binaries, packs them with their testdata directories,
// kernel modules and a small init (guestinit) into an initramfs, and boots
// it. The guest has no network and no disk, and is killed when the runner ends.
//
// A kernel passes only when its guest came up as the kernel it should be,
// every binary ran to its end with exit status 0 and left neither process nor
// mount behind, every test that the binary lists on the host passed, none was
// skipped, and the guest powered off. For a binary of another architecture, one
// of the host's lists the tests. Exceptions are in targets.go, with their
// reasons.
//
// Tests find in their environment:
//
//	SOCKSTATE_GUEST=1                            they run in such a guest
//	SOCKSTATE_REQUIRE_ALL=1                      skipping is failing
//	SOCKSTATE_BPF_MODES=fexit,kprobe,tracepoint  what this kernel must be able to do
//	SOCKSTATE_GUEST_NO_MODULES=1                       no kernel module is loaded yet
//
// They run as root in the initial namespaces. The guest holds no other
// programs: no shell, no ip, no go tool.
//
// It needs no privileges, but Debian's packages apt, dpkg, xz-utils,
// qemu-system-x86 and qemu-system-arm, the Go toolchain, and on first use a
// network for apt. Kernels are kept in the user's cache directory, and so are
// apt's lists of another architecture: the machine's dpkg does not learn of it.
package main

package main

// defaultKernels are series of Debian's cloud kernels.
const defaultKernels = "6.1,6.12"

// defaultPackages run when none is named.
var defaultPackages = []string{
	"./netlinkdiag",
	"./internal/kerneltest/...",
	"./internal/stack",
	"./internal/bindrule",
	"./internal/bpf/...",
	"./internal/linux",
	"./internal/netns",
	"./internal/owner",
}

// diagModules answer sock_diag. On a real host the kernel loads them on demand;
// in a guest nothing could, and -modules=none leaves them out.
var diagModules = []string{"inet_diag", "tcp_diag", "udp_diag"}

// hostModules make what tests bind to or count: interfaces and protocols.
var hostModules = []string{"bridge", "dummy", "veth", "sctp"}

// exclusion keeps a test out of the guests.
type exclusion struct {
	pkg    string // import path
	test   string // with its subtest, if only that: TestX/case
	reason string
}

var exclusions = []exclusion{
	{
		pkg: "sockstate_exporter/internal/bpf/sockflags", test: "TestListenersOfPython",
		reason: "the guests have no Python",
	},
	{
		pkg: "sockstate_exporter/internal/netns", test: "TestNamesThatIPHasMade",
		reason: "the guests have no ip",
	},
}

package main

import (
	"slices"
	"strings"
)

// defaultKernels are series of Debian's cloud kernels.
const defaultKernels = "6.1,6.12,6.12:arm64"

// defaultPackages run when none is named, in this order. The first waits for a minute, which costs nothing while
// others have the CPUs.
var defaultPackages = []string{
	"./internal/failures/situations",
	"./netlinkdiag",
	"./internal/kerneltest/...",
	"./internal/stack",
	"./internal/bindrule",
	"./internal/bpf/...",
	"./internal/linux",
	"./internal/netns",
	"./internal/owner",
	"./internal/holders",
	"./internal/unixsock/unixlook",
	"./internal/unixfailures",
}

// suite is what to run of some packages.
type suite struct {
	packages  []string
	sel       selection
	named     []string // tests that must be there
	noModules bool     // as in testBinary
}

// testsOf is a suite of one package.
func testsOf(pkg string, tests ...string) suite {
	return suite{packages: []string{pkg}, sel: selection{run: "^(" + strings.Join(tests, "|") + ")$"}, named: tests}
}

// withoutModules comes first in a guest: no module is loaded yet that answers sock_diag.
func withoutModules() suite {
	s := testsOf("./internal/snapshot", "TestWithoutModulesTheRestIsServed")
	s.noModules = true
	return s
}

// missing returns the named tests that are not there.
func (s suite) missing(tests []testBinary) []string {
	return slices.DeleteFunc(slices.Clone(s.named), func(name string) bool {
		return slices.ContainsFunc(tests, func(b testBinary) bool { return slices.Contains(b.tests, name) })
	})
}

// short is what runs on an architecture in place of the default packages, unless
// -long says otherwise: what depends on its registers, its system calls, its BPF
// trampolines and the layout of its kernel's types.
var short = map[string][]suite{
	"arm64": {
		testsOf("./internal/bpf/bindtrace",
			"TestFailedBindCountsOnceByPortAskedFor",
			"TestEventTellsWhenWhereAndWho",
			"TestFailedListenCountsUnderBoundPort",
			"TestCallsOf32BitProcesses",
			"TestConnectWithoutAPortLeftCountsOnce",
			"TestCaptureOfWhatIsInTheWay",
			"TestFailedBindsOfUnixSockets",
		),
		testsOf("./internal/bpf/sockfiles",
			"TestEveryProcessThatHasTheSocketIsFound",
		),
		testsOf("./internal/bpf/sockwalk",
			"TestEveryStateIsAsSockDiagShowsIt",
			"TestTablesOfTheirOwn",
			"TestChainsThatMoved",
		),
		testsOf("./internal/bpf/udphash",
			"TestSocketsHaveTheirFlags",
			"TestSocketsAreInTheOrderOfTheKernel",
		),
		testsOf("./internal/bpf/bindbucket",
			"TestSocketsOfEveryStateHaveTheirFlags",
			"TestHeldSocketsHaveInodesAndPeers",
		),
		testsOf("./internal/bpf/sockflags",
			"TestSocketsAreToldApartByStateAndFlags",
			"TestGroupHasDeviceUIDAndV6Only",
			"TestExpiryAgreesWithSockDiag",
		),
		testsOf("./internal/bindrule", "TestAgreesWithTheKernel"),
	},
}

// diagModules answer sock_diag. On a real host the kernel loads them on demand;
// in a guest nothing could.
var diagModules = []string{"inet_diag", "tcp_diag", "udp_diag", "unix_diag"}

// hostModules make what tests bind to or count: interfaces and protocols.
var hostModules = []string{"bridge", "dummy", "veth", "vxlan", "sctp"}

// exclusion keeps a test out of the guests.
type exclusion struct {
	pkg    string // import path
	test   string // with its subtest, if only that: TestX/case
	reason string
}

// never run in the guests.
var never = []exclusion{
	{
		pkg: "sockstate_exporter/internal/bpf/sockflags", test: "TestListenersOfPython",
		reason: "the guests have no Python",
	},
	{
		pkg: "sockstate_exporter/internal/netns", test: "TestNamesThatIPHasMade",
		reason: "the guests have no ip",
	},
}

// slow are tests that take a guest many minutes together: most load several tracers, which takes seconds
// where the CPU is emulated, or make very many sockets or calls. `make test` runs them on the host, in the
// modes that its kernel allows. -long runs them in the guests, too.
func slow() []exclusion {
	const reason = "slow; with -long only"
	var all []exclusion
	for pkg, tests := range map[string][]string{
		"sockstate_exporter/netlinkdiag": {
			"TestAllocationsDoNotGrowWithSockets",
			"TestLargeDumpIsCancelled",
			"TestLateCancelDoesNotReachTheNextDump",
			"TestDecodeMessageCutShort",
			"TestKernelLateCancelDoesNotReachTheNextDump",
		},
		"sockstate_exporter/internal/kerneltest/timewait": {"TestTimeWaitMakesWhatWasAskedFor"},
		"sockstate_exporter/internal/bpf/bindtrace": {
			"TestCapabilitiesAreTheDocumentedOnes",
			"TestCaptureOfManySockets",
			"TestStormOfConnectsIsCountedExactly",
			"TestCaptureOfAStormIsBounded",
			"TestCaptureLeavesRoomForOtherEvents",
			"TestWatchedSetBoundsKeysAndKeepsCounts",
			"TestKilledTracerLeavesNothingInTheKernel",
			"TestEventsWithoutCapture",
			"TestBlindTracerIsNotProven",
			"TestConnectsSwitchedOffAreNotCounted",
			"TestAnotherUserCannotTakeTheCountOfAWatchedPort",
			"TestOneUsersStormLeavesRoomForTheEventsOfOthers",
			"TestEventsOfOtherPortsLeaveRoomForThoseOfWatchedOnes",
			"TestSuccessfulBindsDoNotWakeTheReader",
			"TestBindsAreTracedWhereConnectsCannotBe",
			"TestCallsAtTheSameMomentLoseNothing",
			"TestPortsWithoutASlotLoseNothing",
			"TestFullRingLosesEventsOnly",
		},
		"sockstate_exporter/internal/netns":          {"TestStateWhileDevicesComeAndGo"},
		"sockstate_exporter/internal/bpf/bindbucket": {"TestManySocketsAreTooMany", "TestBucketsOfManySockets"},
		"sockstate_exporter/internal/bpf/sockflags": {
			"TestTwentyThousandTimeWaitAreCountedExactly",
			"TestReadAfterCancelledReadsIsExact", // TIME_WAIT may end before it has 20,000
		},
		"sockstate_exporter/internal/bpf/sockwalk": {
			"TestEqualSocketsAreFewGroups",
			"TestMoreGroupsThanThereIsRoomFor",
			"TestChainsThatAreTooLong",
			"TestChainsThatAreTooLongOfOneNamespace",
			"TestManyListenersTakeRoom",
		},
	} {
		for _, test := range tests {
			all = append(all, exclusion{pkg, test, reason})
		}
	}
	return all
}

package guest

import "time"

// Paths inside the guest's initramfs.
const (
	PlanPath  = "/plan.json"
	ModuleDir = "/modules"
)

// ReportEnv is the parameter of the kernel, and so in the environment of the
// init, that names the serial line of the report.
const ReportEnv = "SOCKSTATE_REPORT"

// Plan is what the init does, in order, before it powers off.
type Plan struct {
	// Modules are names of files in ModuleDir without their suffix, each after
	// those it depends on. They are loaded before the first Run that wants them.
	Modules []string
	Env     []string
	Runs    []Run
}

// Run is one test binary.
type Run struct {
	Package   string // import path
	Dir       string // working directory
	Args      []string
	NoModules bool // without modules
	// KillAfter is longer than the binary's own -test.timeout, whose panic
	// tells more than a SIGKILL.
	KillAfter time.Duration
}

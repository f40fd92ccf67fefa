package privilege

import (
	"fmt"
	"strings"

	libcap "kernel.org/pub/linux/libs/security/libcap/cap"
)

// prSetNoNewPrivs is PR_SET_NO_NEW_PRIVS of include/uapi/linux/prctl.h.
const prSetNoNewPrivs = 38

// Left is what a process can still do after [Keep].
type Left struct {
	// Capabilities by name, in the order in which they were wanted.
	Capabilities []string

	// NoNewPrivs is nil once no program that the process starts can get a privilege that it
	// has not: not by a set-user-ID bit, not by a file's capabilities. Else it is why not.
	NoNewPrivs error

	// Bounding is nil once the bounding set is empty, which says the same of capabilities.
	// Else it is why not.
	Bounding error
}

// Keep gives up every capability of the process but those, for good. Those that it does not
// have it does not get. Its error means that capabilities could not be given up; what else
// could not be is told in Left, and is no loss where there is nothing to gain.
func Keep(wanted ...libcap.Value) (Left, error) {
	left := Left{NoNewPrivs: setNoNewPrivs()}
	current := libcap.GetProc()
	kept := libcap.NewSet()
	for _, v := range wanted {
		has, err := current.GetFlag(libcap.Permitted, v)
		if err != nil {
			return left, fmt.Errorf("look up %v: %w", v, err)
		}
		if !has {
			continue
		}
		for _, flag := range []libcap.Flag{libcap.Permitted, libcap.Effective} {
			if err := kept.SetFlag(flag, true, v); err != nil {
				return left, fmt.Errorf("keep %v: %w", v, err)
			}
		}
		left.Capabilities = append(left.Capabilities, strings.ToUpper(v.String()))
	}
	left.Bounding = emptyBounding() // while there is CAP_SETPCAP
	if diff, err := current.Cf(kept); err == nil && diff == 0 {
		return left, nil // capset(2) may be forbidden, where there is nothing to give up
	}
	// The ambient set goes with the inheritable one (cap_capset).
	if err := kept.SetProc(); err != nil {
		return left, fmt.Errorf("give up capabilities: %w", err)
	}
	return left, nil
}

func setNoNewPrivs() error {
	if _, err := libcap.Prctlw(prSetNoNewPrivs, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

func emptyBounding() error {
	for v := libcap.Value(0); v < libcap.MaxBits(); v++ {
		in, err := libcap.GetBound(v)
		if err != nil {
			return fmt.Errorf("look up %v in the bounding set: %w", v, err)
		}
		if !in {
			continue
		}
		if err := libcap.DropBound(v); err != nil {
			return fmt.Errorf("drop %v from the bounding set: %w", v, err)
		}
	}
	return nil
}

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
	// Capabilities are the names of those that were kept, in the order of the arguments of Keep.
	Capabilities []string

	// NoNewPrivs is nil where no_new_privs is set: a program that the process starts gets no
	// privilege that the process does not have, neither by a set-user-ID bit nor by capabilities of
	// the file. Otherwise it says why it is not set.
	NoNewPrivs error

	// Bounding is nil where the bounding set is empty: a program that the process starts gets no
	// capability that the process does not have. Otherwise it says why it is not empty.
	Bounding error
}

// Keep gives up all capabilities of the process for good, except those in wanted. The process does
// not get a wanted capability that it does not have. The error means that capabilities could not be
// given up. Left says what else failed, which does no harm where the process starts no program.
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
	left.Bounding = emptyBounding() // before CAP_SETPCAP is given up
	if diff, err := current.Cf(kept); err == nil && diff == 0 {
		return left, nil // nothing to give up, and capset(2) may be forbidden
	}
	// The kernel clears the ambient set with the inheritable one (cap_capset).
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

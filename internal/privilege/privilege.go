package privilege

import (
	"fmt"
	"strings"

	libcap "kernel.org/pub/linux/libs/security/libcap/cap"
)

// Keep gives up every capability of the process but those, for good. Those that it does not
// have it does not get. It returns the names of what is left.
func Keep(wanted ...libcap.Value) ([]string, error) {
	current := libcap.GetProc()
	kept := libcap.NewSet()
	var names []string
	for _, v := range wanted {
		has, err := current.GetFlag(libcap.Permitted, v)
		if err != nil {
			return nil, fmt.Errorf("look up %v: %w", v, err)
		}
		if !has {
			continue
		}
		for _, flag := range []libcap.Flag{libcap.Permitted, libcap.Effective} {
			if err := kept.SetFlag(flag, true, v); err != nil {
				return nil, fmt.Errorf("keep %v: %w", v, err)
			}
		}
		names = append(names, strings.ToUpper(v.String()))
	}
	if err := kept.SetProc(); err != nil {
		return nil, fmt.Errorf("give up capabilities: %w", err)
	}
	return names, nil
}

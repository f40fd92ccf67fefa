package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// mapping matches what smaps(5) says of a mapping of a file that cannot be written.
var mapping = regexp.MustCompile(`(?m)^([0-9a-f]+)-([0-9a-f]+) .-.. \S+ \S+ \S+ +(\S.*)\n(?:[A-Z]\w+:.*\n)+`)

// FreeMemory gives up garbage, and the pages of the executable that only starting needed. It takes milliseconds.
func FreeMemory() {
	debug.FreeOSMemory()
	_ = unmapExecutable() // this saves memory, and no more
}

// unmapExecutable takes the pages of the executable out of the process's memory. The kernel keeps them in its page
// cache, and maps again what is used: this gives up what only starting needed.
func unmapExecutable() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mapping.FindAllSubmatch(smaps, -1) {
		// What was written, as addresses are when a program is relocated, is in no file.
		if string(m[3]) != exe || !bytes.Contains(m[0], []byte("\nAnonymous:             0 kB\n")) || !bytes.Contains(m[0], []byte("\nSwap:                  0 kB\n")) {
			continue
		}
		start, _ := strconv.ParseUint(string(m[1]), 16, 64)
		end, _ := strconv.ParseUint(string(m[2]), 16, 64)
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("madvise: %w", errno))
		}
	}
	return errors.Join(errs...)
}

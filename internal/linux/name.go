package linux

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	commSize       = 15 // TASK_COMM_LEN without the 0 at its end: the kernel cuts the names of processes
	maxProcessName = 64 // of a process; proc_task_name shows no longer comm

	maxExe = 256 // of its end

	// A script's name is that of one of the first arguments of its interpreter.
	maxArgs, maxCmdline = 4, 1024
)

// ProcessName returns the name of a process, and the path of its executable, or the end of that, if it
// can be read. task is the directory of the process in procfs, and comm what /proc/PID/comm has. Where
// that is cut, the name is the executable's or the script's that begins with it. A process can choose
// all of these: the name is any bytes, at most 64.
func ProcessName(task, comm string) (name, exe string) {
	exe, _ = os.Readlink(filepath.Join(task, "exe"))
	exe = strings.TrimSuffix(exe, " (deleted)")
	exe = strings.Clone(exe[max(0, len(exe)-maxExe):])
	if name := Uncut(comm, filepath.Base(exe)); len(comm) != commSize || name != comm {
		return name, exe
	}
	for _, arg := range args(task) {
		if name := Uncut(comm, filepath.Base(arg)); name != comm {
			return name, exe
		}
	}
	return comm, exe
}

// Uncut returns the name that comm is the beginning of, if it is cut: that of the executable, if it
// begins with comm, else comm. The result has at most 64 bytes.
func Uncut(comm, exe string) string {
	if len(comm) == commSize && strings.HasPrefix(exe, comm) {
		comm = exe
	}
	return comm[:min(len(comm), maxProcessName)]
}

// args returns the first arguments of a process. It can choose them, as it can its comm.
func args(task string) []string {
	file, err := os.Open(filepath.Join(task, "cmdline"))
	if err != nil {
		return nil
	}
	defer file.Close()
	var buf [maxCmdline]byte
	n, err := io.ReadFull(file, buf[:])
	if n == 0 && err != nil {
		return nil
	}
	var out []string
	for arg := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if len(out) == maxArgs {
			break
		}
		out = append(out, string(arg))
	}
	return out
}

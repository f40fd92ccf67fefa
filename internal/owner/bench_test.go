package owner

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// BenchmarkProcesses looks for 100 sockets of 100 processes, among 300 that have so many descriptors
// together, 1,000 of them sockets. It compares procfs with an eBPF iterator.
func BenchmarkProcesses(b *testing.B) {
	kerneltest.RequireRoot(b)
	for _, files := range []int{5_000, 20_000} {
		b.Run(strconv.Itoa(files), func(b *testing.B) {
			wanted := processes(b, 300, files, 1_000)
			for _, way := range []struct {
				name string
				opts Options
			}{{"procfs", Options{}}, {"bpf", Options{Searcher: searcher(b)}}} {
				b.Run(way.name, func(b *testing.B) {
					f := newFinder(b, way.opts)
					measure(b, func() int {
						found, err := f.scan(b.Context(), wanted)
						if err != nil {
							b.Fatal(err)
						}
						return len(found.holders)
					}, len(wanted))
				})
			}
		})
	}
}

// measure reports the CPU time of this thread, which is steadier than the clock on a busy machine.
func measure(b *testing.B, find func() int, want int) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	before := threadTime()
	for b.Loop() {
		if got := find(); got != want {
			b.Fatalf("%d sockets found, want %d", got, want)
		}
	}
	b.ReportMetric(float64(threadTime()-before)/float64(b.N), "cpu-ns/op")
}

// processes starts n processes, and returns a socket of every third.
func processes(b *testing.B, n, files, sockets int) search {
	b.Helper()
	wanted := make(search)
	for i := range n {
		cmd := exec.CommandContext(b.Context(), "sleep", "600")
		own := (i+1)*sockets/n - i*sockets/n
		for j := range (i+1)*files/n - i*files/n - 3 { // beside the standard ones
			fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
			if j < own {
				_ = syscall.Close(fd)
				fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
			}
			if err != nil {
				b.Fatal(err)
			}
			file := os.NewFile(uintptr(fd), "")
			defer file.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, file)
			if j == 0 && i%3 == 0 {
				s, err := identify(fd)
				if err != nil {
					b.Fatal(err)
				}
				wanted[s.Inode] = identity{}
			}
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		for _, f := range cmd.ExtraFiles {
			_ = f.Close()
		}
		b.Cleanup(func() { _ = cmd.Wait() })
	}
	return wanted
}

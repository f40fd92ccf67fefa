package linux

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

func TestHasCapWantsOneOfThem(t *testing.T) {
	kerneltest.RequireRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: capabilities are the thread's
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		keep := [2]unix.CapUserData{{Effective: 1 << unix.CAP_SYS_ADMIN}, {Effective: 1 << (unix.CAP_PERFMON - 32)}}
		keep[0].Permitted, keep[1].Permitted = keep[0].Effective, keep[1].Effective
		if err := unix.Capset(&header, &keep[0]); err != nil {
			t.Error(err)
			return
		}
		for _, test := range []struct {
			caps []int
			want bool
		}{
			{[]int{unix.CAP_SYS_ADMIN}, true},
			{[]int{unix.CAP_PERFMON}, true}, // in the second word
			{[]int{unix.CAP_BPF}, false},
			{[]int{unix.CAP_BPF, unix.CAP_SYS_ADMIN}, true},
			{[]int{unix.CAP_NET_ADMIN, unix.CAP_BPF}, false},
			{nil, false},
		} {
			if got := HasCap(test.caps...); got != test.want {
				t.Errorf("HasCap(%v) = %v, want %v", test.caps, got, test.want)
			}
		}
	}()
	<-done
}

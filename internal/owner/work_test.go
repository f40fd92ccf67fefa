package owner

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
)

const (
	inode  = 4711
	cookie = 1
)

var socket = Socket{Cookie: cookie, Inode: inode}

func nginx() fakeProcess {
	return fakeProcess{pid: 100, start: 5000, name: "nginx", cgroup: "/system.slice/nginx.service", sockets: []uint32{inode}}
}

func TestSocketThatIsNotFoundIsLookedForLessAndLess(t *testing.T) {
	for _, test := range []struct {
		appears, found time.Duration
	}{
		{0, 0},
		{1 * time.Second, 10 * time.Second},
		{10*time.Second + 1, 30 * time.Second},
		{30*time.Second + 1, 70 * time.Second},
		{70*time.Second + 1, 150 * time.Second},
	} {
		t.Run(test.appears.String(), func(t *testing.T) {
			proc := newFakeProc(t)
			if test.appears == 0 {
				proc.put(nginx())
			}
			synctest.Test(t, func(t *testing.T) {
				f := newFinder(t, Options{Proc: proc.path})
				start := time.Now()
				for {
					now := time.Since(start)
					if test.appears > 0 && now == test.appears.Truncate(time.Second) {
						find(t, f, socket) // before it appears
						synctest.Wait()
						proc.put(nginx())
					}
					find(t, f, socket)
					synctest.Wait()
					if known(find(t, f, socket)) == 1 {
						if now != test.found {
							t.Errorf("found after %s, want %s", now, test.found)
						}
						return
					}
					if now > test.found {
						t.Fatalf("not found after %s", now)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func TestSocketThatWasNeverFoundIsStillLookedForEveryHour(t *testing.T) {
	proc := newFakeProc(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Options{Proc: proc.path})
		for range 24 * 60 {
			find(t, f, socket)
			time.Sleep(time.Minute)
		}
		proc.put(nginx())
		for range 61 {
			find(t, f, socket)
			time.Sleep(time.Minute)
		}
		if known(find(t, f, socket)) != 1 {
			t.Error("not found within the hour")
		}
	})
}

func TestOwnerIsLookedUpAgainAfterAMinute(t *testing.T) {
	proc := newFakeProc(t, nginx())
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Options{Proc: proc.path})
		want := map[uint64]Owner{cookie: {Process: "nginx", Unit: "nginx.service", PID: 100, Processes: 1}}
		check(t, find(t, f, socket), want)

		proc.write(100, "comm", "renamed\n")
		time.Sleep(confirmEvery - 1)
		find(t, f, socket)
		synctest.Wait()
		check(t, find(t, f, socket), want)

		time.Sleep(time.Nanosecond)
		find(t, f, socket)
		synctest.Wait()
		check(t, find(t, f, socket), map[uint64]Owner{
			cookie: {Process: "renamed", Unit: "nginx.service", PID: 100, Processes: 1},
		})
	})
}

func TestOwnerWhosePIDIsAnothersIsLookedForAnew(t *testing.T) {
	proc := newFakeProc(t, nginx())
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Options{Proc: proc.path})
		find(t, f, socket)
		other := nginx()
		other.start, other.name, other.sockets = 6000, "other", nil
		proc.put(other)
		heir := nginx()
		heir.pid, heir.start = 200, 5500
		proc.put(heir)

		time.Sleep(time.Second) // the scanner rests
		check(t, find(t, f, socket), map[uint64]Owner{
			cookie: {
				Process: "nginx", Unit: "nginx.service", PID: 200, Processes: 1,
				Opener: &Opener{Process: "nginx", Unit: "nginx.service", PID: 100, Ended: true, SameProgram: true},
			},
		})
	})
}

func TestSocketThatItsOwnerPassedOnIsLookedForAnew(t *testing.T) {
	proc := newFakeProc(t, nginx())
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Options{Proc: proc.path})
		find(t, f, socket)
		parent := nginx()
		parent.sockets = nil
		proc.put(parent)
		child := nginx()
		child.pid, child.start = 200, 5500
		proc.put(child)

		time.Sleep(time.Second) // the scanner rests
		opener := &Opener{Process: "nginx", Unit: "nginx.service", PID: 100, SameProgram: true}
		want := Owner{Process: "nginx", Unit: "nginx.service", PID: 200, Processes: 1, Opener: opener}
		check(t, find(t, f, socket), map[uint64]Owner{cookie: want})

		proc.remove(100) // which is looked at each minute
		time.Sleep(confirmEvery)
		find(t, f, socket)
		synctest.Wait()
		opener.Ended = true
		check(t, find(t, f, socket), map[uint64]Owner{cookie: want})
	})
}

// With .socket units, systemd listens, and starts the service at the first connection.
func TestServiceManagerHasASocketOnlyUntilItsServiceStarts(t *testing.T) {
	systemd := fakeProcess{pid: 1, start: 1, name: "systemd", cgroup: "/init.scope", sockets: []uint32{inode}}
	proc := newFakeProc(t, systemd)
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Options{Proc: proc.path})
		check(t, find(t, f, socket), map[uint64]Owner{
			cookie: {Process: "systemd", Unit: "init.scope", PID: 1, Processes: 1},
		})
		proc.put(nginx())
		time.Sleep(firstRetry)
		find(t, f, socket)
		synctest.Wait()
		check(t, find(t, f, socket), map[uint64]Owner{
			cookie: {Process: "nginx", Unit: "nginx.service", PID: 100, Processes: 2},
		})
	})
}

func TestOfChildrenBornInTheSameTickTheLowerPIDIsTheParent(t *testing.T) {
	parent, child, grandchild := nginx(), nginx(), nginx()
	child.pid, grandchild.pid = 101, 1000
	proc := newFakeProc(t, grandchild, child, parent)
	f := newFinder(t, Options{Proc: proc.path})
	check(t, find(t, f, socket), map[uint64]Owner{
		cookie: {Process: "nginx", Unit: "nginx.service", PID: 100, Processes: 3},
	})
}

func TestDuplicatesOfADescriptorAreOneProcess(t *testing.T) {
	p := nginx()
	p.sockets = []uint32{inode, inode, inode}
	f := newFinder(t, Options{Proc: newFakeProc(t, p).path})
	check(t, find(t, f, socket), map[uint64]Owner{
		cookie: {Process: "nginx", Unit: "nginx.service", PID: 100, Processes: 1},
	})
}

func TestProcessThatChangesWhileItIsReadIsNotShown(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(fakeProc)
		want   error
	}{
		{"ended", func(f fakeProc) { f.remove(100) }, fs.ErrNotExist},
		{"its pid reused", func(f fakeProc) { f.started(100, 5001) }, errReused},
	} {
		t.Run(test.name, func(t *testing.T) {
			proc := newFakeProc(t, nginx())
			f := newFinder(t, Options{Proc: proc.path})
			p, err := f.fs.Proc(100)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.readProcess(p, 0, func() error { test.change(proc); return nil })
			if !errors.Is(err, test.want) {
				t.Errorf("got error %v, want %v", err, test.want)
			}
		})
	}
}

func TestSocketClosedWhileItsProcessIsReadHasNoOwner(t *testing.T) {
	proc := newFakeProc(t, nginx())
	dir := filepath.Join(proc.dir(100), "fd")
	held, _, err := linux.SocketsOf(t.Context(), proc.path, 100, search{inode: identity{}}.has)
	if err != nil || len(held) != 1 {
		t.Fatalf("got %v, %v; want one descriptor", held, err)
	}
	if err := os.Remove(filepath.Join(dir, "0")); err != nil {
		t.Fatal(err)
	}
	proc.link(100, 0, "socket:[4712]")
	if held, err = linux.OpenSocketFDs(dir, held); err != nil || len(held) != 0 {
		t.Errorf("got %v, %v; want none", held, err)
	}
}

func TestKernelWithoutCgroups(t *testing.T) {
	proc := newFakeProc(t, nginx())
	if err := os.Remove(filepath.Join(proc.dir(100), "cgroup")); err != nil {
		t.Fatal(err)
	}
	f := newFinder(t, Options{Proc: proc.path})
	check(t, find(t, f, socket), map[uint64]Owner{cookie: {Process: "nginx", PID: 100, Processes: 1}})
}

func TestProcfsThatCannotBeReadIsSaidAndCostsNothingThatIsKnown(t *testing.T) {
	proc := newFakeProc(t, nginx())
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Options{Proc: proc.path})
		find(t, f, socket)

		gone := proc.path + ".gone"
		if err := os.Rename(proc.path, gone); err != nil {
			t.Fatal(err)
		}
		other := Socket{Cookie: 2, Inode: 4712}
		want := map[uint64]Owner{cookie: {Process: "nginx", Unit: "nginx.service", PID: 100, Processes: 1}}
		owners, err := f.Find(t.Context(), []Socket{socket, other})
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got error %v, want %v", err, fs.ErrNotExist)
		}
		check(t, owners, want)

		if err := os.Rename(gone, proc.path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(firstRetry)
		_, _ = f.Find(t.Context(), []Socket{socket, other})
		synctest.Wait()
		want[2] = Owner{Absence: Hidden} // the directory shows no processes of the kernel
		check(t, find(t, f, socket, other), want)
	})
}

func TestSocketsThatNobodyAsksAboutAreForgotten(t *testing.T) {
	proc := newFakeProc(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Options{Proc: proc.path})
		find(t, f, socket)
		time.Sleep(keepUnasked)
		find(t, f)
		if len(f.known) != 1 {
			t.Errorf("%d sockets known after ten minutes, want 1", len(f.known))
		}
		time.Sleep(time.Nanosecond)
		find(t, f)
		if len(f.known) != 0 {
			t.Errorf("%d sockets known afterwards, want none", len(f.known))
		}
	})
}

func TestCrowdOfSocketsIsForgottenAtOnce(t *testing.T) {
	proc := newFakeProc(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Options{Proc: proc.path})
		many := make([]Socket, maxUnasked)
		for i := range many {
			many[i] = Socket{Cookie: uint64(i + 10), Inode: uint32(i + 10)}
		}
		find(t, f, many...)
		time.Sleep(time.Nanosecond)
		find(t, f, socket)
		if len(f.known) != 1 {
			t.Errorf("%d sockets known, want 1", len(f.known))
		}
	})
}

// An fd directory that cannot be opened yet makes the scan take long.
func TestFindDoesNotWaitForTheScanForEver(t *testing.T) {
	late := fakeProcess{pid: 101, start: 1, name: "late", sockets: []uint32{4712}}
	proc := newFakeProc(t, nginx(), late)
	blocker := proc.dir(50)
	if err := os.Mkdir(blocker, 0o700); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(blocker, "fd")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFinder(t, Options{Proc: proc.path, Wait: time.Millisecond})
	check(t, find(t, f, socket), map[uint64]Owner{})

	f.wait = patience
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other := Socket{Cookie: 2, Inode: 4712} // too late for that scan
	owners, err := f.Find(ctx, []Socket{socket, other})
	if err != nil {
		t.Error(err)
	}
	check(t, owners, map[uint64]Owner{})

	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // lets the scan go on
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// The pipe would hold up the next scan as well.
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	if n := known(find(t, f, socket, other)); n != 2 {
		t.Errorf("%d owners once the scan went on, want 2", n)
	}
}

func TestCloseEndsTheWait(t *testing.T) {
	proc := newFakeProc(t)
	f, err := New(Options{Proc: proc.path, Wait: patience})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, find(t, f, socket), map[uint64]Owner{})
}

// However long a scan takes, and so its rest, the worker ends when nobody asks any more.
func TestNothingIsDueThatNobodyAskedAboutSinceTheLastLook(t *testing.T) {
	now := time.Now()
	for _, found := range []bool{false, true} {
		e := &entry{found: found, due: now.Add(-time.Hour), asked: now.Add(-3 * time.Hour), checked: now.Add(-2 * time.Hour)}
		f := &Finder{ctx: t.Context(), known: map[Socket]*entry{socket: e}}
		if stale, missing := f.due(); len(stale) > 0 || missing || f.working {
			t.Errorf("found %v: %d owners to confirm, missing %v, though nobody asked", found, len(stale), missing)
		}
		e.asked = now
		if stale, missing := f.due(); len(stale) == 0 && !missing || !f.working {
			t.Errorf("found %v: nothing is due, though somebody asked", found)
		}
	}
}

package callers

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/owner"
)

const ownNetns = 4026531840

// unitsByPID says that each process is of a unit of its own.
type unitsByPID struct{}

func (unitsByPID) OfProcess(pid uint32, _ time.Duration, _ uint64) (owner.Owner, bool) {
	return owner.Owner{Unit: fmt.Sprintf("%d.service", pid)}, true
}

// A user who fails to bind under ever new names and pids leaves lookups for others.
func TestLookupsOfCallersAreSharedByUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(unitsByPID{})
		found := func(uid, pid uint32) bool {
			return c.Of(ownNetns, &bindtrace.Event{User: uid, PID: pid}).Unit != ""
		}
		for second := range uint32(3) {
			hostile := 0
			for pid := range uint32(10_000) {
				if found(65534, 1000+pid) {
					hostile++
				}
			}
			if hostile != callersOfUser {
				t.Errorf("%d lookups of one user, want %d", hostile, callersOfUser)
			}
			for i := range uint32(callersOfUser) {
				if !found(0, 1+second*callersOfUser+i) {
					t.Errorf("process %d of another user was not looked up", i)
				}
			}
			time.Sleep(callersTime + 1)
		}
	})
}

// The latest process of a user stays known, whatever others do.
func TestTheLatestCallerOfAUserIsNotLookedUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(unitsByPID{})
		server, hostile := &bindtrace.Event{PID: 1}, &bindtrace.Event{User: 65534}
		for range 10_000 {
			hostile.PID++
			c.Of(ownNetns, hostile)
			if got := c.Of(ownNetns, server).Unit; got != "1.service" {
				t.Fatalf("the server is of unit %q", got)
			}
		}
	})
}

// Memory and lookups do not depend on how many users there are.
func TestLookupsOfManyUsersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(unitsByPID{})
		found := 0
		for uid := range uint32(100_000) {
			if c.Of(ownNetns, &bindtrace.Event{User: uid, PID: uid}).Unit != "" {
				found++
			}
		}
		if found != maxCallers || len(c.users) > maxCallers {
			t.Errorf("%d lookups, and %d users are kept, want %d", found, len(c.users), maxCallers)
		}
		for range 2 {
			time.Sleep(callersTime + 1)
			c.Of(ownNetns, &bindtrace.Event{PID: 1})
		}
		if len(c.users) != 1 {
			t.Errorf("%d users are kept, want 1", len(c.users))
		}
	})
}

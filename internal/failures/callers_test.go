package failures

import (
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
)

// A user who fails to bind under ever new names and pids leaves lookups for others.
func TestLookupsOfCallersAreSharedByUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCallers(unitsByPID{})
		found := func(uid, pid uint32) bool {
			return c.of(ownNetns, &bindtrace.Event{User: uid, PID: pid}).Unit != ""
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
		c := newCallers(unitsByPID{})
		server, hostile := &bindtrace.Event{PID: 1}, &bindtrace.Event{User: 65534}
		for range 10_000 {
			hostile.PID++
			c.of(ownNetns, hostile)
			if got := c.of(ownNetns, server).Unit; got != "1.service" {
				t.Fatalf("the server is of unit %q", got)
			}
		}
	})
}

// Memory and lookups do not depend on how many users there are.
func TestLookupsOfManyUsersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCallers(unitsByPID{})
		found := 0
		for uid := range uint32(100_000) {
			if c.of(ownNetns, &bindtrace.Event{User: uid, PID: uid}).Unit != "" {
				found++
			}
		}
		if found != maxCallers || len(c.users) > maxCallers {
			t.Errorf("%d lookups, and %d users are kept, want %d", found, len(c.users), maxCallers)
		}
		for range 2 {
			time.Sleep(callersTime + 1)
			c.of(ownNetns, &bindtrace.Event{PID: 1})
		}
		if len(c.users) != 1 {
			t.Errorf("%d users are kept, want 1", len(c.users))
		}
	})
}

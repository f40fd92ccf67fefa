package snapshot

import (
	"context"
	"fmt"
	"testing"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// A renaming process has another name each time it is asked for; on port 81 it has one.
type renaming struct{ times int }

func (r *renaming) Find(_ context.Context, sockets []owner.Socket) (map[uint64]owner.Owner, error) {
	owners := make(map[uint64]owner.Owner)
	for _, s := range sockets {
		r.times++
		owners[s.Cookie] = owner.Owner{Process: fmt.Sprintf("x%d", r.times), Unit: "user@1000.service"}
		if s.Cookie == 2 {
			owners[s.Cookie] = owner.Owner{Process: "postgres", Unit: "postgresql.service"}
		}
	}
	return owners, nil
}

func (r *renaming) Lookup(context.Context, []uint32) (map[uint32]owner.Owner, error) { return nil, nil }

func TestNamesOfListenersAreBounded(t *testing.T) {
	first, second := diagtest.Listening("127.0.0.1:80", 1), diagtest.Listening("127.0.0.1:81", 2)
	first.UID, second.UID = 1000, 26
	first.Inode, second.Inode = 1, 2
	cfg := newFake(first, second).config()
	cfg.Parts.Verdicts = true
	cfg.Owners = new(renaming)
	taker := newTaker(t, cfg, discovering())
	listeners, restarts := make(map[string]bool), make(map[string]bool)
	note := func(shown map[string]bool, o owner.Owner) {
		switch {
		case o.Many.Unit:
			t.Errorf("the unit of %+v is left out", o)
		case o.Many.Process:
			shown["(many)"] = true
		default:
			shown[o.Process] = true
		}
	}
	for range 100 {
		s := taker.Take(t.Context())
		for _, g := range s.Listeners.Data {
			note(listeners, g.Owner)
		}
		for _, p := range s.Verdicts.Data {
			for _, r := range p.Restarts {
				note(restarts, r.Owner)
			}
		}
	}
	for what, shown := range map[string]map[string]bool{"listeners": listeners, "restarts": restarts} {
		if len(shown) != share.NamesOfUser+2 || !shown["(many)"] || !shown["postgres"] {
			t.Errorf("%s: %d names are shown, want postgres, (many) and %d: %v", what, len(shown), share.NamesOfUser, shown)
		}
	}
	if n := len(taker.host.own.names); n != 2 {
		t.Errorf("names of %d ports are remembered, want 2", n)
	}
}

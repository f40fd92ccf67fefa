package ports

import (
	"testing"

	"sockstate_exporter/internal/owner"
)

func TestAllOwnersOfAGroupAreNamedAndTheRestIsCounted(t *testing.T) {
	key := GroupKey{Port: 80}
	var listeners []Listener
	owners := make(map[uint64]owner.Owner)
	for cookie := range uint64(7) {
		listeners = append(listeners, Listener{GroupKey: key, Cookie: 10 - cookie})
		owners[10-cookie] = owner.Owner{Process: "worker", PID: int(10 - cookie)}
	}
	owners[4] = owner.Owner{Absence: owner.NoProcess} // the oldest is nobody's
	owners[6] = owners[5]                             // two sockets of one process
	groups := []Group{{GroupKey: key}, {GroupKey: GroupKey{Port: 81}, OthersMore: 1}}
	SetOwners(groups, listeners, owners)
	g := &groups[0]
	if g.Owner.PID != 5 || len(g.Others) != MaxOthers || g.Others[0].PID != 7 || g.Others[1].PID != 8 || g.OthersMore != 2 {
		t.Errorf("owner %d, others %+v and %d more; want 5, 7, 8 and 2 more", g.Owner.PID, g.Others, g.OthersMore)
	}
	if all := g.AllOwners(); len(all) != 3 || all[0].PID != 5 {
		t.Errorf("all owners are %+v", all)
	}
	if o := &groups[1]; o.Owner.Known() || o.OthersMore != 0 || o.AllOwners() != nil {
		t.Errorf("a group without sockets has owners: %+v", o)
	}
	SetOwners(groups, listeners, map[uint64]owner.Owner{4: {Absence: owner.Hidden}})
	if g.Owner.Absence != owner.Hidden || len(g.Others) != 0 {
		t.Errorf("owner %+v, others %+v, want only why nobody is known", g.Owner, g.Others)
	}
}

func TestGroupsOfDifferentServersAreMixed(t *testing.T) {
	key := GroupKey{Port: 80}
	listeners := []Listener{{GroupKey: key, Cookie: 1}, {GroupKey: key, Cookie: 2}, {GroupKey: key, Cookie: 3}}
	web := owner.Owner{Process: "web", PID: 5, Unit: "web.service"}
	worker := owner.Owner{Process: "web: worker", PID: 6, Unit: "web.service"}
	other := owner.Owner{Process: "web", PID: 7, Unit: "other.service"}
	for _, tt := range []struct {
		name   string
		owners []owner.Owner
		want   bool
	}{
		{"workers of one unit", []owner.Owner{web, worker, worker}, false},
		{"two units", []owner.Owner{web, worker, other}, true},
		{"a unit and a program without one", []owner.Owner{web, {Process: "web", PID: 8}}, true},
		{"processes of one program", []owner.Owner{{Process: "a", PID: 8}, {Process: "a", PID: 9}}, false},
		{"two programs", []owner.Owner{{Process: "a", PID: 8}, {Process: "b", PID: 9}}, true},
		{"one that is not known", []owner.Owner{{Process: "a", PID: 8}, {Absence: owner.NoProcess}}, false},
		{"more than have room", []owner.Owner{{Process: "a", PID: 8}, {Process: "a", PID: 9}, {Process: "b", PID: 10}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			owners := make(map[uint64]owner.Owner)
			for i, o := range tt.owners {
				owners[listeners[i].Cookie] = o
			}
			groups := []Group{{GroupKey: key, Mixed: !tt.want}}
			if SetOwners(groups, listeners, owners); groups[0].Mixed != tt.want {
				t.Errorf("mixed %v, want %v", groups[0].Mixed, tt.want)
			}
		})
	}
}

// Package earlier has the failures that came just before their port was watched, as the failure that
// makes a port watched does. It is pure.
package earlier

import "sync"

// Failures are failures of ports that may be watched soon. They were counted as other ports: nobody
// knew that the port matters. Once the port is watched, they count under its number, so that its first
// failure is not lost.
//
// What the other ports count must not fall. If it was shown with such failures, it stands still until
// it has caught up.
//
// K is a key with the number of a port, and U a user.
type Failures[U, K comparable] struct {
	other func(K) K // the key that counted it

	mu       sync.Mutex
	young    recent[U, K] // since the latest update
	old      recent[U, K] // before that
	moved    map[K]uint64 // to the number of a port that is watched
	standing map[K]uint64 // what was shown for other ports of namespaces with moved ones
}

type recent[U, K comparable] struct {
	counts map[K]uint64
	keys   map[U]int // of counts: how many of each user
}

// Keys of earlier failures, and how many of one user. Beyond that, a failure stays one of the
// other ports.
const (
	maxFailures = 512
	ofUser      = maxFailures / 4
)

// New returns no failures. other returns the key that counts the failures of a key.
func New[U, K comparable](other func(K) K) *Failures[U, K] {
	return &Failures[U, K]{
		other: other, young: newRecent[U, K](), old: newRecent[U, K](),
		moved: make(map[K]uint64), standing: make(map[K]uint64),
	}
}

func newRecent[U, K comparable]() recent[U, K] {
	return recent[U, K]{counts: make(map[K]uint64), keys: make(map[U]int)}
}

// Add takes failures of a port that is not watched.
func (f *Failures[U, K]) Add(by U, key K, n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.young.counts[key]; !ok {
		if len(f.young.counts) == maxFailures || f.young.keys[by] == ofUser {
			return
		}
		f.young.keys[by]++
	}
	f.young.counts[key] += n
}

// Update moves the failures of ports that are watched by now, and forgets those of ports that are
// not watched any more. A failure has two updates' time: the first may have begun before it.
// gone are keys of namespaces that are gone: others may have their number by now.
func (f *Failures[U, K]) Update(watched, gone func(K) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.moved {
		if gone(key) || !watched(key) {
			delete(f.moved, key)
		}
	}
	for key := range f.standing {
		if gone(key) {
			delete(f.standing, key)
		}
	}
	for _, failures := range []recent[U, K]{f.young, f.old} {
		for key, n := range failures.counts {
			switch {
			case gone(key):
				delete(failures.counts, key)
			case watched(key):
				f.moved[key] += n
				delete(failures.counts, key)
			}
		}
	}
	f.old, f.young = f.young, newRecent[U, K]()
}

// Apply changes counts that do not know of the moved failures.
func (f *Failures[U, K]) Apply(counts map[K]uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, n := range f.moved {
		counts[key] += n
		other := f.other(key)
		counts[other] -= min(n, counts[other])
		if counts[other] < f.standing[other] {
			counts[other] = f.standing[other]
		}
	}
}

// Shown notes the counts that were shown.
func (f *Failures[U, K]) Shown(counts map[K]uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, n := range counts {
		if f.other(key) == key {
			f.standing[key] = n
		}
	}
}

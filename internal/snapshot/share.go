package snapshot

// A share decides where ports are filtered. (Filled in by measurement.)
type share struct{}

func (share) filterPays() bool { return true }

func (share) update(filtered bool, seen, matched uint64) {}

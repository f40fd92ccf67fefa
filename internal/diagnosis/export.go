package diagnosis

import (
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
)

// What internal/diagnosis/udpcause shares: who has the sockets, and where they are.

// Who names the holders, or says what is known of why there is none.
func (f *Facts) Who(sockets []Blocker) string { return f.who(sockets) }

// Where are the addresses of the sockets.
func (f *Facts) Where(sockets []Blocker) string { return f.where(sockets) }

// Endpoint is the address and port of a socket.
func (f *Facts) Endpoint(b *Blocker) string { return f.endpoint(b) }

// HolderOf is the first process that is known to hold one of the sockets; nil: none is.
func (f *Facts) HolderOf(sockets []Blocker) *owner.Owner { return f.holderOf(sockets) }

// SameProgram says that the holder is another instance of the program that made the call.
func (f *Facts) SameProgram(b *Blocker) bool { return f.sameProgram(b) }

// RemedyOfOwn is what to do about a socket of the binder itself.
func (f *Facts) RemedyOfOwn(sockets []Blocker) string { return f.remedyOfOwnListener(sockets) }

// CloseFirst names the process that has to close its socket.
func (f *Facts) CloseFirst(sockets []Blocker, otherwise string) string {
	return f.closeFirst(sockets, otherwise)
}

// Reserve says how to keep the kernel from choosing the port.
func (f *Facts) Reserve() string { return f.reserve() }

// Holders names the processes that are known to have the sockets.
func Holders(sockets []Blocker) []string { return holders(sockets) }

// Process names a process.
func Process(o *owner.Owner) string { return process(o) }

// Names names processes, the first few of them.
func Names(owners []owner.Owner) string { return names(owners) }

// UIDs are the users of the sockets.
func UIDs(sockets []Blocker) string { return uids(sockets) }

// Total is the number of sockets.
func Total(sockets []Blocker) uint64 { return total(sockets) }

// Simple is the diagnosis of a code that says everything.
func Simple(code codes.Code, end End, sentence string) Diagnosis { return simple(code, end, sentence) }

// UntilClosed is the end of what somebody has to close, and UntilChanged of what somebody has to change.
func UntilClosed() End { return untilClosed() }

// UntilChanged is the end of what somebody has to change.
func UntilChanged() End { return untilChanged() }

package netlinkdiag

import (
	"errors"
	"fmt"
)

var (
	// ErrRestarted is yielded by [Conn.Dump] in the middle of a stream: the kernel
	// flagged the dump as inconsistent (NLM_F_DUMP_INTR) and it begins anew.
	// Forget the sockets seen so far and read on. A consumer that stops at any
	// error loses the dump, never its correctness.
	ErrRestarted = errors.New("dump interrupted, begun anew")

	// ErrInterrupted ends a dump that was interrupted more often than Config.Retries allows.
	ErrInterrupted = errors.New("dump interrupted (NLM_F_DUMP_INTR)")

	// ErrClosed is returned for a Conn that was closed.
	ErrClosed = errors.New("connection closed")
)

// An Error is a failed dump: what was asked, which step failed, and why.
type Error struct {
	Op       string // "open", "send", "receive", "dump" (the kernel's own answer) or "decode"
	Protocol Protocol
	Family   Family
	Err      error // unwraps to the errno, *ModuleError, *MessageError or the context's error
}

func (e *Error) Error() string {
	what := e.Protocol.String()
	if e.Family != FamilyAny {
		what += " " + e.Family.String()
	}
	return fmt.Sprintf("sock_diag %s: %s: %v", what, e.Op, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// A ModuleError says that the running kernel cannot answer the request: it lacks a
// module, and could not or may not load it.
type ModuleError struct {
	Module string // tcp_diag, udp_diag (either brings inet_diag) or inet_diag
	Err    error  // the kernel's errno
}

func (e *ModuleError) Error() string {
	return fmt.Sprintf("the kernel has no %s: load it with `modprobe %s` (%v)", e.Module, e.Module, e.Err)
}

// Unwrap gives the errno.
func (e *ModuleError) Unwrap() error { return e.Err }

// A MessageError says that the kernel's answer could not be understood.
type MessageError struct {
	Reason string
	Len    int // bytes there were
	Want   int // bytes, at least, that there should have been; 0 where length is not the problem
}

func (e *MessageError) Error() string {
	if e.Want == 0 {
		return "malformed netlink message: " + e.Reason
	}
	return fmt.Sprintf("malformed netlink message: %s: %d bytes, want %d", e.Reason, e.Len, e.Want)
}

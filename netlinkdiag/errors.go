package netlinkdiag

import (
	"errors"
	"fmt"
)

var (
	// ErrRestarted is yielded by [Conn.Dump] in the middle of a stream: the kernel
	// flagged the dump as inconsistent (NLM_F_DUMP_INTR), and Dump restarts it.
	// Discard the sockets yielded so far, and go on. A consumer that stops at any
	// error gets no result, but never a wrong one.
	ErrRestarted = errors.New("dump interrupted, restarted")

	// ErrInterrupted ends a dump that was interrupted more often than Config.Retries
	// allows (NLM_F_DUMP_INTR).
	ErrInterrupted = errors.New("dump interrupted (NLM_F_DUMP_INTR)")

	// ErrClosed is the error of a Conn that was closed.
	ErrClosed = errors.New("connection closed")
)

// An Error is a failed dump: what was asked, which step failed, and why.
type Error struct {
	Op       string // "open", "send", "receive", "dump" (the kernel refused) or "decode"
	Protocol Protocol
	Family   Family
	Err      error // unwraps to the errno, *ModuleError, *MessageError or the context's error
}

func (e *Error) Error() string {
	what := e.Protocol.String()
	switch e.Family {
	case FamilyAny:
	case FamilyUnix:
		what = e.Family.String()
	default:
		what += " " + e.Family.String()
	}
	return fmt.Sprintf("sock_diag %s: %s: %v", what, e.Op, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// A ModuleError says that the kernel cannot answer the request because it lacks a
// module, and cannot load it.
type ModuleError struct {
	Module string // tcp_diag or udp_diag, inet_diag, on which these depend, or unix_diag
	Err    error  // the errno: ENOENT, EOPNOTSUPP or EPROTONOSUPPORT
}

func (e *ModuleError) Error() string {
	return fmt.Sprintf("the kernel has no %s: load it with `modprobe %s` (%v)", e.Module, e.Module, e.Err)
}

// Unwrap returns the errno.
func (e *ModuleError) Unwrap() error { return e.Err }

// A MessageError says that the answer of the kernel is malformed.
type MessageError struct {
	Reason string
	Len    int // length in bytes
	Want   int // shortest valid length in bytes, or 0 where the length is not the problem
}

func (e *MessageError) Error() string {
	if e.Want == 0 {
		return "malformed netlink message: " + e.Reason
	}
	return fmt.Sprintf("malformed netlink message: %s: %d bytes, want %d", e.Reason, e.Len, e.Want)
}

// Package probetest is a network namespace for tests: a [Namespace] answers the questions of
// probe.Namespace from lists of sockets, in place of the kernel, or with an error for each
// [Question] that a test chooses. It needs no privileges.
//
// It answers as internal/probe does. What only the kernel's wire format can show (interrupted
// messages, missing modules) is tested with netlinkdiag/diagtest.
package probetest

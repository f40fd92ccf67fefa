// Package status says to people, and to programs that are not Prometheus, what a snapshot
// means. [NewReport] is the verdict on some ports: would a bind() work now, what is in the way
// and until when, what to do; [Report.WriteText] and [Report.WriteJSON] render it.
//
// It is pure: it asks neither the kernel nor the clock, and needs no privilege. What the
// snapshot does not know it calls unknown. Interface names, the one thing in a report that
// others choose, are quoted where they are not printable.
//
// The form of the JSON is documented in docs/check.md; [Version] counts what breaks it.
package status

// Package status says to people, and to programs that are not Prometheus, what a snapshot
// means. [NewReport] is the verdict on some ports: would a bind() work now, what is in the way
// and until when, what to do; [Report.WriteText] and [Report.WriteJSON] render it.
//
// [Pages] serve the same over HTTP: /ports and /failures, as HTML or JSON. A page takes one
// snapshot, loads nothing from elsewhere and runs no script.
//
// It asks the kernel nothing, and needs no privilege; but for the time of a page it is pure.
// What the snapshot does not know it calls unknown. Names that others choose, of interfaces,
// processes and network namespaces, are quoted where they are not plain, whatever bytes
// they are.
//
// The forms of the JSON are documented in docs/check.md and docs/pages.md; [Version] counts
// what breaks them.
package status

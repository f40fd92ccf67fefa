// Package report says in words, and as JSON, what a snapshot means. [New] judges ports: would
// a bind() work now, what blocks it, until when, and what to do about it. [Report.WriteText] and
// [Report.WriteJSON] write the report of the command check, and internal/pages shows the same
// [PortReport] over HTTP. [Explain] and [WhyFailed] say why a bind() failed.
//
// The package is pure and needs no privilege. What the snapshot does not know, it calls
// unknown. Names that other people choose (interfaces, processes, network namespaces) can be any
// bytes: the package quotes those that are not plain words.
//
// docs/check.md documents the JSON. [Version] grows with each change that breaks readers.
package report

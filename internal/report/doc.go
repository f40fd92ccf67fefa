// Package report says in words what a snapshot means. [New] judges ports: would a restart of what
// listens work now, or a bind(), what blocks it, until when, and what to do about it. The command
// check writes the [Report] as text and JSON, and internal/pages shows the same [PortReport] over
// HTTP. [PortReport.Headline] is the answer in one line. [Explain] and [WhyFailed] say why a bind() failed.
//
// The package is pure and needs no privilege. What the snapshot does not know, it calls
// unknown. Names that other people choose (interfaces, processes, network namespaces) can be any
// bytes: the package quotes those that are not plain words.
//
// docs/check.md documents the JSON. [Version] grows with each change that breaks readers.
package report

// Package slots keeps the counts of failed calls for package bindtrace: which port has which slot of
// the kernel's memory, and what becomes of the counts when a port is not watched any more.
//
// It only computes. [Reader] is the kernel's memory.
package slots

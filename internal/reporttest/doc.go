// Package reporttest makes snapshots for the tests of internal/report, internal/pages and internal/check, and
// compares what they write with golden files.
package reporttest

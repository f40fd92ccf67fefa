// Package reporttest makes snapshots for the tests of internal/report and internal/pages, and
// compares what they write with golden files.
package reporttest

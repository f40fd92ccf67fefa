// Package pages serves /ports and /failures, as HTML or as JSON. A request takes one snapshot
// and shows it in the words of internal/report. A page loads nothing from elsewhere and runs no
// script.
//
// The package asks the kernel nothing and needs no privilege. docs/pages.md documents the JSON.
package pages

// Package cli reads the exporter's command line. Its errors name the flag, what is wrong with
// the value, and what would be right.
package cli

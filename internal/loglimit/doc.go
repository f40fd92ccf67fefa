// Package loglimit bounds how often lines of one kind are logged, whatever users of the host and
// clients do. The first lines of a kind are logged at once, and later ones after a pause, with the
// number of lines that were left out.
package loglimit

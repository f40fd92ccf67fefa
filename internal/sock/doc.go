// Package sock has the words that the packages of the project share.
//
// It has no logic, needs no privilege, and imports nothing of the project.
package sock

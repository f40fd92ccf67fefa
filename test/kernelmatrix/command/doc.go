// Package command runs programs and puts what they wrote to standard error
// into the error.
package command

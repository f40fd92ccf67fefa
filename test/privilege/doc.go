// Package privilege tests internal/privilege, with seccomp filters that refuse what it asks for.
// It has only tests. Most need root.
package privilege

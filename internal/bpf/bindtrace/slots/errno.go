//go:build linux

package slots

import "golang.org/x/sys/unix"

// ErrnoClasses returns the errors that have a class in the kernel's maps. Class 0 is every other
// error. inet_bind, inet6_bind and inet_csk_listen_start return only these by themselves. cgroup
// programs and security modules may return any error, and each one would be a series.
func ErrnoClasses() [16]unix.Errno {
	return [16]unix.Errno{
		1:  unix.EADDRINUSE,
		2:  unix.EADDRNOTAVAIL,
		3:  unix.EACCES,
		4:  unix.EINVAL,
		5:  unix.EAFNOSUPPORT,
		6:  unix.EFAULT,
		7:  unix.EPERM,
		8:  unix.ENODEV,
		9:  unix.ENOMEM,
		10: unix.ENOBUFS,
		11: unix.EOPNOTSUPP,
		12: unix.EINTR,
		13: unix.EAGAIN,
		14: unix.ENETDOWN,
		15: unix.ECONNREFUSED,
	}
}

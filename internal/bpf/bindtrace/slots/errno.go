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

// UnixErrnoClasses are the errors that bind() of a Unix socket returns: those of unix_bind, and of
// making a file.
func UnixErrnoClasses() [UnixCounts]unix.Errno {
	return [...]unix.Errno{
		1:  unix.EADDRINUSE,
		2:  unix.EACCES,
		3:  unix.ENOENT,
		4:  unix.ENOTDIR,
		5:  unix.EROFS,
		6:  unix.EPERM,
		7:  unix.EINVAL,
		8:  unix.ENAMETOOLONG,
		9:  unix.ELOOP,
		10: unix.ENOSPC,
		11: unix.EDQUOT,
		12: unix.EFAULT,
		13: unix.ENOMEM,
		14: unix.EINTR,
		15: unix.EIO,
	}
}

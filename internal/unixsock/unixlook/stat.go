package unixlook

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/unixsock"
)

// Stat says what a path leads to for this process. As bind(2), it does not follow a symbolic link at
// the end.
func Stat(path string) unixsock.File {
	file := statAt(unix.AT_FDCWD, path, 0)
	if file.Kind == unixsock.FileAbsent {
		file = directory(filepath.Dir(path), file)
	}
	return file
}

// directory says whether the process may make a file in the directory. file is what is said if it may.
func directory(dir string, file unixsock.File) unixsock.File {
	switch err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); {
	case err == nil:
		return file
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return unixsock.File{Kind: unixsock.DirMissing}
	default:
		return unixsock.File{Kind: unixsock.DirDenied, Err: err}
	}
}

// StatFor says what a path leads to for a process: below its root directory, and for a relative path
// from its working directory, if it leads to something below that. Where the process may not be looked at,
// its Kind is FileUnknown. It does not say whether the process could make a file.
func StatFor(proc string, pid int, path string) unixsock.File {
	dir, err := OpenDir(proc, pid, path)
	if err != nil {
		return unknown(err)
	}
	defer func() { _ = unix.Close(dir) }()
	return statIn(dir, path)
}

// OpenDir opens the directory where a path of a process begins, to find files in it: its root directory or,
// for a relative path, its working directory. The caller closes the descriptor.
func OpenDir(proc string, pid int, path string) (fd int, err error) {
	start := "cwd"
	if filepath.IsAbs(path) {
		start = "root"
	}
	return unix.Open(filepath.Join(proc, strconv.Itoa(pid), start), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// statIn says what a path leads to that begins in a directory, and cannot lead out of it.
func statIn(dir int, path string) unixsock.File {
	if filepath.IsAbs(path) {
		return statAt(dir, path, unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_IN_ROOT)
	}
	return statAt(dir, path, unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_BENEATH)
}

func unknown(err error) unixsock.File { return unixsock.File{Kind: unixsock.FileUnknown, Err: err} }

// statAt finds the file with O_PATH, which opens no device and no pipe, and mounts nothing.
func statAt(dir int, path string, resolve uint64) unixsock.File {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve}
	fd, err := unix.Openat2(dir, path, &how)
	if errors.Is(err, unix.ENOSYS) && resolve == 0 { // before Linux 5.6
		fd, err = unix.Openat(dir, path, int(how.Flags), 0)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return unixsock.File{Kind: unixsock.FileAbsent}
	case errors.Is(err, unix.ENOTDIR):
		return unixsock.File{Kind: unixsock.DirMissing}
	case errors.Is(err, unix.EACCES):
		return unixsock.File{Kind: unixsock.DirDenied, Err: err}
	case err != nil:
		return unknown(err)
	}
	defer func() { _ = unix.Close(fd) }()
	return statFD(fd)
}

func statFD(fd int) unixsock.File {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return unknown(fmt.Errorf("stat: %w", err))
	}
	file := unixsock.File{Kind: unixsock.FileSocket, Inode: st.Ino, Major: unix.Major(st.Dev), Minor: unix.Minor(st.Dev), Changed: st.Ctim.Nano(), UID: st.Uid}
	if what := typeOf(st.Mode); what != "" {
		file.Kind, file.What = unixsock.FileOther, what
		return file
	}
	var fs unix.Statfs_t
	err := unix.Fstatfs(fd, &fs)
	file.AnyDevice = err == nil && manyDevices(uint32(fs.Type))
	return file
}

// manyDevices says whether files of the file system have devices other than its own.
func manyDevices(magic uint32) bool {
	return magic == unix.BTRFS_SUPER_MAGIC || magic == unix.OVERLAYFS_SUPER_MAGIC || magic == unix.BCACHEFS_SUPER_MAGIC
}

// typeOf says what a file is. It is empty for a socket.
func typeOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return ""
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFIFO:
		return "a named pipe"
	default:
		return "a device"
	}
}

// Connect tries to connect to the socket at the path, and closes the connection at once. It does not
// wait. A datagram socket answers with EPROTOTYPE.
func Connect(path string) unixsock.Try {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return unixsock.TryFailed
	}
	defer func() { _ = unix.Close(fd) }()
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); {
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EPROTOTYPE):
		return unixsock.Answered
	case errors.Is(err, unix.ECONNREFUSED):
		return unixsock.Refused
	default:
		return unixsock.TryFailed
	}
}

package unixsock

import (
	"math"

	"sockstate_exporter/netlinkdiag"
)

// A File is what a path leads to, in one mount namespace.
type File struct {
	Kind  FileKind
	Inode uint64
	// Major and Minor are the device that stat(2) shows. AnyDevice says that the file system has
	// others than its own (Btrfs, overlayfs), so that the kernel shows another one for its sockets.
	Major, Minor uint32
	AnyDevice    bool
	Changed      int64  // st_ctime in nanoseconds: tells the file from a later one with the inode number
	UID          uint32 // of its owner
	// What says what a FileOther is: "a directory".
	What string
	// Err says why a FileUnknown or DirDenied is that.
	Err error
}

// A FileKind says what is at a path.
type FileKind uint8

// The kinds.
const (
	FileUnknown FileKind = iota // it could not be looked at, or nobody looked
	FileSocket
	FileOther  // no socket, or a symbolic link, which bind(2) does not follow
	FileAbsent // bind(2) would make it
	DirMissing // nor is its directory there
	DirDenied  // who looked may not make a file there, or not look
)

// Is says whether the file is that of the socket.
func (f *File) Is(s *netlinkdiag.UnixSocket) bool {
	return f.Kind == FileSocket && s.HasFile && uint64(s.File.Inode) == f.Inode&math.MaxUint32 &&
		(f.AnyDevice || s.File.Major == f.Major && s.File.Minor == f.Minor)
}

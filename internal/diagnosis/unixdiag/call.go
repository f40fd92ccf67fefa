package unixdiag

import (
	"errors"
	"path/filepath"
	"syscall"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/words"
)

// Asks says that a look at the path, or at the abstract name, could show why a bind failed with the error.
func Asks(errno syscall.Errno) bool { return errno == syscall.EADDRINUSE }

// OfCall says why a bind failed, by its error alone. known says whether the call carried a name.
func OfCall(name unixsock.Name, known bool, errno syscall.Errno) diagnosis.Diagnosis {
	if !known {
		return *simple(codes.InvalidCall, "the address of the call is none of a Unix socket: it is too long, or could not be read")
	}
	at, dir := name.String(), words.Name(filepath.Dir(name.Path))
	switch errno {
	case syscall.EADDRINUSE:
		d := simple(codes.Unknown, "something is at "+at+", and the exporter has not looked what")
		d.Remedy = codes.Unknown.Remedy()
		return *d
	case syscall.ENOENT, syscall.ENOTDIR:
		return *simple(codes.UnixDirectoryMissing, "the directory "+dir+" does not exist, or a part of it is no directory")
	case syscall.EACCES, syscall.EPERM:
		return *simple(codes.UnixDenied, "the process may not make a file in "+dir+", or may not search it")
	case syscall.EROFS:
		return *simple(codes.UnixDenied, "the file system of "+dir+" is read-only")
	case syscall.ENOSPC, syscall.EDQUOT:
		return *simple(codes.UnixDenied, "the file system of "+dir+" has no room for a file, or the quota of the user is used up")
	case syscall.EINVAL:
		return *simple(codes.InvalidCall, "the socket is bound already, or the address is not one of a Unix socket")
	case syscall.ENAMETOOLONG, syscall.ELOOP, syscall.EFAULT:
		return *simple(codes.InvalidCall, "the kernel cannot look up "+at+": "+errno.Error())
	case syscall.ENOMEM, syscall.ENOBUFS:
		return *simple(codes.OutOfMemory, "the kernel was short of memory")
	default:
		d := simple(codes.Unknown, "the kernel answered "+errno.Error())
		d.End.Kind = diagnosis.EndUnknown
		return *d
	}
}

// The reasons why a look showed nothing.
var (
	// ErrElsewhere means that the path belongs to another mount namespace, whose processes have ended.
	ErrElsewhere = errors.New("the path belongs to another mount namespace, and no process is left there through which the exporter could look")
	// ErrRelative means that a relative path belongs to a directory that is not known.
	ErrRelative = errors.New("the path is a relative one, and the process ended before the exporter could look where it was")
)

// OfLook says why a bind failed with EADDRINUSE, by a look afterwards. err says why there was none.
func OfLook(v *unixsock.Verdict, err error) diagnosis.Diagnosis {
	if err != nil {
		d := simple(codes.Unknown, "something was at "+v.Name.String()+"; "+err.Error())
		d.End.Kind = diagnosis.EndUnknown
		return *d
	}
	d := Of(v)
	if d == nil || v.State == unixsock.NoDirectory || v.State == unixsock.Denied {
		d = simple(codes.Unknown, "what was at "+v.Name.String()+" was gone before the exporter could look")
		d.End.Kind = diagnosis.EndUnknown
	}
	d.Afterwards = true
	return *d
}

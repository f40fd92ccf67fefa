package codes

// unixSockets are about paths and abstract names. PATH stands for the path.
func unixSockets() []Entry {
	const seeUnix = "`ss -Hxlp src PATH` lists the sockets that were bound to the path and their processes, in one network namespace. `ls -li PATH` shows the file."
	return []Entry{
		{
			UnixInUse, "Another process has the path or the abstract name of the Unix socket.",
			"Stop the other server, or use another path. Do not remove the file: its clients would not reach it any more.",
			"A socket that is bound to the path has the file at the path: the inode numbers are the same. The exporter decides by them and not by the name, because a file can be renamed. An abstract name (`@name`) has no file, and belongs to one network namespace. Many servers remove the file and bind anew instead of failing. They take the path over, and the first server loses its clients: `unix_shadowed`.",
			seeUnix,
		},
		{
			UnixStaleFile, "The file of a Unix socket is left over, and nobody listens there.",
			"Remove the file, in a systemd unit with ExecStartPre=/bin/rm -f PATH or RuntimeDirectory=. Better let the server remove it before bind().",
			"The server that made the file has ended without removing it: it crashed, was killed, or never removes it. bind() to an existing path fails with EADDRINUSE, whether or not somebody listens, and SO_REUSEADDR does not help. The file belongs to all network namespaces. If the exporter could not ask all of them, it says so. `check` then tries to connect: ECONNREFUSED means that nobody listens.",
			seeUnix + " `nc -zU PATH` tries to connect.",
		},
		{
			UnixNoSocket, "What is at the path of the Unix socket is no socket.",
			"Move it away, or correct the path in the configuration of the server.",
			"A file, a directory or a symbolic link is at the path. bind() fails with EADDRINUSE whatever it is, and does not follow a symbolic link.",
			"`ls -ld PATH`",
		},
		{
			UnixDirectoryMissing, "The directory of the Unix socket does not exist.",
			"Make the directory before the server starts, in a systemd unit with RuntimeDirectory=, or correct the path.",
			"bind() makes the file, and no directory (ENOENT, or ENOTDIR if a part of the path is a file). Directories in /run are gone after a reboot.",
			"`ls -ld` of the directory",
		},
		{
			UnixDenied, "The process may not make the file of the Unix socket.",
			"Give the user of the server permission to write to the directory, in a systemd unit with RuntimeDirectory= and User=, or correct the path.",
			"bind() makes a file. So it needs permission to write to the directory and to search all directories above (EACCES), and a file system that is not read-only (EROFS). A security module may refuse it as well (EACCES, EPERM).",
			"`namei -l PATH`; `journalctl -k | grep -i denied`",
		},
		{
			UnixShadowed, "A server listens on a Unix socket, and the path leads to the socket of another one.",
			"Restart the server that is to have the path, and stop the other one.",
			"Two sockets were bound to one path: the second server removed the file of the first and made a new one. New clients reach the second only. The first one runs on and looks healthy.",
			seeUnix + " The listener that is cut off is the one whose inode (`ss -xle`, after `<->`) is not that of the file.",
		},
		{
			UnixUnlinked, "A server listens on a Unix socket whose file is gone.",
			"Restart the server.",
			"Somebody removed the file of a socket that still listens, or its directory. Often it was another instance of the same server that ended: many servers remove the path when they end, whosever file it is. Clients get ENOENT.",
			seeUnix,
		},
	}
}

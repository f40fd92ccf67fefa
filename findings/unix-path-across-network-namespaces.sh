#!/usr/bin/env bash
# One would guess: a Unix socket belongs to its network namespace, as a TCP socket does. ss(8) and
# /proc/net/unix show those of one namespace, so nobody in another namespace meets it.
#
# Seen on Linux 6.18 with Python's socket module: that is so for abstract names only. A socket with a
# path is met from every network namespace that sees the file: connect() reaches it, and bind() on the
# path fails with EADDRINUSE. But /proc/net/unix of that namespace has no row of it. So `ss -xl` shows
# nobody on a path whose server cannot start, for example because a container shares the directory.
# Source: unix_find_bsd goes by the inode of the file; unix_find_abstract compares the namespace.
#
# Output:
#   path, from another network namespace: connect works, bind EADDRINUSE, rows in /proc/net/unix: 0
#   abstract name, from another network namespace: connect ECONNREFUSED, bind works, rows in /proc/net/unix: 0
#
# Needs root, unshare and python3. It exits with 1 if the behaviour is another one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cat >"$dir/sockets.py" <<'PY'
import errno, socket, subprocess, sys

path, abstract = sys.argv[1] + "/s", "\0finding-" + sys.argv[1]

def attempt(f):
    try:
        f()
        return "works"
    except OSError as e:
        return errno.errorcode[e.errno]

if len(sys.argv) == 3:  # in the other namespace
    for what, name in ("path", path), ("abstract name", abstract):
        with open("/proc/net/unix", errors="replace") as f:
            rows = sum(name.replace("\0", "@") in line for line in f)
        with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as server:
            print(f"{what}, from another network namespace: connect {attempt(lambda: client.connect(name))}, "
                  f"bind {attempt(lambda: server.bind(name))}, rows in /proc/net/unix: {rows}")
else:
    held = []
    for name in path, abstract:
        s = socket.socket(socket.AF_UNIX)
        s.bind(name)
        s.listen()
        held.append(s)
    subprocess.run(["unshare", "--net", sys.executable, sys.argv[0], sys.argv[1], "other"], check=True)
PY

unshare --net python3 "$dir/sockets.py" "$dir" | tee "$dir/seen"
diff "$dir/seen" - <<'EXPECTED'
path, from another network namespace: connect works, bind EADDRINUSE, rows in /proc/net/unix: 0
abstract name, from another network namespace: connect ECONNREFUSED, bind works, rows in /proc/net/unix: 0
EXPECTED

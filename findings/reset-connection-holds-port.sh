#!/usr/bin/env bash
# One would guess: a connection that was reset is gone, and its local port is free, as /proc/net/tcp and
# `ss -tan` show it.
#
# Seen on Linux 6.18 with Python's socket module: if the client has named its port by bind(), its socket
# keeps the port until it is closed, in TCP_CLOSE. No row of /proc/net/tcp has the port, and a bind() to
# it fails with EADDRINUSE. If connect() has chosen the port, the reset frees it.
# Source: tcp_set_state puts the port back only without SOCK_BINDPORT_LOCK.
#
# Output:
#   named by bind(): 0 rows of /proc/net/tcp; bind: EADDRINUSE; after close(): works
#   chosen by connect(): 0 rows of /proc/net/tcp; bind: works; after close(): works
#
# Needs root, unshare and python3. It exits with 1 if the behaviour is another one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cat >"$dir/reset.py" <<'EOF'
import errno, fcntl, socket, struct

# Set the loopback device up, as `ip link set lo up` does: SIOCSIFFLAGS, IFF_UP.
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1))

def rows(port):
    with open("/proc/net/tcp") as f:
        return sum(line.split()[1].endswith(f":{port:04X}") for line in list(f)[1:])

def bind(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError as e:
            return errno.errorcode[e.errno]
    return "works"

listener = socket.socket()
listener.bind(("127.0.0.1", 4840))
listener.listen()
for how, port in ("named by bind()", 33000), ("chosen by connect()", 0):
    client = socket.socket()
    if port:
        client.bind(("127.0.0.1", port))
    client.connect(("127.0.0.1", 4840))
    port = client.getsockname()[1]
    server, _ = listener.accept()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    try:
        client.recv(1)
    except ConnectionResetError:
        pass
    seen = f"{how}: {rows(port)} rows of /proc/net/tcp; bind: {bind(port)}"
    client.close()
    print(f"{seen}; after close(): {bind(port)}")
EOF

unshare --net python3 "$dir/reset.py" | tee "$dir/seen"
diff "$dir/seen" - <<'OUT'
named by bind(): 0 rows of /proc/net/tcp; bind: EADDRINUSE; after close(): works
chosen by connect(): 0 rows of /proc/net/tcp; bind: works; after close(): works
OUT

#!/usr/bin/env bash
# One would guess: bind() to port 0 finds each free port of net.ipv4.ip_local_port_range, and fails
# only when none is left.
#
# Seen on Linux 6.18 with Python's socket module: in a range with an odd number of ports, TCP's bind()
# to port 0 never takes the last one. It fails with EADDRINUSE while that port is free. An explicit
# bind() to the port works. With an even number of ports, all are taken.
# Source: inet_csk_find_open_port makes the number of ports even.
#
# Output:
#   3 ports: 2 taken, then EADDRINUSE; bind to 40002: works
#   4 ports: 4 taken, then EADDRINUSE
#
# Needs root, unshare and python3. It exits with 1 if the behaviour is another one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cat >"$dir/ports.py" <<'EOF'
import errno, socket

def take(first, last):
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as f:
        f.write(f"{first} {last}")
    held = []
    while True:
        s = socket.socket()
        try:
            s.bind(("0.0.0.0", 0))
        except OSError as e:
            return held, errno.errorcode[e.errno]
        held.append(s)

held, error = take(40000, 40002)
last = socket.socket()
try:
    last.bind(("0.0.0.0", 40002))
    free = "works"
except OSError as e:
    free = errno.errorcode[e.errno]
print(f"3 ports: {len(held)} taken, then {error}; bind to 40002: {free}")
for s in held + [last]:
    s.close()
held, error = take(40000, 40003)
print(f"4 ports: {len(held)} taken, then {error}")
EOF

unshare --net python3 "$dir/ports.py" | tee "$dir/seen"
diff "$dir/seen" - <<'EOF'
3 ports: 2 taken, then EADDRINUSE; bind to 40002: works
4 ports: 4 taken, then EADDRINUSE
EOF

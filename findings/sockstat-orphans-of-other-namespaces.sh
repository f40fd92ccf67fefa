#!/usr/bin/env bash
# One would guess: /proc/net/sockstat is of one network namespace, like the rest of /proc/net.
#
# Seen on Linux 6.18 with Python's socket module: of the TCP line, inuse and tw are of the namespace,
# but orphan is of the whole host. A namespace without a single TCP socket shows the orphans of another
# one. Its limit, net.ipv4.tcp_max_orphans, is a sysctl of the initial namespace only.
# Source: sockstat_seq_show calls tcp_orphan_count_sum, which has no namespace.
#
# Output:
#   50 orphans in another namespace: inuse 0, orphan rose by 50 or more; tcp_max_orphans: absent
#
# Needs root, unshare and python3. It exits with 1 if the behaviour is another one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# A closed socket whose peer does not read what was sent is an orphan in FIN_WAIT1.
cat >"$dir/orphans.py" <<'PY'
import fcntl, socket, struct, sys

# Set the loopback device up, as `ip link set lo up` does: SIOCSIFFLAGS, IFF_UP.
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1))

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(64)
clients = []
for _ in range(50):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    server.setblocking(False)
    try:
        while True:
            server.send(bytes(65536))
    except BlockingIOError:
        pass
    server.close()
    clients.append(client)
print("made", flush=True)
sys.stdin.read()
PY

cat >"$dir/look.py" <<'PY'
import os, subprocess, sys

def tcp():
    with open("/proc/net/sockstat") as f:
        words = next(line for line in f if line.startswith("TCP:")).split()
    return dict(zip(words[1::2], map(int, words[2::2])))

before = tcp()
maker = subprocess.Popen(["unshare", "--net", "python3", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
maker.stdout.readline()
after = tcp()
maker.stdin.close()
maker.wait()
rose = "50 or more" if after["orphan"] - before["orphan"] >= 50 else "less than 50"
limit = "there" if os.path.exists("/proc/sys/net/ipv4/tcp_max_orphans") else "absent"
print(f"50 orphans in another namespace: inuse {after['inuse']}, orphan rose by {rose}; tcp_max_orphans: {limit}")
PY

unshare --net python3 "$dir/look.py" "$dir/orphans.py" | tee "$dir/seen"
diff "$dir/seen" - <<'OUT'
50 orphans in another namespace: inuse 0, orphan rose by 50 or more; tcp_max_orphans: absent
OUT

#!/usr/bin/env bash
# One would guess: opening /proc/sys/net/ipv4/tcp_max_tw_buckets takes as long
# on a host with 800 network namespaces as on one with a few, since the kernel
# looks the path up in its dentry cache.
#
# Seen on Linux 6.18: each path through /proc/sys/net takes a time that grows with
# the number of network namespaces in which somebody has opened one. All of them
# have a dentry "net" below the same parent, so all are in one hash chain, and the
# kernel compares one after the other (proc_sys_compare in a profile). An open()
# took 4.6 to 4.9 us with 20 namespaces, and 53 us with 800: 10.7 to 11.5 times as
# long. A program that reads ten sysctls in each namespace pays that ten times for
# each. One that opens the folder once, and its files by openat(2), pays it once.
#
# Prints both times, and exits non-zero if the ratio is below 2. Needs root and
# python3 (3.9 or later, no packages); takes some seconds.
set -euo pipefail

[[ $(id -u) == 0 ]] || { echo "needs root: it makes network namespaces" >&2; exit 2; }
uname -sr
python3 --version

exec unshare --mount --pid --fork --mount-proc python3 - <<'EOF'
import ctypes, os, statistics, sys, time

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
path = "/proc/sys/net/ipv4/tcp_max_tw_buckets"


def call(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def new_namespace():
    call(libc.unshare(CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def open_once():
    os.close(os.open(path, os.O_RDONLY))


def microseconds(namespaces):
    """The median time of an open() in each of the namespaces, after one in all of them."""
    took = []
    for again in range(4):
        for fd in namespaces:
            call(libc.setns(fd, CLONE_NEWNET))
            start = time.perf_counter_ns()
            open_once()
            if again:
                took.append(time.perf_counter_ns() - start)
    return statistics.median(took) / 1000


few = [new_namespace() for _ in range(20)]
with_few = microseconds(few)
many = few + [new_namespace() for _ in range(780)]
with_many = microseconds(many)
print(f"20 network namespaces: {with_few:.1f} us for each open()")
print(f"{len(many)} network namespaces: {with_many:.1f} us for each open(), {with_many / with_few:.1f} times as long")
sys.exit(0 if with_many > 2 * with_few else 1)
EOF

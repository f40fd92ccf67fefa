//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Counts failed bind(), listen() and connect() calls by what the caller asked for.
 *
 * When a failed bind returns, inet_sport is 0. Only the sockaddr of the call still has the port
 * that the caller asked for. So the programs run at the exit of the system call, where its
 * arguments are still known: fexit gets them from the trampoline, the tracepoints keep them from
 * entry to exit. Both then call report().
 *
 * User space reads the counts and writes the watched ports in mapped memory, not by bpf(2). While
 * a task is in a bpf(2) map command, the kernel skips tracepoint programs on that CPU
 * (bpf_disable_instrumentation). Where the task can be preempted there, the programs would miss
 * the failures of other tasks.
 */
#include "../fd.h"

char LICENSE[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* IP_LOCAL_PORT_RANGE, Linux 6.3. Since Linux 6.8 a range is first port | last port << 16. */
struct inet_sock {
	u32 local_port_range;
};

struct local_ports {
	u32 range;
};

struct netns_ipv4 {
	struct local_ports ip_local_ports;
};

struct net___ports {
	struct netns_ipv4 ipv4;
};

/* Before Linux 6.8. */
struct inet_sock___6_3 {
	struct {
		u16 lo;
		u16 hi;
	} local_port_range;
};

struct local_ports___6_3 {
	int range[2];
};

struct netns_ipv4___6_3 {
	struct local_ports___6_3 ip_local_ports;
};

struct net___6_3 {
	struct netns_ipv4___6_3 ipv4;
};

#pragma clang attribute pop

/* sizeof(struct sockaddr_in), SIN6_LEN_RFC2133, sizeof(struct sockaddr_storage):
 * what inet_bind, inet6_bind and move_addr_to_kernel accept. */
#define SIN_LEN 16
#define SIN6_MIN_LEN 24
#define SIN6_LEN 28
#define ADDR_MAX_LEN 128

enum op { OP_BIND, OP_LISTEN, OP_CONNECT, OPS };
enum family { FAMILY_IPV4, FAMILY_IPV6, FAMILIES };
enum protocol { PROTO_OTHER, PROTO_TCP, PROTO_UDP, PROTO_MPTCP, PROTO_SCTP, PROTOS };
enum {
	REUSEADDR = 1,
	REUSEPORT = 2,
	V6ONLY = 4,
	PORT_KNOWN = 8,
	OWN_RANGE = 16,
	CAPTURED = 32, /* the sockets in the way were looked for */
	CAPTURED_ALL = 64,
	PRIVILEGE_LACKED = 128, /* the caller had no CAP_NET_BIND_SERVICE: EACCES of bind() */
};
enum { CONNECT_NO_ADDRESS, CONNECT_AGAIN, CONNECT_ERRORS };
enum { ERRNO_CLASSES = 16, ERRNO_MAX = 512 };

/* A function that the verifier checks once, for any arguments, and not again on each path that leads to a
 * call. Pointers are passed as numbers: Linux 5.12 is the first that takes others. */
#define GLOBAL __attribute__((noinline))

/* The loader sets these: error numbers differ between architectures, and the object does not know
 * on which one it runs. Class 0 is every other error. */
const volatile u8 errno_class[ERRNO_MAX];
const volatile u32 errno_ebadf;
const volatile u32 errno_enotsock;
const volatile u32 errno_eaddrinuse;
const volatile u32 errno_eacces;
const volatile u32 errno_eaddrnotavail;
const volatile u32 errno_eagain;
const volatile u32 errno_eafnosupport;

/* The loader makes failing calls with this address, to test that the attached programs see them. */
const volatile u8 probe_addr[16];
u64 probes_seen;
u64 connect_probes_seen;

/* Failures that have no event: the ring was full, or the user's share of it was. */
u64 events_lost;
u64 vsock_binds; /* failed ones: their ports are no ports of the network */

/* Failures whose socket is not known: another thread closed it before the call returned, or there
 * was no memory to keep the arguments of the call. */
u64 unattributed;

/* What a failure counts for. */
struct key {
	u32 netns; /* inode number; 0: not watched */
	u16 port;  /* host order; 0 with port_other set, and for connect() */
	u8 port_other;
	u8 op;
	u8 family;
	u8 protocol;
	u8 errno_class;
};

/* The counts of one port of one network namespace, or of all its other ports. User space gives a
 * port its slot and takes it back. A slot has room for whatever a process can choose. So no
 * process can use up what another one's failures count in. */
enum {
	BIND_COUNTS = FAMILIES * PROTOS * ERRNO_CLASSES,
	LISTEN_COUNTS = FAMILIES * PROTOS,
	CONNECT_COUNTS = FAMILIES * PROTOS * CONNECT_ERRORS,
	SLOT_COUNTS = BIND_COUNTS + LISTEN_COUNTS + CONNECT_COUNTS,
	SLOT_WORDS = 191, /* with used a multiple of 512 bytes: 128 slots fill pages of any size */
};

struct slot {
	u64 used; /* 1 from the first failure on, so that user space can skip slots */
	u64 counts[SLOT_WORDS];
};

/* An array, since user space can map only arrays. Slot 0 is for the failures of all namespaces
 * that are not watched. The loader sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");

/* The slots in use, a hash table with open addressing. User space changes one word at a time.
 *
 *   bits 32 to 63  inode number of the network namespace
 *   bits 16 to 31  port
 *   bit 15         the slot is for the other ports of the namespace; the port is 0
 *   bits 0 to 14   number of the slot
 *
 * A word is 0 where nothing was. It keeps another value where something was removed. The hash has
 * a random factor: nobody can choose ports that collide. It multiplies twice: with one
 * multiplication a few of the factors put most ports of neighbouring namespaces into the same
 * places. */
enum { INDEX_BITS = 15, INDEX_SIZE = 1 << INDEX_BITS, INDEX_PROBES = 16, NUMBER_BITS = 15 };
u64 slot_index[INDEX_SIZE];
const volatile u64 index_factor;

/* The users who made calls fail lately. The value is when the user's share of the ring is whole
 * again (boot time, ns). */
struct user {
	u32 netns; /* 0: not watched */
	u32 uid;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct user);
	__type(value, u64);
} users SEC(".maps");

/* A user has EVENTS_BURST events at once, and EVENTS_BURST in a second. The loader sets the size of
 * the ring. */
enum { EVENTS_BURST = 1024, CAPTURES_BURST = 128, EVENT_NS = 1000000000 / EVENTS_BURST };
const volatile u64 ring_size;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/* What the tracepoints keep from the entry of a call to its exit, by thread. An LRU map does not
 * do: it may evict an entry in use while others are free. The exit deletes the entry; a killed
 * thread passes the exit, too. */
struct call {
	u64 addr;
	s32 fd;
	s32 addrlen;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct call);
} calls SEC(".maps");

enum { COMM_LEN = 16, EXE_LEN = 64 };

/* The record of the ring. */
struct event {
	u64 boot_ns;
	u64 cgroup_id;
	u64 started_ns; /* when the process started (boot time) */
	u32 pid;
	u32 tid;
	u32 uid;
	u32 netns;
	s32 ifindex;
	u32 scope_id;
	u32 error;
	u16 port;
	u16 addr_family; /* of the sockaddr; 0: it could not be read */
	u8 op;
	u8 family;
	u8 protocol;
	u8 flags;
	u32 user;
	u8 addr[16];
	u8 comm[COMM_LEN]; /* of the process: that of its main thread */
	u8 exe[EXE_LEN];   /* name of its executable where comm may be cut, else empty */
	s32 unprivileged_start; /* EACCES of bind(): the sysctl; negative: not known */
};
const struct event *event_type; /* puts the struct into the BTF, for bpf2go */

#include "capture.h"
#include "privilege.h"
const struct blocker *blocker_type;

/* What the call asked for. */
struct request {
	u8 addr[16];
	u32 scope_id;
	u16 addr_family;
	u16 port;
	u8 port_known;
};

union sockaddr {
	u16 family;
	struct {
		u16 family;
		u16 port;
		u8 addr[4];
		u8 zero[8];
	} in;
	struct {
		u16 family;
		u16 port;
		u32 flowinfo;
		u8 addr[16];
		u32 scope_id;
	} in6;
};

/* The port is known where the kernel itself would read one. A sockaddr that is too short, too long,
 * unreadable or of another family has none. __inet_bind takes AF_UNSPEC as a sockaddr_in. */
static __always_inline void read_sockaddr(struct request *req, const void *addr, s32 addrlen)
{
	union sockaddr sa = {};

	if (addrlen < SIN_LEN || addrlen > ADDR_MAX_LEN)
		return;
	if (bpf_probe_read_user(&sa, SIN_LEN, addr))
		return;

	if (sa.family == AF_INET || sa.family == AF_UNSPEC) {
		__builtin_memcpy(req->addr, sa.in.addr, 4);
	} else if (sa.family == AF_INET6 && addrlen >= SIN6_MIN_LEN) {
		if (bpf_probe_read_user(&sa, SIN6_MIN_LEN, addr))
			return;
		__builtin_memcpy(req->addr, sa.in6.addr, 16);
		if (addrlen >= SIN6_LEN)
			bpf_probe_read_user(&req->scope_id, sizeof(req->scope_id),
					    addr + SIN6_MIN_LEN);
	} else {
		return;
	}
	req->addr_family = sa.family == AF_INET6 ? AF_INET6 : AF_INET;
	req->port = be16(sa.in.port);
	req->port_known = 1;
}

/* listen() asks for the port and address that the socket is bound to. */
static __always_inline void read_bound(struct request *req, struct sock *sk, u16 family)
{
	req->addr_family = family;
	if (family == AF_INET)
		bpf_probe_read_kernel(req->addr, 4, &sk->__sk_common.skc_rcv_saddr);
	else
		bpf_probe_read_kernel(req->addr, 16, &sk->__sk_common.skc_v6_rcv_saddr);
	req->port = READ(sk->__sk_common.skc_num);
	req->port_known = 1;
}

/* The protocol of a raw socket is a filter. */
static __always_inline u8 protocol_class(u16 type, u16 protocol)
{
	if (type == SOCK_RAW)
		return PROTO_OTHER;
	switch (protocol) {
	case IPPROTO_TCP:
		return PROTO_TCP;
	case IPPROTO_UDP:
		return PROTO_UDP;
	case IPPROTO_MPTCP:
		return PROTO_MPTCP;
	case IPPROTO_SCTP:
		return PROTO_SCTP;
	}
	return PROTO_OTHER;
}

static __always_inline int is_probe(const struct request *req)
{
	u8 differs = 0;

	for (u32 i = 0; i < sizeof(req->addr); i++)
		differs |= req->addr[i] ^ probe_addr[i];
	return !differs;
}

/* The compiler must index with the register that it compared: the verifier does not know which
 * other registers have the same value. */
static __always_inline u8 class_of(u32 error)
{
	asm volatile("" : "+r"(error));
	return error < ERRNO_MAX ? errno_class[error] : 0;
}

/* Returns the number of a slot, or 0. */
GLOBAL u32 find_slot(u32 netns, u32 port, u32 other)
{
	u64 key = (u64)netns << 17 | (u64)port << 1 | other;
	u64 hash = key * index_factor;
	u32 at = ((hash ^ hash >> 32) * index_factor) >> (64 - INDEX_BITS);

	for (u32 i = 0; i < INDEX_PROBES; i++) {
		u64 word = slot_index[(at + i) & (INDEX_SIZE - 1)];

		if (!word)
			return 0;
		if (word >> NUMBER_BITS == key)
			return word & ((1 << NUMBER_BITS) - 1);
	}
	return 0;
}

/* slots/counts.go reverses this. */
static __always_inline u32 count_of(const struct key *key)
{
	u32 nr = key->family * PROTOS + key->protocol;

	switch (key->op) {
	case OP_BIND:
		return nr * ERRNO_CLASSES + key->errno_class;
	case OP_LISTEN:
		return BIND_COUNTS + nr;
	}
	nr *= CONNECT_ERRORS;
	if (key->errno_class == class_of(errno_eagain))
		nr += CONNECT_AGAIN;
	return BIND_COUNTS + LISTEN_COUNTS + nr;
}

/* Counts a failure in the slot of its port, or in that of the other ports of its namespace. Returns whether
 * the port has a slot. */
GLOBAL int count_at(u32 netns, u32 port, u32 other, u32 at)
{
	u32 own = other ? 0 : find_slot(netns, port, 0), nr = own;
	struct slot *slot;

	if (!nr && netns)
		nr = find_slot(netns, 0, 1);
	slot = bpf_map_lookup_elem(&slots, &nr);
	asm volatile("" : "+r"(at));
	if (slot && at < SLOT_COUNTS) {
		__sync_fetch_and_add(&slot->counts[at], 1);
		slot->used = 1;
	}
	return own != 0;
}

/* A port without a slot counts with the other ports of its namespace, and sets port_other. */
static __always_inline void count(struct key *key)
{
	if (!count_at(key->netns, key->port, key->port_other, count_of(key))) {
		key->port_other = 1;
		key->port = 0;
	}
}

/* Sets the parts of the key that depend on the socket. */
static __always_inline void read_socket(struct key *key, struct sock *sk, u16 family)
{
	struct net *net = READ(sk->__sk_common.skc_net.net);
	u32 netns = READ(net->ns.inum);

	if (find_slot(netns, 0, 1))
		key->netns = netns;
	key->family = family == AF_INET6 ? FAMILY_IPV6 : FAMILY_IPV4;
	key->protocol = protocol_class(READ(sk->sk_type), READ(sk->sk_protocol));
}

/* Returns who is to blame for a call: in a user namespace, the user who made the outermost one.
 * Otherwise a user would be many, by their subordinate uids. */
GLOBAL u32 current_user(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cred *cred = READ(task->cred);
	struct user_namespace *ns;
	u32 uid = bpf_get_current_uid_gid();

	ns = READ(cred->user_ns);
	/* The kernel allows 33 levels: create_user_ns. */
	for (u32 i = 0; i < 34; i++) {
		struct user_namespace *parent = READ(ns->parent);

		if (!parent)
			break;
		uid = READ(ns->owner.val);
		ns = parent;
	}
	return uid;
}

/* Threads have names of their own, and comm is cut. The caller may be gone before user space can look. */
static __always_inline void read_process(u64 *started_ns, u8 *comm, u8 *name)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *leader = READ(task->group_leader);
	struct mm_struct *mm = READ(task->mm);
	struct file___path *exe = READ(mm->exe_file);
	struct dentry *dentry = READ(exe->f_path.dentry);

	*started_ns = READ(leader->start_boottime);
	name[0] = 0;
	bpf_probe_read_kernel(comm, COMM_LEN, &leader->comm);
	comm[COMM_LEN - 1] = 0;
	if (comm[COMM_LEN - 2])
		bpf_probe_read_kernel_str(name, EXE_LEN, READ(dentry->d_name.name));
}

/* Whether IP_LOCAL_PORT_RANGE leaves the socket fewer ports than its network namespace has: see
 * inet_sk_get_local_port_range. Where such a socket finds no port, others may find one. */
GLOBAL int own_range(u64 socket)
{
	struct sock *sk = (void *)socket;
	void *net = READ(sk->__sk_common.skc_net.net);
	u32 lo, hi, first, last;

	if (HAS(struct inet_sock, local_port_range)) {
		u32 range = READ(((struct inet_sock *)sk)->local_port_range);

		lo = range & 0xffff;
		hi = range >> 16;
	} else if (HAS(struct inet_sock___6_3, local_port_range.lo)) {
		struct inet_sock___6_3 *inet = (void *)sk;

		lo = READ(inet->local_port_range.lo);
		hi = READ(inet->local_port_range.hi);
	} else {
		return 0;
	}
	if (HAS(struct net___ports, ipv4.ip_local_ports.range)) {
		u32 range = READ(((struct net___ports *)net)->ipv4.ip_local_ports.range);

		first = range & 0xffff;
		last = range >> 16;
	} else if (HAS(struct net___6_3, ipv4.ip_local_ports.range)) {
		struct net___6_3 *ns = net;

		first = READ(ns->ipv4.ip_local_ports.range[0]);
		last = READ(ns->ipv4.ip_local_ports.range[1]);
	} else {
		return 0;
	}
	return (first < lo && lo <= last) || (first <= hi && hi < last);
}

/* What the user's share of the ring has room for: an event, or one with blockers. Those are large
 * and take time, so only the first CAPTURES_BURST of a burst have them. Two CPUs may both take the
 * last place. */
enum share { SHARE_NOTHING, SHARE_EVENT, SHARE_CAPTURE };

static __always_inline enum share take_share_of(void *shares, u32 netns, u32 uid, u64 now, u64 cost)
{
	struct user user = { .netns = netns, .uid = uid };
	u64 *whole = bpf_map_lookup_elem(shares, &user);
	u64 fresh = now + cost, taken;

	if (!whole) {
		bpf_map_update_elem(shares, &user, &fresh, BPF_ANY);
		return SHARE_CAPTURE;
	}
	if (*whole < now)
		*whole = now;
	taken = *whole - now;
	if (taken > (u64)(EVENTS_BURST - 1) * EVENT_NS)
		return SHARE_NOTHING;
	__sync_fetch_and_add(whole, cost);
	return taken > (u64)(CAPTURES_BURST - 1) * EVENT_NS ? SHARE_EVENT : SHARE_CAPTURE;
}

static __always_inline enum share take_share(u32 netns, u32 uid, u64 now)
{
	return take_share_of(&users, netns, uid, now, EVENT_NS);
}

/* Half of the ring is for the ports that have a slot: users can ask for other ports and make
 * namespaces as they like. */
static __always_inline int ring_has_room(const struct key *key)
{
	if (key->netns && !key->port_other)
		return 1;
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < ring_size / 2;
}

/* Blockers get a quarter of the ring, so that they do not displace other events. */
static __always_inline int captures_blockers(enum share share, const struct key *key, const struct request *req, u32 error)
{
	return share == SHARE_CAPTURE && error == errno_eaddrinuse && req->port_known && req->port &&
	       (key->protocol == PROTO_TCP || key->protocol == PROTO_MPTCP || key->protocol == PROTO_UDP) &&
	       bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < ring_size / 4;
}

/* Writes the event with its blockers behind it. */
static __always_inline void write_record(struct capture *c)
{
	u64 n = c->count;

	if (n > MAX_BLOCKERS)
		n = MAX_BLOCKERS;
	asm volatile("" : "+r"(n));
	if (bpf_ringbuf_output(&events, &c->record, sizeof(struct event) + n * sizeof(struct blocker), 0))
		__sync_fetch_and_add(&events_lost, 1);
}

/* Writes an event, except its flags. */
static __always_inline void fill(struct event *event, struct sock *sk, const struct key *key,
				 const struct request *req, u32 error)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct net *net = READ(sk->__sk_common.skc_net.net);

	event->cgroup_id = bpf_get_current_cgroup_id();
	event->pid = pid_tgid >> 32;
	event->tid = pid_tgid;
	event->uid = bpf_get_current_uid_gid();
	event->netns = READ(net->ns.inum);
	event->ifindex = READ(sk->__sk_common.skc_bound_dev_if);
	event->scope_id = req->scope_id;
	event->error = error;
	event->port = req->port;
	event->addr_family = req->addr_family;
	event->op = key->op;
	event->family = key->family;
	event->protocol = key->protocol;
	event->unprivileged_start = -1;
	__builtin_memcpy(event->addr, req->addr, sizeof(event->addr));
	read_process(&event->started_ns, event->comm, event->exe);
}

#include "unix.h"

/* What the socket says of its flags. */
GLOBAL u32 flags_of(u64 socket)
{
	struct sock *sk = (void *)socket;

	return (READ_BITS(sk, __sk_common.skc_reuse) ? REUSEADDR : 0) |
	       (READ_BITS(sk, __sk_common.skc_reuseport) ? REUSEPORT : 0) |
	       (READ_BITS(sk, __sk_common.skc_ipv6only) ? V6ONLY : 0);
}

/* Counts a failed bind or listen and writes its event. capturing is a constant: programs that
 * capture need bpf_loop(), Linux 5.17. */
static __always_inline void report(u8 op, s32 fd, const void *addr, s32 addrlen, u32 error, const int capturing)
{
	struct request req = {};
	struct key key = {};
	struct capture *c = 0;
	struct event *event;
	enum share share;
	struct net *net;
	struct sock *sk;
	u32 user, nr = op;
	u16 family;
	u64 now;
	u8 flags;

	/* No socket, so neither family nor protocol: not counted. */
	if (error == errno_ebadf || error == errno_enotsock)
		return;
	if (op == OP_LISTEN && error != errno_eaddrinuse)
		return;

	sk = socket_of(fd);
	if (!sk) {
		__sync_fetch_and_add(&unattributed, 1);
		return;
	}
	family = READ(sk->__sk_common.skc_family);
	if (family == AF_UNIX && op == OP_BIND)
		unix_bind_failed(sk, addr, addrlen, error);
	if (family == AF_VSOCK && op == OP_BIND)
		__sync_fetch_and_add(&vsock_binds, 1);
	if (family != AF_INET && family != AF_INET6)
		return;

	if (op == OP_LISTEN) {
		read_bound(&req, sk, family);
	} else {
		read_sockaddr(&req, addr, addrlen);
		if (error == errno_eafnosupport && is_probe(&req)) {
			__sync_fetch_and_add(&probes_seen, 1);
			return;
		}
	}

	read_socket(&key, sk, family);
	flags = flags_of((u64)sk) | req.port_known * PORT_KNOWN;
	if (op == OP_BIND && error == errno_eaddrinuse && req.port_known && !req.port && own_range((u64)sk))
		flags |= OWN_RANGE;
	if (req.port_known && !(flags & OWN_RANGE))
		key.port = req.port;
	else
		key.port_other = 1;
	key.op = op;
	key.errno_class = class_of(error);
	count(&key);

	user = current_user();
	now = bpf_ktime_get_boot_ns();
	share = take_share(key.netns, user, now);
	if (!share || !ring_has_room(&key)) {
		__sync_fetch_and_add(&events_lost, 1);
		return;
	}
	if (capturing) {
		c = bpf_map_lookup_elem(&captures, &nr);
		event = c ? &c->record.event : 0;
	} else {
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	}
	if (!event) {
		__sync_fetch_and_add(&events_lost, 1);
		return;
	}
	if (capturing) {
		c->count = 0;
		if (captures_blockers(share, &key, &req, error)) {
			__builtin_memcpy(c->wanted.addr, req.addr, sizeof(c->wanted.addr));
			c->wanted.v6 = req.addr_family == AF_INET6;
			c->wanted.port = req.port;
			c->wanted.sk = sk;
			flags |= key.protocol == PROTO_UDP ? capture_udp(op) : capture(op);
		}
	}
	fill(event, sk, &key, &req, error);
	event->boot_ns = now;
	event->user = user;
	if (op == OP_BIND && error == errno_eacces) {
		net = READ(sk->__sk_common.skc_net.net);
		event->unprivileged_start = unprivileged_start(net);
		if (!may_bind_low_ports(net))
			flags |= PRIVILEGE_LACKED;
	}
	event->flags = flags;
	if (capturing)
		write_record(c);
	else
		bpf_ringbuf_submit(event, 0);
}

static __always_inline void failed(u8 op, s32 fd, const void *addr, s32 addrlen, u32 error)
{
	report(op, fd, addr, addrlen, error, 0);
}

/* The errors of a connect() that found no port, and the error of the probe. Other calls of
 * connect() cost only this check. */
static __always_inline int connect_concerns(u32 error)
{
	return error == errno_eaddrnotavail || error == errno_eagain || error == errno_eafnosupport;
}

static __always_inline int v4_mapped(const struct request *req)
{
	u8 differs = 0;

	for (int i = 0; i < 10; i++)
		differs |= req->addr[i];
	return !(differs | (u8)~req->addr[10] | (u8)~req->addr[11]);
}

/* EADDRNOTAVAIL is not a lack of ports in two cases. The socket has a port: its connection exists
 * already. Or IPv6 had no source address: tcp_v6_connect stores the route once it has route and
 * address, and looks for a port only then. With IPv4 there is an address where there is a route. */
static __always_inline int lacked_port(struct sock *sk, u8 family, u8 protocol, const struct request *req)
{
	struct sock *tcp = sk;

	if (READ(sk->__sk_common.skc_num))
		return 0;
	if (protocol == PROTO_MPTCP && HAS(struct mptcp_sock, first))
		tcp = READ(((struct mptcp_sock *)sk)->first);
	else if (protocol != PROTO_TCP)
		return 0;
	return family == FAMILY_IPV4 || v4_mapped(req) || READ(tcp->sk_dst_cache);
}

/* Where inet_autobind finds no port, connect() returns EAGAIN: UDP, and all others than TCP. */
static __always_inline int autobind_failed(struct sock *sk)
{
	return !READ(sk->__sk_common.skc_num);
}

static __always_inline void connect_failed(s32 fd, const void *addr, s32 addrlen, u32 error)
{
	struct sock *sk = socket_of(fd);
	struct request req = {};
	struct key key = {};
	struct event *event;
	int own_ports, lacked;
	u16 family;
	u32 user;
	u64 now;

	read_sockaddr(&req, addr, addrlen);
	if (error == errno_eafnosupport) {
		if (sk && is_probe(&req))
			__sync_fetch_and_add(&connect_probes_seen, 1);
		return;
	}
	if (!sk) {
		__sync_fetch_and_add(&unattributed, 1);
		return;
	}
	family = READ(sk->__sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return;

	read_socket(&key, sk, family);
	if (error == errno_eagain) {
		if (!autobind_failed(sk))
			return;
		lacked = 1;
	} else {
		lacked = lacked_port(sk, key.family, key.protocol, &req);
	}
	own_ports = own_range((u64)sk);
	key.port_other = own_ports || !lacked;
	key.op = OP_CONNECT;
	key.errno_class = class_of(error);
	count(&key);
	if (!lacked)
		return;

	user = current_user();
	now = bpf_ktime_get_boot_ns();
	event = 0;
	if (take_share(key.netns, user, now) && ring_has_room(&key))
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&events_lost, 1);
		return;
	}
	fill(event, sk, &key, &req, error);
	event->boot_ns = now;
	event->user = user;
	event->flags = flags_of((u64)sk) | req.port_known * PORT_KNOWN | (own_ports ? OWN_RANGE : 0);
	bpf_ringbuf_submit(event, 0);
}

/* int __sys_bind(int fd, struct sockaddr __user *umyaddr, int addrlen) */
SEC("fexit/__sys_bind")
int fexit_bind(u64 *ctx)
{
	s32 ret = ctx[3];

	if (ret < 0)
		failed(OP_BIND, ctx[0], (void *)ctx[1], ctx[2], -ret);
	return 0;
}

/* int __sys_listen(int fd, int backlog) */
SEC("fexit/__sys_listen")
int fexit_listen(u64 *ctx)
{
	s32 ret = ctx[2];

	if (ret < 0)
		failed(OP_LISTEN, ctx[0], 0, 0, -ret);
	return 0;
}

/* int __sys_connect(int fd, struct sockaddr __user *uservaddr, int addrlen) */
SEC("fexit/__sys_connect")
int fexit_connect(u64 *ctx)
{
	u32 error = -(s32)ctx[3];

	if (connect_concerns(error))
		connect_failed(ctx[0], (void *)ctx[1], ctx[2], error);
	return 0;
}

/* The loader takes the programs called *_capture in place of the others where it can. */
SEC("fexit/__sys_bind")
int fexit_bind_capture(u64 *ctx)
{
	s32 ret = ctx[3];

	if (ret < 0)
		report(OP_BIND, ctx[0], (void *)ctx[1], ctx[2], -ret, 1);
	return 0;
}

SEC("fexit/__sys_listen")
int fexit_listen_capture(u64 *ctx)
{
	s32 ret = ctx[2];

	if (ret < 0)
		report(OP_LISTEN, ctx[0], 0, 0, -ret, 1);
	return 0;
}

static __always_inline void keep(const struct call *call)
{
	u64 thread = bpf_get_current_pid_tgid();

	if (bpf_map_update_elem(&calls, &thread, call, BPF_ANY))
		__sync_fetch_and_add(&unattributed, 1);
}

/* An exit without an entry does not count: the call began before the programs were attached, or
 * seccomp or ptrace answered instead of the kernel. */
static __always_inline void leave(const struct syscall_exit *ctx, u8 op, const int capturing)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *kept = bpf_map_lookup_elem(&calls, &thread);
	s32 ret = ctx->ret;
	struct call call;

	if (!kept)
		return;
	call = *kept;
	bpf_map_delete_elem(&calls, &thread);
	if (ret < 0)
		report(op, call.fd, (void *)call.addr, call.addrlen, -ret, capturing);
}

SEC("tracepoint/syscalls/sys_enter_bind")
int enter_bind(const struct syscall_enter *ctx)
{
	struct call call = {
		.fd = ctx->args[0],
		.addr = ctx->args[1],
		.addrlen = ctx->args[2],
	};

	keep(&call);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_bind")
int exit_bind(const struct syscall_exit *ctx)
{
	leave(ctx, OP_BIND, 0);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_bind")
int exit_bind_capture(const struct syscall_exit *ctx)
{
	leave(ctx, OP_BIND, 1);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_listen")
int enter_listen(const struct syscall_enter *ctx)
{
	struct call call = { .fd = ctx->args[0] };

	keep(&call);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_listen")
int exit_listen(const struct syscall_exit *ctx)
{
	leave(ctx, OP_LISTEN, 0);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_listen")
int exit_listen_capture(const struct syscall_exit *ctx)
{
	leave(ctx, OP_LISTEN, 1);
	return 0;
}

/* Clients connect often, so no program runs at the entry. At the exit, the arguments are still in
 * the registers that the entry saved. On arm64 regs[0] has the return value by then. */
SEC("tracepoint/syscalls/sys_exit_connect")
int exit_connect(const struct syscall_exit *ctx)
{
	u32 error = -(s32)ctx->ret;
	struct call call = {};
	void *regs;

	if (!connect_concerns(error))
		return 0;
	regs = bpf_task_pt_regs(bpf_get_current_task_btf());
	if (HAS(struct pt_regs___x86, di)) {
		struct pt_regs___x86 *x86 = regs;

		call.fd = READ(x86->di);
		call.addr = READ(x86->si);
		call.addrlen = READ(x86->dx);
	} else if (HAS(struct pt_regs___arm64, orig_x0)) {
		struct pt_regs___arm64 *arm64 = regs;

		call.fd = READ(arm64->orig_x0);
		call.addr = READ(arm64->regs[1]);
		call.addrlen = READ(arm64->regs[2]);
	} else {
		return 0;
	}
	connect_failed(call.fd, (void *)call.addr, call.addrlen, error);
	return 0;
}

/* What kretprobes see. Nothing is kept from the entry of a call to its exit: the arguments are in
 * the registers that the entry of the system call saved, and the number of the system call says
 * where. So nothing is left where the kernel had no return probe free for a call. Calls without one
 * of these numbers are not bind(), listen() or connect(): io_uring, TCP Fast Open in sendto(),
 * connections of the kernel. */
enum { X86_LISTEN = 50, X86_BIND = 49, X86_CONNECT = 42, X32_BIT = 1 << 30 };
enum { I386_SOCKETCALL = 102, I386_BIND = 361, I386_CONNECT = 362, I386_LISTEN = 363 };
enum { SOCKETCALL_BIND = 2, SOCKETCALL_CONNECT = 3, SOCKETCALL_LISTEN = 4 };
enum { ARM64_BIND = 200, ARM64_LISTEN = 201, ARM64_CONNECT = 203 };
enum { ARM_BIND = 282, ARM_CONNECT = 283, ARM_LISTEN = 284 };

/* 32-bit programs of i386 pass the arguments in other registers, or with socketcall() in memory.
 * The numbers of both kinds are different for these calls, so they also say which kind it is. */
static __always_inline int call_of_x86(struct pt_regs___x86 *regs, u8 op, struct call *call)
{
	u32 nr = READ(regs->orig_ax) & ~X32_BIT;
	u32 args[3];

	if (nr == (op == OP_BIND ? X86_BIND : op == OP_LISTEN ? X86_LISTEN : X86_CONNECT)) {
		call->fd = READ(regs->di);
		call->addr = READ(regs->si);
		call->addrlen = READ(regs->dx);
		return 1;
	}
	if (nr == (op == OP_BIND ? I386_BIND : op == OP_LISTEN ? I386_LISTEN : I386_CONNECT)) {
		call->fd = READ(regs->bx);
		call->addr = (u32)READ(regs->cx);
		call->addrlen = READ(regs->dx);
		return 1;
	}
	if (nr != I386_SOCKETCALL ||
	    (u32)READ(regs->bx) != (op == OP_BIND ? SOCKETCALL_BIND :
				    op == OP_LISTEN ? SOCKETCALL_LISTEN : SOCKETCALL_CONNECT))
		return 0;
	if (bpf_probe_read_user(args, op == OP_LISTEN ? 8 : 12, (void *)(u64)(u32)READ(regs->cx)))
		return 0;
	call->fd = args[0];
	call->addr = args[1];
	call->addrlen = args[2];
	return 1;
}

/* 32-bit programs use the same registers. */
static __always_inline int call_of_arm64(struct pt_regs___arm64 *regs, u8 op, struct call *call)
{
	u32 nr = READ(regs->syscallno);

	if (nr != (op == OP_BIND ? ARM64_BIND : op == OP_LISTEN ? ARM64_LISTEN : ARM64_CONNECT) &&
	    nr != (op == OP_BIND ? ARM_BIND : op == OP_LISTEN ? ARM_LISTEN : ARM_CONNECT))
		return 0;
	call->fd = READ(regs->orig_x0);
	call->addr = READ(regs->regs[1]);
	call->addrlen = READ(regs->regs[2]);
	return 1;
}

/* Whether the thread is in the system call, and its arguments. */
static __always_inline int current_call(u8 op, struct call *call)
{
	void *regs = bpf_task_pt_regs(bpf_get_current_task_btf());

	if (HAS(struct pt_regs___x86, di))
		return call_of_x86(regs, op, call);
	if (HAS(struct pt_regs___arm64, orig_x0))
		return call_of_arm64(regs, op, call);
	return 0;
}

/* The result of the probed function. */
static __always_inline s32 result_of(void *ctx)
{
	if (HAS(struct pt_regs___x86, ax))
		return READ(((struct pt_regs___x86 *)ctx)->ax);
	if (HAS(struct pt_regs___arm64, orig_x0))
		return READ(((struct pt_regs___arm64 *)ctx)->regs[0]);
	return 0;
}

static __always_inline void returned(void *ctx, u8 op, const int capturing)
{
	s32 ret = result_of(ctx);
	struct call call = {};

	if (ret < 0 && current_call(op, &call))
		report(op, call.fd, (void *)call.addr, call.addrlen, -ret, capturing);
}

SEC("kretprobe/__sys_bind")
int kretprobe_bind(void *ctx)
{
	returned(ctx, OP_BIND, 0);
	return 0;
}

SEC("kretprobe/__sys_bind")
int kretprobe_bind_capture(void *ctx)
{
	returned(ctx, OP_BIND, 1);
	return 0;
}

SEC("kretprobe/__sys_listen")
int kretprobe_listen(void *ctx)
{
	returned(ctx, OP_LISTEN, 0);
	return 0;
}

SEC("kretprobe/__sys_listen")
int kretprobe_listen_capture(void *ctx)
{
	returned(ctx, OP_LISTEN, 1);
	return 0;
}

/* A blocking connect() stays in __sys_connect until the peer answers, and would keep one of the few
 * return probes (max(10, 2 * CPUs)) all the time. So the probes are at the functions in which
 * connect() looks for a port. They return before the wait. */
static __always_inline void returned_connect(void *ctx, int tcp_v4)
{
	u32 error = -result_of(ctx);
	struct call call = {};
	struct sock *sk;

	if (!connect_concerns(error) || !current_call(OP_CONNECT, &call))
		return;
	/* tcp_v6_connect has called tcp_v4_connect, and returns the same error. */
	sk = tcp_v4 ? socket_of(call.fd) : 0;
	if (sk && READ(sk->__sk_common.skc_family) == AF_INET6)
		return;
	connect_failed(call.fd, (void *)call.addr, call.addrlen, error);
}

SEC("kretprobe/tcp_v4_connect")
int kretprobe_tcp_v4_connect(void *ctx)
{
	returned_connect(ctx, 1);
	return 0;
}

SEC("kretprobe/tcp_v6_connect")
int kretprobe_tcp_v6_connect(void *ctx)
{
	returned_connect(ctx, 0);
	return 0;
}

/* UDP, UDP-Lite, raw sockets. */
SEC("kretprobe/inet_dgram_connect")
int kretprobe_inet_dgram_connect(void *ctx)
{
	returned_connect(ctx, 0);
	return 0;
}

/* It waits for the peer, but only SCTP lacks the return probes that it keeps. */
SEC("kretprobe/sctp_inet_connect")
int kretprobe_sctp_inet_connect(void *ctx)
{
	returned_connect(ctx, 0);
	return 0;
}

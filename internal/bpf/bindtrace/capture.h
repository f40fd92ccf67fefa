/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Captures the sockets that were in the way of a bind() or listen(), as it returns EADDRINUSE. A
 * moment later the sockets, or the caller, may be gone.
 *
 * The work for an event is bounded: a caller may fail a thousand times a second. CAPTURE_STEPS
 * sockets and buckets of the port are looked at, and CAPTURE_FDS descriptors of the caller. Since
 * Linux 6.8 the sockets of an address are together. The listener at 0.0.0.0 is often the last, behind
 * the connections of an address: so only CAPTURE_SOCKETS of each address are looked at.
 *
 * What is in doubt is captured: user space knows the rules of bind() better.
 */
#ifndef SOCKSTATE_CAPTURE_H
#define SOCKSTATE_CAPTURE_H

#include "../bhash/bhash.h"
#include "../udphash/udphash.h"

enum {
	MAX_BLOCKERS = 8,
	CAPTURE_STEPS = 1024,
	CAPTURE_SOCKETS = 768,
	FD_CHUNK = 64, /* BITS_PER_LONG: an fdtable has a multiple of it */
	CAPTURE_FDS = 1024,
};

/* The loader sets it: see bhash_uid. */
const volatile u32 orphans_are_roots;

/* The loader sets it: the kernel runs the timer of TIME_WAIT at the next multiple of so many bits of
 * jiffies. */
const volatile u32 time_wait_shift;

/* A socket that was in the way. The timer of socket counts from the event. */
struct blocker {
	struct socket_record socket;
	u64 inode; /* 0: no process has it open */
	u32 peer[4];
	u16 peer_port; /* 0: no connection */
	u8 own;        /* the calling process has it open */
	u8 outgoing;   /* this side opened the connection; UDP: the kernel chose the port */
	u8 kernel;     /* the kernel made it for itself: no process can have it open */
	u8 pad[3];
};

/* An address as bind() compares it: a v4-mapped one is an IPv4 address. */
struct place {
	u32 addr[4]; /* IPv4 in the last */
	u8 v4;
	u8 any;
};

/* What the caller asked for. */
struct wanted {
	u32 addr[4]; /* as in struct sock_common */
	u8 v6;
	u16 port;
	struct sock *sk;
	struct sock *subflow; /* of MPTCP */
	struct place place;
	u32 ifindex;
	u32 uid;
	u8 flags; /* enum socket_flag */
};

/* The blockers follow the event in the ring, as many as there are. */
struct record {
	struct event event;
	struct blocker blockers[MAX_BLOCKERS]; /* listeners first */
};

struct capture {
	struct record record;
	struct wanted wanted;
	struct bhash_walk walk;
	struct udp_walk udp;
	struct common copy; /* of the socket that the walk has come to */
	struct blocker next;
	u64 next_file;
	u64 files[MAX_BLOCKERS]; /* struct file, by blocker */
	struct file **table;     /* of the caller's descriptors */
	u64 chunk[FD_CHUNK];     /* of the table */
	u32 max_fds;
	u32 own; /* bits by blocker */
	u32 sockets; /* of the address that were looked at */
	u32 chosen;  /* connect() chose the port of the bucket */
	u32 is_udp;
	u32 count;
	u32 listeners;
	u32 more; /* there were more */
	u32 done;
};

/* One for each call: a program does not run twice at a time on a CPU, but programs of two calls may.
 * It is too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2); /* OP_BIND, OP_LISTEN */
	__type(key, u32);
	__uint(value_size, sizeof(struct capture));
} captures SEC(".maps");

static __always_inline void set_place(struct place *p, const u32 addr[4], int v6)
{
	p->v4 = !v6 || !(addr[0] | addr[1] | (addr[2] ^ be32(0xffff)));
	p->addr[0] = p->v4 ? 0 : addr[0];
	p->addr[1] = p->v4 ? 0 : addr[1];
	p->addr[2] = p->v4 ? 0 : addr[2];
	p->addr[3] = v6 ? addr[3] : addr[0];
	p->any = !(p->addr[0] | p->addr[1] | p->addr[2] | p->addr[3]);
}

/* inet_rcv_saddr_equal. The address of 0.0.0.0 is not compared with one of an IPv6 socket. */
static __always_inline int overlap(const struct wanted *w, const struct place *p, u8 flags)
{
	if (w->place.any)
		return w->place.v4 == p->v4 || !((w->place.v4 ? flags : w->flags) & FLAG_V6ONLY);
	if (p->any && p->v4 == w->place.v4)
		return 1;
	if (p->any && !p->v4)
		return !(flags & FLAG_V6ONLY);
	return p->v4 == w->place.v4 &&
	       !((p->addr[0] ^ w->place.addr[0]) | (p->addr[1] ^ w->place.addr[1]) |
		 (p->addr[2] ^ w->place.addr[2]) | (p->addr[3] ^ w->place.addr[3]));
}

/* inet_bind_conflict */
static __always_inline int conflicts(const struct wanted *w, struct sock_common *sk, const struct common *c)
{
	u32 ifindex = COPIED(c, struct sock_common, skc_bound_dev_if);
	u8 state = COPIED(c, struct sock_common, skc_state);
	u8 flags = bhash_flags(c), both = flags & w->flags;
	struct place place;
	u32 addr[4];

	if ((void *)sk == (void *)w->sk || (void *)sk == (void *)w->subflow)
		return 0;
	if (ifindex && w->ifindex && ifindex != w->ifindex)
		return 0;
	if (both & FLAG_REUSE && state != TCP_LISTEN)
		return 0;
	set_place(&place, addr, bhash_local(addr, c));
	if (!overlap(w, &place, flags))
		return 0;
	return !(both & FLAG_REUSEPORT &&
		 (state == TCP_TIME_WAIT || bhash_uid(sk, orphans_are_roots) == w->uid));
}

/* Whether this side opened a connection. bind() set SOCK_BINDPORT_LOCK, which a socket that accept()
 * returns does not inherit (sk_clone_lock). Or connect() chose the port: then fastreuse is -1. It
 * stays so when a server with SO_REUSEADDR binds to another address of the port, and its connections
 * have the flag, too. */
static __always_inline int is_outgoing(struct capture *c, struct sock___bhash *sk, int timewait)
{
	if (!timewait && READ_BITS(sk, sk_userlocks) & SOCK_BINDPORT_LOCK)
		return 1;
	return c->chosen && !(bhash_flags(&c->copy) & FLAG_REUSE);
}

/* Fills c->next. Returns 0 where the socket is not on the port any more: its memory may be another
 * socket's by then. */
static __always_inline int fill_next(struct capture *c, struct sock_common *sk)
{
	const struct common *copy = &c->copy;
	struct blocker *b = &c->next;
	struct sock___bhash *full = (void *)sk;
	struct socket___file *socket = 0;
	struct file *file = 0;

	bhash_fill(&b->socket, sk, copy, orphans_are_roots);
	b->inode = 0;
	b->own = b->outgoing = b->kernel = 0;
	b->peer_port = bhash_peer(b->peer, copy);
	if (c->is_udp)
		b->outgoing = !(READ_BITS(full, sk_userlocks) & SOCK_BINDPORT_LOCK);
	else if (b->peer_port)
		b->outgoing = is_outgoing(c, full, b->socket.timewait);
	if (b->socket.timewait) {
		u64 now = bpf_jiffies64();

		if (b->socket.state == TCP_TIME_WAIT) /* calc_index */
			b->socket.expires = ((b->socket.expires >> time_wait_shift) + 1) << time_wait_shift;
		b->socket.expires = b->socket.expires > now ? b->socket.expires - now : 0;
	} else {
		socket = (void *)READ(full->sk_socket);
	}
	if (socket) {
		b->inode = bhash_inode((void *)socket);
		file = READ(socket->file);
		b->kernel = !file;
		if ((void *)READ(full->sk_socket) != (void *)socket)
			return 0;
	}
	c->next_file = (u64)file;
	return READ(sk->skc_num) == c->walk.port && (void *)READ(sk->skc_net.net) == (void *)c->walk.net;
}

static __always_inline void put_blocker(struct capture *c, u32 at, const struct blocker *b, u64 file)
{
	c->record.blockers[at & (MAX_BLOCKERS - 1)] = *b;
	c->files[at & (MAX_BLOCKERS - 1)] = file;
}

/* A listener comes before other sockets, and displaces one where there is no room: it is the best
 * reason, and does not go by itself. state is that of a listener: UDP has sockets that are not connected
 * in its place. */
static __always_inline void add_blocker(struct capture *c, struct sock_common *sk, u8 state)
{
	int listens = COPIED(&c->copy, struct sock_common, skc_state) == state;
	u32 n = c->count, listeners = c->listeners;

	if (n >= MAX_BLOCKERS) {
		c->more = 1;
		if (!listens || listeners >= MAX_BLOCKERS)
			return;
	}
	if (!fill_next(c, sk)) {
		c->more = 1;
		return;
	}
	if (listens) {
		u32 first = listeners & (MAX_BLOCKERS - 1);

		if (n < MAX_BLOCKERS)
			put_blocker(c, n, &c->record.blockers[first], c->files[first]);
		put_blocker(c, first, &c->next, c->next_file);
		c->listeners = listeners + 1;
	} else {
		put_blocker(c, n, &c->next, c->next_file);
	}
	if (n < MAX_BLOCKERS)
		c->count = n + 1;
}

static long capture_step(u32 index, struct capture **ctx)
{
	struct capture *c = *ctx;
	struct bhash_walk *w = &c->walk;
	struct inet_bind_bucket *tb;
	struct sock_common *sk;

	(void)index;
	if (w->socket) {
		sk = bhash_next_socket(w, &c->copy);
		if (sk && conflicts(&c->wanted, sk, &c->copy))
			add_blocker(c, sk, TCP_LISTEN);
		if (w->socket && w->bucket2 && ++c->sockets >= CAPTURE_SOCKETS) {
			w->socket = 0;
			c->more = 1;
		}
	} else if (w->bucket2) {
		bhash_next_bucket2(w);
		c->sockets = 0;
	} else if (w->bucket) {
		tb = bhash_next_bucket(w);
		if (tb)
			c->chosen = READ(tb->fastreuse) == -1;
		/* inet_sk_bound_l3mdev: a socket without a device is in no VRF. */
		if (tb && !c->wanted.ifindex && READ(tb->l3mdev))
			w->bucket2 = w->socket = 0;
	} else {
		c->done = 1;
		return 1;
	}
	return 0;
}

/* Looks for the blockers in the next descriptors of the caller. It does not branch: the verifier
 * would follow each branch. */
static long own_step(u32 index, struct capture **ctx)
{
	struct capture *c = *ctx;
	u32 first = index * FD_CHUNK, own = 0;

	if (first >= c->max_fds || bpf_probe_read_kernel(c->chunk, sizeof(c->chunk), c->table + first))
		return 1;
	for (u32 i = 0; i < FD_CHUNK; i++) {
		for (u32 j = 0; j < MAX_BLOCKERS; j++) {
			u64 differs = c->chunk[i] ^ c->files[j];

			own |= (~(u32)((differs | -differs) >> 63) & 1) << j;
		}
	}
	c->own |= own;
	return 0;
}

/* Says which blockers the calling process has open. A free descriptor is 0, as is the file of what
 * no process has open. */
static __always_inline void find_own(struct capture *c)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct files_struct *files = READ(task->files);
	struct fdtable *fdt = READ(files->fdt);
	u64 some = 0;

	for (u32 i = 0; i < MAX_BLOCKERS; i++) {
		if (i >= c->count)
			c->files[i] = 0;
		some |= c->files[i];
	}
	if (!some)
		return;
	c->own = 0;
	c->max_fds = READ(fdt->max_fds);
	c->table = READ(fdt->fd);
	bpf_loop(CAPTURE_FDS / FD_CHUNK, own_step, &c, 0);
	for (u32 i = 0; i < MAX_BLOCKERS; i++) {
		if (c->files[i] && c->own >> i & 1)
			c->record.blockers[i].own = 1;
	}
}

/* Fills in what the socket of the caller says. */
static __always_inline void want(struct wanted *w)
{
	struct sock *sk = w->sk;

	set_place(&w->place, w->addr, w->v6);
	w->subflow = 0;
	if (READ(sk->sk_protocol) == IPPROTO_MPTCP && HAS(struct mptcp_sock, first))
		w->subflow = READ(((struct mptcp_sock *)sk)->first);
	w->ifindex = READ(sk->__sk_common.skc_bound_dev_if);
	w->uid = READ(((struct sock___bhash *)sk)->sk_uid.val);
	w->flags = (READ_BITS(sk, __sk_common.skc_reuse) ? FLAG_REUSE : 0) |
		   (READ_BITS(sk, __sk_common.skc_reuseport) ? FLAG_REUSEPORT : 0) |
		   (READ_BITS(sk, __sk_common.skc_ipv6only) ? FLAG_V6ONLY : 0);
}

/* Captures what was in the way of captures[nr].wanted. Returns CAPTURED, and CAPTURED_ALL if that is
 * all. */
GLOBAL int capture(u32 nr)
{
	struct capture *c = bpf_map_lookup_elem(&captures, &nr);
	struct wanted *w;
	struct sock *sk;

	if (!c)
		return 0;
	w = &c->wanted;
	sk = w->sk;
	c->sockets = c->count = c->listeners = c->more = c->done = c->is_udp = 0;
	if (!HAS(struct socket_alloc, vfs_inode.i_ino) || !HAS(struct sock___bhash, sk_socket) ||
	    !bhash_open(&c->walk, READ(sk->__sk_common.skc_net.net)))
		return 0;
	want(w);
	bhash_start(&c->walk, w->port);
	bpf_loop(CAPTURE_STEPS, capture_step, &c, 0);
	find_own(c);
	return c->done && !c->walk.broken && !c->more ? CAPTURED | CAPTURED_ALL : CAPTURED;
}

/* As inet_bind_conflict, with udp_lib_lport_inuse: the state does not matter. */
static __always_inline int udp_conflicts(const struct wanted *w, struct sock_common *sk, const struct common *c)
{
	u32 ifindex = COPIED(c, struct sock_common, skc_bound_dev_if);
	u8 flags = bhash_flags(c), both = flags & w->flags;
	struct place place;
	u32 addr[4];

	if ((void *)sk == (void *)w->sk || both & FLAG_REUSE)
		return 0;
	if (ifindex && w->ifindex && ifindex != w->ifindex)
		return 0;
	set_place(&place, addr, bhash_local(addr, c));
	return overlap(w, &place, flags) &&
	       !(both & FLAG_REUSEPORT && bhash_uid(sk, orphans_are_roots) == w->uid);
}

static long udp_capture_step(u32 index, struct capture **ctx)
{
	struct capture *c = *ctx;
	struct sock_common *sk;

	(void)index;
	if (!c->udp.next) {
		c->done = 1;
		return 1;
	}
	sk = udphash_next(&c->udp, &c->copy);
	if (sk && udp_conflicts(&c->wanted, sk, &c->copy))
		add_blocker(c, sk, TCP_CLOSE);
	return 0;
}

/* The same as capture() for UDP. */
GLOBAL int capture_udp(u32 nr)
{
	struct capture *c = bpf_map_lookup_elem(&captures, &nr);
	struct sock *sk;
	void *net;

	if (!c)
		return 0;
	sk = c->wanted.sk;
	net = READ(sk->__sk_common.skc_net.net);
	c->count = c->listeners = c->more = c->done = 0;
	c->is_udp = 1;
	if (!HAS(struct socket_alloc, vfs_inode.i_ino) || !HAS(struct sock___bhash, sk_socket) ||
	    !udphash_open(&c->udp, net, sk))
		return 0;
	want(&c->wanted);
	c->walk.port = c->wanted.port; /* fill_next() compares them */
	c->walk.net = net;
	udphash_start(&c->udp, c->wanted.port);
	bpf_loop(CAPTURE_STEPS, udp_capture_step, &c, 0);
	find_own(c);
	return c->done && !c->udp.broken && !c->more ? CAPTURED | CAPTURED_ALL : CAPTURED;
}

#endif

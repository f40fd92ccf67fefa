//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Reads the reuse flags of TCP sockets, which sock_diag does not have. An iter/tcp program writes
 * a record for each listener and counts all other sockets in a hash map. It runs only while the
 * loader reads its iterator, and there is one reader at a time, so nothing here is atomic.
 */
#include "../kernel.h"

char LICENSE[] SEC("license") = "GPL";

#define PORTS 65536

enum flag {
	FLAG_REUSE = 1 << 0,
	FLAG_REUSEPORT = 1 << 1,
	FLAG_V6ONLY = 1 << 2,
	FLAG_ELSEWHERE = 1 << 3, /* no address of expected; addr is 0 */
	FLAG_NAMED_PORT = 1 << 4, /* of listeners: the program has named the port */
};

#define OTHER 0xffffffff /* no device and no uid has this number */

enum kind {
	KIND_FULL,
	KIND_TIMEWAIT,
	KIND_REQUEST,
};

struct listener {
	u64 cookie;
	u64 flags;
};

struct group_key {
	u32 addr[4]; /* as in the kernel; IPv4 in the first */
	u32 ifindex;
	u32 uid;
	u16 port;
	u8 v6;
	u8 state;
	u8 kind;
	u8 flags;
	u8 pad[2];
};

struct group {
	u64 count;
	u64 expires; /* the last timer of TIME_WAIT sockets, in jiffies */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct group_key);
	__type(value, struct group);
} groups SEC(".maps");

struct bucket_key {
	u32 port;
};

struct bucket {
	u32 addr[4]; /* as in group_key */
	u32 uid;
	signed char fastreuse;
	signed char fastreuseport;
	u8 v6;
	u8 v6only;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct bucket_key);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct port {
	u32 missed; /* sockets that are in no group */
	u16 shared; /* groups in the part of the map that all ports share */
	u16 own;    /* groups in the port's own part */
	u32 bucket; /* 1: the bucket of the port is in buckets */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, u32);
	__type(value, struct port);
} ports SEC(".maps");

/*
 * What the binds are to that the caller will ask about: fold keeps it apart. The loader writes it
 * before a walk.
 */
enum what {
	WHAT_ADDRESS,
	WHAT_UID,    /* of a bind to the address */
	WHAT_DEVICE, /* of a bind to the address */
};

struct expected_key {
	u32 addr[4]; /* IPv4 as v4-mapped; 0: any bind, or one to a wildcard */
	u32 value;   /* the uid or device */
	u16 port;
	u8 what;
	u8 any; /* 1: any bind, which is what a socket on a wildcard address meets */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct expected_key);
	__type(value, u8);
} expected SEC(".maps");

/* The loader writes it before a walk, and stop also during a walk. */
struct config {
	u64 watched[PORTS / 64];
	u32 shared_max; /* groups that all ports share */
	u32 own_max;    /* folded groups that each port may have beside */
	u32 stop;
	u32 listeners_only;
} cfg SEC(".data.config");

/* The loader clears it and ports before a walk, and reads them afterwards. */
struct results {
	/*
	 * Equal sockets come in long runs: a million in TIME_WAIT of one listener. So the group of
	 * the last socket goes into the hash map only when a socket of another group comes.
	 */
	struct group_key last;
	struct group pending;
	struct listener listener; /* the record being written */
	struct group_key folded;  /* of last */

	u64 end; /* bpf_jiffies64 at the end of the walk */
	u64 missed;
	u64 shared; /* groups of all ports together */
} res SEC(".data.results");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock___locks {
	u8 sk_userlocks : 4;
};

#pragma clang attribute pop

static struct port *get_port(u32 number)
{
	return bpf_map_lookup_elem(&ports, &number);
}

static void miss(u16 port, u64 n)
{
	struct port *p = get_port(port);

	res.missed += n;
	if (p)
		p->missed += n;
}

static int is_expected(const struct expected_key *key)
{
	return bpf_map_lookup_elem(&expected, key) != 0;
}

/* A bind to the address of key, or to a wildcard, is of this uid or device. */
static int is_named(struct expected_key *key, u8 what, u32 value)
{
	struct expected_key wildcard = { .port = key->port, .value = value, .what = what, .any = key->any };

	key->what = what;
	key->value = value;
	return is_expected(key) || is_expected(&wildcard);
}

/*
 * Replaces what the expected binds to the port cannot tell apart, as bindrule.Folding does. Any user
 * can have sockets on millions of addresses, and some with thousands of uids.
 */
static void fold(const struct group_key *key, struct group_key *to)
{
	struct expected_key e = { .port = key->port };

	*to = *key;
	if (key->kind == KIND_REQUEST) {
		to->uid = 0;
		return;
	}
	if (key->v6) {
		e.addr[0] = key->addr[0];
		e.addr[1] = key->addr[1];
		e.addr[2] = key->addr[2];
		e.addr[3] = key->addr[3];
	} else {
		e.addr[2] = be32(0xffff);
		e.addr[3] = key->addr[0];
	}
	/* 0.0.0.0, ::ffff:0.0.0.0 and :: */
	if (!e.addr[0] && !e.addr[1] && !e.addr[3] && (!e.addr[2] || e.addr[2] == be32(0xffff))) {
		e.addr[2] = 0;
		e.any = 1;
	} else if (!is_expected(&e)) {
		/* A v4-mapped address counts as IPv4. */
		if (!e.addr[0] && !e.addr[1] && e.addr[2] == be32(0xffff))
			to->v6 = 0;
		to->addr[0] = to->addr[1] = to->addr[2] = to->addr[3] = 0;
		to->flags |= FLAG_ELSEWHERE;
	}
	if (key->kind == KIND_FULL && !is_named(&e, WHAT_UID, key->uid))
		to->uid = OTHER;
	if (key->ifindex && !is_named(&e, WHAT_DEVICE, key->ifindex))
		to->ifindex = OTHER;
}

static int add_to(const struct group_key *key, const struct group *from)
{
	struct group *g = bpf_map_lookup_elem(&groups, key);

	if (!g)
		return 0;
	g->count += from->count;
	if ((long)(from->expires - g->expires) > 0)
		g->expires = from->expires;
	return 1;
}

/*
 * Each port may take a quarter of what the others have left of the shared part, so that no number of
 * crowded ports takes all of it. Beyond that its sockets are folded: few groups are left, and they
 * have room of their own.
 */
static void insert(const struct group_key *key, const struct group *g)
{
	struct port *p = get_port(key->port);
	u64 room;

	if (!p)
		return;
	room = cfg.shared_max - res.shared;
	if (p->shared < (room + 3) / 4) {
		if (!bpf_map_update_elem(&groups, key, g, BPF_ANY)) {
			p->shared++;
			res.shared++;
			return;
		}
	} else {
		fold(key, &res.folded);
		if (add_to(&res.folded, g))
			return;
		if (p->own < cfg.own_max) {
			if (!bpf_map_update_elem(&groups, &res.folded, g, BPF_ANY)) {
				p->own++;
				return;
			}
		} else if (p->shared < room / 2) {
			if (!bpf_map_update_elem(&groups, &res.folded, g, BPF_ANY)) {
				p->shared++;
				res.shared++;
				return;
			}
		}
	}
	miss(key->port, g->count);
}

static void flush(void)
{
	if (!res.pending.count)
		return;
	if (!add_to(&res.last, &res.pending))
		insert(&res.last, &res.pending);
	res.pending.count = 0;
}

/*
 * Adds the bind bucket of the port, once in a walk. Sockets that are bound to a device of a VRF
 * have another bucket, which is left out.
 */
static void add_bucket(struct port *p, u16 port, const struct inet_bind_bucket *tb)
{
	struct bucket_key key = { .port = port };
	struct bucket b = {};

	/* A socket that is being closed leaves its bucket. The memory may then be that of another one. */
	if (!tb || tb->port != port || tb->l3mdev)
		return;
	b.fastreuse = tb->fastreuse;
	b.fastreuseport = tb->fastreuseport;
	b.uid = tb->fastuid.val;
	b.v6only = tb->fast_ipv6_only;
	b.v6 = tb->fast_sk_family == AF_INET6;
	if (!b.v6) {
		b.addr[0] = tb->fast_rcv_saddr;
	} else if (HAS(struct inet_bind_bucket, fast_v6_rcv_saddr)) {
		b.addr[0] = tb->fast_v6_rcv_saddr.in6_u.u6_addr32[0];
		b.addr[1] = tb->fast_v6_rcv_saddr.in6_u.u6_addr32[1];
		b.addr[2] = tb->fast_v6_rcv_saddr.in6_u.u6_addr32[2];
		b.addr[3] = tb->fast_v6_rcv_saddr.in6_u.u6_addr32[3];
	}
	if (!bpf_map_update_elem(&buckets, &key, &b, BPF_ANY))
		p->bucket = 1;
}

static void find_bucket(u16 port, struct sock_common *sk)
{
	struct port *p = get_port(port);
	struct tcp_timewait_sock *tw;
	struct tcp_sock *tp;

	if (!p || p->bucket)
		return;
	if (sk->skc_state == TCP_TIME_WAIT) {
		tw = bpf_skc_to_tcp_timewait_sock(sk);
		if (tw)
			add_bucket(p, port, tw->tw_sk.tw_tb);
	} else {
		tp = bpf_skc_to_tcp_sock(sk);
		if (tp)
			add_bucket(p, port, tp->inet_conn.icsk_bind_hash);
	}
}

static void add(const struct group_key *key, u64 expires)
{
	const u64 *a = (const u64 *)key, *b = (const u64 *)&res.last;

	if (a[0] != b[0] || a[1] != b[1] || a[2] != b[2] || a[3] != b[3] || !res.pending.count) {
		flush();
		res.last = *key;
		res.pending.expires = expires;
	}
	res.pending.count++;
	if ((long)(expires - res.pending.expires) > 0)
		res.pending.expires = expires;
}

static u8 flags_in(struct sock_common *sk, u8 reuse, u8 reuseport)
{
	u8 flags = 0;

	if (BITS_VALUE(sk, skc_reuse, reuse))
		flags |= FLAG_REUSE;
	if (BITS_VALUE(sk, skc_reuseport, reuseport))
		flags |= FLAG_REUSEPORT;
	return flags;
}

static u8 flags_of(struct sock_common *sk)
{
	return flags_in(sk, *BITS_BYTE(sk, skc_reuse), *BITS_BYTE(sk, skc_reuseport));
}

/*
 * Reads the flags that the connection of a request_sock will get from its listener. Its own flags
 * are not set. skc_listener is in a union with an integer, so the verifier does not know the
 * pointer.
 */
static int request_flags(struct sock_common *req, u8 *flags)
{
	struct sock_common *sk = &req->skc_listener->__sk_common;
	u8 reuse, reuseport;

	if (bpf_probe_read_kernel(&reuse, 1, BITS_BYTE(sk, skc_reuse)) ||
	    bpf_probe_read_kernel(&reuseport, 1, BITS_BYTE(sk, skc_reuseport)))
		return -1;
	*flags = flags_in(sk, reuse, reuseport);
	return 0;
}

SEC("iter/tcp")
int sockflags(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct group_key key = {};
	u64 expires = 0;
	u16 port;
	u8 state;

	if (!sk) {
		flush();
		res.end = bpf_jiffies64();
		return 0;
	}
	if (cfg.stop) {
		/* This fills the buffer of the seq_file, so that read() returns. */
		bpf_seq_write(ctx->meta->seq, cfg.watched, sizeof(cfg.watched));
		return 0;
	}

	/*
	 * The listening hash comes first (listening_get_first), so all listeners were seen. 1 makes
	 * read() return EAGAIN once it has returned all output.
	 */
	if (cfg.listeners_only && sk->skc_state != TCP_LISTEN)
		return 1;

	port = sk->skc_num;
	if (!(cfg.watched[port / 64] & (1ULL << (port % 64))))
		return 0;

	state = sk->skc_state; /* read once: it may change */
	if (state == TCP_LISTEN) {
		find_bucket(port, sk);
		res.listener.cookie = bpf_get_socket_cookie(sk);
		res.listener.flags = flags_of(sk);
		if (READ_BITS((struct sock___locks *)sk, sk_userlocks) & SOCK_BINDPORT_LOCK)
			res.listener.flags |= FLAG_NAMED_PORT;
		bpf_seq_write(ctx->meta->seq, &res.listener, sizeof(res.listener));
		return 0;
	}

	key.port = port;
	key.state = state;
	key.v6 = sk->skc_family == AF_INET6;

	if (state == TCP_NEW_SYN_RECV) {
		/*
		 * SYN_RECV is what inet_diag shows. The address is left out: it is not set for an
		 * IPv4 client of an IPv6 listener, and bind() does not look at requests.
		 */
		key.state = TCP_SYN_RECV;
		key.kind = KIND_REQUEST;
		key.uid = ctx->uid;
		if (request_flags(sk, &key.flags))
			miss(port, 1);
		else
			add(&key, 0);
		return 0;
	}

	find_bucket(port, sk);
	key.flags = flags_of(sk);
	key.ifindex = sk->skc_bound_dev_if;
	if (!key.v6) {
		key.addr[0] = sk->skc_rcv_saddr;
	} else if (HAS(struct sock_common, skc_v6_rcv_saddr)) {
		key.addr[0] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
		key.addr[1] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
		key.addr[2] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[2];
		key.addr[3] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
		if (BITS_VALUE(sk, skc_ipv6only, *BITS_BYTE(sk, skc_ipv6only)))
			key.flags |= FLAG_V6ONLY;
	}

	if (state == TCP_TIME_WAIT) {
		struct tcp_timewait_sock *tw = bpf_skc_to_tcp_timewait_sock(sk);

		if (!tw) {
			miss(port, 1);
			return 0;
		}
		key.kind = KIND_TIMEWAIT;
		key.state = tw->tw_sk.tw_substate;
		expires = tw->tw_sk.tw_timer.expires;
	} else {
		key.uid = ctx->uid;
	}
	add(&key, expires);
	return 0;
}

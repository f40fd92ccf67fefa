//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Reads the sockets on some TCP ports out of the kernel's bind buckets (inet_hashinfo.bhash), as
 * bind() itself sees them: listeners, connections, TIME_WAIT, and sockets that are only bound. The
 * cost depends on the sockets of these ports only.
 *
 * It runs by BPF_PROG_RUN, as a raw tracepoint program since those run under rcu_read_lock()
 * (__bpf_prog_test_run_raw_tp), in the network namespace of the calling thread. It takes no lock:
 * what is read is checked before it is believed. A chain that led to a socket of another port makes the
 * port broken, and the loader reads it again. A socket that moves between addresses of the port
 * meanwhile may be missed.
 */
#include "../kernel.h"

char LICENSE[] SEC("license") = "GPL";

#define MAX_PORTS 2048
#define MAX_SOCKETS 8192
#define MAX_STEPS (1 << 16)

enum flag {
	FLAG_REUSE = 1 << 0,
	FLAG_REUSEPORT = 1 << 1,
	FLAG_V6ONLY = 1 << 2,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct inet_bind_hashbucket {
	struct hlist_head chain;
};

struct inet_hashinfo {
	struct inet_bind_hashbucket *bhash;
	u32 bhash_size;
};

struct inet_timewait_death_row {
	struct inet_hashinfo *hashinfo;
};

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
};

struct net___bind {
	u32 hash_mix;
	struct netns_ipv4 ipv4;
};

struct nsproxy {
	struct net___bind *net_ns;
};

struct task_struct___bind {
	struct nsproxy *nsproxy;
};

struct inet_bind_bucket___lists {
	possible_net_t ib_net;
	struct hlist_node node;
	struct hlist_head bhash2; /* since 6.8, of inet_bind2_bucket */
	struct hlist_head owners; /* before, of sockets */
};

struct inet_bind2_bucket {
	struct hlist_node bhash_node;
	struct hlist_head owners;
};

typedef struct {
	long long counter;
} atomic64_t;

struct sock_common___bind {
	struct hlist_node skc_bind_node;
	atomic64_t skc_cookie;
};

struct socket;

struct sock___bind {
	kuid_t sk_uid;
	struct socket *sk_socket;
};

#pragma clang attribute pop

struct socket_record {
	u64 cookie;
	u64 expires; /* timer of TIME_WAIT, in jiffies */
	u32 addr[4]; /* as in the kernel; IPv4 in the first */
	u32 ifindex;
	u32 uid;
	u16 port;
	u8 v6;
	u8 state;
	u8 timewait; /* a struct tcp_timewait_sock */
	u8 flags;
	u8 pad[2];
};

struct bucket_record {
	u32 addr[4];
	u32 uid;
	signed char fastreuse;
	signed char fastreuseport;
	u8 v6;
	u8 v6only;
	u8 found;  /* there is a bucket, which is of no VRF */
	u8 broken; /* the port has to be read again */
	u8 pad[2];
};

/* The loader writes it before a run. */
struct request {
	u16 ports[MAX_PORTS];
	u32 count;
	u32 buckets_only; /* not the sockets in them */
	u32 orphans_are_roots; /* as sock_i_uid() says: the uid of a socket without a process is 0 */
} req SEC(".data.request");

struct results {
	struct socket_record sockets[MAX_SOCKETS];
	struct bucket_record buckets[MAX_PORTS]; /* by req.ports */
	u64 jiffies;
	u32 count;    /* of sockets */
	u32 overflow; /* there were more sockets, or steps */
	u32 done;
	u32 unsupported; /* the kernel's layout is not the one expected */
} res;

/* Where the walk is. A pointer of 0 has been followed to its end. */
struct position {
	struct net___bind *net;
	struct inet_bind_hashbucket *bhash;
	u32 bhash_size;
	u32 hash_mix;
	u32 port; /* index of the next port */
	u16 number;
	u16 pad;
	struct hlist_node *bucket;
	struct hlist_node *bucket2;
	struct hlist_node *socket;
} pos SEC(".data.position");

/* The mask shows the verifier that the index is in range. */
static struct bucket_record *current_bucket(void)
{
	u32 next = *(volatile u32 *)&pos.port;

	return &res.buckets[(next - 1) & (MAX_PORTS - 1)];
}

static void broken(void)
{
	current_bucket()->broken = 1;
	pos.bucket = pos.bucket2 = pos.socket = 0;
}

static void add_socket(struct sock_common *sk, struct common *c)
{
	struct inet_timewait_sock *tw = (void *)sk;
	struct socket_record *r;
	u32 n = res.count;

	if (n >= MAX_SOCKETS) {
		res.overflow = 1;
		return;
	}
	r = &res.sockets[n & (MAX_SOCKETS - 1)];
	r->port = pos.number;
	r->state = COPIED(c, struct sock_common, skc_state);
	r->v6 = COPIED(c, struct sock_common, skc_family) == AF_INET6;
	r->ifindex = COPIED(c, struct sock_common, skc_bound_dev_if);
	r->cookie = COPIED(c, struct sock_common___bind, skc_cookie.counter);
	r->flags = 0;
	if (COPIED_BITS(c, struct sock_common, skc_reuse))
		r->flags |= FLAG_REUSE;
	if (COPIED_BITS(c, struct sock_common, skc_reuseport))
		r->flags |= FLAG_REUSEPORT;
	r->addr[0] = r->addr[1] = r->addr[2] = r->addr[3] = 0;
	if (!r->v6) {
		r->addr[0] = COPIED(c, struct sock_common, skc_rcv_saddr);
	} else if (HAS(struct sock_common, skc_v6_rcv_saddr)) {
		r->addr[0] = COPIED(c, struct sock_common, skc_v6_rcv_saddr.in6_u.u6_addr32[0]);
		r->addr[1] = COPIED(c, struct sock_common, skc_v6_rcv_saddr.in6_u.u6_addr32[1]);
		r->addr[2] = COPIED(c, struct sock_common, skc_v6_rcv_saddr.in6_u.u6_addr32[2]);
		r->addr[3] = COPIED(c, struct sock_common, skc_v6_rcv_saddr.in6_u.u6_addr32[3]);
		if (COPIED_BITS(c, struct sock_common, skc_ipv6only))
			r->flags |= FLAG_V6ONLY;
	}
	r->timewait = r->state == TCP_TIME_WAIT;
	r->expires = 0;
	r->uid = 0;
	if (r->timewait) {
		FOLLOW(r->state, tw->tw_substate);
		FOLLOW(r->expires, tw->tw_timer.expires);
	} else {
		struct sock___bind *full = (void *)sk;
		struct socket *process = 0;

		FOLLOW(process, full->sk_socket);
		if (process || !req.orphans_are_roots)
			FOLLOW(r->uid, full->sk_uid.val);
	}
	res.count = n + 1;
}

static void step_socket(void)
{
	struct sock_common *sk = (void *)pos.socket - OFFSET(struct sock_common___bind, skc_bind_node);
	struct common c;

	if (bpf_probe_read_kernel(&c, sizeof(c), sk) ||
	    COPIED(&c, struct sock_common, skc_num) != pos.number ||
	    (void *)COPIED(&c, struct sock_common, skc_net.net) != (void *)pos.net) {
		broken();
		return;
	}
	pos.socket = COPIED(&c, struct sock_common___bind, skc_bind_node.next);
	add_socket(sk, &c);
}

static void step_bucket2(void)
{
	struct inet_bind2_bucket *tb2;

	if (!HAS(struct inet_bind2_bucket, bhash_node)) {
		broken();
		return;
	}
	tb2 = (void *)pos.bucket2 - OFFSET(struct inet_bind2_bucket, bhash_node);
	if (FOLLOW(pos.socket, tb2->owners.first) || FOLLOW(pos.bucket2, pos.bucket2->next))
		broken();
}

static void step_bucket(void)
{
	struct inet_bind_bucket___lists *lists = (void *)pos.bucket - OFFSET(struct inet_bind_bucket___lists, node);
	struct inet_bind_bucket *tb = (void *)lists;
	struct bucket_record *b = current_bucket();
	struct net *net = 0;
	u16 number = 0;
	int err;

	if (FOLLOW(net, lists->ib_net.net) || FOLLOW(number, tb->port) ||
	    FOLLOW(pos.bucket, pos.bucket->next)) {
		broken();
		return;
	}
	if (number != pos.number || (void *)net != (void *)pos.net)
		return;
	if (HAS(struct inet_bind_bucket___lists, bhash2))
		err = FOLLOW(pos.bucket2, lists->bhash2.first);
	else
		err = FOLLOW(pos.socket, lists->owners.first);
	if (err) {
		broken();
		return;
	}
	if (req.buckets_only)
		pos.bucket2 = pos.socket = 0;
	if (READ(tb->l3mdev))
		return;
	b->found = 1;
	b->fastreuse = READ(tb->fastreuse);
	b->fastreuseport = READ(tb->fastreuseport);
	b->uid = READ(tb->fastuid.val);
	b->v6only = READ(tb->fast_ipv6_only);
	b->v6 = READ(tb->fast_sk_family) == AF_INET6;
	b->addr[0] = b->addr[1] = b->addr[2] = b->addr[3] = 0;
	if (!b->v6)
		b->addr[0] = READ(tb->fast_rcv_saddr);
	else if (HAS(struct inet_bind_bucket, fast_v6_rcv_saddr))
		bpf_probe_read_kernel(b->addr, sizeof(b->addr), &tb->fast_v6_rcv_saddr);
}

static long step_port(void)
{
	u32 i = pos.port;
	struct inet_bind_hashbucket *head;

	if (i >= MAX_PORTS || i >= req.count) {
		res.done = 1;
		return 1;
	}
	pos.port = i + 1;
	pos.number = req.ports[i];
	current_bucket()->found = current_bucket()->broken = 0;
	/* inet_bhashfn */
	head = (void *)pos.bhash + (u64)((pos.number + pos.hash_mix) & (pos.bhash_size - 1)) *
					   TYPE_SIZE(struct inet_bind_hashbucket);
	if (FOLLOW(pos.bucket, head->chain.first))
		broken();
	return 0;
}

static long step(u32 index, void *ctx)
{
	if (res.overflow)
		return 1;
	if (pos.socket)
		step_socket();
	else if (pos.bucket2)
		step_bucket2();
	else if (pos.bucket)
		step_bucket();
	else
		return step_port();
	return 0;
}

SEC("raw_tp/sockstate")
int bindbucket(void *ctx)
{
	struct task_struct___bind *task = (void *)bpf_get_current_task();
	struct inet_hashinfo *info = 0;
	struct nsproxy *nsproxy = 0;

	res.count = res.overflow = res.done = res.unsupported = 0;
	pos.port = 0;
	pos.bucket = pos.bucket2 = pos.socket = 0;
	if (!(HAS(struct inet_bind_bucket___lists, bhash2) || HAS(struct inet_bind_bucket___lists, owners)) ||
	    FOLLOW(nsproxy, task->nsproxy) || FOLLOW(pos.net, nsproxy->net_ns) || !pos.net ||
	    FOLLOW(info, pos.net->ipv4.tcp_death_row.hashinfo) || !info ||
	    FOLLOW(pos.bhash, info->bhash) || !pos.bhash ||
	    FOLLOW(pos.bhash_size, info->bhash_size) || !pos.bhash_size) {
		res.unsupported = 1;
		return 0;
	}
	pos.hash_mix = READ(pos.net->hash_mix);
	bpf_loop(MAX_STEPS, step, 0, 0);
	if (!res.done)
		res.overflow = 1;
	res.jiffies = bpf_jiffies64();
	return 0;
}

//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Reads the sockets on some TCP ports out of the kernel's bind buckets (inet_hashinfo.bhash), as
 * bind() itself sees them: listeners, connections, TIME_WAIT, and sockets that are only bound. The
 * cost depends on the sockets of these ports only. Or it reads the connections on all ports of a range
 * that are in use.
 *
 * It runs by BPF_PROG_RUN, as a raw tracepoint program since those run under rcu_read_lock()
 * (__bpf_prog_test_run_raw_tp), in the network namespace of the calling thread. The loader reads a
 * port again where the walk was broken.
 */
#include "../bhash/bhash.h"

char LICENSE[] SEC("license") = "GPL";

#define MAX_PORTS 2048
#define MAX_SOCKETS 8192
#define MAX_DETAILS 1024
#define MAX_STEPS (1 << 15)
#define PORTS 65536
#define HEADS 64
#define MAX_AGAIN 256

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct nsproxy {
	struct net *net_ns;
};

struct task_struct___bind {
	struct nsproxy *nsproxy;
};

struct inet_bind2_bucket___family {
	u16 family; /* before 6.8 */
};

typedef struct {
	int counter;
} atomic_t;

struct request_sock_queue {
	atomic_t qlen;
};

struct inet_connection_sock___bind {
	struct inet_bind2_bucket___family *icsk_bind2_hash;
	struct request_sock_queue icsk_accept_queue;
};

#pragma clang attribute pop

struct bucket_record {
	u32 addr[4];
	u32 uid;
	signed char fastreuse;
	signed char fastreuseport;
	u8 v6;
	u8 v6only;
	u8 found;  /* there is a bucket, which is of no VRF */
	u8 broken; /* the port has to be read again */
	u8 mapped_meets_any; /* see meets_mapped() */
	u8 pad;
};

/* Who has a socket. */
struct detail_record {
	u64 inode; /* 0: no process has it open */
	u32 peer[4];
	u16 peer_port; /* 0: no connection */
	u8 pad[6];
};

/* The loader writes it before a run. */
struct request {
	u16 ports[MAX_PORTS];
	u32 count;
	u32 buckets_only; /* not the sockets in them */
	u32 orphans_are_roots; /* as sock_i_uid() says: the uid of a socket without a process is 0 */
	u32 details; /* of the first MAX_DETAILS sockets */
	u16 first, last; /* connections on all ports of this range but res.except; last is 0: sockets on ports */
} req SEC(".data.request");

struct results {
	struct socket_record sockets[MAX_SOCKETS];
	struct bucket_record buckets[MAX_PORTS]; /* by req.ports */
	u64 jiffies;
	u32 count;    /* of sockets */
	u32 overflow; /* there were more sockets, or steps */
	u32 done;
	u32 unsupported; /* the kernel's layout is not the one expected */
	u32 requests; /* a listener may have connections in SYN_RECV that are in no bind bucket */
	u32 broken; /* lists of the range changed too often */
	struct detail_record details[MAX_DETAILS]; /* by sockets */

	u8 except[PORTS / 8]; /* the loader writes it */

	/* Only the program uses it. */
	u64 heads[4 * HEADS]; /* of the table, each with its lock; the verifier allows for twice as many */
} res;

struct position {
	struct bhash_walk walk;
	u32 port; /* index of the next port; in a range, the port behind those of busy */
	u32 block; /* the port of the first bit of busy */
	u64 busy; /* a bit for each port whose list is not empty, and was not begun */
	u32 count; /* res.count when the port was begun */
	u32 again; /* lists of the range that were begun again */
} pos SEC(".data.position");

/* The mask shows the verifier that the index is in range. */
static struct bucket_record *current_bucket(void)
{
	u32 next = *(volatile u32 *)&pos.port;

	return &res.buckets[(next - 1) & (MAX_PORTS - 1)];
}

/*
 * Whether a bind to a v4-mapped address meets a socket on 0.0.0.0 or ::ffff:0.0.0.0. Before 6.8, both are
 * in one bind2 bucket, of the family of the first one. Late 6.1 passes over a bucket of AF_INET6
 * (inet_bind2_bucket_match_addr_any), early 6.1 asks every socket of the port. All meet one of AF_INET.
 */
static int meets_mapped(struct sock_common *sk)
{
	struct inet_connection_sock___bind *full = (void *)sk;
	struct inet_bind2_bucket___family *tb2 = 0;
	u16 family = 0;

	return HAS(struct inet_bind2_bucket___family, family) && !FOLLOW(tb2, full->icsk_bind2_hash) &&
	       !FOLLOW(family, tb2->family) && family == AF_INET;
}

static int is_any(const struct socket_record *s)
{
	if (s->v6 && (s->addr[0] || s->addr[1] || s->addr[2] != be32(0xffff)))
		return 0;
	return !s->timewait && !s->addr[s->v6 ? 3 : 0];
}

/* Whether a listener may have a struct request_sock: reqsk_queue_len(). */
static int has_requests(struct sock_common *sk)
{
	struct inet_connection_sock___bind *full = (void *)sk;
	int n = 0;

	return !HAS(struct inet_connection_sock___bind, icsk_accept_queue.qlen.counter) ||
	       FOLLOW(n, full->icsk_accept_queue.qlen.counter) || n;
}

static void add_detail(u32 n, struct sock_common *sk, struct common *c)
{
	struct detail_record *d = &res.details[n & (MAX_DETAILS - 1)];
	struct socket *process = 0;

	d->inode = 0;
	d->peer_port = bhash_peer(d->peer, c);
	if (COPIED(c, struct sock_common, skc_state) == TCP_TIME_WAIT)
		return;
	FOLLOW(process, ((struct sock___bhash *)sk)->sk_socket);
	if (process)
		d->inode = bhash_inode(process);
}

static void add_socket(struct sock_common *sk, struct common *c)
{
	struct socket_record *s;
	u32 n = res.count;

	if (n >= MAX_SOCKETS) {
		res.overflow = 1;
		return;
	}
	s = &res.sockets[n & (MAX_SOCKETS - 1)];
	bhash_fill(s, sk, c, req.orphans_are_roots);
	if (is_any(s) && !meets_mapped(sk))
		current_bucket()->mapped_meets_any = 0;
	if (s->state == TCP_LISTEN && !res.requests)
		res.requests = has_requests(sk);
	if (req.details && n < MAX_DETAILS)
		add_detail(n, sk, c);
	res.count = n + 1;
}

static void add_bucket(struct inet_bind_bucket *tb)
{
	struct bucket_record *b = current_bucket();

	if (req.buckets_only)
		pos.walk.bucket2 = pos.walk.socket = 0;
	if (READ(tb->l3mdev))
		return;
	b->found = 1;
	b->mapped_meets_any = !req.buckets_only;
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

static void add_connection(struct sock_common *sk, struct common *c)
{
	u32 n = res.count;
	struct socket_record *s = &res.sockets[n & (MAX_SOCKETS - 1)];
	struct detail_record *d = &res.details[n & (MAX_DETAILS - 1)];

	if (n >= MAX_DETAILS) {
		res.overflow = 1;
		return;
	}
	d->inode = 0;
	d->peer_port = bhash_peer(d->peer, c);
	/* A connection that was reset keeps its peer, and the port if its program has named that. */
	if (!d->peer_port || COPIED(c, struct sock_common, skc_state) == TCP_CLOSE)
		return;
	s->cookie = s->expires = s->ifindex = s->uid = s->timewait = s->flags = 0;
	s->port = COPIED(c, struct sock_common, skc_num);
	s->state = COPIED(c, struct sock_common, skc_state);
	s->v6 = bhash_local(s->addr, c);
	res.count = n + 1;
}

/* Looks at eight heads. Without branches: the verifier follows each of them. */
static long look_at_heads(u32 i, void *ctx)
{
	u32 first = (i * 8) & (HEADS - 1);
	const u64 *heads = &res.heads[2 * first];
	u64 busy = 0;

#pragma unroll
	for (u32 n = 0; n < 8; n++) {
		u64 x = heads[2 * n + 1];

		busy |= (x | -x) >> 63 << n;
	}
	pos.busy |= busy << first;
	return 0;
}

/* Reads the heads of the next ports of the range. They are side by side, up to the end of the table. */
static void next_block(void)
{
	u32 first = (pos.port + pos.walk.hash_mix) & (pos.walk.bhash_size - 1);
	u32 n = pos.walk.bhash_size - first, left = req.last + 1 - pos.port, size;

	if (n > left)
		n = left;
	if (n > HEADS)
		n = HEADS;
	pos.block = pos.port;
	pos.port += n;
	pos.busy = 0;
	size = n * 16;
	asm volatile("" : "+r"(size)); /* or the compiler leaves out the mask, which the verifier needs */
	if (bpf_probe_read_kernel(res.heads, size & (32 * HEADS - 1), (void *)pos.walk.bhash + (u64)first * 16)) {
		res.broken = 1;
		return;
	}
	bpf_loop(HEADS / 8, look_at_heads, 0, 0);
	if (n < HEADS)
		pos.busy &= (1ULL << n) - 1;
}

static long step_range(void)
{
	u32 port;

	if (pos.busy) {
		port = pos.block + lowest(pos.busy);
		pos.busy &= pos.busy - 1;
		if (!(res.except[(port / 8) & (PORTS / 8 - 1)] & (1 << (port % 8))))
			bhash_start(&pos.walk, port);
		pos.count = res.count;
		return 0;
	}
	if (pos.port > req.last) {
		res.done = 1;
		return 1;
	}
	next_block();
	return 0;
}

/* Begins the list of a port again that changed meanwhile. */
static void begin_again(void)
{
	if (pos.again++ >= MAX_AGAIN) {
		res.broken = 1;
		return;
	}
	res.count = pos.count;
	bhash_start(&pos.walk, pos.walk.port);
}

static long step_port(void)
{
	u32 i = pos.port;

	if (i >= MAX_PORTS || i >= req.count) {
		res.done = 1;
		return 1;
	}
	pos.port = i + 1;
	current_bucket()->found = current_bucket()->broken = 0;
	bhash_start(&pos.walk, req.ports[i]);
	return 0;
}

static long step(u32 index, void *ctx)
{
	struct bhash_walk *w = &pos.walk;
	struct inet_bind_bucket *tb;
	struct sock_common *sk;
	struct common c;

	if (res.overflow)
		return 1;
	if (w->socket) {
		sk = bhash_next_socket(w, &c);
		if (sk && req.last)
			add_connection(sk, &c);
		else if (sk)
			add_socket(sk, &c);
	} else if (w->bucket2) {
		bhash_next_bucket2(w);
	} else if (w->bucket) {
		tb = bhash_next_bucket(w);
		if (tb && !req.last)
			add_bucket(tb);
	} else if (req.last ? step_range() : step_port()) {
		return 1;
	}
	if (w->broken && req.last)
		begin_again();
	else if (w->broken)
		current_bucket()->broken = 1;
	return res.broken & 1; /* the mask is for the verifier */
}

SEC("raw_tp/sockstate")
int bindbucket(void *ctx)
{
	struct task_struct___bind *task = (void *)bpf_get_current_task();
	struct nsproxy *nsproxy = 0;
	struct net *net = 0;

	res.count = res.overflow = res.done = res.unsupported = res.requests = res.broken = 0;
	pos.port = req.first;
	pos.busy = 0;
	pos.count = pos.again = 0;
	pos.walk.broken = 0;
	if (FOLLOW(nsproxy, task->nsproxy) || FOLLOW(net, nsproxy->net_ns) || !bhash_open(&pos.walk, net)) {
		res.unsupported = 1;
		return 0;
	}
	if (req.last && (TYPE_SIZE(struct inet_bind_hashbucket) != 16 || OFFSET(struct inet_bind_hashbucket, chain) != 8)) {
		res.unsupported = 1;
		return 0;
	}
	bpf_loop(MAX_STEPS, step, 0, 0);
	if (!res.done)
		res.overflow = 1;
	res.jiffies = bpf_jiffies64();
	return 0;
}

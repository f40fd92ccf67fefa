/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Walks the sockets on a TCP port in the kernel's bind buckets (inet_hashinfo.bhash), as bind()
 * itself sees them: listeners, connections, TIME_WAIT, and sockets that are only bound.
 *
 * A walk takes no lock, and older kernels free buckets without waiting for RCU readers. So
 * everything is read by bpf_probe_read_kernel, and checked before it is believed. A chain that led
 * to something else than a socket on the port makes the walk broken. A socket that moves between
 * addresses of the port meanwhile may be missed.
 *
 * A walk is a flat state machine with one step for each socket and bucket, so that one bpf_loop()
 * does it: the verifier gives up on nested loops.
 */
#ifndef SOCKSTATE_BHASH_H
#define SOCKSTATE_BHASH_H

#include "../kernel.h"

enum socket_flag {
	FLAG_REUSE = 1 << 0,
	FLAG_REUSEPORT = 1 << 1,
	FLAG_V6ONLY = 1 << 2,
	FLAG_NAMED_PORT = 1 << 3, /* the program has named the port; not of TIME_WAIT */
	FLAG_NO_PROCESS = 1 << 4, /* no process has it open: closed, or not accepted; not of TIME_WAIT */
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

struct netns_ipv4___bhash {
	struct inet_timewait_death_row tcp_death_row;
};

struct net___bhash {
	u32 hash_mix;
	struct netns_ipv4___bhash ipv4;
};

struct inet_bind_bucket___lists {
	possible_net_t ib_net;
	struct hlist_node node;
	struct hlist_head bhash2; /* since 6.8, of inet_bind2_bucket */
	struct hlist_head owners; /* before, of sockets */
};

struct inet_bind2_bucket {
	possible_net_t ib_net;
	u16 port;
	struct hlist_node bhash_node;
	struct hlist_head owners;
};

typedef struct {
	long long counter;
} atomic64_t;

struct sock_common___bhash {
	struct hlist_node skc_bind_node;
	atomic64_t skc_cookie;
};

struct sock___bhash {
	kuid_t sk_uid;
	u8 sk_userlocks : 4;
	struct socket *sk_socket;
};

struct sock_common___peer {
	u32 skc_daddr;
	u16 skc_dport;
	struct in6_addr skc_v6_daddr;
};

struct socket___file {
	struct file *file;
};

struct inode___number {
	unsigned long i_ino;
};

struct socket_alloc {
	struct socket___file socket;
	struct inode___number vfs_inode;
};

#pragma clang attribute pop

/* A socket, as bhash.DecodeSocket reads it. */
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

/* Where a walk is. A pointer of 0 has been followed to its end. */
struct bhash_walk {
	struct net___bhash *net;
	struct inet_bind_hashbucket *bhash;
	u32 bhash_size;
	u32 hash_mix;
	struct hlist_node *bucket;
	struct hlist_node *bucket2;
	struct hlist_node *socket;
	u16 port;
	u8 broken;
	u8 pad[5];
};

static __always_inline void bhash_break(struct bhash_walk *w)
{
	w->broken = 1;
	w->bucket = w->bucket2 = w->socket = 0;
}

/* Finds the table of a network namespace. It returns 0 where the layout of the kernel is not the
 * one expected. */
static __always_inline int bhash_open(struct bhash_walk *w, void *netns)
{
	struct inet_hashinfo *info = 0;

	w->net = netns;
	w->bucket = w->bucket2 = w->socket = 0;
	if (!(HAS(struct inet_bind_bucket___lists, bhash2) || HAS(struct inet_bind_bucket___lists, owners)))
		return 0;
	if (!HAS(struct net___bhash, ipv4.tcp_death_row.hashinfo) || !HAS(struct net___bhash, hash_mix))
		return 0;
	if (!w->net || FOLLOW(info, w->net->ipv4.tcp_death_row.hashinfo) || !info ||
	    FOLLOW(w->bhash, info->bhash) || !w->bhash ||
	    FOLLOW(w->bhash_size, info->bhash_size) || !w->bhash_size)
		return 0;
	return !FOLLOW(w->hash_mix, w->net->hash_mix);
}

/* Begins the walk of a port. */
static __always_inline void bhash_start(struct bhash_walk *w, u16 port)
{
	struct inet_bind_hashbucket *head;

	w->port = port;
	w->broken = 0;
	w->bucket2 = w->socket = 0;
	/* inet_bhashfn */
	head = (void *)w->bhash + (u64)((port + w->hash_mix) & (w->bhash_size - 1)) *
					  TYPE_SIZE(struct inet_bind_hashbucket);
	if (FOLLOW(w->bucket, head->chain.first))
		bhash_break(w);
}

/* Whether a copy is of a socket on the port. */
static __always_inline int bhash_is_ours(const struct bhash_walk *w, const struct common *c)
{
	u16 family = COPIED(c, struct sock_common, skc_family);
	u8 state = COPIED(c, struct sock_common, skc_state);

	return COPIED(c, struct sock_common, skc_num) == w->port &&
	       (void *)COPIED(c, struct sock_common, skc_net.net) == (void *)w->net &&
	       (family == AF_INET || family == AF_INET6) && state && state < TCP_NEW_SYN_RECV;
}

/* The step where w->socket is set. Returns the socket and its copy, or 0. */
static __always_inline struct sock_common *bhash_next_socket(struct bhash_walk *w, struct common *c)
{
	struct sock_common *sk = (void *)w->socket - OFFSET(struct sock_common___bhash, skc_bind_node);

	if (bpf_probe_read_kernel(c, sizeof(*c), sk) || !bhash_is_ours(w, c)) {
		bhash_break(w);
		return 0;
	}
	w->socket = COPIED(c, struct sock_common___bhash, skc_bind_node.next);
	return sk;
}

/* The step where w->bucket2 is set. The memory of a bucket that is gone may be another one's. So whose
 * it is has to be asked after its lists were read. */
static __always_inline void bhash_next_bucket2(struct bhash_walk *w)
{
	struct inet_bind2_bucket *tb2;
	struct net *net = 0;
	u16 port = 0;

	if (!HAS(struct inet_bind2_bucket, bhash_node)) {
		bhash_break(w);
		return;
	}
	tb2 = (void *)w->bucket2 - OFFSET(struct inet_bind2_bucket, bhash_node);
	if (FOLLOW(w->socket, tb2->owners.first) || FOLLOW(w->bucket2, w->bucket2->next) ||
	    FOLLOW(net, tb2->ib_net.net) || FOLLOW(port, tb2->port) ||
	    (void *)net != (void *)w->net || port != w->port)
		bhash_break(w);
}

/* The step where w->bucket is set. Returns the bucket if it is one of the port. As in
 * bhash_next_bucket2, its lists are read first. A bucket of another port must be of the same chain. */
static __always_inline struct inet_bind_bucket *bhash_next_bucket(struct bhash_walk *w)
{
	struct inet_bind_bucket___lists *lists =
		(void *)w->bucket - OFFSET(struct inet_bind_bucket___lists, node);
	struct inet_bind_bucket *tb = (void *)lists;
	struct hlist_node *bucket2 = 0, *socket = 0;
	struct net___bhash *net = 0;
	u32 mix = 0;
	u16 port = 0;
	int err;

	if (HAS(struct inet_bind_bucket___lists, bhash2))
		err = FOLLOW(bucket2, lists->bhash2.first);
	else
		err = FOLLOW(socket, lists->owners.first);
	if (err || FOLLOW(w->bucket, w->bucket->next) ||
	    FOLLOW(net, lists->ib_net.net) || FOLLOW(port, tb->port) || FOLLOW(mix, net->hash_mix) ||
	    ((port + mix) ^ (w->port + w->hash_mix)) & (w->bhash_size - 1)) {
		bhash_break(w);
		return 0;
	}
	if (port != w->port || net != w->net)
		return 0;
	w->bucket2 = bucket2;
	w->socket = socket;
	return tb;
}

/* Writes the local address of a socket. Returns whether it is an IPv6 one. */
static __always_inline u8 bhash_local(u32 addr[4], const struct common *c)
{
	addr[0] = addr[1] = addr[2] = addr[3] = 0;
	if (COPIED(c, struct sock_common, skc_family) != AF_INET6) {
		addr[0] = COPIED(c, struct sock_common, skc_rcv_saddr);
		return 0;
	}
	if (HAS(struct sock_common, skc_v6_rcv_saddr)) {
		addr[0] = COPIED(c, struct sock_common, skc_v6_rcv_saddr.in6_u.u6_addr32[0]);
		addr[1] = COPIED(c, struct sock_common, skc_v6_rcv_saddr.in6_u.u6_addr32[1]);
		addr[2] = COPIED(c, struct sock_common, skc_v6_rcv_saddr.in6_u.u6_addr32[2]);
		addr[3] = COPIED(c, struct sock_common, skc_v6_rcv_saddr.in6_u.u6_addr32[3]);
	}
	return 1;
}

static __always_inline u8 bhash_flags(const struct common *c)
{
	return (COPIED_BITS(c, struct sock_common, skc_reuse) ? FLAG_REUSE : 0) |
	       (COPIED_BITS(c, struct sock_common, skc_reuseport) ? FLAG_REUSEPORT : 0) |
	       (COPIED(c, struct sock_common, skc_family) == AF_INET6 &&
		COPIED_BITS(c, struct sock_common, skc_ipv6only) ? FLAG_V6ONLY : 0);
}

/* Writes the peer of a connection. Returns its port; 0: there is none. */
static __always_inline u16 bhash_peer(u32 addr[4], const struct common *c)
{
	u16 port = be16(COPIED(c, struct sock_common___peer, skc_dport));

	addr[0] = addr[1] = addr[2] = addr[3] = 0;
	if (port && COPIED(c, struct sock_common, skc_family) != AF_INET6) {
		addr[0] = COPIED(c, struct sock_common___peer, skc_daddr);
	} else if (port && HAS(struct sock_common___peer, skc_v6_daddr)) {
		addr[0] = COPIED(c, struct sock_common___peer, skc_v6_daddr.in6_u.u6_addr32[0]);
		addr[1] = COPIED(c, struct sock_common___peer, skc_v6_daddr.in6_u.u6_addr32[1]);
		addr[2] = COPIED(c, struct sock_common___peer, skc_v6_daddr.in6_u.u6_addr32[2]);
		addr[3] = COPIED(c, struct sock_common___peer, skc_v6_daddr.in6_u.u6_addr32[3]);
	}
	return port;
}

/* The inode number of the struct socket that a process has open. */
static __always_inline u64 bhash_inode(struct socket *process)
{
	struct socket_alloc *alloc = (void *)process - OFFSET(struct socket_alloc, socket);

	return HAS(struct socket_alloc, vfs_inode.i_ino) ? READ(alloc->vfs_inode.i_ino) : 0;
}

/* The uid of a socket that is not in TIME_WAIT. orphans_are_roots: as sock_i_uid() says, the uid of
 * a socket without a process is 0. */
static __always_inline u32 bhash_uid_with(struct sock___bhash *full, struct socket *process, u32 orphans_are_roots)
{
	u32 uid = 0;

	if (process || !orphans_are_roots)
		FOLLOW(uid, full->sk_uid.val);
	return uid;
}

static __always_inline u32 bhash_uid(struct sock_common *sk, u32 orphans_are_roots)
{
	struct sock___bhash *full = (void *)sk;
	struct socket *process = 0;

	FOLLOW(process, full->sk_socket);
	return bhash_uid_with(full, process, orphans_are_roots);
}

static __always_inline void bhash_fill(struct socket_record *r, struct sock_common *sk,
				       const struct common *c, u32 orphans_are_roots)
{
	struct inet_timewait_sock *tw = (void *)sk;
	struct sock___bhash *full = (void *)sk;
	struct socket *process = 0;
	u8 substate;

	r->cookie = COPIED(c, struct sock_common___bhash, skc_cookie.counter);
	r->port = COPIED(c, struct sock_common, skc_num);
	r->state = COPIED(c, struct sock_common, skc_state);
	r->ifindex = COPIED(c, struct sock_common, skc_bound_dev_if);
	r->v6 = bhash_local(r->addr, c);
	r->flags = bhash_flags(c);
	r->timewait = r->state == TCP_TIME_WAIT;
	r->expires = 0;
	r->uid = 0;
	if (r->timewait) {
		if (!FOLLOW(substate, tw->tw_substate) && substate == TCP_FIN_WAIT2)
			r->state = TCP_FIN_WAIT2;
		FOLLOW(r->expires, tw->tw_timer.expires);
		return;
	}
	FOLLOW(process, full->sk_socket);
	r->uid = bhash_uid_with(full, process, orphans_are_roots);
	if (!process)
		r->flags |= FLAG_NO_PROCESS;
	if (READ_BITS(full, sk_userlocks) & SOCK_BINDPORT_LOCK)
		r->flags |= FLAG_NAMED_PORT;
}

#endif

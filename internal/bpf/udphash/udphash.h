/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Walks the sockets on a UDP port in the kernel's hash table (struct udp_table), in the order in which
 * bind() looks at them.
 *
 * A slot of the table also has the sockets of other ports and network namespaces. UDP sockets are freed
 * by RCU (SOCK_RCU_FREE), and a walk runs under rcu_read_lock(). But a socket may move to another slot
 * while the walk is at it: then the walk is broken.
 *
 * As in bhash.h, everything is read by bpf_probe_read_kernel, and a walk is a flat state machine.
 */
#ifndef SOCKSTATE_UDPHASH_H
#define SOCKSTATE_UDPHASH_H

#include "../bhash/bhash.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct udp_hslot {
	struct hlist_head head;
	int count;
};

struct udp_table {
	struct udp_hslot *hash;
	u32 mask;
};

struct netns_ipv4___udp {
	struct udp_table *udp_table; /* since 6.2 */
};

struct net___udp {
	u32 hash_mix;
	struct netns_ipv4___udp ipv4;
};

struct proto {
	union {
		struct udp_table *udp_table; /* before 6.2 */
	} h;
};

struct sock_common___udp {
	struct proto *skc_prot;
	struct hlist_node skc_node;
};

#pragma clang attribute pop

struct udp_walk {
	struct net___udp *net;
	struct udp_hslot *hash;
	u32 mask;
	u32 hash_mix;
	struct hlist_node *next; /* 0: the walk is at its end */
	u32 crowd;		 /* sockets in the slot */
	u16 port;
	u8 broken;
	u8 pad;
};

/* Finds the table of a network namespace. any is a UDP socket: before 6.2 all namespaces share the
 * table of their sockets. It returns 0 where the layout of the kernel is not the one expected. */
static __always_inline int udphash_open(struct udp_walk *w, void *netns, struct sock *any)
{
	struct sock_common___udp *common = (void *)any;
	struct udp_table *table = 0;
	struct proto *proto = 0;

	w->net = netns;
	w->next = 0;
	if (!w->net || !HAS(struct net___udp, hash_mix))
		return 0;
	if (HAS(struct net___udp, ipv4.udp_table))
		FOLLOW(table, w->net->ipv4.udp_table);
	else if (any && !FOLLOW(proto, common->skc_prot) && proto)
		FOLLOW(table, proto->h.udp_table);
	return table && !FOLLOW(w->hash, table->hash) && w->hash && !FOLLOW(w->mask, table->mask) &&
	       !FOLLOW(w->hash_mix, w->net->hash_mix);
}

/* Begins the walk of a port. */
static __always_inline void udphash_start(struct udp_walk *w, u16 port)
{
	struct udp_hslot *slot;

	w->port = port;
	w->broken = 0;
	/* udp_hashfn */
	slot = (void *)w->hash + (u64)((port + w->hash_mix) & w->mask) * TYPE_SIZE(struct udp_hslot);
	if (FOLLOW(w->next, slot->head.first) || FOLLOW(w->crowd, slot->count))
		w->broken = 1;
}

/* The step where w->next is set. Returns the socket if it is on the port, and its copy. */
static __always_inline struct sock_common *udphash_next(struct udp_walk *w, struct common *c)
{
	struct sock_common *sk = (void *)w->next - OFFSET(struct sock_common___udp, skc_node);
	struct net___udp *net;
	u16 family, port;
	u32 mix = 0;

	if (bpf_probe_read_kernel(c, sizeof(*c), sk))
		goto broken;
	port = COPIED(c, struct sock_common, skc_num);
	family = COPIED(c, struct sock_common, skc_family);
	net = (void *)COPIED(c, struct sock_common, skc_net.net);
	w->next = COPIED(c, struct sock_common___udp, skc_node.next);
	if (net == w->net && port == w->port && (family == AF_INET || family == AF_INET6))
		return sk;
	if (FOLLOW(mix, net->hash_mix) || ((port + mix) ^ (w->port + w->hash_mix)) & w->mask)
		goto broken;
	return 0;
broken:
	w->next = 0;
	w->broken = 1;
	return 0;
}

#endif

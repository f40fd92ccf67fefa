//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Reads the sockets on some UDP ports out of the kernel's hash table, as bind() itself sees them.
 *
 * It runs by BPF_PROG_RUN in the network namespace of the calling thread, as bindbucket.c does.
 */
#include "../fd.h"
#include "udphash.h"

char LICENSE[] SEC("license") = "GPL";

/* The name of a function, and its module. */
const char symbol[] = "%ps";

#define MAX_PORTS 512
#define MAX_SOCKETS 4096
#define MAX_STEPS (1 << 16)
#define NAME_SIZE 32

static long (*const bpf_snprintf)(char *str, u32 size, const char *fmt, u64 *data, u32 data_len) = (void *)165;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct nsproxy {
	struct net *net_ns;
};

struct task_struct___udp {
	struct nsproxy *nsproxy;
};

struct udp_sock {
	void *encap_rcv;
};

struct sock_common___options {
	unsigned long skc_flags;
};

struct ipv6_pinfo {
	void *ipv6_mc_list;
};

struct inet_sock {
	struct ipv6_pinfo *pinet6;
	void *mc_list;
};

#pragma clang attribute pop

struct record {
	struct socket_record socket;
	u64 inode;
	u32 count; /* sockets one after the other that bind() cannot tell apart, connected ones only */
	u8 kernel; /* no process can have it open: the kernel made it */
	u8 multicast; /* it has joined a multicast group */
	u8 broadcast; /* it may broadcast */
	u8 pad;
	char handler[NAME_SIZE]; /* of kernel: the function that gets its packets */
};

struct port_record {
	u32 crowd; /* sockets in its slot of the table */
	u8 broken; /* the port has to be read again */
	u8 more;   /* not all its sockets were read */
	u8 pad[2];
};

/* The loader writes it before a run. */
struct request {
	u16 ports[MAX_PORTS];
	u32 count;
	u32 orphans_are_roots; /* see bhash_uid */
	u32 most_sockets;      /* of each port */
	u32 most_steps;	       /* of each port */
	s32 fd;		       /* of a UDP socket, or -1 */
} req SEC(".data.request");

struct results {
	struct record sockets[MAX_SOCKETS];
	struct port_record ports[MAX_PORTS]; /* by req.ports */
	u32 count;			     /* of sockets */
	u32 unsupported;		     /* the kernel's layout is not the one expected */
} res;

struct position {
	struct udp_walk walk;
	u32 port;    /* index of the next port */
	u32 first;   /* socket of the port */
	u32 steps;   /* of the port */
	u32 older;   /* sockets of the port that came after its share was full */
} pos SEC(".data.position");

/* The mask shows the verifier that the index is in range. */
static struct port_record *current_port(void)
{
	u32 next = *(volatile u32 *)&pos.port;

	return &res.ports[(next - 1) & (MAX_PORTS - 1)];
}

static struct record *record_at(u32 n)
{
	return &res.sockets[n & (MAX_SOCKETS - 1)];
}

static __always_inline int same_to_bind(const struct socket_record *a, const struct socket_record *b)
{
	return a->state == b->state && a->flags == b->flags && a->v6 == b->v6 && a->uid == b->uid &&
	       a->ifindex == b->ifindex && a->addr[0] == b->addr[0] && a->addr[1] == b->addr[1] &&
	       a->addr[2] == b->addr[2] && a->addr[3] == b->addr[3];
}

enum { SOCK_BROADCAST = 1 << 6 }; /* bit of enum sock_flags, include/net/sock.h */

static __always_inline u8 may_broadcast(struct sock_common *sk)
{
	return !!(READ(((struct sock_common___options *)sk)->skc_flags) & SOCK_BROADCAST);
}

static __always_inline u8 has_joined(struct sock_common *sk, u8 v6)
{
	struct inet_sock *inet = (void *)sk;
	struct ipv6_pinfo *pinfo = 0;

	if (READ(inet->mc_list))
		return 1;
	if (!v6 || !HAS(struct inet_sock, pinet6) || FOLLOW(pinfo, inet->pinet6) || !pinfo)
		return 0;
	return !!READ(pinfo->ipv6_mc_list);
}

static __always_inline void add(struct sock_common *sk, struct common *c)
{
	struct sock___bhash *full = (void *)sk;
	struct socket___file *socket = 0;
	u32 n = *(volatile u32 *)&res.count;
	struct record *r, *before;
	u64 handler;

	if (n >= MAX_SOCKETS) {
		current_port()->more = 1;
		return;
	}
	if (n - pos.first >= req.most_sockets) {
		/* The newest come first. They keep half of the share, and the oldest the other half: any user
		 * can open sockets that are newer than a server's. */
		current_port()->more = 1;
		n = pos.first + req.most_sockets / 2 + pos.older++ % (req.most_sockets - req.most_sockets / 2);
	}
	r = record_at(n);
	bhash_fill(&r->socket, sk, c, req.orphans_are_roots);
	before = record_at(n - 1);
	if (!pos.older && n > pos.first && r->socket.state != TCP_CLOSE && same_to_bind(&before->socket, &r->socket)) {
		before->count++;
		return;
	}
	r->count = 1;
	r->inode = r->kernel = r->handler[0] = 0;
	r->multicast = has_joined(sk, r->socket.v6);
	r->broadcast = may_broadcast(sk);
	FOLLOW(socket, full->sk_socket);
	if (socket) {
		r->inode = bhash_inode((void *)socket);
		r->kernel = !READ(socket->file);
	}
	if (r->kernel) {
		handler = (u64)READ(((struct udp_sock *)sk)->encap_rcv);
		if (handler)
			bpf_snprintf(r->handler, NAME_SIZE, symbol, &handler, sizeof(handler));
	}
	if (!pos.older)
		res.count = n + 1;
}

static long step(u32 index, void *ctx)
{
	struct udp_walk *w = &pos.walk;
	struct sock_common *sk;
	struct common c;
	u32 i = pos.port;

	if (w->next) {
		sk = udphash_next(w, &c);
		if (sk)
			add(sk, &c);
		if (w->next && ++pos.steps >= req.most_steps) {
			w->next = 0;
			current_port()->more = 1;
		}
	} else if (i >= MAX_PORTS || i >= req.count) {
		return 1;
	} else {
		pos.port = i + 1;
		pos.steps = pos.older = 0;
		pos.first = res.count;
		udphash_start(w, req.ports[i]);
		current_port()->crowd = w->crowd;
		current_port()->more = 0;
		current_port()->broken = 0;
	}
	if (w->broken)
		current_port()->broken = 1;
	return 0;
}

SEC("raw_tp/sockstate")
int udphash(void *ctx)
{
	struct task_struct___udp *task = (void *)bpf_get_current_task();
	struct nsproxy *nsproxy = 0;
	struct net *net = 0;

	res.count = res.unsupported = 0;
	pos.port = 0;
	if (FOLLOW(nsproxy, task->nsproxy) || FOLLOW(net, nsproxy->net_ns) ||
	    !udphash_open(&pos.walk, net, socket_of(req.fd)) || !HAS(struct socket_alloc, vfs_inode.i_ino)) {
		res.unsupported = 1;
		return 0;
	}
	bpf_loop(MAX_STEPS, step, 0, 0);
	return 0;
}

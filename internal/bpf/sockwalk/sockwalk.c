//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Walks the kernel's table of TCP connections (inet_hashinfo.ehash) for many network namespaces at
 * once, and joins equal sockets into groups.
 *
 * Both programs run by BPF_PROG_RUN, as raw tracepoint programs since those run under
 * rcu_read_lock() (__bpf_prog_test_run_raw_tp). There is one run at a time, so nothing here is
 * atomic. They take no lock: what is read is checked before it is believed. A chain that led to a
 * socket of another bucket is read again, as __inet_lookup_established() does.
 *
 * Sockets that are only bound are in no such table. They are in the lists of the bind buckets, between
 * the connections, and a list can have a million of these. To follow it would take as long as the walk
 * of the table: no element is in the cache. So the walk looks at what comes after each connection in its
 * list, and heads() at what comes before the first one. Most connections that come after another one are
 * known without a look: see has_timewait().
 */
#include "../bhash/bhash.h"

char LICENSE[] SEC("license") = "GPL";

#define PORTS 65536
#define MAX_NAMESPACES 2048
#define MAX_GROUPS 8192
#define MAX_CHAIN 512
#define MAX_TRIES 8
#define MAX_NETS (1 << 16) /* in the kernel's list */
#define HEADS 64
#define GROUP_INDEX_BITS 14
#define NET_INDEX_BITS 13
#define NET_PROBES 8
#define MAX_BOUND 16384 /* sockets that are only bound */
#define MAX_BOUND_EACH 1024 /* in a namespace, and so many lists */
#define MAX_FOLLOWED 1024 /* sockets between two connections of a list */
#define MAX_FOLLOWED_RUN 4096 /* such sockets in a run, and those of one more bucket */
#define MAX_PORTS 1024 /* of one run of heads() */
#define MAX_STEPS (1 << 13) /* of one run of heads() */
#define PAGE_BITS 17
#define COPY_SIZE 216 /* all that is read of a TIME_WAIT socket */

/* Beside those of enum socket_flag: FLAG_REUSE and FLAG_REUSEPORT are not known. */
#define FLAG_UNKNOWN (1 << 3)

enum kind {
	KIND_FULL,
	KIND_TIMEWAIT,
	KIND_REQUEST,
};

enum port {
	PORT_WATCHED = 1 << 0,
	PORT_SERVES = 1 << 1,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};

struct hlist_nulls_node {
	struct hlist_nulls_node *next;
};

struct hlist_nulls_head {
	struct hlist_nulls_node *first;
};

struct inet_ehash_bucket {
	struct hlist_nulls_head chain;
};

struct inet_hashinfo___walk {
	struct inet_ehash_bucket *ehash;
	u32 ehash_mask;
};

struct inet_timewait_death_row___walk {
	struct inet_hashinfo___walk *hashinfo;
};

struct netns_ipv4___walk {
	struct inet_timewait_death_row___walk tcp_death_row;
};

struct net___walk {
	struct list_head list;
	struct ns_common ns;
	u64 net_cookie;
	struct netns_ipv4___walk ipv4;
};

struct nsproxy {
	struct net___walk *net_ns;
};

struct task_struct___walk {
	struct nsproxy *nsproxy;
};

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	atomic_t refs;
} refcount_t;

struct sock_common___walk {
	u32 skc_daddr;
	u32 skc_hash;
	u16 skc_dport;
	struct hlist_nulls_node skc_nulls_node;
	struct in6_addr skc_v6_daddr;
	refcount_t skc_refcnt;
};

struct inet_timewait_sock___walk {
	struct inet_bind_bucket *tw_tb;
	struct inet_bind2_bucket *tw_tb2; /* since 6.1 */
};

struct inet_connection_sock___walk {
	struct inet_bind_bucket *icsk_bind_hash;
	struct inet_bind2_bucket *icsk_bind2_hash; /* since 6.1 */
};

#pragma clang attribute pop

/* The following have only zeros at the beginning, so the object need not contain them. */

/* The loader writes it before a walk. */
struct config {
	u64 local[PORTS / 64];  /* ports that are in ports */
	u64 remote[PORTS / 64]; /* remote ports that are watched */
	u32 steps;              /* buckets and sockets of a run */
	u32 orphans_are_roots;  /* as sock_i_uid() says: the uid of a socket without a process is 0 */
	u32 bound;              /* a namespace has bound set */
	u32 pad;
} cfg;

/* The loader writes inum and the ports before a walk, find() the rest. */
struct namespace {
	u64 net;   /* struct net; 0: not found */
	u64 ehash;
	u32 mask;
	u32 inum;
	u16 first, last; /* net.ipv4.ip_local_port_range; 0: destinations are not looked at */
	u8 bound;      /* look for sockets that are only bound, too */
	u8 incomplete; /* they may not all have been found. The programs set it */
	u16 found;     /* such sockets and lists */
};

/* Where a struct net is in all: 1 more than its position. The loader clears it before find(). */
struct namespaces {
	struct namespace all[MAX_NAMESPACES];
	u16 index[1 << NET_INDEX_BITS];
} nss;

/* Position in nss.all, by cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_NAMESPACES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, u32);
} cookies SEC(".maps");

struct port_key {
	u16 port;
	u16 namespace;
};

/* The bits of enum port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct port_key);
	__type(value, u8);
} ports SEC(".maps");

/* Sockets that are only bound, by their address. */
struct bound_socket {
	struct socket_record socket;
	u64 namespace;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_BOUND);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct bound_socket);
} bound SEC(".maps");

/* Lists of bind buckets that have connections, by the address of the bucket. */
struct list {
	u32 namespace;
	u32 ended; /* its end was seen, so a socket behind the connections was seen, too */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_BOUND);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct list);
} lists SEC(".maps");

/* What heads() looks at. The loader writes it before a run. */
struct heads {
	u16 ports[MAX_PORTS];
	u32 count;
	u32 namespace;
} hds;

/* What a socket has that nobody asked for is 0 here. */
struct group_key {
	u32 local[4]; /* as in the kernel; IPv4 in the first */
	u32 remote[4];
	u32 ifindex;
	u32 uid;
	u16 port;
	u16 remote_port;
	u16 namespace;
	u8 v6;
	u8 state;
	u8 kind;
	u8 flags;
	u8 pad[6];
};

#define KEY_WORDS (sizeof(struct group_key) / 8)

struct group {
	struct group_key key;
	u64 expires; /* the last timer of TIME_WAIT sockets, in jiffies */
	u32 count;
	u16 any_port; /* local port of one of the sockets */
	u16 pad;
};

/* The loader sets ehash, mask and bucket before the first run of a table, and reads the rest. */
struct results {
	struct group groups[MAX_GROUPS];

	u64 ehash;
	u32 mask;
	u32 bucket; /* the next one */
	u32 count;  /* of groups. The loader takes them and sets it to 0 */
	u32 done;   /* the table was read to its end */
	u32 full;   /* there is no room for the groups of the next bucket */
	u32 unexpected; /* the table does not look as it should */
	u32 again;  /* chains that were read again */
	u32 missed; /* buckets that could not be read, at any try */
	u64 sockets;
	u64 jiffies;
} res;

/* A copy of the beginning of a socket. */
struct copy {
	u8 bytes[COPY_SIZE];
};

/* Only the programs use it. */
struct scratch {
	u64 heads[HEADS + 8]; /* the verifier allows eight behind any */
	struct group chain[MAX_CHAIN];   /* sockets of the bucket that is being read */
	u16 groups[1 << GROUP_INDEX_BITS]; /* a group in res.groups, by hash of its key. It may be old */

	u64 node; /* the next of the chain; 0: the bucket has to be begun */
	u32 seen; /* in chain */
	u32 tries;
	u32 block; /* 1 more than the bucket of heads[0]; 0: none */
	u64 busy;  /* a bit for each head that was not empty */

	u32 last_namespace; /* of last_net */
	u64 last_net;
	struct port_key last_port;
	u32 last_bits; /* of last_port */

	struct list_head *net; /* for find() */
	struct list_head *first_net;

	struct copy copy; /* of the socket that is being read */

	/* For sockets that are only bound. */
	u32 pages[1 << PAGE_BITS]; /* see has_timewait() */
	struct bhash_walk list;
	struct common neighbour; /* copy of a socket of the list */
	struct bound_socket bound;
	u64 bucket; /* whose list it is */
	u32 connected; /* the list led to a connection */
	u32 followed;  /* by look_behind(), in this run */
	u32 next_port; /* of hds */
} own;

static struct namespace *namespace_at(u32 n) { return &nss.all[n & (MAX_NAMESPACES - 1)]; }

#define NULLS(bucket) (((u64)(bucket) << 1) | 1)

static u32 net_hash(u64 net)
{
	return (net * 0x9e3779b97f4a7c15ULL) >> (64 - NET_INDEX_BITS);
}

static u16 *net_index(u32 at) { return &nss.index[at & ((1 << NET_INDEX_BITS) - 1)]; }

static long find_net(u32 i, void *ctx)
{
	struct net___walk *net = (void *)own.net - OFFSET(struct net___walk, list);
	struct inet_hashinfo___walk *info = 0;
	struct namespace *ns;
	u32 inum = 0, *at, n, hash;
	u64 cookie = 0;

	if (FOLLOW(own.net, own.net->next) || !own.net) {
		res.unexpected = 1;
		return 1;
	}
	res.done = own.net == own.first_net;
	if (FOLLOW(cookie, net->net_cookie) || FOLLOW(inum, net->ns.inum))
		return res.done & 1; /* the mask is for the verifier */
	at = bpf_map_lookup_elem(&cookies, &cookie);
	if (!at)
		return res.done & 1;
	n = *at;
	ns = namespace_at(n);
	/* The head of the list, which is not in a struct net, cannot have both numbers. */
	if (ns->inum != inum || ns->net)
		return res.done & 1;
	if (FOLLOW(info, net->ipv4.tcp_death_row.hashinfo) || FOLLOW(ns->ehash, info->ehash) ||
	    FOLLOW(ns->mask, info->ehash_mask)) {
		res.unexpected = 1;
		return 1;
	}
	hash = net_hash((u64)net);
	for (u32 probe = 0; probe < NET_PROBES; probe++) {
		u16 *entry = net_index(hash + probe);

		if (!*entry) {
			*entry = n + 1;
			ns->net = (u64)net;
			break;
		}
	}
	return res.done & 1;
}

static long forget_page(u32 i, void *ctx)
{
	own.pages[i & ((1 << PAGE_BITS) - 1)] = 0;
	return 0;
}

/* Finds the namespaces that the loader has named, and their tables. */
SEC("raw_tp/sockstate")
int find(void *ctx)
{
	struct task_struct___walk *task = (void *)bpf_get_current_task();
	struct nsproxy *nsproxy = 0;
	struct net___walk *net = 0;

	res.done = res.unexpected = 0;
	if (!HAS(struct net___walk, net_cookie) || !HAS(struct net___walk, ipv4.tcp_death_row.hashinfo) ||
	    FOLLOW(nsproxy, task->nsproxy) || FOLLOW(net, nsproxy->net_ns) || !net) {
		res.unexpected = 1;
		return 0;
	}
	own.net = own.first_net = (void *)net + OFFSET(struct net___walk, list);
	bpf_loop(MAX_NETS, find_net, 0, 0);
	if (cfg.bound)
		bpf_loop(1 << PAGE_BITS, forget_page, 0, 0);
	return 0;
}

/* Notes that not all sockets of the namespace that are only bound may have been found. */
static long miss_bound(u32 n)
{
	namespace_at(n)->incomplete = 1;
	return 1;
}

/* Bounds what the user of a namespace can fill. */
static int has_room(u32 n)
{
	struct namespace *ns = namespace_at(n);

	if (ns->found >= 2 * MAX_BOUND_EACH) {
		ns->incomplete = 1;
		return 0;
	}
	ns->found++;
	return 1;
}

static void add_bound(struct sock_common *sk, struct common *c, u32 n)
{
	u64 key = (u64)sk;

	if (bpf_map_lookup_elem(&bound, &key) || !has_room(n))
		return;
	bhash_fill(&own.bound.socket, sk, c, cfg.orphans_are_roots);
	own.bound.namespace = n;
	if (bpf_map_update_elem(&bound, &key, &own.bound, BPF_ANY))
		miss_bound(n);
}

/* Looks at the next socket of a list. Returns whether the next but one has to be looked at. */
static int look_at_next(u32 n)
{
	struct sock_common *sk = bhash_next_socket(&own.list, &own.neighbour);
	u8 state;

	if (!sk) {
		miss_bound(n);
		return 0;
	}
	state = COPIED(&own.neighbour, struct sock_common, skc_state);
	if (state == TCP_CLOSE)
		add_bound(sk, &own.neighbour, n);
	else if (state != TCP_LISTEN)
		own.connected = 1;
	return !own.connected && own.list.socket;
}

static long heads_step(u32 i, void *ctx)
{
	struct bhash_walk *w = &own.list;
	struct list list = { .namespace = hds.namespace };
	u32 n = hds.namespace;

	if (w->socket) {
		own.connected = 0;
		if (look_at_next(n))
			return namespace_at(n)->incomplete & 1; /* the mask is for the verifier */
		w->socket = 0;
		if (own.connected && (!has_room(n) || bpf_map_update_elem(&lists, &own.bucket, &list, BPF_ANY)))
			return miss_bound(n);
	} else if (w->bucket2) {
		if (HAS(struct inet_bind2_bucket, bhash_node))
			own.bucket = (u64)w->bucket2 - OFFSET(struct inet_bind2_bucket, bhash_node);
		bhash_next_bucket2(w);
	} else if (w->bucket) {
		own.bucket = (u64)bhash_next_bucket(w);
	} else if (own.next_port < hds.count && own.next_port < MAX_PORTS) {
		bhash_start(w, hds.ports[own.next_port & (MAX_PORTS - 1)]);
		own.next_port++;
	} else {
		res.done = 1;
		return 1;
	}
	return w->broken ? miss_bound(n) : 0;
}

/* Looks at the sockets before the first connection, in each list of some ports. */
SEC("raw_tp/sockstate")
int heads(void *ctx)
{
	res.done = res.unexpected = 0;
	own.next_port = 0;
	if (bhash_open(&own.list, (void *)namespace_at(hds.namespace)->net))
		bpf_loop(MAX_STEPS, heads_step, 0, 0);
	if (!res.done)
		miss_bound(hds.namespace);
	return 0;
}

static int has(const u64 *set, u16 port)
{
	return (set[port / 64] & (1ULL << (port % 64))) != 0;
}

/* Returns MAX_NAMESPACES where nobody asked for the namespace. */
static u32 namespace_of(u64 net)
{
	u32 hash, n, found = MAX_NAMESPACES;

	if (net == own.last_net)
		return own.last_namespace;
	hash = net_hash(net);
	for (u32 probe = 0; probe < NET_PROBES; probe++) {
		n = *net_index(hash + probe);
		if (!n)
			break;
		if (namespace_at(n - 1)->net == net) {
			found = n - 1;
			break;
		}
	}
	own.last_net = net;
	own.last_namespace = found;
	return found;
}

static u32 bits_of(u16 namespace, u16 port)
{
	struct port_key key = { .port = port, .namespace = namespace };
	u8 *bits;

	if (!has(cfg.local, port))
		return 0;
	if (own.last_port.port == port && own.last_port.namespace == namespace)
		return own.last_bits;
	bits = bpf_map_lookup_elem(&ports, &key);
	own.last_port = key;
	own.last_bits = bits ? *bits : 0;
	return own.last_bits;
}

/* The flags that the connection of a request_sock will get from its listener: its own are not set. */
static u8 request_flags(struct copy *c)
{
	struct sock_common *listener = (void *)COPIED(c, struct sock_common, skc_listener);
	u8 reuse, reuseport, flags = 0;

	if (bpf_probe_read_kernel(&reuse, 1, BITS_BYTE(listener, skc_reuse)) ||
	    bpf_probe_read_kernel(&reuseport, 1, BITS_BYTE(listener, skc_reuseport)))
		return FLAG_UNKNOWN;
	if (BITS_VALUE(listener, skc_reuse, reuse))
		flags |= FLAG_REUSE;
	if (BITS_VALUE(listener, skc_reuseport, reuseport))
		flags |= FLAG_REUSEPORT;
	return flags;
}

static u8 flags_of(struct copy *c)
{
	u8 flags = 0;

	if (COPIED_BITS(c, struct sock_common, skc_reuse))
		flags |= FLAG_REUSE;
	if (COPIED_BITS(c, struct sock_common, skc_reuseport))
		flags |= FLAG_REUSEPORT;
	if (COPIED_BITS(c, struct sock_common, skc_ipv6only))
		flags |= FLAG_V6ONLY;
	return flags;
}

#define COPY_ADDR(to, c, type, v6, member4, member6)                                 \
	do {                                                                         \
		if (!(v6)) {                                                         \
			(to)[0] = COPIED(c, type, member4);                          \
			(to)[1] = (to)[2] = (to)[3] = 0;                             \
		} else if (HAS(type, member6)) {                                     \
			(to)[0] = COPIED(c, type, member6.in6_u.u6_addr32[0]);       \
			(to)[1] = COPIED(c, type, member6.in6_u.u6_addr32[1]);       \
			(to)[2] = COPIED(c, type, member6.in6_u.u6_addr32[2]);       \
			(to)[3] = COPIED(c, type, member6.in6_u.u6_addr32[3]);       \
		}                                                                    \
	} while (0)

#define END(type, member) (OFFSET(type, member) + sizeof(((type *)0)->member))
#define IN_COPY(type, member) (END(type, member) <= COPY_SIZE)

/* No more than is looked at: most of the time goes to wait for memory. */
#define READ_SIZE \
	(IN_COPY(struct inet_timewait_sock, tw_timer.expires) ? END(struct inet_timewait_sock, tw_timer.expires) : COPY_SIZE)

/* Whether the memory is still that of the socket that was copied, after other parts of it were read. */
static int is_same(struct sock_common *sk, struct copy *c)
{
	u32 hash = 0;

	return !FOLLOW(hash, ((struct sock_common___walk *)sk)->skc_hash) &&
	       hash == COPIED(c, struct sock_common___walk, skc_hash);
}

/*
 * What bind() looks at. Returns false where that could not be read: it is not in struct
 * sock_common.
 */
static int add_local(struct group *g, struct sock_common *sk, struct copy *c)
{
	g->key.port = COPIED(c, struct sock_common, skc_num);
	if (g->key.kind == KIND_REQUEST) {
		/*
		 * The address is left out: it is not set for an IPv4 client of an IPv6 listener, and
		 * bind() does not look at requests.
		 */
		g->key.flags = request_flags(c);
		return 1;
	}
	COPY_ADDR(g->key.local, c, struct sock_common, g->key.v6, skc_rcv_saddr, skc_v6_rcv_saddr);
	g->key.ifindex = COPIED(c, struct sock_common, skc_bound_dev_if);
	g->key.flags = flags_of(c);
	if (g->key.kind == KIND_FULL) {
		struct sock___bhash *full = (void *)sk;
		struct socket *process = 0;

		if (FOLLOW(g->key.uid, full->sk_uid.val) ||
		    (cfg.orphans_are_roots && FOLLOW(process, full->sk_socket)))
			return 0;
		if (cfg.orphans_are_roots && !process)
			g->key.uid = 0;
		return is_same(sk, c);
	}
	return 1;
}

/* Reads the state and timer. Returns false where that could not be read. */
static int read_timewait(struct group *g, struct sock_common *sk, struct copy *c)
{
	struct inet_timewait_sock *tw = (void *)sk;

	g->key.kind = KIND_TIMEWAIT;
	if (IN_COPY(struct inet_timewait_sock, tw_substate) && IN_COPY(struct inet_timewait_sock, tw_timer.expires)) {
		g->key.state = COPIED(c, struct inet_timewait_sock, tw_substate);
		g->expires = COPIED(c, struct inet_timewait_sock, tw_timer.expires);
		return 1;
	}
	return !FOLLOW(g->key.state, tw->tw_substate) && !FOLLOW(g->expires, tw->tw_timer.expires) && is_same(sk, c);
}

/* The entry for the memory page that a socket begins in, and what it holds for this page. */
static u32 *page_of(u64 sk) { return &own.pages[(sk >> 12) & ((1 << PAGE_BITS) - 1)]; }
static u32 page_tag(u64 sk) { return sk >> (12 + PAGE_BITS); }

/*
 * Whether this is the address of a TIME_WAIT socket, as far as is known. A page of memory has sockets of
 * one kind only: the kernel allocates each kind from slabs of its own.
 */
static int has_timewait(u64 sk) { return *page_of(sk) == page_tag(sk); }

/* The bind bucket whose list a connection is in. */
static u64 bucket_of(struct sock_common *sk, int timewait)
{
	struct inet_timewait_sock___walk *tw = (void *)sk;
	struct inet_connection_sock___walk *full = (void *)sk;

	if (!HAS(struct inet_bind_bucket___lists, bhash2))
		return timewait ? (u64)READ(tw->tw_tb) : (u64)READ(full->icsk_bind_hash);
	if (!HAS(struct inet_timewait_sock___walk, tw_tb2) || !HAS(struct inet_connection_sock___walk, icsk_bind2_hash))
		return 0;
	return timewait ? (u64)READ(tw->tw_tb2) : (u64)READ(full->icsk_bind2_hash);
}

/* Listeners take room, too: a user can put a thousand behind each connection. */
static long follow(u32 i, void *ctx)
{
	u32 n = *(u32 *)ctx;
	int more = look_at_next(n);

	own.followed++;
	if (more && COPIED(&own.neighbour, struct sock_common, skc_state) == TCP_LISTEN)
		has_room(n);
	return !more || namespace_at(n)->incomplete;
}

/* Looks at what comes after a connection in the list of its bind bucket, up to the next connection. */
static void look_behind(struct sock_common *sk, struct copy *c, u32 n, int timewait)
{
	struct hlist_node *next = COPIED(c, struct sock_common___bhash, skc_bind_node.next);
	struct list *list;
	u64 bucket;

	if (timewait)
		*page_of((u64)sk) = page_tag((u64)sk);
	if (namespace_at(n)->incomplete ||
	    (next && has_timewait((u64)next - OFFSET(struct sock_common___bhash, skc_bind_node))))
		return;
	own.list.net = (void *)COPIED(c, struct sock_common, skc_net.net);
	own.list.port = COPIED(c, struct sock_common, skc_num);
	own.list.socket = next;
	own.list.broken = own.connected = 0;
	if (next)
		bpf_loop(MAX_FOLLOWED, follow, &n, 0);
	if (own.connected || own.list.broken)
		return;
	if (own.list.socket) {
		miss_bound(n);
		return;
	}
	bucket = bucket_of(sk, timewait);
	list = bpf_map_lookup_elem(&lists, &bucket);
	if (list)
		list->ended = 1;
}

/* Keeps what was asked for of a socket. Returns false where it could not be read. */
static int take(struct sock_common *sk, struct copy *c)
{
	u16 port = COPIED(c, struct sock_common, skc_num);
	u16 remote_port = be16(COPIED(c, struct sock_common___walk, skc_dport));
	u64 net = (u64)COPIED(c, struct sock_common, skc_net.net);
	int remote = has(cfg.remote, remote_port), destination;
	u32 n = namespace_of(net), bits;
	struct namespace *ns;
	struct group *g;

	if (n >= MAX_NAMESPACES)
		return 1;
	ns = namespace_at(n);
	bits = bits_of(n, port);
	destination = port && remote_port && port >= ns->first && port <= ns->last && !(bits & PORT_SERVES);
	if (!(bits & PORT_WATCHED) && !remote && !destination)
		return 1;

	g = &own.chain[own.seen & (MAX_CHAIN - 1)];
	__builtin_memset(g, 0, sizeof(*g));
	g->count = 1;
	g->any_port = port;
	g->key.namespace = n;
	g->key.v6 = COPIED(c, struct sock_common, skc_family) == AF_INET6;
	g->key.state = COPIED(c, struct sock_common, skc_state);
	if (g->key.state == TCP_TIME_WAIT) {
		if (!read_timewait(g, sk, c))
			return 0;
	} else if (g->key.state == TCP_NEW_SYN_RECV) {
		/* This is what inet_diag shows. */
		g->key.state = TCP_SYN_RECV;
		g->key.kind = KIND_REQUEST;
	}
	if ((bits & PORT_WATCHED) && !add_local(g, sk, c))
		return 0;
	if ((bits & PORT_WATCHED) && ns->bound && g->key.kind != KIND_REQUEST)
		look_behind(sk, c, n, g->key.kind == KIND_TIMEWAIT);
	if (remote || destination)
		g->key.remote_port = remote_port;
	if (destination) {
		COPY_ADDR(g->key.local, c, struct sock_common, g->key.v6, skc_rcv_saddr, skc_v6_rcv_saddr);
		COPY_ADDR(g->key.remote, c, struct sock_common___walk, g->key.v6, skc_daddr, skc_v6_daddr);
	}
	own.seen++;
	return 1;
}

static long fold(u32 i, void *ctx)
{
	const struct group *from = &own.chain[i & (MAX_CHAIN - 1)];
	const u64 *key = (const u64 *)&from->key;
	struct group *g;
	u64 hash = 0, differs = 0;
	u16 *at;
	u32 n;

	for (u32 w = 0; w < KEY_WORDS; w++)
		hash = ((hash << 5 | hash >> 59) ^ key[w]) * 0x9e3779b97f4a7c15ULL;
	at = &own.groups[hash >> (64 - GROUP_INDEX_BITS)];
	n = *at;
	if (n < res.count) {
		g = &res.groups[n & (MAX_GROUPS - 1)];
		for (u32 w = 0; w < KEY_WORDS; w++)
			differs |= key[w] ^ ((const u64 *)&g->key)[w];
		if (!differs) {
			g->count++;
			if ((long)(from->expires - g->expires) > 0)
				g->expires = from->expires;
			return 0;
		}
	}
	/* Another group with the same hash gets a second entry. The loader adds them up. */
	n = res.count;
	res.groups[n & (MAX_GROUPS - 1)] = *from;
	res.count = n + 1;
	*at = n;
	return 0;
}

static void next_bucket(void)
{
	own.node = 0;
	own.tries = 0;
	res.bucket++;
}

/* Begins the bucket again, and gives it up where that was tried often. */
static long again(void)
{
	own.node = 0;
	res.again++;
	if (++own.tries >= MAX_TRIES) {
		res.missed++;
		next_bucket();
	}
	return 0;
}

static long end_chain(void)
{
	if (own.node != NULLS(res.bucket))
		return again();
	if (res.count + own.seen > MAX_GROUPS) {
		res.full = 1;
		return 1;
	}
	bpf_loop(own.seen, fold, 0, 0);
	next_bucket();
	return 0;
}

static long read_socket(void)
{
	struct sock_common *sk = (void *)own.node - OFFSET(struct sock_common___walk, skc_nulls_node);
	struct copy *c = &own.copy;

	if (bpf_probe_read_kernel(c, READ_SIZE, sk) ||
	    (COPIED(c, struct sock_common___walk, skc_hash) & res.mask) != res.bucket)
		return again();
	/* sock_diag passes over sockets without references, too. */
	if (COPIED(c, struct sock_common___walk, skc_refcnt.refs.counter)) {
		if (own.seen >= MAX_CHAIN) {
			res.missed++;
			next_bucket();
			return 0;
		}
		if (!take(sk, c))
			return again();
	}
	res.sockets++;
	own.node = (u64)COPIED(c, struct sock_common___walk, skc_nulls_node.next);
	if (!own.node)
		return again();
	if (own.node & 1)
		return end_chain();
	return 0;
}

/* Looks at eight heads. Without branches: the verifier follows each of them. */
static long look_at_heads(u32 i, void *ctx)
{
	u32 block = *(u32 *)ctx, first = (i * 8) & (HEADS - 1);
	const u64 *heads = &own.heads[first];
	u64 busy = 0;

#pragma unroll
	for (u32 n = 0; n < 8; n++) {
		u64 x = heads[n] ^ NULLS(block + first + n);

		busy |= (x | -x) >> 63 << n;
	}
	own.busy |= busy << first;
	return 0;
}

/*
 * Whether all heads are those of empty buckets: odd numbers that grow by two. One that is not a pointer, and
 * not the right number either, makes another sum.
 */
static int are_empty(u32 block)
{
	u64 odd = 1, sum = 0;

#pragma unroll
	for (u32 n = 0; n < HEADS; n++) {
		odd &= own.heads[n];
		sum += own.heads[n];
		asm volatile("" : "+r"(odd), "+r"(sum)); /* one after the other: there is little stack */
	}
	return odd && sum == HEADS * NULLS(block) + (u64)HEADS * (HEADS - 1);
}

static long unexpected(void)
{
	res.unexpected = 1;
	return 1;
}

/*
 * Passes over empty buckets, up to one that may have sockets. Most are empty, as a rule, so many heads
 * are read at once.
 */
static long skip_empty(const struct inet_ehash_bucket *table)
{
	u32 block = res.bucket & ~(HEADS - 1);
	u64 busy = 0;

	if (own.block != block + 1) {
		if (bpf_probe_read_kernel(own.heads, HEADS * 8, (void *)table + (u64)block * 8))
			return unexpected();
		own.busy = 0;
		if (!are_empty(block))
			bpf_loop(HEADS / 8, look_at_heads, &block, 0);
		own.block = block + 1;
	}
	busy = own.busy >> (res.bucket & (HEADS - 1));
	if (busy)
		res.bucket += lowest(busy);
	else
		res.bucket = block + HEADS;
	return 0;
}

static long begin_bucket(void)
{
	const struct inet_ehash_bucket *table = (void *)res.ehash;
	u64 head = 0;

	/* A smaller table is not read in blocks. */
	if (res.mask >= HEADS - 1 && res.bucket <= res.mask && skip_empty(table))
		return 1;
	if (res.bucket > res.mask) {
		res.done = 1;
		return 1;
	}
	own.seen = 0;
	if (bpf_probe_read_kernel(&head, sizeof(head), (void *)table + (u64)res.bucket * 8))
		return unexpected();
	if (head == NULLS(res.bucket)) {
		next_bucket();
		return 0;
	}
	if (!head || head & 1)
		return unexpected();
	own.node = head;
	return 0;
}

static long step(u32 i, void *ctx)
{
	if (own.node)
		return read_socket();
	if (own.followed >= MAX_FOLLOWED_RUN)
		return 1;
	return begin_bucket();
}

/* Reads the next part of the table. A bucket that is not read to its end is left to the next run. */
SEC("raw_tp/sockstate")
int walk(void *ctx)
{
	res.done = res.full = res.unexpected = 0;
	own.node = 0;
	own.block = 0;
	own.last_net = 0;
	own.last_port.port = 0;
	own.followed = 0;
	if (TYPE_SIZE(struct inet_ehash_bucket) != 8) {
		res.unexpected = 1;
		return 0;
	}
	bpf_loop(cfg.steps, step, 0, 0);
	res.jiffies = bpf_jiffies64();
	return 0;
}

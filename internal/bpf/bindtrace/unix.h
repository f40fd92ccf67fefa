/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Failed bind() calls of Unix sockets: counts by errno for each watched network namespace, and events
 * with the path. They have a ring, shares and counts of their own: no failure of a Unix socket takes the
 * place of another event.
 */
#ifndef SOCKSTATE_UNIX_H
#define SOCKSTATE_UNIX_H

/* UNIX_PATH_MAX, and sizeof(sa_family_t) before it: what unix_validate_addr accepts. */
enum { SUN_PATH_MAX = 108, SUN_PATH_AT = 2, UNIX_ERRORS = 16 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct task_struct___unix {
	struct nsproxy *nsproxy;
};

#pragma clang attribute pop

/* Class 0 is every other error. */
const volatile u8 unix_errno_class[ERRNO_MAX];

/* By the number of the slot of the other ports of the network namespace. */
struct unix_counts {
	u64 counts[UNIX_ERRORS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct unix_counts);
} unix_slots SEC(".maps");

const volatile u64 unix_ring_size;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} unix_events SEC(".maps");

/* A user has an eighth of EVENTS_BURST at once, and as many in a second: a quarter of the ring of the
 * default size. */
enum { UNIX_EVENT_NS = 8 * EVENT_NS };

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct user);
	__type(value, u64);
} unix_users SEC(".maps");

struct unix_event {
	u64 boot_ns;
	u64 cgroup_id;
	u64 started_ns;
	u32 pid;
	u32 tid;
	u32 uid;
	u32 user;
	u32 netns;
	u32 mntns; /* inode number of the caller's mount namespace; 0: not known */
	u32 error;
	u16 type;
	u16 path_len; /* bytes of sun_path that the call had; 0: none that the kernel would have read */
	u8 comm[COMM_LEN];
	u8 exe[EXE_LEN];
	u8 path[SUN_PATH_MAX];
	u8 zero[4];
};
const struct unix_event *unix_event_type;

static __always_inline u16 read_sun_path(u8 *path, const void *addr, s32 addrlen)
{
	u64 len = addrlen - SUN_PATH_AT;

	if (addrlen <= SUN_PATH_AT || addrlen > SUN_PATH_AT + SUN_PATH_MAX)
		return 0;
	/* The verifier has to see the bounds in the register of the call. */
	asm volatile("" : "+r"(len));
	len &= 127;
	if (len > SUN_PATH_MAX || bpf_probe_read_user(path, len, addr + SUN_PATH_AT))
		return 0;
	return len;
}

static __always_inline u32 current_mntns(void)
{
	struct task_struct___unix *task = (void *)bpf_get_current_task();
	struct mnt_namespace *ns;

	if (!HAS(struct task_struct___unix, nsproxy) || !HAS(struct mnt_namespace, ns.inum))
		return 0;
	ns = READ(READ(task->nsproxy)->mnt_ns);
	return READ(ns->ns.inum);
}

/* A function of its own, so that the verifier checks it apart from what the callers keep on their
 * stack. */
static __attribute__((noinline)) int unix_bind_failed(struct sock *sk, const void *addr, s32 addrlen, u32 error)
{
	struct net *net = READ(sk->__sk_common.skc_net.net);
	u32 netns = READ(net->ns.inum), nr = find_slot(netns, 0, 1), class = 0;
	struct unix_event *event = 0;
	struct unix_counts *counts;
	struct slot *slot;
	u64 now = bpf_ktime_get_boot_ns(), pid_tgid = bpf_get_current_pid_tgid();
	u32 user = current_user();

	slot = bpf_map_lookup_elem(&slots, &nr);
	counts = bpf_map_lookup_elem(&unix_slots, &nr);
	if (error < ERRNO_MAX)
		class = unix_errno_class[error];
	asm volatile("" : "+r"(class));
	if (slot && counts && class < UNIX_ERRORS) {
		__sync_fetch_and_add(&counts->counts[class], 1);
		slot->used = 1;
	}

	if (take_share_of(&unix_users, nr ? netns : 0, user, now, UNIX_EVENT_NS) &&
	    (nr || bpf_ringbuf_query(&unix_events, BPF_RB_AVAIL_DATA) < unix_ring_size / 2))
		event = bpf_ringbuf_reserve(&unix_events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&events_lost, 1);
		return 0;
	}
	event->boot_ns = now;
	event->cgroup_id = bpf_get_current_cgroup_id();
	event->pid = pid_tgid >> 32;
	event->tid = pid_tgid;
	event->uid = bpf_get_current_uid_gid();
	event->user = user;
	event->netns = netns;
	event->mntns = current_mntns();
	event->error = error;
	event->type = READ(sk->sk_type);
	read_process(&event->started_ns, event->comm, event->exe);
	event->path_len = read_sun_path(event->path, addr, addrlen);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif

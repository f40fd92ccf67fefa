/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel's types, helpers and constants that the eBPF programs use, and the struct members
 * that they read. preserve_access_index (CO-RE) makes the loader look up the offset of each
 * member in the BTF of the running kernel. So a struct here lists only the members that are
 * read, and their order and size need not be the kernel's.
 */
#ifndef SOCKSTATE_KERNEL_H
#define SOCKSTATE_KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef u16 umode_t;

/* How libbpf and cilium/ebpf spell section names and BTF map definitions. */
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define __always_inline inline __attribute__((always_inline))

struct seq_file;
struct task_struct;
struct tcp_sock;
struct tcp_timewait_sock;

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum { BPF_ANY = 0 };
enum { BPF_F_NO_PREALLOC = 1 << 0, BPF_F_MMAPABLE = 1 << 10 };
enum { BPF_RB_AVAIL_DATA = 0 };

#define AF_UNSPEC 0
#define AF_UNIX 1
#define AF_VSOCK 40
#define AF_INET 2
#define AF_INET6 10
#define SOCK_RAW 3
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_SCTP 132
#define IPPROTO_MPTCP 262

/* include/net/tcp_states.h */
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT2 5
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define TCP_NEW_SYN_RECV 12

/* include/net/sock.h, in sk_userlocks: the program has named the port. */
#define SOCK_BINDPORT_LOCK 8

/* The numbers are those of enum bpf_func_id, include/uapi/linux/bpf.h. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static u64 (*const bpf_get_current_uid_gid)(void) = (void *)15;
static u64 (*const bpf_get_current_task)(void) = (void *)35;
static u64 (*const bpf_get_socket_cookie)(void *sk) = (void *)46;
static u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
static long (*const bpf_probe_read_user)(void *dst, u32 size, const void *src) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;
static long (*const bpf_probe_read_kernel_str)(void *dst, u32 size, const void *src) = (void *)115;
static u64 (*const bpf_jiffies64)(void) = (void *)118;
static u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*const bpf_seq_write)(struct seq_file *m, const void *data, u32 len) = (void *)127;
static long (*const bpf_ringbuf_output)(void *ring, const void *data, u64 size, u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static u64 (*const bpf_ringbuf_query)(void *ring, u64 flags) = (void *)134;
static struct tcp_sock *(*const bpf_skc_to_tcp_sock)(void *sk) = (void *)137;
static struct tcp_timewait_sock *(*const bpf_skc_to_tcp_timewait_sock)(void *sk) = (void *)138;
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
static void *(*const bpf_task_pt_regs)(struct task_struct *task) = (void *)175;
static long (*const bpf_loop)(u32 count, void *callback, void *ctx, u64 flags) = (void *)181;

/* One member of a kernel struct; 0 where it cannot be read. */
#define READ(member)                                                     \
	({                                                               \
		typeof(member) read_value = 0;                           \
		bpf_probe_read_kernel(&read_value, sizeof(read_value), &(member)); \
		read_value;                                              \
	})

/* What __builtin_preserve_field_info can be asked: enum bpf_core_relo_kind. */
enum {
	FIELD_BYTE_OFFSET = 0,
	FIELD_BYTE_SIZE = 1,
	FIELD_EXISTS = 2,
	FIELD_LSHIFT_U64 = 4,
	FIELD_RSHIFT_U64 = 5,
};

/* Whether the running kernel has the member of a struct. */
#define HAS(type, member) __builtin_preserve_field_info(((type *)0)->member, FIELD_EXISTS)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BITFIELD_START(value, size) ((void *)&(value))
#define be16(x) __builtin_bswap16(x)
#define be32(x) __builtin_bswap32(x)
#else
#define BITFIELD_START(value, size) ((void *)&(value) + (8 - (size)))
#define be16(x) (x)
#define be32(x) (x)
#endif

/* A bitfield, which has no address; 0 where it cannot be read. */
#define READ_BITS(ptr, member)                                           \
	({                                                               \
		u64 read_bits = 0;                                       \
		u32 read_size = __builtin_preserve_field_info((ptr)->member, FIELD_BYTE_SIZE); \
		bpf_probe_read_kernel(BITFIELD_START(read_bits, read_size), read_size, \
			(const void *)(ptr) +                            \
			__builtin_preserve_field_info((ptr)->member, FIELD_BYTE_OFFSET)); \
		read_bits <<= __builtin_preserve_field_info((ptr)->member, FIELD_LSHIFT_U64); \
		read_bits >>= __builtin_preserve_field_info((ptr)->member, FIELD_RSHIFT_U64); \
		read_bits;                                               \
	})

/*
 * A bitfield of type unsigned char behind a pointer that the verifier knows: its byte, and its
 * value in that byte.
 */
#define BITS_BYTE(ptr, member) \
	((const u8 *)(ptr) + __builtin_preserve_field_info((ptr)->member, FIELD_BYTE_OFFSET))
#define BITS_VALUE(ptr, member, byte)                                                        \
	((u64)(byte) << __builtin_preserve_field_info((ptr)->member, FIELD_LSHIFT_U64) >> \
	 __builtin_preserve_field_info((ptr)->member, FIELD_RSHIFT_U64))

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	u32 inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		u32 u6_addr32[4];
	} in6_u;
};

struct sock;

struct sock_common {
	u32 skc_rcv_saddr;
	u16 skc_num;
	u16 skc_family;
	volatile unsigned char skc_state;
	u8 skc_reuse : 4;
	u8 skc_reuseport : 1;
	u8 skc_ipv6only : 1;
	s32 skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_rcv_saddr;
	struct sock *skc_listener;
};

struct dst_entry;

struct sock {
	struct sock_common __sk_common;
	struct dst_entry *sk_dst_cache;
	u16 sk_type;
	u16 sk_protocol;
};

typedef struct {
	u32 val;
} kuid_t;

struct inet_bind_bucket {
	int l3mdev;
	u16 port;
	signed char fastreuse;
	signed char fastreuseport;
	kuid_t fastuid;
	struct in6_addr fast_v6_rcv_saddr;
	u32 fast_rcv_saddr;
	u16 fast_sk_family;
	_Bool fast_ipv6_only;
};

struct inet_connection_sock {
	struct inet_bind_bucket *icsk_bind_hash;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
};

struct timer_list {
	unsigned long expires;
};

struct inet_timewait_sock {
	struct inet_bind_bucket *tw_tb;
	volatile unsigned char tw_substate;
	struct timer_list tw_timer;
};

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
};

/* CONFIG_MPTCP */
struct mptcp_sock {
	struct sock *first;
};

struct socket {
	struct sock *sk;
};

struct inode {
	umode_t i_mode;
};

struct file {
	void *private_data;
	struct inode *f_inode;
};

struct fdtable {
	u32 max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct user_namespace {
	struct user_namespace *parent;
	kuid_t owner;
};

struct cred {
	struct user_namespace *user_ns;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file___path {
	struct path f_path;
};

struct mm_struct {
	struct file___path *exe_file;
};

struct task_struct {
	struct files_struct *files;
	struct cred *cred;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	u64 start_boottime;
	u8 comm[16];
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

/* Context of iter/tcp. */
struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
	u32 uid;
};

/* The loader ignores ___ and what follows when it looks up a type by its name. */
struct pt_regs___x86 {
	u64 bx;
	u64 cx;
	u64 ax;
	u64 dx;
	u64 si;
	u64 di;
	u64 orig_ax;
};

struct pt_regs___arm64 {
	u64 orig_x0;
	u64 regs[31];
	s32 syscallno;
};

#pragma clang attribute pop

/* Context of the tracepoints syscalls/sys_enter_* and sys_exit_*: struct syscall_trace_enter and
 * syscall_trace_exit of kernel/trace/trace.h. events/syscalls/sys_enter_bind/format has the layout:
 * 8 bytes common, nr, padding. */
struct syscall_enter {
	u64 common;
	s32 nr;
	u64 args[6];
};

struct syscall_exit {
	u64 common;
	s32 nr;
	u64 ret;
};

/* enum bpf_type_info_kind, BPF_CORE_TYPE_SIZE */
#define TYPE_SIZE(type) __builtin_preserve_type_info(*(type *)0, 1)
#define OFFSET(type, member) __builtin_preserve_field_info(((type *)0)->member, FIELD_BYTE_OFFSET)

/* Reads a member of a kernel struct into to. It is not 0 where that failed. */
#define FOLLOW(to, from)                                                        \
	({                                                                      \
		typeof(to) follow_to = 0;                                       \
		long follow_err = bpf_probe_read_kernel(&follow_to, sizeof(follow_to), (const void *)&(from)); \
		to = follow_to;                                                 \
		follow_err;                                                     \
	})

/* A copy of struct sock_common, read at once: what does not fit is never looked at. */
struct common {
	u8 bytes[136];
};

#define COPIED(copy, type, member) \
	(*(typeof(((type *)0)->member) *)((copy)->bytes + OFFSET(type, member)))
#define COPIED_BITS(copy, type, member) \
	BITS_VALUE((type *)0, member, (copy)->bytes[OFFSET(type, member)])

/*
 * The position of the lowest bit that is set. A multiplication by a De Bruijn sequence moves a different
 * pattern to the top for each. Branches would make the verifier follow each of them.
 */
static const u8 positions[64] = {
	0, 1, 48, 2, 57, 49, 28, 3, 61, 58, 50, 42, 38, 29, 17, 4,
	62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
	63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
	46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9, 13, 8, 7, 6,
};

static u32 lowest(u64 bits)
{
	return positions[((bits & -bits) * 0x03f79d71b4cb0a89ULL) >> 58];
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What bindtrace.c needs of the kernel, and no more: types, helpers, and the
 * struct members it reads. preserve_access_index (CO-RE) makes the loader look
 * up each member's offset in the BTF of the kernel that runs, so order, size
 * and neighbours here mean nothing.
 */
#ifndef BINDTRACE_KERNEL_H
#define BINDTRACE_KERNEL_H

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

struct task_struct;

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum { BPF_ANY = 0, BPF_NOEXIST = 1 };
enum { BPF_F_MMAPABLE = 1 << 10 };

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static u64 (*bpf_get_current_uid_gid)(void) = (void *)15;
static long (*bpf_get_current_comm)(void *buf, u32 size) = (void *)16;
static u64 (*bpf_get_current_task)(void) = (void *)35;
static u64 (*bpf_get_current_cgroup_id)(void) = (void *)80;
static long (*bpf_map_push_elem)(void *map, const void *value, u64 flags) = (void *)87;
static long (*bpf_map_pop_elem)(void *map, void *value) = (void *)88;
static long (*bpf_probe_read_user)(void *dst, u32 size, const void *src) = (void *)112;
static long (*bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;
static u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;
static void *(*bpf_ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static void *(*bpf_task_pt_regs)(struct task_struct *task) = (void *)175;

/* One member of a kernel struct; 0 where it cannot be read. */
#define READ(member)                                                     \
	({                                                               \
		typeof(member) read_value = 0;                           \
		bpf_probe_read_kernel(&read_value, sizeof(read_value), &(member)); \
		read_value;                                              \
	})

/* enum bpf_field_info_kind of clang's __builtin_preserve_field_info */
enum {
	FIELD_BYTE_OFFSET = 0,
	FIELD_BYTE_SIZE = 1,
	FIELD_EXISTS = 2,
	FIELD_LSHIFT_U64 = 4,
	FIELD_RSHIFT_U64 = 5,
};

/* Whether the kernel that runs has the member of a struct. */
#define HAS(type, member) __builtin_preserve_field_info(((type *)0)->member, FIELD_EXISTS)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BITFIELD_START(value, size) ((void *)&(value))
#define be16(x) __builtin_bswap16(x)
#else
#define BITFIELD_START(value, size) ((void *)&(value) + (8 - (size)))
#define be16(x) (x)
#endif

/* The same for a bitfield, which has no address. */
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
		u8 u6_addr8[16];
	} in6_u;
};

struct sock_common {
	u32 skc_rcv_saddr;
	u16 skc_num;
	u16 skc_family;
	u8 skc_reuse : 4;
	u8 skc_reuseport : 1;
	u8 skc_ipv6only : 1;
	s32 skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_rcv_saddr;
};

struct dst_entry;

struct sock {
	struct sock_common __sk_common;
	struct dst_entry *sk_dst_cache;
	u16 sk_type;
	u16 sk_protocol;
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

struct task_struct {
	struct files_struct *files;
};

/* What is behind ___ is not part of the name that is looked up. */
struct pt_regs___x86 {
	u64 di;
	u64 si;
	u64 dx;
};

struct pt_regs___arm64 {
	u64 orig_x0;
	u64 regs[31];
};

#pragma clang attribute pop

/* Context of the tracepoints syscalls/sys_enter_* and sys_exit_*: struct
 * syscall_trace_enter and syscall_trace_exit of kernel/trace/trace.h, laid out
 * as events/syscalls/sys_enter_bind/format says: 8 bytes common, nr, padding. */
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

#endif

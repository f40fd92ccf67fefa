//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Writes a record for each descriptor that refers to a socket. The kernel shows the tasks of the
 * pid namespace of whoever opens the iterator, without the threads that share the descriptors of
 * their main thread.
 */
#include "../kernel.h"

char LICENSE[] SEC("license") = "GPL";

struct record {
	u64 start; /* of the process, in nanoseconds after boot */
	u32 pid;   /* of the process, in the initial pid namespace */
	u32 tid;   /* of the thread */
	u32 inode; /* of the socket, in sockfs */
	u32 fd;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct inode___number {
	unsigned long i_ino;
};

struct task_struct___ids {
	s32 pid;
	s32 tgid;
};

/* Context of iter/task_file. */
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

#pragma clang attribute pop

/* enum bpf_func_id, since Linux 5.11. */
static struct socket *(*const bpf_sock_from_file)(struct file *file) = (void *)162;

SEC("iter/task_file")
int sockfiles(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct record r = {};

	/* A file with the mode S_IFSOCK may also be the path of a Unix socket, opened by O_PATH. */
	if (!task || !file || !bpf_sock_from_file(file))
		return 0;
	r.start = task->group_leader->start_boottime;
	r.pid = ((struct task_struct___ids *)task)->tgid;
	r.tid = ((struct task_struct___ids *)task)->pid;
	r.inode = ((struct inode___number *)file->f_inode)->i_ino;
	r.fd = ctx->fd;
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	return 0;
}

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
	u32 inherited; /* see is_inherited */
	u32 pad;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct inode___number {
	unsigned long i_ino;
};

struct cred___ids {
	kuid_t euid;
	kuid_t egid; /* a kgid_t */
};

struct file___cred {
	struct cred___ids *f_cred;
};

struct task_struct___cred {
	struct cred___ids *cred;
};

struct list_head {
	struct list_head *next;
};

struct wait_queue_head {
	struct list_head head;
};

struct socket_wq {
	struct wait_queue_head wait;
};

struct sock___wq {
	struct socket_wq *sk_wq;
};

struct socket___sk {
	struct sock___wq *sk;
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

/*
 * Whether the task has the socket from another process, and nobody waits for what it has.
 *
 * A file keeps the credentials that its opener had (f_cred). fork() and execve() give a process new ones with
 * the same ids. So they are the same object only in the process that has opened the file, unless it has changed
 * its credentials since. A server that has done so mostly has other ids by now, and is not meant. accept(),
 * epoll and poll() wait in the queue of the socket (sk_wq).
 */
static u32 is_inherited(struct task_struct *task, struct file *file, struct socket *socket)
{
	struct cred___ids *opener = READ(((struct file___cred *)file)->f_cred);
	struct cred___ids *own = READ(((struct task_struct___cred *)task)->cred);
	struct sock___wq *sk = READ(((struct socket___sk *)socket)->sk);
	struct socket_wq *wq;

	if (!opener || !own || !sk || opener == own)
		return 0;
	if (READ(opener->euid.val) != READ(own->euid.val) || READ(opener->egid.val) != READ(own->egid.val))
		return 0;
	wq = READ(sk->sk_wq);
	return wq && READ(wq->wait.head.next) == &wq->wait.head;
}

SEC("iter/task_file")
int sockfiles(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct record r = {};
	struct socket *socket;

	if (!task || !file)
		return 0;
	/* A file with the mode S_IFSOCK may also be the path of a Unix socket, opened by O_PATH. */
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	r.start = task->group_leader->start_boottime;
	r.pid = ((struct task_struct___ids *)task)->tgid;
	r.tid = ((struct task_struct___ids *)task)->pid;
	r.inode = ((struct inode___number *)file->f_inode)->i_ino;
	r.fd = ctx->fd;
	r.inherited = is_inherited(task, file, socket);
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	return 0;
}

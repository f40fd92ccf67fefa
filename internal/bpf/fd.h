/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef SOCKSTATE_FD_H
#define SOCKSTATE_FD_H

#include "kernel.h"

/* Does what sockfd_lookup_light does. An open file of type S_IFSOCK is in sockfs: a socket in
 * another file system can be opened with O_PATH only, and then has no private_data. */
static __always_inline struct sock *socket_of(s32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct files_struct *files = READ(task->files);
	struct fdtable *fdt = READ(files->fdt);
	struct file **table, *file = 0;
	struct inode *inode;
	struct socket *sock;

	if ((u32)fd >= READ(fdt->max_fds))
		return 0;
	table = READ(fdt->fd);
	bpf_probe_read_kernel(&file, sizeof(file), table + (u32)fd);
	if (!file)
		return 0;
	inode = READ(file->f_inode);
	if ((READ(inode->i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	sock = READ(file->private_data);
	if (!sock)
		return 0;
	return READ(sock->sk);
}

#endif

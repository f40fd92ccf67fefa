/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Whether a privilege is missing that bind() to a low port needs: __inet_bind returns EACCES for a port
 * below net.ipv4.ip_unprivileged_port_start without CAP_NET_BIND_SERVICE. Security modules return
 * EACCES, too.
 */
#ifndef SOCKSTATE_PRIVILEGE_H
#define SOCKSTATE_PRIVILEGE_H

enum { CAP_NET_BIND_SERVICE = 10 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct netns_ipv4___privilege {
	s32 sysctl_ip_prot_sock; /* Linux 4.11 */
};

struct net___privilege {
	struct user_namespace *user_ns;
	struct netns_ipv4___privilege ipv4;
};

/* Before Linux 6.3, an array of two u32. */
typedef struct {
	u64 val;
} kernel_cap_t___privilege;

struct cred___privilege {
	kuid_t euid;
	kernel_cap_t___privilege cap_effective;
};

#pragma clang attribute pop

/* net.ipv4.ip_unprivileged_port_start; negative where the kernel does not have it. */
static __always_inline s32 unprivileged_start(void *net)
{
	if (!HAS(struct net___privilege, ipv4.sysctl_ip_prot_sock))
		return -1;
	return READ(((struct net___privilege *)net)->ipv4.sysctl_ip_prot_sock);
}

/* ns_capable(net->user_ns, CAP_NET_BIND_SERVICE) of the calling thread, without the security modules:
 * see cap_capable. */
static __always_inline int may_bind_low_ports(void *net)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cred *cred = READ(task->cred);
	struct cred___privilege *privilege = (void *)cred;
	struct user_namespace *own = READ(cred->user_ns);
	struct user_namespace *ns = READ(((struct net___privilege *)net)->user_ns);
	u32 low[2] = {};

	/* The kernel allows 33 levels: create_user_ns. */
	for (u32 i = 0; i < 34; i++) {
		struct user_namespace *parent;

		if (ns == own) {
			bpf_probe_read_kernel(low, sizeof(low), &privilege->cap_effective);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
			if (HAS(struct cred___privilege, cap_effective.val))
				low[0] = low[1];
#endif
			return low[0] >> CAP_NET_BIND_SERVICE & 1;
		}
		parent = READ(ns->parent);
		if (!parent)
			break;
		if (parent == own && READ(ns->owner.val) == READ(privilege->euid.val))
			return 1;
		ns = parent;
	}
	return 0;
}

#endif

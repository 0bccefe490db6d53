// SPDX-License-Identifier: GPL-2.0
/*
 * Policies of IPsec in the NIC: which packets it encrypts in mode packet, and
 * which it takes from the wire only if they were. What the NIC demands of one is
 * what mlx5 does.
 */
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <net/xfrm.h>

#include "ipsec.h"
#include "simnic.h"

static bool simnic_ports_match(const struct xfrm_selector *sel,
			       const struct simnic_ipsec_packet *packet)
{
	return !((packet->sport ^ sel->sport) & sel->sport_mask) &&
	       !((packet->dport ^ sel->dport) & sel->dport_mask);
}

static bool simnic_policy_matches(const struct simnic_ipsec_policy *policy,
				  const struct simnic_ipsec_packet *packet)
{
	const struct xfrm_selector *sel = &policy->sel;

	return policy->family == packet->family &&
	       (!sel->proto || sel->proto == packet->proto) &&
	       addr_match(&packet->daddr, &sel->daddr, sel->prefixlen_d) &&
	       addr_match(&packet->saddr, &sel->saddr, sel->prefixlen_s) &&
	       simnic_ports_match(sel, packet);
}

/* The first that is about the packet, under RCU; NULL: none is. */
const struct simnic_ipsec_policy *
simnic_policy_find(struct simnic_ipsec *ipsec, bool in, const struct simnic_ipsec_packet *packet)
{
	const struct simnic_ipsec_policy *policy;

	list_for_each_entry_rcu(policy, &ipsec->policies[in], list) {
		if (simnic_policy_matches(policy, packet))
			return policy;
	}
	return NULL;
}

static int simnic_policy_check(const struct xfrm_policy *x, struct netlink_ext_ack *extack)
{
	const struct xfrm_tmpl *tmpl = &x->xfrm_vec[0];

	if (x->type != XFRM_POLICY_TYPE_MAIN) {
		NL_SET_ERR_MSG_MOD(extack, "the only type of policy is main");
		return -EINVAL;
	}
	if (x->xfrm_nr > 1) {
		NL_SET_ERR_MSG_MOD(extack, "a policy has one template at most");
		return -EINVAL;
	}
	if (x->xdo.dir != XFRM_DEV_OFFLOAD_IN && x->xdo.dir != XFRM_DEV_OFFLOAD_OUT) {
		NL_SET_ERR_MSG_MOD(extack, "a policy of forwarded packets is not offloaded");
		return -EINVAL;
	}
	if (x->selector.proto != IPPROTO_IP && x->selector.proto != IPPROTO_UDP &&
	    x->selector.proto != IPPROTO_TCP) {
		NL_SET_ERR_MSG_MOD(extack, "the selector's protocol has to be any, TCP or UDP");
		return -EINVAL;
	}
	if (x->mark.m || x->if_id) {
		NL_SET_ERR_MSG_MOD(extack, "the NIC knows no marks and no interface ids");
		return -EINVAL;
	}
	if (!x->xfrm_nr)
		return 0;
	if (tmpl->mode != XFRM_MODE_TRANSPORT) {
		NL_SET_ERR_MSG_MOD(extack, "mode packet is for transport mode alone");
		return -EINVAL;
	}
	if (tmpl->id.proto != IPPROTO_ESP) {
		NL_SET_ERR_MSG_MOD(extack, "the only protocol is ESP");
		return -EINVAL;
	}
	if (!tmpl->reqid) {
		NL_SET_ERR_MSG_MOD(extack, "mode packet needs a reqid");
		return -EINVAL;
	}
	return 0;
}

/* The one with the lowest number first, and of equal ones the older. */
static void simnic_policy_insert(struct simnic_ipsec *ipsec, struct simnic_ipsec_policy *policy)
{
	struct list_head *head = &ipsec->policies[policy->in];
	struct simnic_ipsec_policy *other;

	list_for_each_entry(other, head, list) {
		if (other->priority > policy->priority)
			break;
	}
	/* At the list's end @other is its head. */
	list_add_tail_rcu(&policy->list, &other->list);
	ipsec->npolicies++;
}

int simnic_policy_add(struct xfrm_policy *x, struct netlink_ext_ack *extack)
{
	const struct simnic_netdev *priv = netdev_priv(x->xdo.dev);
	struct simnic_ipsec *ipsec = priv->port->nic->ipsec;
	struct simnic_ipsec_policy *policy;
	int err;

	err = simnic_policy_check(x, extack);
	if (err)
		return err;
	policy = kzalloc(sizeof(*policy), GFP_KERNEL);
	if (!policy)
		return -ENOMEM;
	policy->ipsec = ipsec;
	policy->sel = x->selector;
	policy->family = x->family;
	policy->priority = x->priority;
	policy->in = x->xdo.dir == XFRM_DEV_OFFLOAD_IN;
	policy->block = x->action == XFRM_POLICY_BLOCK;
	policy->encrypted = x->xfrm_nr && !x->xfrm_vec[0].optional;
	policy->reqid = x->xfrm_nr ? x->xfrm_vec[0].reqid : 0;
	policy->spi = x->xfrm_nr ? x->xfrm_vec[0].id.spi : 0;

	spin_lock_bh(&ipsec->lock);
	if (ipsec->npolicies < SIMNIC_POLICIES_MAX) {
		err = simnic_ipsec_packet_get(ipsec, extack);
	} else {
		NL_SET_ERR_MSG_FMT_MOD(extack, "the table of policies is full (%u)",
				       SIMNIC_POLICIES_MAX);
		err = -ENOSPC;
	}
	if (!err)
		simnic_policy_insert(ipsec, policy);
	spin_unlock_bh(&ipsec->lock);
	if (err)
		kfree(policy);
	else
		x->xdo.offload_handle = (unsigned long)policy;
	return err;
}

void simnic_policy_delete(struct xfrm_policy *x)
{
	struct simnic_ipsec_policy *policy = (struct simnic_ipsec_policy *)x->xdo.offload_handle;

	if (!policy)
		return;
	x->xdo.offload_handle = 0;
	spin_lock_bh(&policy->ipsec->lock);
	list_del_rcu(&policy->list);
	policy->ipsec->npolicies--;
	simnic_ipsec_packet_put(policy->ipsec);
	spin_unlock_bh(&policy->ipsec->lock);
	kfree_rcu(policy, rcu);
}

/* Its entry went when it was deleted: packets that are under way name no policy. */
void simnic_policy_free(struct xfrm_policy *x)
{
	simnic_policy_delete(x);
}

static void simnic_policy_show(const struct simnic_ipsec_policy *policy, struct seq_file *seq)
{
	const struct xfrm_selector *sel = &policy->sel;

	if (policy->family == AF_INET)
		seq_printf(seq, "%s %pI4/%u %pI4/%u", policy->in ? "in" : "out", &sel->saddr.a4,
			   sel->prefixlen_s, &sel->daddr.a4, sel->prefixlen_d);
	else
		seq_printf(seq, "%s %pI6c/%u %pI6c/%u", policy->in ? "in" : "out",
			   &sel->saddr.in6, sel->prefixlen_s, &sel->daddr.in6, sel->prefixlen_d);
	seq_printf(seq, " proto %u sport %u dport %u priority %u %s reqid %u\n", sel->proto,
		   ntohs(sel->sport), ntohs(sel->dport), policy->priority,
		   policy->block ? "block" : policy->encrypted ? "encrypted" : "allow",
		   policy->reqid);
}

/* One line per policy. */
void simnic_policies_show(struct simnic_ipsec *ipsec, struct seq_file *seq)
{
	const struct simnic_ipsec_policy *policy;
	int in;

	rcu_read_lock();
	for (in = 0; in < 2; in++) {
		list_for_each_entry_rcu(policy, &ipsec->policies[in], list)
			simnic_policy_show(policy, seq);
	}
	rcu_read_unlock();
}

// SPDX-License-Identifier: GPL-2.0
/*
 * From flow_action entries to actions, with a sentence for each refusal. What is
 * accepted here is carried out exactly as the software path carries it out.
 */
#include <linux/if_vlan.h>
#include <linux/tc_act/tc_csum.h>
#include <linux/tc_act/tc_ct.h>
#include <net/flow_offload.h>

#include "action.h"
#include "compat.h"
#include "ct.h"
#include "lag.h"
#include "simnic.h"
#include "table.h"
#include "tunnel.h"

#define SIMNIC_CSUM_FLAGS	(TCA_CSUM_UPDATE_FLAG_IPV4HDR | TCA_CSUM_UPDATE_FLAG_ICMP | \
				 TCA_CSUM_UPDATE_FLAG_TCP | TCA_CSUM_UPDATE_FLAG_UDP)

static const char * const simnic_action_names[] = {
	[SIMNIC_ACT_REDIRECT]		= "redirect",
	[SIMNIC_ACT_MIRROR]		= "mirror",
	[SIMNIC_ACT_DROP]		= "drop",
	[SIMNIC_ACT_ACCEPT]		= "accept",
	[SIMNIC_ACT_TRAP]		= "trap",
	[SIMNIC_ACT_GOTO]		= "goto",
	[SIMNIC_ACT_VLAN_PUSH]		= "vlan_push",
	[SIMNIC_ACT_VLAN_POP]		= "vlan_pop",
	[SIMNIC_ACT_VLAN_MANGLE]	= "vlan_mangle",
	[SIMNIC_ACT_MANGLE]		= "pedit",
	[SIMNIC_ACT_ADD]		= "pedit_add",
	[SIMNIC_ACT_CSUM]		= "csum",
	[SIMNIC_ACT_TUNNEL_SET]		= "tunnel_set",
	[SIMNIC_ACT_TUNNEL_UNSET]	= "tunnel_unset",
	[SIMNIC_ACT_CT]			= "ct",
	[SIMNIC_ACT_CT_CLEAR]		= "ct_clear",
};

static_assert(ARRAY_SIZE(simnic_action_names) == SIMNIC_ACT_KINDS);

const char *simnic_action_name(enum simnic_action_kind kind)
{
	return simnic_action_names[kind];
}

static bool simnic_action_outputs(const struct simnic_action *action)
{
	return action->kind == SIMNIC_ACT_REDIRECT || action->kind == SIMNIC_ACT_MIRROR;
}

/* Gives back what simnic_actions_parse() took, or the part that it came to. */
void simnic_actions_release(struct simnic_action *actions, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (simnic_action_outputs(&actions[i]) && actions[i].out.encap)
			simnic_encap_put(actions[i].out.encap);
		else if (actions[i].kind == SIMNIC_ACT_CT && actions[i].ct.zone)
			simnic_zone_put(actions[i].ct.zone);
	}
}

/*
 * Whether what the rule did may have to be undone after it has been hit: a tunnel
 * may have no way, and a later chain no rule where the host cannot go on from it.
 */
bool simnic_actions_may_undo(const struct simnic_action *actions, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		if ((!SIMNIC_RESTORES && actions[i].kind == SIMNIC_ACT_GOTO) ||
		    (simnic_action_outputs(&actions[i]) && actions[i].out.encap))
			return true;
	return false;
}

static bool simnic_action_is_last(enum simnic_action_kind kind)
{
	switch (kind) {
	case SIMNIC_ACT_REDIRECT:
	case SIMNIC_ACT_DROP:
	case SIMNIC_ACT_ACCEPT:
	case SIMNIC_ACT_TRAP:
	case SIMNIC_ACT_GOTO:
		return true;
	default:
		return false;
	}
}

/* The port that a netdev of the host stands for. */
static struct simnic_port *simnic_action_port(struct simnic *nic, const struct net_device *dev,
					      struct netlink_ext_ack *extack)
{
	const struct simnic_netdev *priv;
	struct simnic_port *port;

	if (dev && netif_is_lag_master(dev)) {
		port = simnic_lag_port(nic, dev);
		if (!port)
			NL_SET_ERR_MSG_MOD(extack, "bond is not one of this card's uplinks alone");
		return port;
	}
	if (!dev || !simnic_is_host_netdev(dev)) {
		NL_SET_ERR_MSG_MOD(extack, "output device is not a port of a simnic");
		return NULL;
	}
	priv = netdev_priv(dev);
	if (!simnic_same_card(nic, priv->port->nic)) {
		NL_SET_ERR_MSG_MOD(extack, "output device belongs to another NIC");
		return NULL;
	}
	return priv->port;
}

/* What actions have changed so far, so that what it needs after it can be demanded. */
struct simnic_rewrites {
	const struct ip_tunnel_info *tunnel;	/* of the last tunnel_key set */
	bool ipv4_header;
	bool pseudo_header;	/* addresses, part of every L4 checksum */
	bool tcp, udp;
};

struct simnic_rewritable {
	unsigned int first, last;	/* bytes of the header */
	u8 bits;			/* of each that may change */
};

static const struct simnic_rewritable simnic_rewritable_eth[] = {
	{ 0, 11, 0xff }, { }
};

static const struct simnic_rewritable simnic_rewritable_ip4[] = {
	{ 1, 1, 0xff }, { 8, 8, 0xff }, { 12, 19, 0xff }, { }
};

static const struct simnic_rewritable simnic_rewritable_ip6[] = {
	{ 0, 0, 0x0f }, { 1, 3, 0xff }, { 7, 7, 0xff }, { 8, 39, 0xff }, { }
};

static const struct simnic_rewritable simnic_rewritable_l4[] = {
	{ 0, 3, 0xff }, { }
};

static u8 simnic_rewritable_bits(const struct simnic_rewritable *ranges, unsigned int byte)
{
	for (; ranges->bits; ranges++)
		if (byte >= ranges->first && byte <= ranges->last)
			return ranges->bits;
	return 0;
}

static int simnic_mangle_fields(const struct simnic_action *action, struct simnic_rewrites *done,
				const struct simnic_rewritable *fields,
				struct netlink_ext_ack *extack)
{
	enum flow_action_mangle_base htype = action->mangle.htype;
	u32 changed = ~action->mangle.mask;
	const u8 *bits = (const u8 *)&changed;
	unsigned int i, byte;

	for (i = 0; i < sizeof(changed); i++) {
		if (!bits[i])
			continue;
		byte = action->mangle.offset + i;
		if (bits[i] & ~simnic_rewritable_bits(fields, byte)) {
			NL_SET_ERR_MSG_FMT_MOD(extack, "rewrite of header byte %u is not supported",
					       byte);
			return -EOPNOTSUPP;
		}
		if (htype == FLOW_ACT_MANGLE_HDR_TYPE_IP4) {
			done->ipv4_header = true;
			done->pseudo_header |= byte >= 12;
		} else if (htype == FLOW_ACT_MANGLE_HDR_TYPE_IP6) {
			done->pseudo_header |= byte >= 8;
		}
	}
	done->tcp |= htype == FLOW_ACT_MANGLE_HDR_TYPE_TCP;
	done->udp |= htype == FLOW_ACT_MANGLE_HDR_TYPE_UDP;
	return 0;
}

static int simnic_mangle_parse(const struct flow_action_entry *entry,
			       const struct simnic_shape *shape, struct simnic_action *action,
			       struct simnic_rewrites *done, struct netlink_ext_ack *extack)
{
	const struct simnic_rewritable *fields;
	bool known = true;

	action->mangle.htype = entry->mangle.htype;
	action->mangle.offset = entry->mangle.offset;
	action->mangle.mask = entry->mangle.mask;
	action->mangle.val = entry->mangle.val;

	switch (entry->mangle.htype) {
	case FLOW_ACT_MANGLE_HDR_TYPE_ETH:
		fields = simnic_rewritable_eth;
		break;
	case FLOW_ACT_MANGLE_HDR_TYPE_IP4:
		fields = simnic_rewritable_ip4;
		known = shape->n_proto == htons(ETH_P_IP);
		break;
	case FLOW_ACT_MANGLE_HDR_TYPE_IP6:
		fields = simnic_rewritable_ip6;
		known = shape->n_proto == htons(ETH_P_IPV6);
		break;
	case FLOW_ACT_MANGLE_HDR_TYPE_TCP:
		fields = simnic_rewritable_l4;
		known = shape->ip_proto == IPPROTO_TCP;
		break;
	case FLOW_ACT_MANGLE_HDR_TYPE_UDP:
		fields = simnic_rewritable_l4;
		known = shape->ip_proto == IPPROTO_UDP;
		break;
	default:
		NL_SET_ERR_MSG_MOD(extack, "rewrite of an unnamed header is not supported");
		return -EOPNOTSUPP;
	}
	if (!known) {
		NL_SET_ERR_MSG_MOD(extack, "rewrite of a header that the match does not promise");
		return -EOPNOTSUPP;
	}
	if (shape->two_vlans && entry->mangle.htype != FLOW_ACT_MANGLE_HDR_TYPE_ETH) {
		NL_SET_ERR_MSG_MOD(extack, "rewrite behind two VLAN tags is not supported");
		return -EOPNOTSUPP;
	}
	return simnic_mangle_fields(action, done, fields, extack);
}

/* The checksums that a csum action has to mend for what was rewritten. */
static u32 simnic_csum_needed(const struct simnic_rewrites *done, const struct simnic_shape *shape)
{
	u32 needed = 0;

	if (done->ipv4_header)
		needed |= TCA_CSUM_UPDATE_FLAG_IPV4HDR;
	if (done->tcp)
		needed |= TCA_CSUM_UPDATE_FLAG_TCP;
	if (done->udp)
		needed |= TCA_CSUM_UPDATE_FLAG_UDP;
	if (!done->pseudo_header)
		return needed;
	switch (shape->ip_proto) {
	case IPPROTO_TCP:
		return needed | TCA_CSUM_UPDATE_FLAG_TCP;
	case IPPROTO_UDP:
		return needed | TCA_CSUM_UPDATE_FLAG_UDP;
	case IPPROTO_ICMPV6:
		return needed | TCA_CSUM_UPDATE_FLAG_ICMP;
	case 0:
		return needed | TCA_CSUM_UPDATE_FLAG_TCP | TCA_CSUM_UPDATE_FLAG_UDP;
	default:
		return needed;
	}
}

static int simnic_vlan_parse(const struct flow_action_entry *entry, struct simnic_action *action,
			     struct netlink_ext_ack *extack)
{
	action->vlan.proto = entry->vlan.proto;
	action->vlan.tci = entry->vlan.vid | entry->vlan.prio << VLAN_PRIO_SHIFT;
	if (!eth_type_vlan(entry->vlan.proto)) {
		NL_SET_ERR_MSG_MOD(extack, "VLAN protocol is neither 802.1Q nor 802.1ad");
		return -EOPNOTSUPP;
	}
	return 0;
}

/*
 * TC gives no sign of whether act_vlan is to set priority 0 or to leave the
 * priority alone. It is the same only where the priority is 0 already.
 */
static int simnic_vlan_mangle_parse(const struct flow_action_entry *entry,
				    const struct simnic_shape *shape,
				    struct simnic_action *action, struct netlink_ext_ack *extack)
{
	if (!entry->vlan.prio && !shape->vlan_prio_zero) {
		NL_SET_ERR_MSG_MOD(extack, "VLAN modify needs a priority or a match on priority 0");
		return -EOPNOTSUPP;
	}
	return simnic_vlan_parse(entry, action, extack);
}

/* Into a tunnel device, that is, with an outer header to the wire. */
static int simnic_encap_parse(struct simnic *nic, struct net_device *dev,
			      const struct ip_tunnel_info *info, struct simnic_action *action,
			      struct netlink_ext_ack *extack)
{
	struct simnic_encap *encap;

	if (!simnic_tunnels_allowed(nic, extack))
		return -EOPNOTSUPP;
	if (!info) {
		NL_SET_ERR_MSG_MOD(extack, "output to a tunnel device without tunnel_key set");
		return -EOPNOTSUPP;
	}
	encap = simnic_encap_get(nic, dev, info, extack);
	if (IS_ERR(encap))
		return PTR_ERR(encap);
	action->out.port = simnic_uplink(nic);
	action->out.encap = encap;
	return 0;
}

static int simnic_output_parse(struct simnic *nic, const struct flow_action_entry *entry,
			       const struct ip_tunnel_info *info, struct simnic_action *action,
			       struct netlink_ext_ack *extack)
{
	enum simnic_tunnel_kind kind;

	if (entry->dev && simnic_tunnel_kind_of(entry->dev, &kind))
		return simnic_encap_parse(nic, entry->dev, info, action, extack);
	if (info) {
		NL_SET_ERR_MSG_MOD(extack, "tunnel_key set needs output to a tunnel device");
		return -EOPNOTSUPP;
	}
	action->out.port = simnic_action_port(nic, entry->dev, extack);
	return action->out.port ? 0 : -EOPNOTSUPP;
}

/* The tunnel that is set is for the next output only: a copy to it leaves the packet without. */
static int simnic_mirror_parse(struct simnic *nic, const struct flow_action_entry *entry,
			       struct simnic_rewrites *done, struct simnic_action *action,
			       struct netlink_ext_ack *extack)
{
	int err;

	err = simnic_output_parse(nic, entry, done->tunnel, action, extack);
	if (!err)
		done->tunnel = NULL;
	return err;
}

/*
 * A packet that no connection is known for goes on in software from this very
 * action, which the kernel gives a name for that.
 */
static int simnic_ct_parse(struct simnic *nic, const struct flow_action_entry *entry,
			   struct simnic_action *action, struct netlink_ext_ack *extack)
{
	struct simnic_zone *zone;

	if (!SIMNIC_RESTORES) {
		NL_SET_ERR_MSG_MOD(extack, "conntrack needs a kernel with CONFIG_NET_TC_SKB_EXT");
		return -EOPNOTSUPP;
	}
	if (entry->ct.action & TCA_CT_ACT_CLEAR) {
		action->kind = SIMNIC_ACT_CT_CLEAR;
		return 0;
	}
	if (!entry->miss_cookie || !entry->ct.flow_table) {
		NL_SET_ERR_MSG_MOD(extack, "ct action that the host cannot go on from");
		return -EOPNOTSUPP;
	}
	zone = simnic_zone_get(nic->table->ct, entry->ct.zone, entry->ct.flow_table, extack);
	if (IS_ERR(zone))
		return PTR_ERR(zone);
	action->kind = SIMNIC_ACT_CT;
	action->ct.zone = zone;
	action->ct.flags = entry->ct.action;
	action->ct.miss_cookie = entry->miss_cookie;
	return 0;
}

static int simnic_action_unsupported(const struct flow_action_entry *entry,
				     struct netlink_ext_ack *extack)
{
	switch (entry->id) {
	case FLOW_ACTION_POLICE:
		NL_SET_ERR_MSG_MOD(extack, "police action is not supported");
		break;
	case FLOW_ACTION_REDIRECT_INGRESS:
	case FLOW_ACTION_MIRRED_INGRESS:
		NL_SET_ERR_MSG_MOD(extack, "output to a device's ingress is not supported");
		break;
	case FLOW_ACTION_MPLS_PUSH:
	case FLOW_ACTION_MPLS_POP:
	case FLOW_ACTION_MPLS_MANGLE:
		NL_SET_ERR_MSG_MOD(extack, "MPLS actions are not supported");
		break;
	case FLOW_ACTION_SAMPLE:
		NL_SET_ERR_MSG_MOD(extack, "sample action is not supported");
		break;
	default:
		NL_SET_ERR_MSG_FMT_MOD(extack, "action %u is not supported", entry->id);
		break;
	}
	return -EOPNOTSUPP;
}

static int simnic_action_parse(struct simnic *nic, const struct flow_action_entry *entry,
			       const struct simnic_shape *shape, struct simnic_action *action,
			       struct simnic_rewrites *done, struct netlink_ext_ack *extack)
{
	switch (entry->id) {
	case FLOW_ACTION_ACCEPT:
		action->kind = SIMNIC_ACT_ACCEPT;
		return 0;
	case FLOW_ACTION_TRAP:
		action->kind = SIMNIC_ACT_TRAP;
		return 0;
	case FLOW_ACTION_DROP:
		action->kind = SIMNIC_ACT_DROP;
		return 0;
	case FLOW_ACTION_GOTO:
		action->kind = SIMNIC_ACT_GOTO;
		action->chain = entry->chain_index;
		return 0;
	case FLOW_ACTION_REDIRECT:
		action->kind = SIMNIC_ACT_REDIRECT;
		return simnic_output_parse(nic, entry, done->tunnel, action, extack);
	case FLOW_ACTION_MIRRED:
		action->kind = SIMNIC_ACT_MIRROR;
		return simnic_mirror_parse(nic, entry, done, action, extack);
	case FLOW_ACTION_TUNNEL_ENCAP:
		action->kind = SIMNIC_ACT_TUNNEL_SET;
		done->tunnel = entry->tunnel;
		return 0;
	case FLOW_ACTION_TUNNEL_DECAP:
		action->kind = SIMNIC_ACT_TUNNEL_UNSET;
		done->tunnel = NULL;
		return 0;
	case FLOW_ACTION_VLAN_POP:
		action->kind = SIMNIC_ACT_VLAN_POP;
		return 0;
	case FLOW_ACTION_VLAN_PUSH:
		action->kind = SIMNIC_ACT_VLAN_PUSH;
		return simnic_vlan_parse(entry, action, extack);
	case FLOW_ACTION_VLAN_MANGLE:
		action->kind = SIMNIC_ACT_VLAN_MANGLE;
		return simnic_vlan_mangle_parse(entry, shape, action, extack);
	case FLOW_ACTION_MANGLE:
		action->kind = SIMNIC_ACT_MANGLE;
		return simnic_mangle_parse(entry, shape, action, done, extack);
	case FLOW_ACTION_ADD:
		action->kind = SIMNIC_ACT_ADD;
		return simnic_mangle_parse(entry, shape, action, done, extack);
	case FLOW_ACTION_CT:
		return simnic_ct_parse(nic, entry, action, extack);
	case FLOW_ACTION_CSUM:
		action->kind = SIMNIC_ACT_CSUM;
		action->csum_flags = entry->csum_flags;
		if (!(entry->csum_flags & ~SIMNIC_CSUM_FLAGS))
			return 0;
		NL_SET_ERR_MSG_MOD(extack, "csum covers IPv4, ICMP, TCP and UDP only");
		return -EOPNOTSUPP;
	default:
		return simnic_action_unsupported(entry, extack);
	}
}

/* A packet that goes up again is treated again by software: it must be whole. */
static int simnic_actions_check_end(const struct simnic_action *actions, unsigned int count,
				    struct netlink_ext_ack *extack)
{
	enum simnic_action_kind last;

	if (!count || !simnic_action_is_last(actions[count - 1].kind)) {
		NL_SET_ERR_MSG_MOD(extack, "rule must end in redirect, drop, trap, pass or goto");
		return -EOPNOTSUPP;
	}
	last = actions[count - 1].kind;
	if ((last == SIMNIC_ACT_ACCEPT || last == SIMNIC_ACT_TRAP) && count > 1) {
		NL_SET_ERR_MSG_MOD(extack, "pass and trap cannot follow other actions");
		return -EOPNOTSUPP;
	}
	return 0;
}

/*
 * Fills one action per entry. The NIC's mode cannot change meanwhile. Whatever
 * comes of it, simnic_actions_release() is to be called some time.
 */
int simnic_actions_parse(struct simnic *nic, const struct flow_rule *flow,
			 const struct simnic_shape *shape, struct simnic_action *actions,
			 struct netlink_ext_ack *extack)
{
	const struct flow_action_entry *entry;
	struct simnic_rewrites done = { };
	u32 csum = 0;
	int i, err;

	flow_action_for_each(i, entry, &flow->action) {
		if (!(entry->hw_stats & FLOW_ACTION_HW_STATS_ANY)) {
			NL_SET_ERR_MSG_MOD(extack, "hw_stats disabled is not supported");
			return -EOPNOTSUPP;
		}
		if (i && simnic_action_is_last(actions[i - 1].kind)) {
			NL_SET_ERR_MSG_MOD(extack, "action after redirect, drop or goto");
			return -EOPNOTSUPP;
		}
		err = simnic_action_parse(nic, entry, shape, &actions[i], &done, extack);
		if (err)
			return err;
		if (actions[i].kind == SIMNIC_ACT_CSUM)
			csum |= actions[i].csum_flags;
	}
	if (simnic_csum_needed(&done, shape) & ~csum) {
		NL_SET_ERR_MSG_MOD(extack, "rewrite without a csum action for what it breaks");
		return -EOPNOTSUPP;
	}
	return simnic_actions_check_end(actions, flow->action.num_entries, extack);
}

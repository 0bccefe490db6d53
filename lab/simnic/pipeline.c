// SPDX-License-Identifier: GPL-2.0
/*
 * The switch's pipeline.
 *
 * A packet is the switch's altogether or not at all. When a later chain has no
 * rule for it, what earlier chains did is undone: the packet goes up the slow
 * path as it came, nothing has been counted, no copy has gone out. (A NIC that
 * can tell the host the chain to go on from need not undo; this one cannot.)
 */
#include <linux/if_vlan.h>
#include <linux/jiffies.h>

#include "lag.h"
#include "pipeline.h"
#include "simnic.h"
#include "table.h"
#include "tunnel.h"

#define SIMNIC_HOPS_MAX	16	/* chains that one packet may visit */

/* Rules hit on the way, to be counted once the packet is known to be ours. */
struct simnic_hit {
	struct simnic_rule *rule;
	u64 packets;
	u64 bytes;
};

/* One packet's pass through the switch. */
struct simnic_pass {
	struct simnic_port *port;
	struct simnic_tunnel *tunnel;	/* whose rules apply; NULL: the port's */
	struct sk_buff *skb;		/* NULL once it is consumed */
	struct sk_buff *original;	/* as it came, if it is another by now */
	bool edited;			/* by an action */
	struct sk_buff_head copies;	/* mirrored, not out yet */
	struct simnic_port *out;
	const struct simnic_path *path;	/* the tunnel to go out by */
	u32 chain;
	unsigned int hops;
	struct simnic_hit hits[SIMNIC_HOPS_MAX];
};

enum simnic_verdict {
	SIMNIC_NEXT_CHAIN,
	SIMNIC_OUTPUT,
	SIMNIC_DROP,
	SIMNIC_TO_HOST,		/* a rule says so */
	SIMNIC_MISS,
};

static void simnic_hit_record(struct simnic_pass *pass, struct simnic_rule *rule)
{
	struct simnic_hit *hit = &pass->hits[pass->hops++];

	hit->rule = rule;
	simnic_frame_size(pass->skb, &hit->packets, &hit->bytes);
}

static void simnic_hits_commit(const struct simnic_pass *pass)
{
	unsigned int i;

	for (i = 0; i < pass->hops; i++) {
		atomic64_add(pass->hits[i].bytes, &pass->hits[i].rule->bytes);
		atomic64_add(pass->hits[i].packets, &pass->hits[i].rule->packets);
		WRITE_ONCE(pass->hits[i].rule->used, jiffies);
	}
}

/* To the MAC header, as a packet in transit is. */
static void simnic_push_mac(struct sk_buff *skb)
{
	skb_push(skb, skb->mac_len);
}

static void simnic_output(struct simnic_port *to, const struct simnic_path *path,
			  struct sk_buff *skb)
{
	skb_dst_drop(skb);	/* a tunnel's metadata does not go over the bus */
	simnic_push_mac(skb);
	if (path) {
		simnic_outer_send(path, skb);
		return;
	}
	to = simnic_lag_out(to);
	if (simnic_port_is_uplink(to))
		simnic_to_wire(to->nic, skb, SIMNIC_OUT_HW);
	else
		simnic_to_vf(to, skb, SIMNIC_OUT_HW);
}

/* A copy that cannot be had is lost, as on a congested port. */
static void simnic_mirror(struct simnic_pass *pass, struct simnic_port *out,
			  const struct simnic_path *path)
{
	struct sk_buff *copy = skb_clone(pass->skb, GFP_ATOMIC);

	if (!copy) {
		simnic_count_skb(out, SIMNIC_DROP_BAD, pass->skb);
		return;
	}
	simnic_cb(copy)->out = out;
	simnic_cb(copy)->path = path;
	__skb_queue_tail(&pass->copies, copy);
}

static int simnic_pass_edit(struct simnic_pass *pass, const struct simnic_rule *rule,
			    const struct simnic_action *action)
{
	pass->edited = true;
	if (rule->may_miss && !pass->original) {
		pass->original = skb_clone(pass->skb, GFP_ATOMIC);
		if (!pass->original)
			return -ENOMEM;
	}
	return simnic_edit(pass->skb, action);
}

/* False: the tunnel has no way just now, or none for so long a packet. */
static bool simnic_pass_route(struct simnic_pass *pass, const struct simnic_action *action,
			      const struct simnic_path **path)
{
	*path = NULL;
	if (!action->out.encap)
		return true;
	*path = simnic_encap_path(action->out.encap, pass->skb);
	return *path;
}

static enum simnic_verdict simnic_run(struct simnic_pass *pass, const struct simnic_rule *rule)
{
	const struct simnic_action *action;
	const struct simnic_path *path;
	unsigned int i;

	for (i = 0; i < rule->nactions; i++) {
		action = &rule->actions[i];
		switch (action->kind) {
		case SIMNIC_ACT_REDIRECT:
			if (!simnic_pass_route(pass, action, &pass->path))
				return SIMNIC_MISS;
			pass->out = action->out.port;
			return SIMNIC_OUTPUT;
		case SIMNIC_ACT_MIRROR:
			if (!simnic_pass_route(pass, action, &path))
				return SIMNIC_MISS;
			simnic_mirror(pass, action->out.port, path);
			break;
		case SIMNIC_ACT_TUNNEL_SET:
			break;	/* part of the outputs after it */
		case SIMNIC_ACT_TUNNEL_UNSET:
			skb_dst_drop(pass->skb);
			break;
		case SIMNIC_ACT_DROP:
			return SIMNIC_DROP;
		case SIMNIC_ACT_ACCEPT:
		case SIMNIC_ACT_TRAP:
			return SIMNIC_TO_HOST;
		case SIMNIC_ACT_GOTO:
			pass->chain = action->chain;
			return SIMNIC_NEXT_CHAIN;
		default:
			if (simnic_pass_edit(pass, rule, action))
				return SIMNIC_DROP;
			break;
		}
	}
	return SIMNIC_DROP;	/* not reached: a rule ends in one of the above */
}

static enum simnic_verdict simnic_classify(struct simnic_pass *pass)
{
	struct simnic_table *table = pass->port->nic->table;
	enum simnic_verdict verdict;
	struct simnic_rule *rule;
	struct simnic_key key;

	do {
		if (pass->hops == SIMNIC_HOPS_MAX)
			return SIMNIC_DROP;
		simnic_key_dissect(pass->skb, &key);
		rule = simnic_table_lookup(table, pass->port, pass->tunnel, pass->chain,
					   skb_protocol(pass->skb, false), &key);
		if (!rule)
			return SIMNIC_MISS;
		simnic_hit_record(pass, rule);
		verdict = simnic_run(pass, rule);
	} while (verdict == SIMNIC_NEXT_CHAIN);
	return verdict;
}

static void simnic_copies_out(struct simnic_pass *pass)
{
	struct sk_buff *copy;

	while ((copy = __skb_dequeue(&pass->copies)))
		simnic_output(simnic_cb(copy)->out, simnic_cb(copy)->path, copy);
}

/* Undoes everything; the packet as it came. */
static struct sk_buff *simnic_miss(struct simnic_pass *pass)
{
	__skb_queue_purge(&pass->copies);
	if (!pass->original)
		return pass->skb;
	kfree_skb(pass->skb);
	return pass->original;
}

static struct sk_buff *simnic_finish(struct simnic_pass *pass, enum simnic_verdict verdict)
{
	struct simnic_port *port = pass->port;
	struct sk_buff *skb = pass->skb;

	if (verdict == SIMNIC_MISS)
		return simnic_miss(pass);

	simnic_hits_commit(pass);
	if (verdict == SIMNIC_TO_HOST && !pass->edited && skb_queue_empty(&pass->copies))
		return simnic_miss(pass);

	/* Counted as it came in, whatever it is by now. */
	simnic_count_skb(port, SIMNIC_IN_HW, pass->original ?: skb);
	kfree_skb(pass->original);
	simnic_copies_out(pass);
	if (verdict == SIMNIC_OUTPUT) {
		simnic_output(pass->out, pass->path, skb);
	} else {
		simnic_count_skb(port, SIMNIC_DROP_RULE, skb);
		kfree_skb(skb);
	}
	return NULL;
}

/* An outer VLAN tag is kept beside the packet. NULL: there was no memory for it. */
static struct sk_buff *simnic_untag(struct simnic_port *port, struct sk_buff *skb)
{
	if (!eth_type_vlan(skb->protocol))
		return skb;
	skb = skb_vlan_untag(skb);
	if (!skb)
		simnic_count(port, SIMNIC_DROP_BAD, 1, 0);
	return skb;
}

/* What came in a tunnel is tried by the rules of the tunnel device. */
static enum simnic_verdict simnic_classify_inner(struct simnic_pass *pass)
{
	struct sk_buff *inner;

	inner = simnic_decap(pass->port->nic, pass->skb, &pass->tunnel);
	if (!inner)
		return SIMNIC_MISS;
	inner = simnic_untag(pass->port, inner);
	if (!inner)
		return SIMNIC_MISS;
	pass->original = pass->skb;
	pass->skb = inner;
	return simnic_classify(pass);
}

/*
 * Takes a packet as the host's netdev of @port would receive it. Returns what
 * is for the slow path, NULL if the switch has dealt with the packet.
 */
struct sk_buff *simnic_pipeline(struct simnic_port *port, struct sk_buff *skb)
{
	struct simnic_pass pass = {
		.port = port,
	};
	enum simnic_verdict verdict;

	if (!simnic_table_count(port->nic->table))
		return skb;
	skb = simnic_untag(port, skb);
	if (!skb)
		return NULL;
	pass.skb = skb;
	__skb_queue_head_init(&pass.copies);
	verdict = simnic_classify(&pass);
	/* The uplink's own rules come first, as in the host. */
	if (verdict == SIMNIC_MISS && !pass.hops && simnic_port_is_uplink(port))
		verdict = simnic_classify_inner(&pass);
	return simnic_finish(&pass, verdict);
}

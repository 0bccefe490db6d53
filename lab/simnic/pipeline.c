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

#include "pipeline.h"
#include "simnic.h"
#include "table.h"

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
	struct sk_buff *skb;		/* NULL once it is consumed */
	struct sk_buff *original;	/* as it came, if it has been edited since */
	struct sk_buff_head copies;	/* mirrored, not out yet */
	struct simnic_port *out;
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

static void simnic_output(struct simnic_port *from, struct simnic_port *to, struct sk_buff *skb)
{
	simnic_push_mac(skb);
	if (simnic_port_is_uplink(to))
		simnic_to_wire(to->nic, skb, SIMNIC_OUT_HW);
	else
		simnic_to_vf(to, skb, SIMNIC_OUT_HW);
}

/* A copy that cannot be had is lost, as on a congested port. */
static void simnic_mirror(struct simnic_pass *pass, struct simnic_port *out)
{
	struct sk_buff *copy = skb_clone(pass->skb, GFP_ATOMIC);

	if (!copy) {
		simnic_count_skb(out, SIMNIC_DROP_BAD, pass->skb);
		return;
	}
	simnic_cb(copy)->out = out;
	__skb_queue_tail(&pass->copies, copy);
}

static int simnic_pass_edit(struct simnic_pass *pass, const struct simnic_rule *rule,
			    const struct simnic_action *action)
{
	bool may_miss = rule->actions[rule->nactions - 1].kind == SIMNIC_ACT_GOTO;

	if (may_miss && !pass->original) {
		pass->original = skb_clone(pass->skb, GFP_ATOMIC);
		if (!pass->original)
			return -ENOMEM;
	}
	return simnic_edit(pass->skb, action);
}

static enum simnic_verdict simnic_run(struct simnic_pass *pass, const struct simnic_rule *rule)
{
	const struct simnic_action *action;
	unsigned int i;

	for (i = 0; i < rule->nactions; i++) {
		action = &rule->actions[i];
		switch (action->kind) {
		case SIMNIC_ACT_REDIRECT:
			pass->out = action->port;
			return SIMNIC_OUTPUT;
		case SIMNIC_ACT_MIRROR:
			simnic_mirror(pass, action->port);
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
		rule = simnic_table_lookup(table, pass->port, pass->chain,
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
		simnic_output(pass->port, simnic_cb(copy)->out, copy);
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
	if (verdict == SIMNIC_TO_HOST && !pass->original && skb_queue_empty(&pass->copies))
		return skb;

	/* Counted as it came in, whatever it is by now. */
	simnic_count_skb(port, SIMNIC_IN_HW, pass->original ?: skb);
	kfree_skb(pass->original);
	simnic_copies_out(pass);
	if (verdict == SIMNIC_OUTPUT) {
		simnic_output(port, pass->out, skb);
	} else {
		simnic_count_skb(port, SIMNIC_DROP_RULE, skb);
		kfree_skb(skb);
	}
	return NULL;
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

	if (!simnic_table_count(port->nic->table))
		return skb;
	if (eth_type_vlan(skb->protocol)) {
		skb = skb_vlan_untag(skb);
		if (!skb) {
			simnic_count(port, SIMNIC_DROP_BAD, 1, 0);
			return NULL;
		}
	}
	pass.skb = skb;
	__skb_queue_head_init(&pass.copies);
	return simnic_finish(&pass, simnic_classify(&pass));
}

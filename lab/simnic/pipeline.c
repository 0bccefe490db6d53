// SPDX-License-Identifier: GPL-2.0
/*
 * The switch's pipeline.
 *
 * Where the host can be told the chain to go on from, a packet that a later
 * chain has no rule for, or whose connection is not known, goes up as it is by
 * then, and rules have counted it as far as it came. Where the host cannot, a
 * packet is the switch's altogether or not at all: what earlier chains did is
 * undone, it goes up as it came, nothing has been counted, no copy has gone out.
 */
#include <linux/if_vlan.h>
#include <linux/jiffies.h>
#include <linux/tc_act/tc_ct.h>

#include "compat.h"
#include "ct.h"
#include "lag.h"
#include "pipeline.h"
#include "simnic.h"
#include "table.h"
#include "tunnel.h"

#define SIMNIC_HOPS_MAX		16	/* chains that one packet may visit */
#define SIMNIC_TRACKS_MAX	16	/* connections that it may be found to be of */

/* Rules hit on the way, to be counted once the packet is known to be ours. */
struct simnic_hit {
	struct simnic_rule *rule;
	struct simnic_size size;
};

/* A connection found on the way. */
struct simnic_track {
	struct simnic_conn *conn;
	const struct simnic_size *size;
};

/* What a rule that cannot be carried out is undone to. */
struct simnic_mark {
	struct sk_buff *skb;		/* as it was; NULL: as it is */
	unsigned int copies;
	unsigned int tracks;
	struct simnic_conn *conn;
};

/* One packet's pass through the switch. */
struct simnic_pass {
	struct simnic_port *port;
	struct simnic_tunnel *tunnel;	/* whose rules apply; NULL: the port's */
	struct sk_buff *skb;
	struct sk_buff *outer;		/* what the tunnelled packet came in */
	struct simnic_size *size;	/* of what came in */
	struct simnic_key *key;		/* of skb, unless it is stale */
	bool stale;
	bool edited;			/* by an action */
	struct sk_buff_head copies;	/* mirrored, not out yet */
	struct simnic_port *out;
	const struct simnic_path *path;	/* the tunnel to go out by */
	struct simnic_conn *conn;	/* NULL: untracked */
	u64 miss_cookie;		/* of the ct action that found none */
	u32 chain;
	unsigned int hops;
	unsigned int ntracks;
	struct simnic_mark mark;
	struct simnic_hit hits[SIMNIC_HOPS_MAX];
	struct simnic_track tracks[SIMNIC_TRACKS_MAX];
};

enum simnic_verdict {
	SIMNIC_NEXT_ACTION,
	SIMNIC_NEXT_CHAIN,
	SIMNIC_OUTPUT,
	SIMNIC_DROP,
	SIMNIC_TO_HOST,		/* a rule says so */
	SIMNIC_MISS,		/* no rule */
	SIMNIC_NO_WAY,		/* the rule cannot be carried out just now */
	SIMNIC_NO_CONN,		/* nor, from its ct action on */
};

static void simnic_hit_begin(struct simnic_pass *pass, struct simnic_rule *rule)
{
	struct simnic_hit *hit = &pass->hits[pass->hops++];

	hit->rule = rule;
	simnic_frame_size(pass->skb, &hit->size.packets, &hit->size.bytes);
	/* Where all is undone, it is to what the first rule met. */
	if (!SIMNIC_RESTORES && pass->hops > 1)
		return;
	kfree_skb(pass->mark.skb);
	pass->mark.skb = NULL;
	pass->mark.copies = skb_queue_len(&pass->copies);
	pass->mark.tracks = pass->ntracks;
	pass->mark.conn = pass->conn;
}

static void simnic_hits_commit(const struct simnic_pass *pass)
{
	const struct simnic_track *track;
	const struct simnic_hit *hit;

	for (hit = pass->hits; hit < pass->hits + pass->hops; hit++) {
		atomic64_add(hit->size.bytes, &hit->rule->bytes);
		atomic64_add(hit->size.packets, &hit->rule->packets);
		WRITE_ONCE(hit->rule->used, jiffies);
	}
	for (track = pass->tracks; track < pass->tracks + pass->ntracks; track++)
		simnic_conn_count(track->conn, track->size->packets, track->size->bytes);
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

/* Keeps the packet as it is, if the rule may have to be undone. */
static int simnic_pass_keep(struct simnic_pass *pass, const struct simnic_rule *rule)
{
	pass->stale = true;
	if (!rule->may_undo || pass->mark.skb)
		return 0;
	pass->mark.skb = skb_clone(pass->skb, GFP_ATOMIC);
	return pass->mark.skb ? 0 : -ENOMEM;
}

static int simnic_pass_edit(struct simnic_pass *pass, const struct simnic_rule *rule,
			    const struct simnic_action *action)
{
	pass->edited = true;
	return simnic_pass_keep(pass, rule) ?: simnic_edit(pass->skb, action);
}

static const struct simnic_conn_meta *simnic_pass_meta(const struct simnic_pass *pass)
{
	return pass->conn ? rcu_dereference(pass->conn->meta) : NULL;
}

static void simnic_pass_dissect(struct simnic_pass *pass)
{
	const struct simnic_conn_meta *meta = simnic_pass_meta(pass);

	if (pass->stale)
		simnic_key_dissect(pass->skb, pass->key);
	pass->stale = false;
	if (meta)
		pass->key->ct = meta->key;
	else
		memset(&pass->key->ct, 0, sizeof(pass->key->ct));
}

/*
 * Finds the packet's connection and translates its addresses. One that it is
 * known to be of already is not looked for again, as in software.
 */
static enum simnic_verdict simnic_pass_track(struct simnic_pass *pass,
					     const struct simnic_rule *rule,
					     const struct simnic_action *action)
{
	struct simnic_conn *conn = pass->conn;

	if (conn && conn->zone == action->ct.zone) {
		/* Software is to end a connection that is forced the other way. */
		if ((action->ct.flags & TCA_CT_ACT_FORCE) && simnic_conn_is_reply(conn))
			goto no_conn;
	} else if (pass->ntracks == SIMNIC_TRACKS_MAX) {
		goto no_conn;
	} else {
		simnic_pass_dissect(pass);
		conn = simnic_conn_find(action->ct.zone, pass->skb, pass->key);
		if (!conn)
			goto no_conn;
		pass->tracks[pass->ntracks].conn = conn;
		pass->tracks[pass->ntracks++].size = &pass->hits[pass->hops - 1].size;
		pass->conn = conn;
	}
	if (!(action->ct.flags & TCA_CT_ACT_NAT) || !conn->has_nat)
		return SIMNIC_NEXT_ACTION;
	pass->edited = true;
	if (simnic_pass_keep(pass, rule) || simnic_nat(pass->skb, &conn->nat))
		return SIMNIC_DROP;
	return SIMNIC_NEXT_ACTION;

no_conn:
	pass->miss_cookie = action->ct.miss_cookie;
	return SIMNIC_NO_CONN;
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
	enum simnic_verdict verdict;
	unsigned int i;

	for (i = 0; i < rule->nactions; i++) {
		action = &rule->actions[i];
		switch (action->kind) {
		case SIMNIC_ACT_REDIRECT:
			if (!simnic_pass_route(pass, action, &pass->path))
				return SIMNIC_NO_WAY;
			pass->out = action->out.port;
			return SIMNIC_OUTPUT;
		case SIMNIC_ACT_MIRROR:
			if (!simnic_pass_route(pass, action, &path))
				return SIMNIC_NO_WAY;
			simnic_mirror(pass, action->out.port, path);
			break;
		case SIMNIC_ACT_TUNNEL_SET:
			break;	/* part of the outputs after it */
		case SIMNIC_ACT_TUNNEL_UNSET:
			if (simnic_pass_keep(pass, rule))
				return SIMNIC_DROP;
			skb_dst_drop(pass->skb);
			break;
		case SIMNIC_ACT_CT:
			verdict = simnic_pass_track(pass, rule, action);
			if (verdict != SIMNIC_NEXT_ACTION)
				return verdict;
			break;
		case SIMNIC_ACT_CT_CLEAR:
			pass->conn = NULL;
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

static noinline_for_stack enum simnic_verdict simnic_classify(struct simnic_pass *pass)
{
	struct simnic_table *table = pass->port->nic->table;
	enum simnic_verdict verdict;
	struct simnic_rule *rule;
	struct simnic_key key;

	pass->key = &key;
	pass->stale = true;
	do {
		if (pass->hops == SIMNIC_HOPS_MAX)
			return SIMNIC_DROP;
		simnic_pass_dissect(pass);
		rule = simnic_table_lookup(table, pass->port, pass->tunnel, pass->chain,
					   skb_protocol(pass->skb, false), pass->key);
		if (!rule)
			return SIMNIC_MISS;
		simnic_hit_begin(pass, rule);
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

/* Back to before the rule, or to before all rules where the host goes on from no other place. */
static void simnic_undo(struct simnic_pass *pass)
{
	pass->hops = SIMNIC_RESTORES ? pass->hops - 1 : 0;
	pass->conn = pass->mark.conn;
	pass->ntracks = pass->mark.tracks;
	while (skb_queue_len(&pass->copies) > pass->mark.copies)
		kfree_skb(__skb_dequeue_tail(&pass->copies));
	if (!pass->mark.skb)
		return;
	kfree_skb(pass->skb);
	pass->skb = pass->mark.skb;
	pass->mark.skb = NULL;
}

/* No rule has had to do with it: what came in. */
static struct sk_buff *simnic_untouched(struct simnic_pass *pass)
{
	if (!pass->outer)
		return pass->skb;
	kfree_skb(pass->skb);
	return pass->outer;
}

/* Software goes on with the packet from here. */
static struct sk_buff *simnic_hand_over(struct simnic_pass *pass, u64 miss_cookie)
{
	simnic_hits_commit(pass);
	simnic_copies_out(pass);
	kfree_skb(pass->outer);
	if (!simnic_resume_at(pass->skb, simnic_pass_meta(pass), pass->chain, miss_cookie))
		return pass->skb;
	simnic_count(pass->port, SIMNIC_DROP_BAD, pass->size->packets, pass->size->bytes);
	kfree_skb(pass->skb);
	return NULL;
}

/* Whether a packet that hardware does not finish is the host's from a later place on. */
static struct sk_buff *simnic_unfinished(struct simnic_pass *pass, enum simnic_verdict verdict)
{
	switch (verdict) {
	case SIMNIC_NO_CONN:
		pass->hops--;	/* software carries the rest of it out, and counts it */
		return simnic_hand_over(pass, pass->miss_cookie);
	case SIMNIC_NO_WAY:
		simnic_undo(pass);
		break;
	case SIMNIC_MISS:
		if (pass->hops && !SIMNIC_RESTORES)
			simnic_undo(pass);
		break;
	default:
		if (SIMNIC_RESTORES && pass->hops > 1)
			break;
		/* Software meets the rule in chain 0, with nothing done to the packet. */
		simnic_hits_commit(pass);
		pass->hops = 0;
		break;
	}
	return pass->hops ? simnic_hand_over(pass, 0) : simnic_untouched(pass);
}

static struct sk_buff *simnic_finish(struct simnic_pass *pass, enum simnic_verdict verdict)
{
	struct sk_buff *skb = pass->skb;

	if (verdict == SIMNIC_TO_HOST && !SIMNIC_RESTORES &&
	    (pass->edited || !skb_queue_empty(&pass->copies)))
		verdict = SIMNIC_DROP;
	if (verdict != SIMNIC_OUTPUT && verdict != SIMNIC_DROP)
		return simnic_unfinished(pass, verdict);

	simnic_hits_commit(pass);
	/* Counted as it came in, whatever it is by now. */
	simnic_count(pass->port, SIMNIC_IN_HW, pass->size->packets, pass->size->bytes);
	kfree_skb(pass->outer);
	simnic_copies_out(pass);
	if (verdict == SIMNIC_OUTPUT) {
		simnic_output(pass->out, pass->path, skb);
	} else {
		simnic_count_skb(pass->port, SIMNIC_DROP_RULE, skb);
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
	if (IS_ERR(inner))
		return SIMNIC_DROP;
	if (!inner)
		return SIMNIC_MISS;
	inner = simnic_untag(pass->port, inner);
	if (!inner)
		return SIMNIC_MISS;
	pass->outer = pass->skb;
	pass->skb = inner;
	return simnic_classify(pass);
}

/*
 * Takes a packet as the host's netdev of @port would receive it. Returns what
 * is for the slow path, and in @size what came in; NULL if the switch has dealt
 * with the packet.
 */
struct sk_buff *simnic_pipeline(struct simnic_port *port, struct sk_buff *skb,
				struct simnic_size *size)
{
	struct simnic_pass pass = {
		.port = port,
		.size = size,
	};
	enum simnic_verdict verdict;

	simnic_frame_size(skb, &size->packets, &size->bytes);
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
	skb = simnic_finish(&pass, verdict);
	kfree_skb(pass.mark.skb);
	return skb;
}

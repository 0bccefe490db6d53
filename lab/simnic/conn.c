// SPDX-License-Identifier: GPL-2.0
/*
 * The connection table: act_ct adds, asks and removes, one direction at a time;
 * packets look up. It is bounded, and what does not fit stays in software.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/jhash.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/flow_offload.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/pkt_cls.h>

#include "ct.h"
#include "fail.h"
#include "key.h"
#include "simnic.h"

static u32 simnic_tuple_hash(const struct simnic_zone *zone, const struct simnic_tuple *tuple)
{
	return jhash2((const u32 *)tuple, sizeof(*tuple) / sizeof(u32),
		      zone->ct->seed ^ hash_ptr(zone, 32));
}

/* Whether ports follow the IP header at once. */
static bool simnic_ip_is_plain(const struct sk_buff *skb, u8 ip_proto)
{
	const struct ipv6hdr *ip6;
	const struct iphdr *ip;
	struct ipv6hdr room;

	if (skb->protocol == htons(ETH_P_IP)) {
		ip = skb_header_pointer(skb, skb_network_offset(skb), sizeof(*ip), &room);
		return ip && ip->ihl == 5;
	}
	ip6 = skb_header_pointer(skb, skb_network_offset(skb), sizeof(*ip6), &room);
	return ip6 && ip6->nexthdr == ip_proto;
}

/* From what was dissected. False: not of a kind that is offloaded. */
static bool simnic_tuple_read(const struct sk_buff *skb, const struct simnic_key *key,
			      struct simnic_tuple *tuple)
{
	memset(tuple, 0, sizeof(*tuple));
	if (key->control.flags & FLOW_DIS_IS_FRAGMENT ||
	    skb->protocol != key->basic.n_proto)
		return false;
	if (key->basic.ip_proto != IPPROTO_TCP && key->basic.ip_proto != IPPROTO_UDP)
		return false;
	switch (skb->protocol) {
	case htons(ETH_P_IP):
		tuple->src.s6_addr32[0] = key->ipv4.src;
		tuple->dst.s6_addr32[0] = key->ipv4.dst;
		break;
	case htons(ETH_P_IPV6):
		tuple->src = key->ipv6.src;
		tuple->dst = key->ipv6.dst;
		break;
	default:
		return false;
	}
	tuple->n_proto = skb->protocol;
	tuple->ip_proto = key->basic.ip_proto;
	tuple->sport = key->ports.src;
	tuple->dport = key->ports.dst;
	return simnic_ip_is_plain(skb, key->basic.ip_proto);
}

/*
 * The connection of a packet, dissected into @key, or NULL: it is software's to
 * find out. Under RCU.
 */
struct simnic_conn *simnic_conn_find(struct simnic_zone *zone, const struct sk_buff *skb,
				     const struct simnic_key *key)
{
	struct simnic_tuple tuple;
	struct simnic_conn *conn;

	if (!simnic_tuple_read(skb, key, &tuple))
		goto miss;
	hash_for_each_possible_rcu(zone->ct->by_tuple, conn, tuple_node,
				   simnic_tuple_hash(zone, &tuple)) {
		if (conn->zone != zone || memcmp(&conn->tuple, &tuple, sizeof(tuple)))
			continue;
		if (key->tcp.flags & conn->tcp_flags)
			break;
		atomic64_inc(&zone->hits);
		return conn;
	}
miss:
	atomic64_inc(&zone->misses);
	return NULL;
}

/* Under RCU. */
bool simnic_conn_is_reply(const struct simnic_conn *conn)
{
	return rcu_dereference(conn->meta)->key.ct_state & TCA_FLOWER_KEY_CT_FLAGS_REPLY;
}

void simnic_conn_count(struct simnic_conn *conn, u64 packets, u64 bytes)
{
	atomic64_add(bytes, &conn->bytes);
	atomic64_add(packets, &conn->packets);
	WRITE_ONCE(conn->used, jiffies);
}

/* The states that cls_flower tells of a connection with this ctinfo, as it does in software. */
static u16 simnic_conn_state(unsigned long cookie, bool orig_dir)
{
	u16 state = TCA_FLOWER_KEY_CT_FLAGS_TRACKED;

	state |= (cookie & NFCT_INFOMASK) == IP_CT_NEW ? TCA_FLOWER_KEY_CT_FLAGS_NEW :
							 TCA_FLOWER_KEY_CT_FLAGS_ESTABLISHED;
	if (!orig_dir)
		state |= TCA_FLOWER_KEY_CT_FLAGS_REPLY;
	return state;
}

static struct simnic_conn_meta *simnic_conn_meta_parse(const struct simnic_zone *zone,
						       const struct flow_rule *rule)
{
	const struct flow_action_entry *entry;
	struct simnic_conn_meta *meta;
	int i;

	flow_action_for_each(i, entry, &rule->action) {
		if (entry->id != FLOW_ACTION_CT_METADATA)
			continue;
		meta = kzalloc(sizeof(*meta), GFP_KERNEL);
		if (!meta)
			return ERR_PTR(-ENOMEM);
		meta->ct = entry->ct_metadata.cookie;
		meta->key.ct_state = simnic_conn_state(meta->ct, entry->ct_metadata.orig_dir);
		meta->key.ct_zone = zone->id;
		meta->key.ct_mark = entry->ct_metadata.mark;
		memcpy(meta->key.ct_labels, entry->ct_metadata.labels,
		       sizeof(meta->key.ct_labels));
		return meta;
	}
	return ERR_PTR(-EOPNOTSUPP);
}

static int simnic_conn_match_parse(struct simnic_conn *conn, const struct flow_rule *rule)
{
	struct simnic_tuple *tuple = &conn->tuple;
	struct flow_match_control control;
	struct flow_match_ipv4_addrs ipv4;
	struct flow_match_ipv6_addrs ipv6;
	struct flow_match_basic basic;
	struct flow_match_ports ports;
	struct flow_match_tcp tcp;

	if (!flow_rule_match_key(rule, FLOW_DISSECTOR_KEY_CONTROL) ||
	    !flow_rule_match_key(rule, FLOW_DISSECTOR_KEY_BASIC) ||
	    !flow_rule_match_key(rule, FLOW_DISSECTOR_KEY_PORTS))
		return -EOPNOTSUPP;
	flow_rule_match_control(rule, &control);
	flow_rule_match_basic(rule, &basic);
	flow_rule_match_ports(rule, &ports);
	tuple->n_proto = basic.key->n_proto;
	tuple->ip_proto = basic.key->ip_proto;
	tuple->sport = ports.key->src;
	tuple->dport = ports.key->dst;
	switch (control.key->addr_type) {
	case FLOW_DISSECTOR_KEY_IPV4_ADDRS:
		flow_rule_match_ipv4_addrs(rule, &ipv4);
		tuple->src.s6_addr32[0] = ipv4.key->src;
		tuple->dst.s6_addr32[0] = ipv4.key->dst;
		break;
	case FLOW_DISSECTOR_KEY_IPV6_ADDRS:
		flow_rule_match_ipv6_addrs(rule, &ipv6);
		tuple->src = ipv6.key->src;
		tuple->dst = ipv6.key->dst;
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (flow_rule_match_key(rule, FLOW_DISSECTOR_KEY_TCP)) {
		flow_rule_match_tcp(rule, &tcp);
		if (tcp.key->flags)
			return -EOPNOTSUPP;
		conn->tcp_flags = tcp.mask->flags;
	}
	return 0;
}

/* act_ct gives whole fields, as numbers of the host's byte order. */
static int simnic_conn_mangle(struct simnic_tuple *nat, const struct flow_action_entry *entry)
{
	u32 offset = entry->mangle.offset, val = entry->mangle.val;
	unsigned int word;

	switch (entry->mangle.htype) {
	case FLOW_ACT_MANGLE_HDR_TYPE_IP4:
		if (offset == offsetof(struct iphdr, saddr))
			nat->src.s6_addr32[0] = cpu_to_be32(val);
		else if (offset == offsetof(struct iphdr, daddr))
			nat->dst.s6_addr32[0] = cpu_to_be32(val);
		else
			return -EOPNOTSUPP;
		return 0;
	case FLOW_ACT_MANGLE_HDR_TYPE_IP6:
		if (offset < offsetof(struct ipv6hdr, saddr) || offset % sizeof(u32))
			return -EOPNOTSUPP;
		word = (offset - offsetof(struct ipv6hdr, saddr)) / sizeof(u32);
		if (word < 4)
			nat->src.s6_addr32[word] = cpu_to_be32(val);
		else if (word < 8)
			nat->dst.s6_addr32[word - 4] = cpu_to_be32(val);
		else
			return -EOPNOTSUPP;
		return 0;
	case FLOW_ACT_MANGLE_HDR_TYPE_TCP:
	case FLOW_ACT_MANGLE_HDR_TYPE_UDP:
		/* Both headers begin with the ports. */
		if (offset == offsetof(struct udphdr, source))
			nat->sport = cpu_to_be16(val);
		else if (offset == offsetof(struct udphdr, dest))
			nat->dport = cpu_to_be16(val);
		else
			return -EOPNOTSUPP;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static int simnic_conn_nat_parse(struct simnic_conn *conn, const struct flow_rule *rule)
{
	const struct flow_action_entry *entry;
	int i, err;

	conn->nat = conn->tuple;
	flow_action_for_each(i, entry, &rule->action) {
		if (entry->id == FLOW_ACTION_CT_METADATA)
			continue;
		if (entry->id != FLOW_ACTION_MANGLE)
			return -EOPNOTSUPP;
		err = simnic_conn_mangle(&conn->nat, entry);
		if (err)
			return err;
	}
	conn->has_nat = memcmp(&conn->nat, &conn->tuple, sizeof(conn->nat));
	return 0;
}

static void simnic_conn_free(struct simnic_conn *conn)
{
	kfree(rcu_access_pointer(conn->meta));
	kfree(conn);
}

static void simnic_conn_free_rcu(struct rcu_head *head)
{
	simnic_conn_free(container_of(head, struct simnic_conn, rcu));
}

static struct simnic_conn *simnic_conn_parse(struct simnic_zone *zone,
					     const struct flow_cls_offload *cls)
{
	struct simnic_conn *conn = kzalloc(sizeof(*conn), GFP_KERNEL);
	struct simnic_conn_meta *meta;
	int err;

	if (!conn)
		return ERR_PTR(-ENOMEM);
	conn->zone = zone;
	conn->cookie = cls->cookie;
	err = simnic_conn_match_parse(conn, cls->rule);
	if (!err)
		err = simnic_conn_nat_parse(conn, cls->rule);
	if (err)
		goto err_free;
	meta = simnic_conn_meta_parse(zone, cls->rule);
	if (IS_ERR(meta)) {
		err = PTR_ERR(meta);
		goto err_free;
	}
	RCU_INIT_POINTER(conn->meta, meta);
	return conn;

err_free:
	simnic_conn_free(conn);
	return ERR_PTR(err);
}

static struct simnic_conn *simnic_conn_by_cookie(const struct simnic_zone *zone,
						 unsigned long cookie)
{
	struct simnic_conn *conn;

	lockdep_assert_held(&zone->ct->lock);
	hash_for_each_possible(zone->ct->by_cookie, conn, cookie_node, cookie)
		if (conn->zone == zone && conn->cookie == cookie)
			return conn;
	return NULL;
}

/* Of the two, @old is in the table: state, mark or label may be others by now. */
static int simnic_conn_update(struct simnic_conn *old, struct simnic_conn *new)
{
	struct simnic_ct *ct = old->zone->ct;
	struct simnic_conn_meta *was, *is;

	was = rcu_dereference_protected(old->meta, lockdep_is_held(&ct->lock));
	is = rcu_dereference_protected(new->meta, lockdep_is_held(&ct->lock));
	if (was->ct == is->ct && !memcmp(&was->key, &is->key, sizeof(is->key)))
		return -EEXIST;
	rcu_assign_pointer(old->meta, is);
	RCU_INIT_POINTER(new->meta, NULL);
	kfree_rcu(was, rcu);
	return 0;
}

static void simnic_conn_insert(struct simnic_conn *conn)
{
	struct simnic_ct *ct = conn->zone->ct;

	/* At the head of its bucket: a new connection wins over a dead one of the same tuple. */
	hash_add_rcu(ct->by_tuple, &conn->tuple_node, simnic_tuple_hash(conn->zone, &conn->tuple));
	hash_add(ct->by_cookie, &conn->cookie_node, conn->cookie);
	conn->zone->conns++;
	ct->count++;
}

static void simnic_conn_delete(struct simnic_conn *conn)
{
	hash_del_rcu(&conn->tuple_node);
	hash_del(&conn->cookie_node);
	conn->zone->conns--;
	conn->zone->ct->count--;
	call_rcu(&conn->rcu, simnic_conn_free_rcu);
}

static int simnic_conn_replace(struct simnic_zone *zone, struct flow_cls_offload *cls)
{
	struct simnic_ct *ct = zone->ct;
	struct simnic_conn *conn, *old;
	int err;

	err = simnic_fail(ct->nic, SIMNIC_OP_CONN_INSTALL, cls->common.extack);
	conn = err ? ERR_PTR(err) : simnic_conn_parse(zone, cls);
	err = PTR_ERR_OR_ZERO(conn);
	mutex_lock(&ct->lock);
	old = err ? NULL : simnic_conn_by_cookie(zone, cls->cookie);
	if (old)
		err = simnic_conn_update(old, conn);
	else if (!err && zone->dying)
		err = -ENODEV;
	else if (!err && ct->count >= ct->max)
		err = -ENOSPC;
	else if (!err)
		simnic_conn_insert(conn);
	if (err && err != -EEXIST)
		ct->refusals++;
	mutex_unlock(&ct->lock);
	if (!IS_ERR(conn) && (err || old))
		simnic_conn_free(conn);
	return err;
}

static int simnic_conn_destroy(struct simnic_zone *zone, unsigned long cookie)
{
	struct simnic_conn *conn;

	mutex_lock(&zone->ct->lock);
	conn = simnic_conn_by_cookie(zone, cookie);
	if (conn)
		simnic_conn_delete(conn);
	mutex_unlock(&zone->ct->lock);
	return conn ? 0 : -ENOENT;
}

/* What the kernel does not know yet; when it was used last keeps the connection alive. */
static int simnic_conn_stats(struct simnic_zone *zone, struct flow_cls_offload *cls)
{
	struct simnic_conn *conn;
	u64 packets, bytes;

	mutex_lock(&zone->ct->lock);
	conn = simnic_conn_by_cookie(zone, cls->cookie);
	if (conn) {
		bytes = atomic64_read(&conn->bytes);
		packets = atomic64_read(&conn->packets);
		flow_stats_update(&cls->stats, bytes - conn->reported_bytes,
				  packets - conn->reported_packets, 0, READ_ONCE(conn->used),
				  FLOW_ACTION_HW_STATS_IMMEDIATE);
		conn->reported_bytes = bytes;
		conn->reported_packets = packets;
	}
	mutex_unlock(&zone->ct->lock);
	return conn ? 0 : -ENOENT;
}

/* From act_ct's flow table, in a worker, with the flow table's lock held. */
int simnic_conns_callback(enum tc_setup_type type, void *type_data, void *cb_priv)
{
	struct flow_cls_offload *cls = type_data;
	struct simnic_zone *zone = cb_priv;

	if (type != TC_SETUP_CLSFLOWER)
		return -EOPNOTSUPP;
	switch (cls->command) {
	case FLOW_CLS_REPLACE:
		return simnic_conn_replace(zone, cls);
	case FLOW_CLS_DESTROY:
		return simnic_conn_destroy(zone, cls->cookie);
	case FLOW_CLS_STATS:
		return simnic_conn_stats(zone, cls);
	default:
		return -EOPNOTSUPP;
	}
}

/* All of a zone, for good. */
void simnic_conns_remove(struct simnic_zone *zone)
{
	struct simnic_ct *ct = zone->ct;
	struct simnic_conn *conn;
	struct hlist_node *next;
	int bucket;

	mutex_lock(&ct->lock);
	zone->dying = true;
	hash_for_each_safe(ct->by_cookie, bucket, next, conn, cookie_node)
		if (conn->zone == zone)
			simnic_conn_delete(conn);
	mutex_unlock(&ct->lock);
}

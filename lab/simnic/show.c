// SPDX-License-Identifier: GPL-2.0
/*
 * The tables as text, one line per rule, chain, zone or connection, for people
 * and for tests that compare them with what TC, Open vSwitch and conntrack believe.
 */
#include <linux/seq_file.h>
#include <linux/tc_act/tc_ct.h>
#include <net/pkt_cls.h>

#include "ct.h"
#include "simnic.h"
#include "table.h"
#include "tunnel.h"

static const char *simnic_name_of(const struct simnic_port *port, char *name, size_t size)
{
	simnic_port_name(port, name, size);
	return name;
}

static void simnic_action_show(const struct simnic_action *action, struct seq_file *seq)
{
	char name[IFNAMSIZ];

	seq_puts(seq, simnic_action_name(action->kind));
	switch (action->kind) {
	case SIMNIC_ACT_REDIRECT:
	case SIMNIC_ACT_MIRROR:
		seq_printf(seq, ":%s", simnic_name_of(action->out.port, name, sizeof(name)));
		if (action->out.encap)
			seq_puts(seq, simnic_encap_is_resolved(action->out.encap) ?
				      "/tunnel" : "/tunnel(unresolved)");
		break;
	case SIMNIC_ACT_GOTO:
		seq_printf(seq, ":%u", action->chain);
		break;
	case SIMNIC_ACT_VLAN_PUSH:
	case SIMNIC_ACT_VLAN_MANGLE:
		seq_printf(seq, ":%04x/%04x", ntohs(action->vlan.proto), action->vlan.tci);
		break;
	case SIMNIC_ACT_MANGLE:
	case SIMNIC_ACT_ADD:
		seq_printf(seq, ":%u+%u:%08x/%08x", action->mangle.htype, action->mangle.offset,
			   action->mangle.val, ~action->mangle.mask);
		break;
	case SIMNIC_ACT_CT:
		seq_printf(seq, ":%u%s%s%s", action->ct.zone->id,
			   action->ct.flags & TCA_CT_ACT_COMMIT ? "/commit" : "",
			   action->ct.flags & TCA_CT_ACT_FORCE ? "/force" : "",
			   action->ct.flags & TCA_CT_ACT_NAT ? "/nat" : "");
		break;
	case SIMNIC_ACT_CSUM:
		seq_printf(seq, ":%#x", action->csum_flags);
		break;
	default:
		break;
	}
}

static const char *simnic_place_of(const struct simnic_chain *chain, char *name, size_t size)
{
	return chain->tunnel ? chain->tunnel->dev->name : simnic_name_of(chain->port, name, size);
}

static void simnic_rule_show(const struct simnic_rule *rule, struct seq_file *seq)
{
	const struct simnic_group *group = rule->group;
	char name[IFNAMSIZ];
	unsigned int i;
	bool any = false;

	seq_printf(seq, "port %s chain %u prio %u protocol %04x match ",
		   simnic_place_of(group->chain, name, sizeof(name)), group->chain->index,
		   group->prio, ntohs(group->protocol));
	for (i = 0; i < simnic_key_kinds_count; i++) {
		if (!simnic_key_uses(&group->mask, &simnic_key_kinds[i]))
			continue;
		seq_printf(seq, "%s%s", any ? "," : "", simnic_key_kinds[i].name);
		any = true;
	}
	seq_puts(seq, any ? " actions " : "any actions ");
	for (i = 0; i < rule->nactions; i++) {
		if (i)
			seq_putc(seq, ',');
		simnic_action_show(&rule->actions[i], seq);
	}
	seq_printf(seq, " packets %lld bytes %lld cookie %*phN\n",
		   atomic64_read(&rule->packets), atomic64_read(&rule->bytes),
		   rule->user_cookie_len, rule->user_cookie);
}

void simnic_table_show(struct simnic_table *table, struct seq_file *seq)
{
	struct simnic_rule *rule;
	int bucket;

	mutex_lock(&table->lock);
	hash_for_each(table->by_cookie, bucket, rule, cookie_node)
		simnic_rule_show(rule, seq);
	mutex_unlock(&table->lock);
}

static unsigned int simnic_chain_rules(const struct simnic_chain *chain)
{
	const struct simnic_group *group;
	unsigned int rules = 0;

	list_for_each_entry(group, &chain->groups, list)
		rules += group->rules;
	return rules;
}

void simnic_chains_show(struct simnic_table *table, struct seq_file *seq)
{
	const struct simnic_chain *chain;
	char name[IFNAMSIZ];
	int bucket;

	mutex_lock(&table->lock);
	hash_for_each(table->chains, bucket, chain, node)
		seq_printf(seq, "port %s chain %u rules %u misses %lld\n",
			   simnic_place_of(chain, name, sizeof(name)), chain->index,
			   simnic_chain_rules(chain), atomic64_read(&chain->misses));
	mutex_unlock(&table->lock);
}

void simnic_zones_show(struct simnic_ct *ct, struct seq_file *seq)
{
	const struct simnic_zone *zone;

	mutex_lock(&ct->zones_lock);
	list_for_each_entry(zone, &ct->zones, list)
		seq_printf(seq, "zone %u rules %u connections %u hits %lld misses %lld\n",
			   zone->id, zone->refs, READ_ONCE(zone->conns),
			   atomic64_read(&zone->hits), atomic64_read(&zone->misses));
	mutex_unlock(&ct->zones_lock);
}

static void simnic_tuple_show(const struct simnic_tuple *tuple, struct seq_file *seq)
{
	if (tuple->n_proto == htons(ETH_P_IPV6))
		seq_printf(seq, "[%pI6c]:%u->[%pI6c]:%u", &tuple->src, ntohs(tuple->sport),
			   &tuple->dst, ntohs(tuple->dport));
	else
		seq_printf(seq, "%pI4:%u->%pI4:%u", &tuple->src, ntohs(tuple->sport),
			   &tuple->dst, ntohs(tuple->dport));
}

static void simnic_conn_show(const struct simnic_ct *ct, const struct simnic_conn *conn,
			     struct seq_file *seq)
{
	const struct simnic_conn_meta *meta;

	meta = rcu_dereference_protected(conn->meta, lockdep_is_held(&ct->lock));
	seq_printf(seq, "zone %u %s ", conn->zone->id,
		   conn->tuple.ip_proto == IPPROTO_TCP ? "tcp" : "udp");
	simnic_tuple_show(&conn->tuple, seq);
	if (conn->has_nat) {
		seq_puts(seq, " nat ");
		simnic_tuple_show(&conn->nat, seq);
	}
	seq_printf(seq, " state %s%s mark %#x labels %*phN packets %lld bytes %lld\n",
		   meta->key.ct_state & TCA_FLOWER_KEY_CT_FLAGS_NEW ? "new" : "est",
		   meta->key.ct_state & TCA_FLOWER_KEY_CT_FLAGS_REPLY ? "/rpl" : "",
		   meta->key.ct_mark, (int)sizeof(meta->key.ct_labels), meta->key.ct_labels,
		   atomic64_read(&conn->packets), atomic64_read(&conn->bytes));
}

void simnic_conns_show(struct simnic_ct *ct, struct seq_file *seq)
{
	const struct simnic_conn *conn;
	int bucket;

	mutex_lock(&ct->lock);
	hash_for_each(ct->by_cookie, bucket, conn, cookie_node)
		simnic_conn_show(ct, conn, seq);
	mutex_unlock(&ct->lock);
}

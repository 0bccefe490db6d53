// SPDX-License-Identifier: GPL-2.0
/*
 * The rule table as text, one line per rule, for people and for tests that
 * compare it with what TC and Open vSwitch believe.
 */
#include <linux/seq_file.h>

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
	case SIMNIC_ACT_CSUM:
		seq_printf(seq, ":%#x", action->csum_flags);
		break;
	default:
		break;
	}
}

static void simnic_rule_show(const struct simnic_rule *rule, struct seq_file *seq)
{
	const struct simnic_group *group = rule->group;
	char name[IFNAMSIZ];
	unsigned int i;
	bool any = false;

	seq_printf(seq, "port %s chain %u prio %u protocol %04x match ",
		   rule->tunnel ? rule->tunnel->dev->name :
				  simnic_name_of(rule->port, name, sizeof(name)),
		   group->chain->index, group->prio, ntohs(group->protocol));
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

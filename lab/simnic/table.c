// SPDX-License-Identifier: GPL-2.0
/*
 * The rule table: tuple space search over (port, chain), then priority, then
 * mask. All rules of the NIC share one bounded table.
 */
#include <linux/delay.h>
#include <linux/if_vlan.h>
#include <linux/jhash.h>
#include <linux/random.h>
#include <linux/slab.h>

#include "ct.h"
#include "ipsec.h"
#include "simnic.h"
#include "table.h"
#include "tunnel.h"

static u32 simnic_chain_hash(const struct simnic_port *port, const struct simnic_tunnel *tunnel,
			     u32 index)
{
	return jhash_3words(port->index, index, tunnel ? hash_ptr(tunnel, 32) : 0, 0);
}

static u32 simnic_rule_hash(const struct simnic_table *table, const struct simnic_group *group,
			    const u64 *words)
{
	return jhash2((const u32 *)(words + group->first), 2 * (group->end - group->first),
		      table->seed ^ hash_ptr(group, 32));
}

static struct simnic_chain *simnic_chain_find(struct simnic_table *table,
					      const struct simnic_port *port,
					      const struct simnic_tunnel *tunnel, u32 index)
{
	u32 hash = simnic_chain_hash(port, tunnel, index);
	struct simnic_chain *chain;

	hash_for_each_possible_rcu(table->chains, chain, node, hash, lockdep_is_held(&table->lock))
		if (chain->port == port && chain->tunnel == tunnel && chain->index == index)
			return chain;
	return NULL;
}

/*
 * The rule for a packet, or NULL: a miss. Newer rules come first in a bucket, so
 * while TC replaces a filter the new one wins from one packet to the next.
 */
struct simnic_rule *simnic_table_lookup(struct simnic_table *table, struct simnic_port *port,
					const struct simnic_tunnel *tunnel, u32 index,
					__be16 protocol, const struct simnic_key *key)
{
	u64 words[SIMNIC_KEY_WORDS];
	struct simnic_group *group;
	struct simnic_chain *chain;
	struct simnic_rule *rule;
	unsigned int i;

	chain = simnic_chain_find(table, port, tunnel, index);
	if (!chain)
		return NULL;
	list_for_each_entry_rcu(group, &chain->groups, list) {
		if (group->protocol != protocol && group->protocol != htons(ETH_P_ALL))
			continue;
		for (i = group->first; i < group->end; i++)
			words[i] = ((const u64 *)key)[i] & ((const u64 *)&group->mask)[i];
		hash_for_each_possible_rcu(table->by_key, rule, key_node,
					   simnic_rule_hash(table, group, words)) {
			if (rule->group == group &&
			    !memcmp((const u64 *)&rule->key + group->first, words + group->first,
				    (group->end - group->first) * sizeof(u64)))
				return rule;
		}
	}
	atomic64_inc(&chain->misses);
	return NULL;
}

static struct simnic_rule *simnic_rule_find(struct simnic_table *table,
					    const struct simnic_port *port,
					    const struct simnic_tunnel *tunnel,
					    unsigned long cookie)
{
	struct simnic_rule *rule;

	lockdep_assert_held(&table->lock);
	hash_for_each_possible(table->by_cookie, rule, cookie_node, cookie)
		if (rule->cookie == cookie && rule->port == port && rule->tunnel == tunnel)
			return rule;
	return NULL;
}

static struct simnic_chain *simnic_chain_get(struct simnic_table *table, struct simnic_port *port,
					     const struct simnic_tunnel *tunnel, u32 index)
{
	struct simnic_chain *chain = simnic_chain_find(table, port, tunnel, index);

	if (chain)
		return chain;
	chain = kzalloc(sizeof(*chain), GFP_KERNEL);
	if (!chain)
		return NULL;
	INIT_LIST_HEAD(&chain->groups);
	chain->port = port;
	chain->tunnel = tunnel;
	chain->index = index;
	hash_add_rcu(table->chains, &chain->node, simnic_chain_hash(port, tunnel, index));
	return chain;
}

static void simnic_chain_put(struct simnic_chain *chain)
{
	if (!list_empty(&chain->groups) || chain->gotos)
		return;
	hash_del_rcu(&chain->node);
	kfree_rcu(chain, rcu);
}

static void simnic_group_set_range(struct simnic_group *group)
{
	const u64 *mask = (const u64 *)&group->mask;

	group->end = SIMNIC_KEY_WORDS;
	while (group->end && !mask[group->end - 1])
		group->end--;
	while (group->first < group->end && !mask[group->first])
		group->first++;
}

static struct simnic_group *simnic_group_get(struct simnic_chain *chain, u32 prio,
					     __be16 protocol, const struct simnic_key *mask)
{
	struct list_head *after = &chain->groups;
	struct simnic_group *group;

	list_for_each_entry(group, &chain->groups, list) {
		if (group->prio > prio)
			break;
		if (group->prio == prio && group->protocol == protocol &&
		    !memcmp(&group->mask, mask, sizeof(*mask)))
			return group;
		after = &group->list;
	}
	group = kzalloc(sizeof(*group), GFP_KERNEL);
	if (!group)
		return NULL;
	group->chain = chain;
	group->prio = prio;
	group->protocol = protocol;
	group->mask = *mask;
	simnic_group_set_range(group);
	list_add_rcu(&group->list, after);
	return group;
}

static void simnic_group_put(struct simnic_group *group)
{
	struct simnic_chain *chain = group->chain;

	if (group->rules)
		return;
	list_del_rcu(&group->list);
	kfree_rcu(group, rcu);
	simnic_chain_put(chain);
}

/* The chain that a rule leads to, so that it is there to count what misses in it. */
static int simnic_rule_lead(struct simnic_table *table, struct simnic_rule *rule)
{
	const struct simnic_action *last = &rule->actions[rule->nactions - 1];

	if (last->kind != SIMNIC_ACT_GOTO)
		return 0;
	rule->next = simnic_chain_get(table, rule->port, rule->tunnel, last->chain);
	if (!rule->next)
		return -ENOMEM;
	rule->next->gotos++;
	return 0;
}

static void simnic_rule_unlead(struct simnic_rule *rule)
{
	if (!rule->next)
		return;
	rule->next->gotos--;
	simnic_chain_put(rule->next);
}

static int simnic_rule_insert(struct simnic_table *table, struct simnic_rule *rule, u32 index,
			      u32 prio, __be16 protocol, const struct simnic_key *mask)
{
	struct simnic_chain *chain;
	struct simnic_group *group;

	lockdep_assert_held(&table->lock);
	if (simnic_rule_lead(table, rule))
		return -ENOMEM;
	chain = simnic_chain_get(table, rule->port, rule->tunnel, index);
	if (!chain)
		goto err_unlead;
	group = simnic_group_get(chain, prio, protocol, mask);
	if (!group)
		goto err_chain;
	group->rules++;
	rule->group = group;
	hash_add(table->by_cookie, &rule->cookie_node, rule->cookie);
	hash_add_rcu(table->by_key, &rule->key_node,
		     simnic_rule_hash(table, group, (const u64 *)&rule->key));
	atomic_inc(&rule->port->rules);
	if (rule->tunnel)
		atomic_inc(&rule->tunnel->rules);
	table->count++;
	table->installs++;
	return 0;

err_chain:
	simnic_chain_put(chain);
err_unlead:
	simnic_rule_unlead(rule);
	return -ENOMEM;
}

static void simnic_rule_delete(struct simnic_table *table, struct simnic_rule *rule)
{
	lockdep_assert_held(&table->lock);
	hash_del_rcu(&rule->key_node);
	hash_del(&rule->cookie_node);
	atomic_dec(&rule->port->rules);
	if (rule->tunnel)
		atomic_dec(&rule->tunnel->rules);
	simnic_ipsec_tc_put(rule->port, rule->tunnel);
	table->count--;
	rule->group->rules--;
	simnic_rule_unlead(rule);
	simnic_group_put(rule->group);
	/* A packet on its way may still use them: they go when RCU lets them. */
	simnic_actions_release(rule->actions, rule->nactions);
	kfree_rcu(rule, rcu);
}

static void simnic_shape_of(const struct simnic_key *key, const struct simnic_key *mask,
			    struct simnic_shape *shape)
{
	memset(shape, 0, sizeof(*shape));
	if (mask->basic.n_proto == htons(0xffff))
		shape->n_proto = key->basic.n_proto;
	if (mask->basic.ip_proto == 0xff)
		shape->ip_proto = key->basic.ip_proto;
	shape->two_vlans = memchr_inv(&mask->cvlan, 0, sizeof(mask->cvlan)) ||
			   (mask->vlan.vlan_eth_type && eth_type_vlan(key->vlan.vlan_eth_type)) ||
			   mask->num_of_vlans.num_of_vlans;
	shape->vlan_prio_zero = mask->vlan.vlan_priority == VLAN_PRIO_MASK >> VLAN_PRIO_SHIFT &&
				!key->vlan.vlan_priority;
}

/* The cookie of the first action that has one: OVS puts the flow's UFID there. */
static void simnic_rule_set_user_cookie(struct simnic_rule *rule, const struct flow_rule *flow)
{
	const struct flow_action_entry *entry;
	int i;

	flow_action_for_each(i, entry, &flow->action) {
		if (!entry->user_cookie || entry->user_cookie->cookie_len > SIMNIC_COOKIE_MAX)
			continue;
		rule->user_cookie_len = entry->user_cookie->cookie_len;
		memcpy(rule->user_cookie, entry->user_cookie->cookie, rule->user_cookie_len);
		return;
	}
}

/* Of a rule that has not been in the table. */
static void simnic_rule_free(struct simnic_rule *rule)
{
	simnic_actions_release(rule->actions, rule->nactions);
	kfree(rule);
}

/* A rule as the filter wants it, not in the table yet. */
static struct simnic_rule *simnic_rule_parse(struct simnic_port *port,
					     struct simnic_tunnel *tunnel,
					     struct flow_cls_offload *cls,
					     struct simnic_key *mask)
{
	struct simnic_table *table = port->nic->table;
	struct netlink_ext_ack *extack = cls->common.extack;
	const struct flow_rule *flow = cls->rule;
	struct simnic_shape shape;
	struct simnic_rule *rule;
	int err;

	rule = kzalloc(struct_size(rule, actions, flow->action.num_entries), GFP_KERNEL);
	if (!rule)
		return ERR_PTR(-ENOMEM);
	rule->nactions = flow->action.num_entries;
	rule->port = port;
	rule->tunnel = tunnel;
	rule->cookie = cls->cookie;
	err = simnic_key_parse(flow, &rule->key, mask, extack);
	if (!err)
		err = simnic_tunnel_check_match(tunnel, &rule->key, mask, extack);
	if (err)
		goto err_free;
	simnic_shape_of(&rule->key, mask, &shape);
	err = simnic_actions_parse(port->nic, flow, &shape, rule->actions, extack);
	if (err)
		goto err_free;
	err = simnic_refuse_check(&table->refuse, mask, rule->actions, rule->nactions, extack);
	if (err)
		goto err_free;
	simnic_rule_set_user_cookie(rule, flow);
	rule->may_undo = simnic_actions_may_undo(rule->actions, rule->nactions);
	return rule;

err_free:
	simnic_rule_free(rule);
	return ERR_PTR(err);
}

static void simnic_install_delay(struct simnic_table *table)
{
	u32 delay = READ_ONCE(table->install_delay_us);

	/* fsleep() may take twice as long, which would say little of what a user measured. */
	if (delay)
		usleep_range(delay, delay + delay / 32);
}

/* Adds a rule. One that replaces another is added before that one is removed. */
int simnic_table_install(struct simnic_port *port, struct simnic_tunnel *tunnel,
			 struct flow_cls_offload *cls)
{
	struct simnic_table *table = port->nic->table;
	struct simnic_rule *rule;
	struct simnic_key mask;
	int err;

	mutex_lock(&table->install_lock);
	simnic_install_delay(table);
	rule = simnic_rule_parse(port, tunnel, cls, &mask);
	err = PTR_ERR_OR_ZERO(rule);
	mutex_lock(&table->lock);
	if (!err && table->count >= table->max) {
		NL_SET_ERR_MSG_FMT_MOD(cls->common.extack,
				       "hardware table is full (%u rules)", table->max);
		err = -ENOSPC;
	}
	if (!err && simnic_rule_find(table, port, tunnel, cls->cookie))
		err = -EEXIST;
	if (!err)
		err = simnic_ipsec_tc_get(port, tunnel, cls->common.extack);
	if (!err) {
		err = simnic_rule_insert(table, rule, cls->common.chain_index, cls->common.prio,
					 cls->common.protocol, &mask);
		if (err)
			simnic_ipsec_tc_put(port, tunnel);
	}
	if (err) {
		table->refusals++;
		if (!IS_ERR(rule))
			simnic_rule_free(rule);
	}
	mutex_unlock(&table->lock);
	mutex_unlock(&table->install_lock);
	return err;
}

int simnic_table_remove(struct simnic_port *port, const struct simnic_tunnel *tunnel,
			unsigned long cookie)
{
	struct simnic_table *table = port->nic->table;
	struct simnic_rule *rule;

	mutex_lock(&table->lock);
	rule = simnic_rule_find(table, port, tunnel, cookie);
	if (rule)
		simnic_rule_delete(table, rule);
	mutex_unlock(&table->lock);
	return rule ? 0 : -ENOENT;
}

static void simnic_tally_read(struct simnic_rule *rule, struct simnic_tally *tally)
{
	tally->used = READ_ONCE(rule->used);
	tally->packets = atomic64_read(&rule->packets);
	tally->bytes = atomic64_read(&rule->bytes);
}

/* What TC does not know yet, as of the last counter query. */
int simnic_table_stats(struct simnic_port *port, const struct simnic_tunnel *tunnel,
		       struct flow_cls_offload *cls)
{
	struct simnic_table *table = port->nic->table;
	enum flow_action_hw_stats type = FLOW_ACTION_HW_STATS_DELAYED;
	struct simnic_rule *rule;
	int err = -ENOENT;

	mutex_lock(&table->lock);
	rule = simnic_rule_find(table, port, tunnel, cls->cookie);
	if (rule) {
		if (!table->counter_delay_ms) {
			type = FLOW_ACTION_HW_STATS_IMMEDIATE;
			simnic_tally_read(rule, &rule->cached);
		}
		flow_stats_update(&cls->stats, rule->cached.bytes - rule->reported.bytes,
				  rule->cached.packets - rule->reported.packets, 0,
				  rule->cached.used, type);
		rule->reported = rule->cached;
		err = 0;
	}
	mutex_unlock(&table->lock);
	return err;
}

/* The periodic query of all counters, as drivers do it that cache them. */
static void simnic_query_work(struct work_struct *work)
{
	struct simnic_table *table = container_of(to_delayed_work(work), struct simnic_table,
						  query);
	struct simnic_rule *rule;
	int bucket;

	mutex_lock(&table->lock);
	hash_for_each(table->by_cookie, bucket, rule, cookie_node)
		simnic_tally_read(rule, &rule->cached);
	if (table->counter_delay_ms)
		schedule_delayed_work(&table->query, msecs_to_jiffies(table->counter_delay_ms));
	mutex_unlock(&table->lock);
}

void simnic_table_set_counter_delay(struct simnic_table *table, u32 delay_ms)
{
	mutex_lock(&table->lock);
	table->counter_delay_ms = delay_ms;
	cancel_delayed_work(&table->query);
	if (delay_ms)
		schedule_delayed_work(&table->query, msecs_to_jiffies(delay_ms));
	mutex_unlock(&table->lock);
}

/* All rules gone at once, and TC not told: what a reset of the card does. */
void simnic_table_flush(struct simnic_table *table)
{
	struct simnic_rule *rule;
	struct hlist_node *next;
	int bucket;

	mutex_lock(&table->lock);
	hash_for_each_safe(table->by_cookie, bucket, next, rule, cookie_node)
		simnic_rule_delete(table, rule);
	mutex_unlock(&table->lock);
}

static bool simnic_rule_names(const struct simnic_rule *rule, const struct simnic *nic)
{
	const struct simnic_action *action;
	unsigned int i;

	for (i = 0; i < rule->nactions; i++) {
		action = &rule->actions[i];
		if ((action->kind == SIMNIC_ACT_REDIRECT || action->kind == SIMNIC_ACT_MIRROR) &&
		    action->out.port && action->out.port->nic == nic)
			return true;
	}
	return false;
}

/* Rules that send to ports of another NIC are gone, as that NIC is. */
void simnic_table_forget(struct simnic_table *table, const struct simnic *nic)
{
	struct simnic_rule *rule;
	struct hlist_node *next;
	int bucket;

	mutex_lock(&table->lock);
	hash_for_each_safe(table->by_cookie, bucket, next, rule, cookie_node)
		if (simnic_rule_names(rule, nic))
			simnic_rule_delete(table, rule);
	mutex_unlock(&table->lock);
	synchronize_net();
}

unsigned int simnic_table_count(struct simnic_table *table)
{
	return READ_ONCE(table->count);
}

/* In the order of the names in ethtool.c. */
void simnic_table_stats_get(struct simnic_table *table, u64 *data)
{
	mutex_lock(&table->lock);
	*data++ = table->count;
	*data++ = table->max;
	*data++ = table->installs;
	*data++ = table->refusals;
	mutex_unlock(&table->lock);
	simnic_ct_stats_get(table->ct, data);
}

struct simnic_table *simnic_table_create(struct simnic *nic)
{
	struct simnic_table *table = kvzalloc(sizeof(*table), GFP_KERNEL);

	if (!table)
		return NULL;
	table->ct = simnic_ct_create(nic);
	if (!table->ct) {
		kvfree(table);
		return NULL;
	}
	mutex_init(&table->lock);
	mutex_init(&table->install_lock);
	hash_init(table->by_key);
	hash_init(table->by_cookie);
	hash_init(table->chains);
	table->seed = get_random_u32();
	table->max = SIMNIC_RULES_DEFAULT;
	INIT_DELAYED_WORK(&table->query, simnic_query_work);
	simnic_refuse_init(&table->refuse);
	return table;
}

/* Nothing refers to it any more; RCU readers of rules do not touch it. */
void simnic_table_destroy(struct simnic_table *table)
{
	if (!table)
		return;
	simnic_table_set_counter_delay(table, 0);
	cancel_delayed_work_sync(&table->query);
	simnic_refuse_clear(&table->refuse);
	mutex_destroy(&table->install_lock);
	mutex_destroy(&table->lock);
	simnic_ct_destroy(table->ct);
	kvfree(table);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Conntrack zones: the first rule that uses one asks act_ct to be told of its
 * connections, and with the last one that does not any more they are forgotten.
 */
#include <linux/random.h>
#include <linux/slab.h>
#include <net/netfilter/nf_flow_table.h>

#include "ct.h"
#include "simnic.h"

static struct simnic_zone *simnic_zone_find(struct simnic_ct *ct,
					    const struct nf_flowtable *flow_table)
{
	struct simnic_zone *zone;

	list_for_each_entry(zone, &ct->zones, list)
		if (zone->flow_table == flow_table)
			return zone;
	return NULL;
}

static struct simnic_zone *simnic_zone_add(struct simnic_ct *ct, u16 id,
					   struct nf_flowtable *flow_table)
{
	struct simnic_zone *zone = kzalloc(sizeof(*zone), GFP_KERNEL);
	int err;

	if (!zone)
		return ERR_PTR(-ENOMEM);
	zone->ct = ct;
	zone->id = id;
	zone->flow_table = flow_table;
	err = nf_flow_table_offload_add_cb(flow_table, simnic_conns_callback, zone);
	if (err) {
		kfree(zone);
		return ERR_PTR(err);
	}
	list_add_tail_rcu(&zone->list, &ct->zones);
	return zone;
}

/*
 * The zone that a rule uses, until it puts it. The same number is another zone
 * in another namespace.
 */
struct simnic_zone *simnic_zone_get(struct simnic_ct *ct, u16 id, struct nf_flowtable *flow_table,
				    struct netlink_ext_ack *extack)
{
	struct simnic_zone *zone;

	mutex_lock(&ct->zones_lock);
	zone = simnic_zone_find(ct, flow_table);
	if (!zone)
		zone = simnic_zone_add(ct, id, flow_table);
	if (IS_ERR(zone))
		NL_SET_ERR_MSG_MOD(extack, "conntrack does not tell of its connections");
	else
		zone->refs++;
	mutex_unlock(&ct->zones_lock);
	return zone;
}

/*
 * Connections go before the flow table is told, so that none is found any more
 * that the kernel may have forgotten. Packets that found one have it until RCU
 * lets it go, and so has the kernel.
 */
void simnic_zone_put(struct simnic_zone *zone)
{
	struct simnic_ct *ct = zone->ct;

	mutex_lock(&ct->zones_lock);
	if (!--zone->refs) {
		list_del_rcu(&zone->list);
		simnic_conns_remove(zone);
		nf_flow_table_offload_del_cb(zone->flow_table, simnic_conns_callback, zone);
		kfree_rcu(zone, rcu);
	}
	mutex_unlock(&ct->zones_lock);
}

/* In the order of the names in ethtool.c. */
void simnic_ct_stats_get(struct simnic_ct *ct, u64 *data)
{
	mutex_lock(&ct->lock);
	*data++ = ct->count;
	*data++ = ct->max;
	*data++ = ct->refusals;
	mutex_unlock(&ct->lock);
}

struct simnic_ct *simnic_ct_create(struct simnic *nic)
{
	struct simnic_ct *ct = kvzalloc(sizeof(*ct), GFP_KERNEL);

	if (!ct)
		return NULL;
	ct->nic = nic;
	mutex_init(&ct->zones_lock);
	INIT_LIST_HEAD(&ct->zones);
	mutex_init(&ct->lock);
	hash_init(ct->by_tuple);
	hash_init(ct->by_cookie);
	ct->seed = get_random_u32();
	ct->max = SIMNIC_CONNS_DEFAULT;
	return ct;
}

/* All rules are gone, and with them all zones. */
void simnic_ct_destroy(struct simnic_ct *ct)
{
	if (!ct)
		return;
	mutex_destroy(&ct->lock);
	mutex_destroy(&ct->zones_lock);
	kvfree(ct);
}

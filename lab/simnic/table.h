/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The rule table. Looked up under RCU by the datapath, changed under its lock
 * by TC, which may sleep there.
 */
#ifndef SIMNIC_TABLE_H
#define SIMNIC_TABLE_H

#include <linux/hashtable.h>
#include <linux/mutex.h>
#include <linux/workqueue.h>

#include "action.h"
#include "key.h"
#include "refuse.h"

struct simnic;
struct simnic_ct;
struct simnic_port;
struct simnic_tunnel;
struct seq_file;

#define SIMNIC_RULES_DEFAULT	65536
#define SIMNIC_RULES_MAX	BIT(20)
#define SIMNIC_COOKIE_MAX	16	/* TC_COOKIE_MAX_SIZE */
#define SIMNIC_DELAY_MAX_US	(10 * USEC_PER_SEC)
#define SIMNIC_DELAY_MAX_MS	(60 * MSEC_PER_SEC)

/* Where a rule lives: the chains of one port, or tunnel, are apart from another's. */
struct simnic_chain {
	struct hlist_node node;
	struct list_head groups;	/* by priority, then age */
	struct simnic_port *port;
	const struct simnic_tunnel *tunnel;	/* NULL: the port's own */
	u32 index;
	unsigned int gotos;		/* rules that lead here */
	atomic64_t misses;		/* packets that came and met no rule */
	struct rcu_head rcu;
};

/* The rules of one chain, priority, protocol and mask: one hash lookup. */
struct simnic_group {
	struct list_head list;
	struct simnic_chain *chain;
	struct simnic_key mask;
	u32 prio;
	__be16 protocol;
	unsigned int first, end;	/* words of the mask that are not zero */
	unsigned int rules;
	struct rcu_head rcu;
};

/* What has been counted, and when last. */
struct simnic_tally {
	u64 packets;
	u64 bytes;
	u64 used;	/* jiffies; 0: never */
};

struct simnic_rule {
	struct hlist_node key_node;
	struct hlist_node cookie_node;
	struct simnic_group *group;
	struct simnic_port *port;
	struct simnic_tunnel *tunnel;	/* of a rule on a tunnel device */
	struct simnic_key key;
	unsigned long cookie;		/* cls_flower's name of the filter */
	u8 user_cookie[SIMNIC_COOKIE_MAX];
	u8 user_cookie_len;
	atomic64_t packets;
	atomic64_t bytes;
	u64 used;
	struct simnic_tally cached;	/* as of the last counter query */
	struct simnic_tally reported;	/* told to TC */
	struct rcu_head rcu;
	bool may_undo;			/* what it did may have to be undone */
	struct simnic_chain *next;	/* that it leads to; NULL: none */
	unsigned int nactions;
	struct simnic_action actions[] __counted_by(nactions);
};

struct simnic_table {
	struct mutex lock;		/* of all below, install_lock first */
	struct mutex install_lock;	/* the firmware takes one at a time */
	DECLARE_HASHTABLE(by_key, 14);
	DECLARE_HASHTABLE(by_cookie, 12);
	DECLARE_HASHTABLE(chains, 10);
	u32 seed;
	unsigned int count;
	unsigned int max;
	u64 installs;
	u64 refusals;
	u32 install_delay_us;
	u32 counter_delay_ms;
	struct delayed_work query;
	struct simnic_refusals refuse;
	struct simnic_ct *ct;
};

struct simnic_table *simnic_table_create(struct simnic *nic);
void simnic_table_destroy(struct simnic_table *table);
void simnic_table_flush(struct simnic_table *table);
void simnic_table_forget(struct simnic_table *table, const struct simnic *nic);
unsigned int simnic_table_count(struct simnic_table *table);
void simnic_table_stats_get(struct simnic_table *table, u64 *data);
void simnic_table_set_counter_delay(struct simnic_table *table, u32 delay_ms);
void simnic_table_show(struct simnic_table *table, struct seq_file *seq);
void simnic_chains_show(struct simnic_table *table, struct seq_file *seq);

/* A rule on a tunnel device is the uplink's, and the tunnel's. */
int simnic_table_install(struct simnic_port *port, struct simnic_tunnel *tunnel,
			 struct flow_cls_offload *cls);
int simnic_table_remove(struct simnic_port *port, const struct simnic_tunnel *tunnel,
			unsigned long cookie);
int simnic_table_stats(struct simnic_port *port, const struct simnic_tunnel *tunnel,
		       struct flow_cls_offload *cls);

struct simnic_rule *simnic_table_lookup(struct simnic_table *table, struct simnic_port *port,
					const struct simnic_tunnel *tunnel, u32 chain,
					__be16 protocol, const struct simnic_key *key);

#endif /* SIMNIC_TABLE_H */

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Conntrack: connections that act_ct tells the NIC of, by zone. What the table
 * does not know is for software to find out; it never asks.
 */
#ifndef SIMNIC_CT_H
#define SIMNIC_CT_H

#include <linux/hashtable.h>
#include <linux/in6.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <net/flow_dissector.h>

struct netlink_ext_ack;
struct nf_flowtable;
struct seq_file;
struct simnic;
struct simnic_key;
struct sk_buff;

#define SIMNIC_CONNS_DEFAULT	65536
#define SIMNIC_CONNS_MAX	BIT(20)

/* One direction of a connection. IPv4 addresses are in the first word. */
struct simnic_tuple {
	struct in6_addr src;
	struct in6_addr dst;
	__be16 sport;
	__be16 dport;
	__be16 n_proto;
	u16 ip_proto;
};

/* What changes in the life of a connection. Replaced as a whole. */
struct simnic_conn_meta {
	unsigned long ct;		/* the kernel's connection, and its state */
	struct flow_dissector_key_ct key;	/* as rules match it */
	struct rcu_head rcu;
};

struct simnic_conn {
	struct hlist_node tuple_node;
	struct hlist_node cookie_node;
	struct simnic_zone *zone;
	unsigned long cookie;		/* the kernel's name of this direction */
	struct simnic_tuple tuple;
	struct simnic_tuple nat;	/* what it becomes */
	bool has_nat;
	__be16 tcp_flags;		/* a packet with one of these is software's */
	struct simnic_conn_meta __rcu *meta;
	atomic64_t packets;
	atomic64_t bytes;
	u64 used;			/* jiffies; 0: never */
	u64 reported_packets;
	u64 reported_bytes;
	struct rcu_head rcu;
};

/* A zone that rules use, that is, a flow table of act_ct. */
struct simnic_zone {
	struct list_head list;
	struct simnic_ct *ct;
	struct nf_flowtable *flow_table;
	u16 id;
	unsigned int refs;		/* rules, under zones_lock */
	bool dying;			/* takes no more connections, under lock */
	unsigned int conns;		/* under lock */
	atomic64_t hits;
	atomic64_t misses;
	struct rcu_head rcu;
};

/* All of one NIC. */
struct simnic_ct {
	struct simnic *nic;
	struct mutex zones_lock;	/* of the zones; before their flow tables' */
	struct list_head zones;
	struct mutex lock;		/* of all below; after the flow tables' */
	DECLARE_HASHTABLE(by_tuple, 14);
	DECLARE_HASHTABLE(by_cookie, 14);
	u32 seed;
	unsigned int count;
	unsigned int max;
	u64 refusals;
};

struct simnic_ct *simnic_ct_create(struct simnic *nic);
void simnic_ct_destroy(struct simnic_ct *ct);
void simnic_ct_stats_get(struct simnic_ct *ct, u64 *data);

struct simnic_zone *simnic_zone_get(struct simnic_ct *ct, u16 id, struct nf_flowtable *flow_table,
				    struct netlink_ext_ack *extack);
void simnic_zone_put(struct simnic_zone *zone);

/* conn.c */
int simnic_conns_callback(enum tc_setup_type type, void *type_data, void *cb_priv);
void simnic_conns_remove(struct simnic_zone *zone);
struct simnic_conn *simnic_conn_find(struct simnic_zone *zone, const struct sk_buff *skb,
				     const struct simnic_key *key);
bool simnic_conn_is_reply(const struct simnic_conn *conn);
void simnic_conn_count(struct simnic_conn *conn, u64 packets, u64 bytes);

/* nat.c */
int simnic_nat(struct sk_buff *skb, const struct simnic_tuple *to);

/* show.c */
void simnic_zones_show(struct simnic_ct *ct, struct seq_file *seq);
void simnic_conns_show(struct simnic_ct *ct, struct seq_file *seq);

#endif /* SIMNIC_CT_H */

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An outer header for packets that rules send into a tunnel device.
 */
#ifndef SIMNIC_ENCAP_H
#define SIMNIC_ENCAP_H

#include <net/dst.h>
#include <net/neighbour.h>

#include "tunnel.h"

/* How packets get to the tunnel's other end. Replaced as a whole. */
struct simnic_path {
	struct simnic_encap *encap;
	struct dst_entry *dst;
	struct simnic_port *uplink;	/* of this card, which the route leaves by */
	u32 cookie;			/* of the dst, for dst_check() */
	struct neighbour *neigh;
	bool resolved;			/* the neighbour has an address */
	bool encrypted;			/* IPsec in mode packet has what goes this way */
	u8 neigh_addr[ETH_ALEN];
	union {
		__be32 saddr;
		struct in6_addr saddr6;
	};
	struct rcu_head rcu;
};

/* One per NIC, tunnel device and tunnel_key; rules share it. */
struct simnic_encap {
	struct list_head list;			/* RCU */
	struct hlist_node key_node;
	struct simnic *nic;
	struct net_device __rcu *dev;		/* NULL once it is gone */
	struct simnic_tunnel_conf conf;
	struct simnic_path __rcu *path;
	bool stale;				/* the path is to be looked up again */
	unsigned long tried;			/* jiffies of the last lookup */
	unsigned long used;			/* jiffies of the last packet */
	unsigned int refs;
	u32 hash;
	unsigned int overhead;			/* bytes before the inner frame, no Ethernet */
	struct rcu_head rcu;
	struct ip_tunnel_info *info;
};

#endif /* SIMNIC_ENCAP_H */

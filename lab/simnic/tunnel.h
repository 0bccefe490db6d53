/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tunnel devices of the host that the NIC works for: which packets from the wire
 * they would receive, and what they would send.
 */
#ifndef SIMNIC_TUNNEL_H
#define SIMNIC_TUNNEL_H

#include <linux/netdevice.h>
#include <net/flow_offload.h>
#include <net/ip_tunnels.h>

struct simnic;
struct simnic_encap;
struct simnic_key;
struct simnic_path;
struct sk_buff;

enum simnic_tunnel_kind {
	SIMNIC_VXLAN,
	SIMNIC_GENEVE,
	SIMNIC_GRE,	/* gretap, over IPv4 */
	SIMNIC_GRE6,	/* ip6gretap, over IPv6 */
	SIMNIC_TUNNEL_KINDS,
};

/* What a tunnel device is set to, as far as it changes what is on the wire. */
struct simnic_tunnel_conf {
	enum simnic_tunnel_kind kind;
	struct net *net;	/* where its outer packets live */
	__be16 port;		/* UDP, that it receives on; 0 for GRE */
	int port_min, port_max;	/* UDP source ports; 0 and 0: the namespace's */
	bool gbp;		/* VXLAN: group based policy */
	bool zero_csum6_rx;	/* UDP over IPv6 without a checksum is taken */
};

/* A tunnel device with an ingress block, as one NIC knows it. */
struct simnic_tunnel {
	struct list_head list;		/* of the NIC, RCU */
	struct simnic *nic;
	struct net_device *dev;		/* outlives the block */
	struct simnic_tunnel_conf conf;
	const char *unsupported;	/* why no rule is taken; NULL: rules are */
	atomic_t rules;
	struct rcu_head rcu;
};

static inline bool simnic_tunnel_is_udp(const struct simnic_tunnel_conf *conf)
{
	return conf->kind == SIMNIC_VXLAN || conf->kind == SIMNIC_GENEVE;
}

/* tunnel.c */
bool simnic_tunnel_kind_of(const struct net_device *dev, enum simnic_tunnel_kind *kind);
const char *simnic_tunnel_conf_read(const struct net_device *dev,
				    struct simnic_tunnel_conf *conf);
bool simnic_tunnels_allowed(const struct simnic *nic, struct netlink_ext_ack *extack);
int simnic_tunnel_check_match(const struct simnic_tunnel *tunnel, const struct simnic_key *key,
			      const struct simnic_key *mask, struct netlink_ext_ack *extack);
int simnic_tunnels_start(struct simnic *nic);
void simnic_tunnels_stop(struct simnic *nic);

/* decap.c: under RCU */
struct sk_buff *simnic_decap(struct simnic *nic, struct sk_buff *skb,
			     struct simnic_tunnel **tunnel);

/* encap.c */
struct simnic_encap *simnic_encap_get(struct simnic *nic, struct net_device *dev,
				      const struct ip_tunnel_info *info,
				      struct netlink_ext_ack *extack);
void simnic_encap_put(struct simnic_encap *encap);
const struct simnic_path *simnic_encap_path(struct simnic_encap *encap, struct sk_buff *skb);
bool simnic_encap_is_resolved(struct simnic_encap *encap);
int simnic_encap_init(void);
void simnic_encap_exit(void);

/* outer.c: under RCU */
unsigned int simnic_outer_len(const struct simnic_tunnel_conf *conf,
			      const struct ip_tunnel_info *info);
void simnic_outer_send(const struct simnic_path *path, struct sk_buff *skb);

#endif /* SIMNIC_TUNNEL_H */

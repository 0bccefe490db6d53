/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Security associations (SAs) of IPsec in the NIC. In mode crypto it does the
 * ciphers of ESP, and the host wraps and unwraps each packet, sequence numbers
 * and replay windows included. In mode packet the NIC does all of it, of transport
 * mode, and policies say which packets.
 */
#ifndef SIMNIC_IPSEC_H
#define SIMNIC_IPSEC_H

#include <linux/bitmap.h>
#include <linux/hashtable.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <net/xfrm.h>

#define SIMNIC_SAS_MAX		65536	/* that the table may be set to take */
#define SIMNIC_SAS_DEFAULT	16384
#define SIMNIC_POLICIES_MAX	16384
#define SIMNIC_WINDOW_MAX	256	/* packets of a replay window */
#define SIMNIC_ESP_HLEN		16	/* SPI, sequence number, initialisation vector */
#define SIMNIC_ESP_ICV_LEN	16

struct crypto_aead;
struct dst_entry;
struct seq_file;
struct simnic;
struct simnic_port;
struct simnic_tunnel;

/* What happened to packets that the NIC treats, or ought to; ipsec.c has the names. */
enum simnic_ipsec_counter {
	SIMNIC_IPSEC_TX,		/* encrypted */
	SIMNIC_IPSEC_RX,		/* decrypted */
	SIMNIC_IPSEC_RX_AUTH_FAILED,	/* not what the peer sent */
	SIMNIC_IPSEC_RX_REPLAYED,	/* came before, or too late to tell */
	SIMNIC_IPSEC_RX_BAD_TRAILER,	/* more padding than packet, or nothing in it */
	SIMNIC_IPSEC_TX_DROP_NO_SA,	/* the SA, or that of the policy, is not there (any more) */
	SIMNIC_IPSEC_TX_DROP_POLICY,	/* a policy blocks it */
	SIMNIC_IPSEC_TX_DROP_EXPIRED,	/* hard limit, or no sequence number left */
	SIMNIC_IPSEC_TX_DROP_BAD,	/* no ESP, or out of memory */
	SIMNIC_IPSEC_RX_DROP_POLICY,	/* a policy blocks it, or wants it encrypted */
	SIMNIC_IPSEC_RX_DROP_EXPIRED,	/* hard limit */
	SIMNIC_IPSEC_RX_DROP_BAD,	/* out of memory */
	SIMNIC_IPSEC_COUNTERS,
};

/* What became of packets of an SA in mode packet, until xfrm asks. */
enum simnic_sa_news {
	SIMNIC_NEWS_PACKETS,
	SIMNIC_NEWS_BYTES,		/* as xfrm counts them: without IP and ESP headers */
	SIMNIC_NEWS_AUTH_FAILED,
	SIMNIC_NEWS_REPLAYED,		/* came before */
	SIMNIC_NEWS_TOO_LATE,		/* below the window */
	SIMNIC_NEWS_NO_SEQ,		/* with sequence number 0 */
	SIMNIC_NEWS_BAD_TRAILER,
	SIMNIC_NEWS_IN_EXPIRED,		/* came in beyond the hard limit */
	SIMNIC_NEWS_OUT_EXPIRED,	/* would have gone out beyond it */
	SIMNIC_NEWS,
};

struct simnic_sa {
	struct hlist_node node;
	struct hlist_node reqid_node;	/* of those that policies find */
	struct simnic_ipsec *ipsec;
	struct xfrm_state *x;	/* outlives its being in the table, not more */
	struct crypto_aead *aead;
	bool in;
	bool packet;		/* mode of offload: packet, or crypto */
	bool esn;
	u16 family;
	__be32 spi;
	u32 reqid;
	u32 window;
	u64 top;		/* highest sequence number that came in; crypto: as the host told */
	spinlock_t replay_lock;	/* packet: of top and seen */
	DECLARE_BITMAP(seen, SIMNIC_WINDOW_MAX);	/* by sequence number modulo its size */
	atomic64_t sent;	/* packet: sequence number of the last that went out */
	xfrm_address_t saddr;
	xfrm_address_t daddr;
	struct xfrm_lifetime_cfg limits;
	struct work_struct expire;
	unsigned long told;	/* bits 0 and 1: the soft and the hard limit were reached */
	atomic64_t used_packets;	/* what limits are about: the state's past included */
	atomic64_t used_bytes;
	atomic64_t news[SIMNIC_NEWS];
	atomic64_t packets;
	atomic64_t bytes;	/* of the frames, as ESP */
	struct rcu_head rcu;
};

/* A policy in mode packet. */
struct simnic_ipsec_policy {
	struct list_head list;
	struct simnic_ipsec *ipsec;
	struct xfrm_selector sel;
	u16 family;
	u32 priority;
	u32 reqid;		/* of its template */
	__be32 spi;		/* of it; 0: of any */
	bool in;
	bool block;
	bool encrypted;		/* it has a template that cannot be done without */
	struct rcu_head rcu;
};

/* A packet as policies and SAs see it. */
struct simnic_ipsec_packet {
	u16 family;
	u8 proto;
	__be16 sport;		/* of TCP and UDP, else 0 */
	__be16 dport;
	xfrm_address_t saddr;
	xfrm_address_t daddr;
	unsigned int offset;	/* of what follows the IP header, from that on */
	unsigned int len;	/* of it all, as IP says */
};

/* What is to be done with a packet from the wire. */
enum simnic_ipsec_verdict {
	SIMNIC_IPSEC_PLAIN,	/* as it is by now: no ESP that the NIC knows, or unwrapped */
	SIMNIC_IPSEC_HOST,	/* decrypted and marked, for the host */
	SIMNIC_IPSEC_DROPPED,
};

/* All of one NIC. */
struct simnic_ipsec {
	struct simnic *nic;
	spinlock_t lock;	/* of the table; after a state's */
	DECLARE_HASHTABLE(by_spi, 10);
	DECLARE_HASHTABLE(by_reqid, 10);
	unsigned int count;
	unsigned int max;
	u64 refusals;
	struct list_head policies[2];	/* out and in, by priority; under lock, RCU */
	unsigned int npolicies;
	unsigned int npacket;	/* SAs and policies in mode packet */
	unsigned int tc_rules;	/* of the uplink itself */
	atomic64_t counters[SIMNIC_IPSEC_COUNTERS];
};

#if IS_ENABLED(CONFIG_XFRM_OFFLOAD)

#define SIMNIC_IPSEC_STATS	(4 + SIMNIC_IPSEC_COUNTERS)

/* ipsec.c */
struct simnic_ipsec *simnic_ipsec_create(struct simnic *nic);
void simnic_ipsec_destroy(struct simnic_ipsec *ipsec);
void simnic_ipsec_flush(struct simnic_ipsec *ipsec);
void simnic_ipsec_setup(struct net_device *dev);
void simnic_ipsec_strings(u8 **data);
void simnic_ipsec_stats_get(struct simnic_ipsec *ipsec, u64 *data);
void simnic_sas_show(struct simnic_ipsec *ipsec, struct seq_file *seq);
struct simnic_sa *simnic_sa_find(struct simnic_ipsec *ipsec, u16 family,
				 const xfrm_address_t *daddr, __be32 spi);
void simnic_ipsec_count(struct simnic_ipsec *ipsec, enum simnic_ipsec_counter counter);
struct simnic_sa *simnic_sa_find_out(struct simnic_ipsec *ipsec,
				     const struct simnic_ipsec_packet *packet,
				     const struct simnic_ipsec_policy *policy);

/* ipsec_policy.c */
int simnic_policy_add(struct xfrm_policy *x, struct netlink_ext_ack *extack);
void simnic_policy_delete(struct xfrm_policy *x);
void simnic_policy_free(struct xfrm_policy *x);
const struct simnic_ipsec_policy *
simnic_policy_find(struct simnic_ipsec *ipsec, bool in, const struct simnic_ipsec_packet *packet);
void simnic_policies_show(struct simnic_ipsec *ipsec, struct seq_file *seq);

/* ipsec_packet.c */
void simnic_sa_init_packet(struct simnic_sa *sa, const struct xfrm_state *x);
void simnic_sa_cancel(struct simnic_sa *sa);
void simnic_sa_update_stats(struct simnic_sa *sa);
struct sk_buff *simnic_packet_tx(struct simnic_ipsec *ipsec, struct simnic_sa *sa,
				 struct sk_buff *skb);
enum simnic_ipsec_verdict simnic_packet_rx(struct simnic_sa *sa, struct sk_buff *skb,
					   const struct simnic_ipsec_packet *packet);

/* ipsec_path.c */
int simnic_ipsec_path(const struct dst_entry *dst, struct netlink_ext_ack *extack);
bool simnic_ipsec_has_policies(const struct net *net);
bool simnic_ipsec_takes(struct simnic_ipsec *ipsec, struct sk_buff *skb);

/* ipsec_tc.c */
int simnic_ipsec_packet_get(struct simnic_ipsec *ipsec, struct netlink_ext_ack *extack);
void simnic_ipsec_packet_put(struct simnic_ipsec *ipsec);
int simnic_ipsec_tc_get(const struct simnic_port *port, const struct simnic_tunnel *tunnel,
			struct netlink_ext_ack *extack);
void simnic_ipsec_tc_put(const struct simnic_port *port, const struct simnic_tunnel *tunnel);

/* esp.c */
struct crypto_aead *simnic_aead_create(const struct xfrm_algo_aead *algo);
int simnic_aead_do(const struct simnic_sa *sa, u8 *esp, unsigned int len, u64 seq, bool encrypt);
u64 simnic_rx_seq(const struct simnic_sa *sa, u32 low);
void simnic_sa_count(struct simnic_sa *sa, enum simnic_ipsec_counter counter, unsigned int bytes);
struct sk_buff *simnic_ipsec_tx(struct simnic_port *port, struct sk_buff *skb);
struct sk_buff *simnic_ipsec_tx_tunnel(struct simnic_port *port, struct sk_buff *skb,
				       bool encrypted);
enum simnic_ipsec_verdict simnic_ipsec_rx(struct simnic_port *port, struct sk_buff *skb);

#else

#define SIMNIC_IPSEC_STATS	0

static inline struct simnic_ipsec *simnic_ipsec_create(struct simnic *nic)
{
	return kzalloc(sizeof(struct simnic_ipsec), GFP_KERNEL);
}

static inline void simnic_ipsec_destroy(struct simnic_ipsec *ipsec)
{
	kfree(ipsec);
}

static inline void simnic_ipsec_flush(struct simnic_ipsec *ipsec) {}
static inline void simnic_ipsec_setup(struct net_device *dev) {}
static inline void simnic_ipsec_strings(u8 **data) {}
static inline void simnic_ipsec_stats_get(struct simnic_ipsec *ipsec, u64 *data) {}
static inline void simnic_sas_show(struct simnic_ipsec *ipsec, struct seq_file *seq) {}

static inline void simnic_policies_show(struct simnic_ipsec *ipsec, struct seq_file *seq) {}

static inline struct sk_buff *simnic_ipsec_tx(struct simnic_port *port, struct sk_buff *skb)
{
	return skb;
}

/* What the kernel's IPsec treats, if it has any, the NIC has nothing to do with. */
static inline int simnic_ipsec_path(const struct dst_entry *dst, struct netlink_ext_ack *extack)
{
	return dst_xfrm(dst) ? -EOPNOTSUPP : 0;
}

static inline bool simnic_ipsec_has_policies(const struct net *net)
{
	return IS_ENABLED(CONFIG_XFRM);
}

static inline bool simnic_ipsec_takes(struct simnic_ipsec *ipsec, struct sk_buff *skb)
{
	return xfrm_policy_check(NULL, XFRM_POLICY_IN, skb,
				 skb->protocol == htons(ETH_P_IP) ? AF_INET : AF_INET6);
}

static inline int simnic_ipsec_tc_get(const struct simnic_port *port,
				      const struct simnic_tunnel *tunnel,
				      struct netlink_ext_ack *extack)
{
	return 0;
}

static inline void simnic_ipsec_tc_put(const struct simnic_port *port,
				       const struct simnic_tunnel *tunnel) {}

static inline struct sk_buff *simnic_ipsec_tx_tunnel(struct simnic_port *port,
						     struct sk_buff *skb, bool encrypted)
{
	return skb;
}

static inline enum simnic_ipsec_verdict simnic_ipsec_rx(struct simnic_port *port,
							struct sk_buff *skb)
{
	return SIMNIC_IPSEC_PLAIN;
}

#endif /* CONFIG_XFRM_OFFLOAD */

#endif /* SIMNIC_IPSEC_H */

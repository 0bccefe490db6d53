/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Security associations (SAs) of IPsec in the NIC. In mode crypto it does the
 * ciphers of ESP, and the host wraps and unwraps each packet, sequence numbers
 * and replay windows included.
 */
#ifndef SIMNIC_IPSEC_H
#define SIMNIC_IPSEC_H

#include <linux/hashtable.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/spinlock.h>
#include <net/xfrm.h>

#define SIMNIC_SAS_MAX		65536	/* that the table may be set to take */
#define SIMNIC_SAS_DEFAULT	16384
#define SIMNIC_ESP_HLEN		16	/* SPI, sequence number, initialisation vector */
#define SIMNIC_ESP_ICV_LEN	16

struct crypto_aead;
struct seq_file;
struct simnic;
struct simnic_port;

/* What happened to packets that the NIC treats, or ought to; ipsec.c has the names. */
enum simnic_ipsec_counter {
	SIMNIC_IPSEC_TX,		/* encrypted */
	SIMNIC_IPSEC_RX,		/* decrypted */
	SIMNIC_IPSEC_RX_AUTH_FAILED,	/* not what the peer sent */
	SIMNIC_IPSEC_TX_DROP_NO_SA,	/* of an SA that the NIC does not have any more */
	SIMNIC_IPSEC_TX_DROP_BAD,	/* no ESP, or out of memory */
	SIMNIC_IPSEC_RX_DROP_BAD,	/* out of memory */
	SIMNIC_IPSEC_COUNTERS,
};

struct simnic_sa {
	struct hlist_node node;
	struct simnic_ipsec *ipsec;
	struct xfrm_state *x;	/* outlives its being in the table, not more */
	struct crypto_aead *aead;
	bool in;
	bool esn;
	u16 family;
	__be32 spi;
	u32 reqid;
	u32 window;
	u64 top;		/* highest sequence number that came in, as the host told */
	xfrm_address_t daddr;
	atomic64_t packets;
	atomic64_t bytes;	/* of the frames, as ESP */
	struct rcu_head rcu;
};

/* All of one NIC. */
struct simnic_ipsec {
	struct simnic *nic;
	spinlock_t lock;	/* of the table; after a state's */
	DECLARE_HASHTABLE(by_spi, 10);
	unsigned int count;
	unsigned int max;
	u64 refusals;
	atomic64_t counters[SIMNIC_IPSEC_COUNTERS];
};

#if IS_ENABLED(CONFIG_XFRM_OFFLOAD)

#define SIMNIC_IPSEC_STATS	(3 + SIMNIC_IPSEC_COUNTERS)

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

/* esp.c */
struct crypto_aead *simnic_aead_create(const struct xfrm_algo_aead *algo);
bool simnic_ipsec_tx(struct simnic_port *port, struct sk_buff *skb);
bool simnic_ipsec_rx(struct simnic_port *port, struct sk_buff *skb);

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

static inline bool simnic_ipsec_tx(struct simnic_port *port, struct sk_buff *skb)
{
	return true;
}

static inline bool simnic_ipsec_rx(struct simnic_port *port, struct sk_buff *skb)
{
	return false;
}

#endif /* CONFIG_XFRM_OFFLOAD */

#endif /* SIMNIC_IPSEC_H */

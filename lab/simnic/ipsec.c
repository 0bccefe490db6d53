// SPDX-License-Identifier: GPL-2.0
/*
 * The NIC's table of SAs, as the kernel's xfrm fills it, and what the NIC
 * demands of one: mostly what mlx5 does.
 */
#include <crypto/aead.h>
#include <linux/ethtool.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "compat.h"
#include "fail.h"
#include "ipsec.h"
#include "simnic.h"

#define SIMNIC_SALT_BITS	32

static const char * const simnic_ipsec_counter_names[] = {
	[SIMNIC_IPSEC_TX]		= "ipsec_tx_packets",
	[SIMNIC_IPSEC_RX]		= "ipsec_rx_packets",
	[SIMNIC_IPSEC_RX_AUTH_FAILED]	= "ipsec_rx_auth_failed",
	[SIMNIC_IPSEC_RX_REPLAYED]	= "ipsec_rx_replayed",
	[SIMNIC_IPSEC_RX_BAD_TRAILER]	= "ipsec_rx_bad_trailer",
	[SIMNIC_IPSEC_TX_DROP_NO_SA]	= "ipsec_tx_drop_no_sa",
	[SIMNIC_IPSEC_TX_DROP_POLICY]	= "ipsec_tx_drop_policy",
	[SIMNIC_IPSEC_TX_DROP_EXPIRED]	= "ipsec_tx_drop_expired",
	[SIMNIC_IPSEC_TX_DROP_BAD]	= "ipsec_tx_drop_bad",
	[SIMNIC_IPSEC_RX_DROP_POLICY]	= "ipsec_rx_drop_policy",
	[SIMNIC_IPSEC_RX_DROP_EXPIRED]	= "ipsec_rx_drop_expired",
	[SIMNIC_IPSEC_RX_DROP_BAD]	= "ipsec_rx_drop_bad",
};

static_assert(ARRAY_SIZE(simnic_ipsec_counter_names) == SIMNIC_IPSEC_COUNTERS);

void simnic_ipsec_count(struct simnic_ipsec *ipsec, enum simnic_ipsec_counter counter)
{
	atomic64_inc(&ipsec->counters[counter]);
}

static struct simnic_ipsec *simnic_ipsec_of(const struct net_device *dev)
{
	const struct simnic_netdev *priv = netdev_priv(dev);

	return priv->port->nic->ipsec;
}

/* Of what comes in, under RCU. */
struct simnic_sa *simnic_sa_find(struct simnic_ipsec *ipsec, u16 family,
				 const xfrm_address_t *daddr, __be32 spi)
{
	struct simnic_sa *sa;

	hash_for_each_possible_rcu(ipsec->by_spi, sa, node, (__force u32)spi) {
		if (sa->in && sa->spi == spi && sa->family == family &&
		    xfrm_addr_equal(&sa->daddr, daddr, family))
			return sa;
	}
	return NULL;
}

/*
 * Of what goes out in mode packet, the newest that the policy's template fits, as
 * xfrm_state_find() has it. The SPI is what keeps the old one in use while the peer
 * is not ready for the new one; mlx5 (6.12) looks at the reqid alone.
 */
struct simnic_sa *simnic_sa_find_out(struct simnic_ipsec *ipsec,
				     const struct simnic_ipsec_packet *packet,
				     const struct simnic_ipsec_policy *policy)
{
	struct simnic_sa *sa;

	hash_for_each_possible_rcu(ipsec->by_reqid, sa, reqid_node, policy->reqid) {
		if (sa->reqid == policy->reqid && sa->family == packet->family &&
		    (!policy->spi || sa->spi == policy->spi) &&
		    xfrm_addr_equal(&sa->daddr, &packet->daddr, sa->family) &&
		    xfrm_addr_equal(&sa->saddr, &packet->saddr, sa->family))
			return sa;
	}
	return NULL;
}

static int simnic_check_limit(u64 soft, u64 hard, const char *what,
			      struct netlink_ext_ack *extack)
{
	if (!soft || !hard) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "a limit of %s must not be 0", what);
		return -EINVAL;
	}
	if (soft >= hard && hard != XFRM_INF) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "the hard limit of %s must be above the soft one",
				       what);
		return -EINVAL;
	}
	return 0;
}

static bool simnic_window_fits(u32 window)
{
	return window == 32 || window == 64 || window == 128 || window == 256;
}

/* What mode packet wants beyond mode crypto. */
static int simnic_check_packet(const struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	int err;

	if (x->props.mode != XFRM_MODE_TRANSPORT) {
		NL_SET_ERR_MSG_MOD(extack, "mode packet is for transport mode alone");
		return -EINVAL;
	}
	if (x->replay_esn && x->xso.dir == XFRM_DEV_OFFLOAD_IN &&
	    !simnic_window_fits(x->replay_esn->replay_window)) {
		NL_SET_ERR_MSG_MOD(extack, "the replay window has to be of 32, 64, 128 or 256");
		return -EINVAL;
	}
	if (!x->props.reqid) {
		NL_SET_ERR_MSG_MOD(extack, "mode packet needs a reqid");
		return -EINVAL;
	}
	err = simnic_check_limit(x->lft.soft_byte_limit, x->lft.hard_byte_limit, "bytes", extack);
	return err ?: simnic_check_limit(x->lft.soft_packet_limit, x->lft.hard_packet_limit,
					 "packets", extack);
}

static int simnic_check_cipher(const struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	if (x->props.aalgo != SADB_AALG_NONE) {
		NL_SET_ERR_MSG_MOD(extack, "an algorithm for authentication alone is not offloaded");
		return -EINVAL;
	}
	if (x->props.calgo != SADB_X_CALG_NONE) {
		NL_SET_ERR_MSG_MOD(extack, "compression is not offloaded");
		return -EINVAL;
	}
	if (!x->aead || strcmp(x->aead->alg_name, "rfc4106(gcm(aes))")) {
		NL_SET_ERR_MSG_MOD(extack, "the only cipher is AES-GCM, rfc4106(gcm(aes))");
		return -EINVAL;
	}
	if (x->aead->alg_icv_len != SIMNIC_ESP_ICV_LEN * BITS_PER_BYTE) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "the tag has to have 128 bits, not %u",
				       x->aead->alg_icv_len);
		return -EINVAL;
	}
	if (x->aead->alg_key_len != 128 + SIMNIC_SALT_BITS &&
	    x->aead->alg_key_len != 256 + SIMNIC_SALT_BITS) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "the key has to have 128 or 256 bits, not %d",
				       (int)x->aead->alg_key_len - SIMNIC_SALT_BITS);
		return -EINVAL;
	}
	if (!x->geniv || strcmp(x->geniv, "seqiv")) {
		NL_SET_ERR_MSG_MOD(extack, "the only generator of vectors is seqiv");
		return -EINVAL;
	}
	return 0;
}

static int simnic_check_state(const struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	if (x->id.proto != IPPROTO_ESP) {
		NL_SET_ERR_MSG_MOD(extack, "the only protocol is ESP");
		return -EINVAL;
	}
	if (x->props.family != AF_INET && x->props.family != AF_INET6) {
		NL_SET_ERR_MSG_MOD(extack, "the outer header has to be IPv4 or IPv6");
		return -EINVAL;
	}
	if (x->encap) {
		NL_SET_ERR_MSG_MOD(extack, "ESP in UDP or TCP is not offloaded");
		return -EINVAL;
	}
	if (x->tfcpad) {
		NL_SET_ERR_MSG_MOD(extack, "padding against traffic analysis is not offloaded");
		return -EINVAL;
	}
	if (x->sel.proto != IPPROTO_IP && x->sel.proto != IPPROTO_UDP &&
	    x->sel.proto != IPPROTO_TCP) {
		NL_SET_ERR_MSG_MOD(extack, "the selector's protocol has to be any, TCP or UDP");
		return -EINVAL;
	}
	if (x->props.mode != XFRM_MODE_TRANSPORT && x->props.mode != XFRM_MODE_TUNNEL) {
		NL_SET_ERR_MSG_MOD(extack, "the mode has to be transport or tunnel");
		return -EINVAL;
	}
	if (x->xso.dir == XFRM_DEV_OFFLOAD_IN && x->mark.m) {
		NL_SET_ERR_MSG_MOD(extack, "packets from the wire have no mark");
		return -EINVAL;
	}
	if (x->xso.type == XFRM_DEV_OFFLOAD_PACKET && simnic_check_packet(x, extack))
		return -EINVAL;
	return simnic_check_cipher(x, extack);
}

/* The highest sequence number, and how many of those below it the host still takes. */
static void simnic_sa_follow_replay(struct simnic_sa *sa, const struct xfrm_state *x)
{
	const struct xfrm_replay_state_esn *replay = x->replay_esn;

	if (!replay)
		return;
	WRITE_ONCE(sa->window, replay->replay_window);
	WRITE_ONCE(sa->top, (u64)replay->seq_hi << 32 | replay->seq);
}

static struct simnic_sa *simnic_sa_alloc(struct simnic_ipsec *ipsec, struct xfrm_state *x,
					 struct netlink_ext_ack *extack)
{
	struct simnic_sa *sa;
	int err;

	sa = kzalloc(sizeof(*sa), GFP_KERNEL);
	if (!sa)
		return ERR_PTR(-ENOMEM);
	sa->aead = simnic_aead_create(x->aead);
	if (IS_ERR(sa->aead)) {
		err = PTR_ERR(sa->aead);
		NL_SET_ERR_MSG_MOD(extack, "no AES-GCM in this kernel");
		kfree(sa);
		return ERR_PTR(err);
	}
	sa->ipsec = ipsec;
	sa->x = x;
	sa->in = x->xso.dir == XFRM_DEV_OFFLOAD_IN;
	sa->esn = x->props.flags & XFRM_STATE_ESN;
	sa->family = x->props.family;
	sa->spi = x->id.spi;
	sa->reqid = x->props.reqid;
	sa->saddr = x->props.saddr;
	sa->daddr = x->id.daddr;
	simnic_sa_follow_replay(sa, x);
	simnic_sa_init_packet(sa, x);
	return sa;
}

static void simnic_sa_free(struct rcu_head *head)
{
	struct simnic_sa *sa = container_of(head, struct simnic_sa, rcu);

	crypto_free_aead(sa->aead);
	kfree(sa);
}

static int simnic_sa_insert(struct simnic_ipsec *ipsec, struct simnic_sa *sa,
			    struct netlink_ext_ack *extack)
{
	int err = 0;

	spin_lock_bh(&ipsec->lock);
	if (ipsec->count >= READ_ONCE(ipsec->max)) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "the table of SAs is full (%u)", ipsec->max);
		err = -ENOSPC;
	} else if (sa->in && simnic_sa_find(ipsec, sa->family, &sa->daddr, sa->spi)) {
		NL_SET_ERR_MSG_MOD(extack, "there is an SA with this address and SPI");
		err = -EEXIST;
	} else if (sa->packet) {
		err = simnic_ipsec_packet_get(ipsec, extack);
	}
	if (!err) {
		hash_add_rcu(ipsec->by_spi, &sa->node, (__force u32)sa->spi);
		if (sa->packet && !sa->in)
			hash_add_rcu(ipsec->by_reqid, &sa->reqid_node, sa->reqid);
		ipsec->count++;
	}
	spin_unlock_bh(&ipsec->lock);
	return err;
}

static void simnic_sa_remove(struct simnic_sa *sa)
{
	lockdep_assert_held(&sa->ipsec->lock);
	if (!hash_hashed(&sa->node))
		return;
	hash_del_rcu(&sa->node);
	hash_del_rcu(&sa->reqid_node);
	if (sa->packet)
		simnic_ipsec_packet_put(sa->ipsec);
	sa->ipsec->count--;
}

static int simnic_state_add(struct net_device *dev, struct xfrm_state *x,
			    struct netlink_ext_ack *extack)
{
	struct simnic_ipsec *ipsec;
	struct simnic_sa *sa;
	int err;

	/* It stands for one that an IKE daemon is being asked for, and encrypts nothing. */
	if (x->xso.flags & XFRM_DEV_OFFLOAD_FLAG_ACQ)
		return 0;
	ipsec = simnic_ipsec_of(dev);
	err = simnic_fail(ipsec->nic, SIMNIC_OP_SA_ADD, extack);
	if (!err)
		err = simnic_check_state(x, extack);
	if (err)
		goto refused;
	sa = simnic_sa_alloc(ipsec, x, extack);
	if (IS_ERR(sa)) {
		err = PTR_ERR(sa);
		goto refused;
	}
	err = simnic_sa_insert(ipsec, sa, extack);
	if (err) {
		simnic_sa_free(&sa->rcu);
		goto refused;
	}
	x->xso.offload_handle = (unsigned long)sa;
	return 0;

refused:
	spin_lock_bh(&ipsec->lock);
	ipsec->refusals++;
	spin_unlock_bh(&ipsec->lock);
	return err;
}

/* Under the state's lock. */
static void simnic_state_delete(struct xfrm_state *x)
{
	struct simnic_sa *sa = (struct simnic_sa *)x->xso.offload_handle;

	if (!sa)
		return;
	spin_lock_bh(&sa->ipsec->lock);
	simnic_sa_remove(sa);
	spin_unlock_bh(&sa->ipsec->lock);
}

/* Packets that are under way may still name the state, and it this. */
static void simnic_state_free(struct xfrm_state *x)
{
	struct simnic_sa *sa = (struct simnic_sa *)x->xso.offload_handle;

	if (!sa)
		return;
	WRITE_ONCE(x->xso.offload_handle, 0);
	simnic_sa_cancel(sa);
	call_rcu(&sa->rcu, simnic_sa_free);
}

/* As mlx5: other headers between IP's and what is encrypted are not known to the NIC. */
static bool simnic_offload_ok(struct sk_buff *skb, struct xfrm_state *x)
{
	if (x->props.family == AF_INET)
		return ip_hdr(skb)->ihl == 5;
	return !ipv6_ext_hdr(ipv6_hdr(skb)->nexthdr);
}

/* Under the state's lock: another packet has come in. */
static void simnic_state_advance_esn(struct xfrm_state *x)
{
	struct simnic_sa *sa = (struct simnic_sa *)x->xso.offload_handle;

	if (sa)
		simnic_sa_follow_replay(sa, x);
}

/* Somebody is about to look at what the state has counted. */
static void simnic_state_update_stats(struct xfrm_state *x)
{
	struct simnic_sa *sa = (struct simnic_sa *)x->xso.offload_handle;

	if (sa && sa->packet)
		simnic_sa_update_stats(sa);
}

/* Newer kernels tell these the device, too. */
#ifdef SIMNIC_XFRM_OPS_TAKE_DEV
#define simnic_dev_state_add	simnic_state_add

static void simnic_dev_state_delete(struct net_device *dev, struct xfrm_state *x)
{
	simnic_state_delete(x);
}

static void simnic_dev_state_free(struct net_device *dev, struct xfrm_state *x)
{
	simnic_state_free(x);
}
#else
static int simnic_dev_state_add(struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	return simnic_state_add(x->xso.real_dev, x, extack);
}

#define simnic_dev_state_delete	simnic_state_delete
#define simnic_dev_state_free	simnic_state_free
#endif

static const struct xfrmdev_ops simnic_xfrmdev_ops = {
	.xdo_dev_state_add		= simnic_dev_state_add,
	.xdo_dev_state_delete		= simnic_dev_state_delete,
	.xdo_dev_state_free		= simnic_dev_state_free,
	.xdo_dev_offload_ok		= simnic_offload_ok,
	.xdo_dev_state_advance_esn	= simnic_state_advance_esn,
	.xdo_dev_state_update_stats	= simnic_state_update_stats,
	.xdo_dev_policy_add		= simnic_policy_add,
	.xdo_dev_policy_delete		= simnic_policy_delete,
	.xdo_dev_policy_free		= simnic_policy_free,
};

/*
 * The uplink alone has IPsec. A GSO packet is cut by the stack before it comes
 * here, and its checksums are in place: neither NETIF_F_GSO_ESP nor _TX_CSUM.
 */
void simnic_ipsec_setup(struct net_device *dev)
{
	dev->xfrmdev_ops = &simnic_xfrmdev_ops;
	dev->features |= NETIF_F_HW_ESP;
	dev->hw_enc_features |= NETIF_F_HW_ESP | NETIF_F_SG | NETIF_F_HIGHDMA;
}

/*
 * All SAs gone at once, and xfrm not told: what a reset of the card does. The
 * policies stay, so that what they want encrypted does not leave otherwise.
 */
void simnic_ipsec_flush(struct simnic_ipsec *ipsec)
{
	struct hlist_node *next;
	struct simnic_sa *sa;
	int bucket;

	spin_lock_bh(&ipsec->lock);
	hash_for_each_safe(ipsec->by_spi, bucket, next, sa, node)
		simnic_sa_remove(sa);
	spin_unlock_bh(&ipsec->lock);
}

struct simnic_ipsec *simnic_ipsec_create(struct simnic *nic)
{
	struct simnic_ipsec *ipsec;

	ipsec = kvzalloc(sizeof(*ipsec), GFP_KERNEL);
	if (!ipsec)
		return NULL;
	ipsec->nic = nic;
	spin_lock_init(&ipsec->lock);
	hash_init(ipsec->by_spi);
	hash_init(ipsec->by_reqid);
	INIT_LIST_HEAD(&ipsec->policies[0]);
	INIT_LIST_HEAD(&ipsec->policies[1]);
	ipsec->max = SIMNIC_SAS_DEFAULT;
	return ipsec;
}

/* The uplink is gone, and with it the states that named it. */
void simnic_ipsec_destroy(struct simnic_ipsec *ipsec)
{
	kvfree(ipsec);
}

void simnic_ipsec_strings(u8 **data)
{
	int i;

	ethtool_puts(data, "ipsec_sas");
	ethtool_puts(data, "ipsec_sas_max");
	ethtool_puts(data, "ipsec_refusals");
	ethtool_puts(data, "ipsec_policies");
	for (i = 0; i < SIMNIC_IPSEC_COUNTERS; i++)
		ethtool_puts(data, simnic_ipsec_counter_names[i]);
}

void simnic_ipsec_stats_get(struct simnic_ipsec *ipsec, u64 *data)
{
	int i;

	spin_lock_bh(&ipsec->lock);
	*data++ = ipsec->count;
	*data++ = ipsec->max;
	*data++ = ipsec->refusals;
	*data++ = ipsec->npolicies;
	spin_unlock_bh(&ipsec->lock);
	for (i = 0; i < SIMNIC_IPSEC_COUNTERS; i++)
		*data++ = atomic64_read(&ipsec->counters[i]);
}

/* One line per SA, without its key. */
void simnic_sas_show(struct simnic_ipsec *ipsec, struct seq_file *seq)
{
	struct simnic_sa *sa;
	int bucket;

	rcu_read_lock();
	hash_for_each_rcu(ipsec->by_spi, bucket, sa, node) {
		seq_printf(seq, "%s spi 0x%08x dst ", sa->in ? "in" : "out", ntohl(sa->spi));
		if (sa->family == AF_INET)
			seq_printf(seq, "%pI4", &sa->daddr.a4);
		else
			seq_printf(seq, "%pI6c", &sa->daddr.in6);
		seq_printf(seq, " reqid %u %s%s packets %lld bytes %lld", sa->reqid,
			   sa->packet ? "packet" : "crypto", sa->esn ? " esn" : "",
			   atomic64_read(&sa->packets), atomic64_read(&sa->bytes));
		if (sa->packet)
			seq_printf(seq, " seq %llu", sa->in ? READ_ONCE(sa->top) :
				   (u64)atomic64_read(&sa->sent));
		seq_putc(seq, '\n');
	}
	rcu_read_unlock();
}

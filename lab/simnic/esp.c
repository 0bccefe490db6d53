// SPDX-License-Identifier: GPL-2.0
/*
 * ESP at the wire's side of the NIC, RFC 4303 with RFC 4106 (AES-GCM): what the
 * host has wrapped is encrypted on its way out, what comes in for the host is
 * decrypted and marked as drivers do.
 */
#include <crypto/aead.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <net/esp.h>
#include <net/ip.h>
#include <net/ipv6.h>

#include "ipsec.h"
#include "simnic.h"

/*
 * Associated data as the kernel's rfc4106 wants it: SPI, sequence number (64
 * bits with ESN) and the initialisation vector once more.
 */
struct simnic_aead_job {
	struct scatterlist sg[2];
	u8 iv[8];
	u8 associated[20];
};

/* Never asleep: the datapath cannot be. */
struct crypto_aead *simnic_aead_create(const struct xfrm_algo_aead *algo)
{
	struct crypto_aead *aead;
	int err;

	aead = crypto_alloc_aead("rfc4106(gcm(aes))", 0, CRYPTO_ALG_ASYNC);
	if (IS_ERR(aead))
		return aead;
	err = crypto_aead_setkey(aead, algo->alg_key, algo->alg_key_len / BITS_PER_BYTE);
	if (!err)
		err = crypto_aead_setauthsize(aead, algo->alg_icv_len / BITS_PER_BYTE);
	if (err) {
		crypto_free_aead(aead);
		return ERR_PTR(err);
	}
	return aead;
}

static unsigned int simnic_aead_associate(struct simnic_aead_job *job, const struct simnic_sa *sa,
					  const u8 *esp, u64 seq)
{
	u8 *at = job->associated;
	__be32 word;

	memcpy(at, esp, 4);
	at += 4;
	if (sa->esn) {
		word = htonl(upper_32_bits(seq));
		memcpy(at, &word, 4);
		at += 4;
	}
	memcpy(at, esp + 4, SIMNIC_ESP_HLEN - 4);
	memcpy(job->iv, esp + 8, sizeof(job->iv));
	return at + SIMNIC_ESP_HLEN - 4 - job->associated;
}

/*
 * In place: what is between the ESP header at @esp and the tag, and the tag. The
 * header has its vector. -EBADMSG: the tag is not that of the rest.
 */
int simnic_aead_do(const struct simnic_sa *sa, u8 *esp, unsigned int len, u64 seq, bool encrypt)
{
	struct simnic_aead_job *job;
	struct aead_request *req;
	unsigned int associated;
	int err = -ENOMEM;

	job = kmalloc(sizeof(*job), GFP_ATOMIC);
	req = aead_request_alloc(sa->aead, GFP_ATOMIC);
	if (!job || !req)
		goto out;
	associated = simnic_aead_associate(job, sa, esp, seq);
	sg_init_table(job->sg, ARRAY_SIZE(job->sg));
	sg_set_buf(&job->sg[0], job->associated, associated);
	sg_set_buf(&job->sg[1], esp + SIMNIC_ESP_HLEN, len - SIMNIC_ESP_HLEN);
	len -= SIMNIC_ESP_HLEN;
	aead_request_set_ad(req, associated);
	aead_request_set_crypt(req, job->sg, job->sg, encrypt ? len - SIMNIC_ESP_ICV_LEN : len,
			       job->iv);
	err = encrypt ? crypto_aead_encrypt(req) : crypto_aead_decrypt(req);
out:
	aead_request_free(req);
	kfree(job);
	return err;
}

void simnic_sa_count(struct simnic_sa *sa, enum simnic_ipsec_counter counter, unsigned int bytes)
{
	atomic64_inc(&sa->packets);
	atomic64_add(bytes, &sa->bytes);
	simnic_ipsec_count(sa->ipsec, counter);
}

/* The host counts on after each segment, and into the upper half when it wraps. */
static u64 simnic_tx_seq(const struct xfrm_offload *xo, const struct ip_esp_hdr *esph)
{
	u32 low = ntohl(esph->seq_no);
	u32 high = xo->seq.hi;

	if (xo->seq.low < low)
		high--;
	return (u64)high << 32 | low;
}

/* Data at the MAC header. As mlx5, the sequence number is the vector. */
static int simnic_esp_encrypt(struct simnic_sa *sa, struct sk_buff *skb)
{
	const struct xfrm_offload *xo = xfrm_offload(skb);
	int offset = skb_transport_offset(skb);
	struct ip_esp_hdr *esph;
	unsigned int len;
	__be64 iv;
	u64 seq;
	int err;

	if (skb_is_gso(skb) || skb->ip_summed == CHECKSUM_PARTIAL || offset < ETH_HLEN ||
	    skb->len < offset + SIMNIC_ESP_HLEN + SIMNIC_ESP_ICV_LEN)
		return -EINVAL;
	/* Clones of it, and pages of files, are to keep the plaintext. */
	if (skb_linearize_cow(skb))
		return -ENOMEM;
	len = skb->len - offset;
	esph = (struct ip_esp_hdr *)(skb->data + offset);
	if (esph->spi != sa->spi)
		return -EINVAL;
	seq = simnic_tx_seq(xo, esph);
	iv = cpu_to_be64(seq);
	memcpy(skb->data + offset + 8, &iv, sizeof(iv));
	err = simnic_aead_do(sa, skb->data + offset, len, seq, true);
	if (err)
		return err;
	skb->ip_summed = CHECKSUM_NONE;
	return 0;
}

static struct sk_buff *simnic_tx_drop(struct simnic_ipsec *ipsec, struct sk_buff *skb,
				      enum simnic_ipsec_counter why)
{
	simnic_ipsec_count(ipsec, why);
	kfree_skb(skb);
	return NULL;
}

/* Of what the host has wrapped. */
static struct sk_buff *simnic_crypto_tx(struct simnic_ipsec *ipsec, struct sk_buff *skb)
{
	struct simnic_sa *sa;

	sa = (struct simnic_sa *)READ_ONCE(xfrm_input_state(skb)->xso.offload_handle);
	if (!sa || hlist_unhashed_lockless(&sa->node) || sa->in || sa->packet ||
	    sa->ipsec != ipsec)
		return simnic_tx_drop(ipsec, skb, SIMNIC_IPSEC_TX_DROP_NO_SA);
	if (simnic_esp_encrypt(sa, skb))
		return simnic_tx_drop(ipsec, skb, SIMNIC_IPSEC_TX_DROP_BAD);
	simnic_sa_count(sa, SIMNIC_IPSEC_TX, skb->len);
	return skb;
}

static bool simnic_parse_ipv4(struct sk_buff *skb, struct simnic_ipsec_packet *packet)
{
	const struct iphdr *iph;

	if (!pskb_may_pull(skb, sizeof(*iph)))
		return false;
	iph = (const struct iphdr *)skb->data;
	if (iph->version != 4 || iph->ihl != 5 || ip_is_fragment(iph))
		return false;
	packet->family = AF_INET;
	packet->proto = iph->protocol;
	packet->saddr.a4 = iph->saddr;
	packet->daddr.a4 = iph->daddr;
	packet->offset = sizeof(*iph);
	packet->len = ntohs(iph->tot_len);
	return true;
}

static bool simnic_parse_ipv6(struct sk_buff *skb, struct simnic_ipsec_packet *packet)
{
	const struct ipv6hdr *ip6h;

	if (!pskb_may_pull(skb, sizeof(*ip6h)))
		return false;
	ip6h = (const struct ipv6hdr *)skb->data;
	if (ip6h->version != 6)
		return false;
	packet->family = AF_INET6;
	packet->proto = ip6h->nexthdr;
	packet->saddr.in6 = ip6h->saddr;
	packet->daddr.in6 = ip6h->daddr;
	packet->offset = sizeof(*ip6h);
	packet->len = sizeof(*ip6h) + ntohs(ip6h->payload_len);
	return true;
}

/* Data at the network header. */
static bool simnic_ipsec_parse(struct sk_buff *skb, __be16 protocol,
			       struct simnic_ipsec_packet *packet)
{
	const __be16 *ports;
	bool parsed = false;

	if (skb_vlan_tag_present(skb))
		return false;
	memset(packet, 0, sizeof(*packet));
	if (protocol == htons(ETH_P_IP))
		parsed = simnic_parse_ipv4(skb, packet);
	else if (protocol == htons(ETH_P_IPV6))
		parsed = simnic_parse_ipv6(skb, packet);
	if (!parsed)
		return false;
	if ((packet->proto == IPPROTO_TCP || packet->proto == IPPROTO_UDP) &&
	    pskb_may_pull(skb, packet->offset + 4)) {
		ports = (const __be16 *)(skb->data + packet->offset);
		packet->sport = ports[0];
		packet->dport = ports[1];
	}
	return true;
}

/*
 * What the host has left to the NIC, or not. Its own ESP, of mode crypto or of
 * software, has met its policies. What is to be @encrypted leaves no other way.
 */
static struct sk_buff *simnic_tx_by_policy(struct simnic_ipsec *ipsec, struct sk_buff *skb,
					   bool encrypted)
{
	const struct simnic_ipsec_policy *policy = NULL;
	struct simnic_ipsec_packet packet;
	struct simnic_sa *sa = NULL;
	bool parsed;

	if (!pskb_may_pull(skb, ETH_HLEN))
		return skb;
	skb_reset_mac_header(skb);
	__skb_pull(skb, ETH_HLEN);
	parsed = simnic_ipsec_parse(skb, eth_hdr(skb)->h_proto, &packet);
	__skb_push(skb, ETH_HLEN);
	if (parsed && packet.proto != IPPROTO_ESP)
		policy = simnic_policy_find(ipsec, false, &packet);
	if (policy && policy->block)
		return simnic_tx_drop(ipsec, skb, SIMNIC_IPSEC_TX_DROP_POLICY);
	if (policy && policy->reqid)
		sa = simnic_sa_find_out(ipsec, &packet, policy);
	if (sa)
		return simnic_packet_tx(ipsec, sa, skb);
	if (encrypted || (policy && policy->encrypted))
		return simnic_tx_drop(ipsec, skb, SIMNIC_IPSEC_TX_DROP_NO_SA);
	return skb;
}

/*
 * From the host, data at the MAC header, on the way to the wire: what is to go
 * there, a list; NULL: nothing, since what is to be encrypted leaves no other way.
 */
struct sk_buff *simnic_ipsec_tx(struct simnic_port *port, struct sk_buff *skb)
{
	const struct xfrm_offload *xo = xfrm_offload(skb);
	struct simnic_ipsec *ipsec = port->nic->ipsec;

	if (xo && (xo->flags & XFRM_XMIT) &&
	    xfrm_input_state(skb)->xso.type != XFRM_DEV_OFFLOAD_PACKET)
		return simnic_crypto_tx(ipsec, skb);
	if (list_empty(&ipsec->policies[0]))
		return skb;
	return simnic_tx_by_policy(ipsec, skb, false);
}

/* The same of what rules have sent into a tunnel, which the host has not seen. */
struct sk_buff *simnic_ipsec_tx_tunnel(struct simnic_port *port, struct sk_buff *skb,
				       bool encrypted)
{
	struct simnic_ipsec *ipsec = port->nic->ipsec;

	if (!encrypted && list_empty(&ipsec->policies[0]))
		return skb;
	return simnic_tx_by_policy(ipsec, skb, encrypted);
}

/*
 * The SA of a packet with ESP; NULL: it is none of the NIC's, and the host makes
 * of it what it always does. That goes for what is cut short or otherwise odd.
 */
static struct simnic_sa *simnic_rx_sa(struct simnic_ipsec *ipsec, struct sk_buff *skb,
				      const struct simnic_ipsec_packet *packet)
{
	const struct iphdr *iph = (const struct iphdr *)skb->data;

	if (skb_is_gso(skb) || packet->len > skb->len ||
	    packet->len <= packet->offset + SIMNIC_ESP_HLEN + SIMNIC_ESP_ICV_LEN)
		return NULL;
	if (packet->family == AF_INET && ip_fast_csum(iph, iph->ihl))
		return NULL;
	if (!pskb_may_pull(skb, packet->offset + sizeof(struct ip_esp_hdr)))
		return NULL;
	return simnic_sa_find(ipsec, packet->family, &packet->daddr,
			      ((struct ip_esp_hdr *)(skb->data + packet->offset))->spi);
}

/* RFC 4303, appendix A2.2, with the window of the NIC, or as the host last told of its own. */
u64 simnic_rx_seq(const struct simnic_sa *sa, u32 low)
{
	u64 top = READ_ONCE(sa->top);
	u32 window = READ_ONCE(sa->window);
	u32 high = upper_32_bits(top);
	u32 bottom = lower_32_bits(top) - window + 1;

	if (!sa->esn)
		return low;
	if (lower_32_bits(top) >= window - 1) {
		if (low < bottom)
			high++;
	} else if (low >= bottom) {
		high--;
	}
	return (u64)high << 32 | low;
}

static struct xfrm_offload *simnic_rx_mark(struct sk_buff *skb, struct xfrm_state *x)
{
	struct sec_path *sp = secpath_set(skb);

	if (!sp || !refcount_inc_not_zero(&x->refcnt)) {
		secpath_reset(skb);
		return NULL;
	}
	sp->xvec[sp->len++] = x;
	sp->olen++;
	return xfrm_offload(skb);
}

/*
 * A security path that says how decrypting ended; a forged packet's host counts
 * and drops it, as with any NIC.
 */
static enum simnic_ipsec_verdict simnic_crypto_rx(struct simnic_sa *sa, struct sk_buff *skb,
						  const struct simnic_ipsec_packet *packet)
{
	struct xfrm_offload *xo;
	u8 *esp;
	int err;

	xo = simnic_rx_mark(skb, sa->x);
	if (!xo)
		return SIMNIC_IPSEC_PLAIN;
	esp = skb->data + packet->offset;
	err = simnic_aead_do(sa, esp, packet->len - packet->offset,
			     simnic_rx_seq(sa, ntohl(((struct ip_esp_hdr *)esp)->seq_no)), false);
	xo->flags = CRYPTO_DONE;
	skb->ip_summed = CHECKSUM_NONE;
	if (!err) {
		xo->status = CRYPTO_SUCCESS;
		simnic_sa_count(sa, SIMNIC_IPSEC_RX, packet->len + ETH_HLEN);
	} else if (err == -EBADMSG) {
		xo->status = CRYPTO_TUNNEL_ESP_AUTH_FAILED;
		simnic_ipsec_count(sa->ipsec, SIMNIC_IPSEC_RX_AUTH_FAILED);
	} else {
		/* What is left of it is of no use: the host drops it as one it has no memory for. */
		xo->status = CRYPTO_GENERIC_ERROR;
		simnic_ipsec_count(sa->ipsec, SIMNIC_IPSEC_RX_DROP_BAD);
	}
	return SIMNIC_IPSEC_HOST;
}

/* What came in ESP with this reqid, or with 0 in none. */
static enum simnic_ipsec_verdict simnic_rx_by_policy(struct simnic_ipsec *ipsec,
						     struct sk_buff *skb,
						     const struct simnic_ipsec_packet *packet,
						     u32 reqid)
{
	const struct simnic_ipsec_policy *policy;

	policy = simnic_policy_find(ipsec, true, packet);
	if (!policy || (!policy->block && (!policy->encrypted || policy->reqid == reqid)))
		return SIMNIC_IPSEC_PLAIN;
	simnic_ipsec_count(ipsec, SIMNIC_IPSEC_RX_DROP_POLICY);
	kfree_skb(skb);
	return SIMNIC_IPSEC_DROPPED;
}

/* From the wire, data at the network header. */
enum simnic_ipsec_verdict simnic_ipsec_rx(struct simnic_port *port, struct sk_buff *skb)
{
	struct simnic_ipsec *ipsec = port->nic->ipsec;
	enum simnic_ipsec_verdict verdict;
	struct simnic_ipsec_packet packet;
	struct simnic_sa *sa;
	u32 reqid = 0;

	if (skb->pkt_type != PACKET_HOST || !simnic_ipsec_parse(skb, skb->protocol, &packet))
		return SIMNIC_IPSEC_PLAIN;
	if (packet.proto == IPPROTO_ESP) {
		sa = simnic_rx_sa(ipsec, skb, &packet);
		/* What Ethernet pads is no part of it. */
		if (!sa || pskb_trim(skb, packet.len) || skb_linearize_cow(skb))
			return SIMNIC_IPSEC_PLAIN;
		if (!sa->packet)
			return simnic_crypto_rx(sa, skb, &packet);
		verdict = simnic_packet_rx(sa, skb, &packet);
		if (verdict != SIMNIC_IPSEC_PLAIN)
			return verdict;
		reqid = sa->reqid;
		if (!simnic_ipsec_parse(skb, skb->protocol, &packet))
			return SIMNIC_IPSEC_PLAIN;
	}
	return list_empty(&ipsec->policies[1]) ? SIMNIC_IPSEC_PLAIN :
	       simnic_rx_by_policy(ipsec, skb, &packet, reqid);
}

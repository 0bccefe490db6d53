// SPDX-License-Identifier: GPL-2.0
/*
 * Mode packet: the NIC puts ESP around packets and takes it off, gives sequence
 * numbers, keeps replay windows (RFC 4303, section 3.4.3) and minds limits. What
 * it counts is xfrm's when xfrm asks.
 */
#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <net/esp.h>
#include <net/gso.h>
#include <net/ip.h>
#include <net/xfrm.h>

#include "ipsec.h"
#include "simnic.h"

#define SIMNIC_TOLD_SOFT	0
#define SIMNIC_TOLD_HARD	1
#define SIMNIC_ESP_TRAILER	2	/* padding's length, and the protocol */

static void simnic_sa_expire_work(struct work_struct *work)
{
	struct simnic_sa *sa = container_of(work, struct simnic_sa, expire);
	struct xfrm_state *x = sa->x;

	spin_lock_bh(&x->lock);
	if (x->km.state == XFRM_STATE_VALID)
		xfrm_state_check_expire(x);
	spin_unlock_bh(&x->lock);
	xfrm_state_put(x);
}

/* What a state that is not new says has come in already. */
static void simnic_sa_restore_window(struct simnic_sa *sa, const struct xfrm_state *x)
{
	const struct xfrm_replay_state_esn *replay = x->replay_esn;
	u32 back, bit;
	bool was;

	for (back = 0; back < min(sa->window, SIMNIC_WINDOW_MAX) && back < sa->top; back++) {
		if (replay) {
			bit = (lower_32_bits(sa->top) - 1 - back) % replay->replay_window;
			was = replay->bmp[bit / 32] & BIT(bit % 32);
		} else {
			was = x->replay.bitmap & BIT(back);
		}
		if (was)
			__set_bit((sa->top - back) % SIMNIC_WINDOW_MAX, sa->seen);
	}
}

void simnic_sa_init_packet(struct simnic_sa *sa, const struct xfrm_state *x)
{
	INIT_WORK(&sa->expire, simnic_sa_expire_work);
	spin_lock_init(&sa->replay_lock);
	sa->packet = x->xso.type == XFRM_DEV_OFFLOAD_PACKET;
	if (!sa->packet)
		return;
	sa->limits = x->lft;
	atomic64_set(&sa->used_packets, x->curlft.packets);
	atomic64_set(&sa->used_bytes, x->curlft.bytes);
	if (x->replay_esn) {
		atomic64_set(&sa->sent, (u64)x->replay_esn->oseq_hi << 32 | x->replay_esn->oseq);
	} else {
		atomic64_set(&sa->sent, x->replay.oseq);
		sa->window = x->props.replay_window;
		sa->top = x->replay.seq;
	}
	if (sa->in)
		simnic_sa_restore_window(sa, x);
}

/* Nobody finds it any more; those who did may go on for a moment, and ask for nothing. */
void simnic_sa_cancel(struct simnic_sa *sa)
{
	if (disable_work_sync(&sa->expire))
		xfrm_state_put(sa->x);
}

/* The firmware's event: xfrm looks at its limits, which has it ask for the counters. */
static void simnic_sa_tell(struct simnic_sa *sa, int limit)
{
	if (test_and_set_bit(limit, &sa->told))
		return;
	if (!refcount_inc_not_zero(&sa->x->refcnt))
		return;
	if (!schedule_work(&sa->expire))
		xfrm_state_put(sa->x);
}

static void simnic_sa_news(struct simnic_sa *sa, enum simnic_sa_news what, u64 count)
{
	atomic64_add(count, &sa->news[what]);
}

static bool simnic_sa_is_used_up(const struct simnic_sa *sa)
{
	return atomic64_read(&sa->used_packets) >= sa->limits.hard_packet_limit ||
	       atomic64_read(&sa->used_bytes) >= sa->limits.hard_byte_limit;
}

static void simnic_sa_use(struct simnic_sa *sa, unsigned int bytes)
{
	u64 all_packets = atomic64_inc_return(&sa->used_packets);
	u64 all_bytes = atomic64_add_return(bytes, &sa->used_bytes);

	simnic_sa_news(sa, SIMNIC_NEWS_PACKETS, 1);
	simnic_sa_news(sa, SIMNIC_NEWS_BYTES, bytes);
	if (simnic_sa_is_used_up(sa))
		simnic_sa_tell(sa, SIMNIC_TOLD_HARD);
	else if (all_packets >= sa->limits.soft_packet_limit ||
		 all_bytes >= sa->limits.soft_byte_limit)
		simnic_sa_tell(sa, SIMNIC_TOLD_SOFT);
}

/* Under the state's lock, or that of all states' configuration. */
void simnic_sa_update_stats(struct simnic_sa *sa)
{
	struct xfrm_state *x = sa->x;
	struct net *net = xs_net(x);
	u64 news[SIMNIC_NEWS];
	int i;

	for (i = 0; i < SIMNIC_NEWS; i++)
		news[i] = atomic64_xchg(&sa->news[i], 0);
	x->curlft.packets += news[SIMNIC_NEWS_PACKETS];
	x->curlft.bytes += news[SIMNIC_NEWS_BYTES];
	if (news[SIMNIC_NEWS_PACKETS])
		x->lastused = ktime_get_real_seconds();
	x->stats.integrity_failed += news[SIMNIC_NEWS_AUTH_FAILED];
	x->stats.replay += news[SIMNIC_NEWS_REPLAYED];
	x->stats.replay_window += news[SIMNIC_NEWS_TOO_LATE];
	XFRM_ADD_STATS(net, LINUX_MIB_XFRMINSTATEPROTOERROR,
		       news[SIMNIC_NEWS_AUTH_FAILED] + news[SIMNIC_NEWS_BAD_TRAILER]);
	XFRM_ADD_STATS(net, LINUX_MIB_XFRMINSTATESEQERROR,
		       news[SIMNIC_NEWS_REPLAYED] + news[SIMNIC_NEWS_TOO_LATE] +
		       news[SIMNIC_NEWS_NO_SEQ]);
	XFRM_ADD_STATS(net, LINUX_MIB_XFRMINSTATEEXPIRED, news[SIMNIC_NEWS_IN_EXPIRED]);
	XFRM_ADD_STATS(net, LINUX_MIB_XFRMOUTSTATEEXPIRED, news[SIMNIC_NEWS_OUT_EXPIRED]);
}

/* Room for ESP around it, in memory that is nobody else's. */
static int simnic_make_room(struct sk_buff *skb, unsigned int tail)
{
	if (skb_linearize_cow(skb))
		return -ENOMEM;
	if (skb_headroom(skb) >= SIMNIC_ESP_HLEN && skb_tailroom(skb) >= tail)
		return 0;
	return pskb_expand_head(skb, SKB_DATA_ALIGN(SIMNIC_ESP_HLEN), tail, GFP_ATOMIC);
}

/* RFC 4303, section 2.4: 1, 2, 3 and so on. */
static void simnic_put_trailer(struct sk_buff *skb, unsigned int pad, u8 proto)
{
	u8 *at = skb_put(skb, pad + SIMNIC_ESP_TRAILER + SIMNIC_ESP_ICV_LEN);
	unsigned int i;

	for (i = 0; i < pad; i++)
		*at++ = i + 1;
	*at++ = pad;
	*at = proto;
}

/* The IP header at @at is to name @proto, and to be of @len in all. */
static void simnic_set_ip(u8 *at, u16 family, u8 proto, unsigned int len)
{
	struct ipv6hdr *ip6h = (struct ipv6hdr *)at;
	struct iphdr *iph = (struct iphdr *)at;

	if (family == AF_INET) {
		iph->protocol = proto;
		iph->tot_len = htons(len);
		ip_send_check(iph);
	} else {
		ip6h->nexthdr = proto;
		ip6h->payload_len = htons(len - sizeof(*ip6h));
	}
}

/* Data at the MAC header; no options, no GSO. */
static int simnic_wrap(struct simnic_sa *sa, struct sk_buff *skb, u64 seq)
{
	unsigned int ip_len = sa->family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	unsigned int headers = ETH_HLEN + ip_len, payload, pad;
	__be32 low = htonl(lower_32_bits(seq));
	__be64 iv = cpu_to_be64(seq);
	u8 *esp, proto;

	if (skb->ip_summed == CHECKSUM_PARTIAL && skb_checksum_help(skb))
		return -EINVAL;
	payload = skb->len - headers;
	pad = -(payload + SIMNIC_ESP_TRAILER) & 3;
	if (simnic_make_room(skb, pad + SIMNIC_ESP_TRAILER + SIMNIC_ESP_ICV_LEN))
		return -ENOMEM;
	proto = sa->family == AF_INET ? ((struct iphdr *)(skb->data + ETH_HLEN))->protocol :
		((struct ipv6hdr *)(skb->data + ETH_HLEN))->nexthdr;
	simnic_put_trailer(skb, pad, proto);
	skb_push(skb, SIMNIC_ESP_HLEN);
	memmove(skb->data, skb->data + SIMNIC_ESP_HLEN, headers);
	skb_reset_mac_header(skb);
	skb_set_network_header(skb, ETH_HLEN);
	skb_set_transport_header(skb, headers);
	esp = skb->data + headers;
	memcpy(esp, &sa->spi, sizeof(sa->spi));
	memcpy(esp + 4, &low, sizeof(low));
	memcpy(esp + 8, &iv, sizeof(iv));
	simnic_set_ip(skb->data + ETH_HLEN, sa->family, IPPROTO_ESP, skb->len - ETH_HLEN);
	skb->ip_summed = CHECKSUM_NONE;
	simnic_sa_use(sa, payload);
	return simnic_aead_do(sa, esp, skb->len - headers, seq, true);
}

static bool simnic_packet_tx_one(struct simnic_ipsec *ipsec, struct simnic_sa *sa,
				 struct sk_buff *skb)
{
	u64 seq;

	if (simnic_sa_is_used_up(sa)) {
		simnic_sa_news(sa, SIMNIC_NEWS_OUT_EXPIRED, 1);
		simnic_ipsec_count(ipsec, SIMNIC_IPSEC_TX_DROP_EXPIRED);
		goto drop;
	}
	seq = atomic64_inc_return(&sa->sent);
	if (!sa->esn && seq > U32_MAX) {
		simnic_ipsec_count(ipsec, SIMNIC_IPSEC_TX_DROP_EXPIRED);
		goto drop;
	}
	if (simnic_wrap(sa, skb, seq)) {
		simnic_ipsec_count(ipsec, SIMNIC_IPSEC_TX_DROP_BAD);
		goto drop;
	}
	simnic_sa_count(sa, SIMNIC_IPSEC_TX, skb->len);
	return true;

drop:
	kfree_skb(skb);
	return false;
}

/*
 * What @skb is on the wire, a list; NULL: nothing. Data is at the MAC header, and
 * the IP header right behind it has nothing between it and what is encrypted.
 */
struct sk_buff *simnic_packet_tx(struct simnic_ipsec *ipsec, struct simnic_sa *sa,
				 struct sk_buff *skb)
{
	struct sk_buff *segs, *next, *first = NULL, **last = &first;

	if (!skb_is_gso(skb))
		return simnic_packet_tx_one(ipsec, sa, skb) ? skb : NULL;
	segs = skb_gso_segment(skb, NETIF_F_SG | NETIF_F_HW_CSUM);
	if (IS_ERR_OR_NULL(segs)) {
		simnic_ipsec_count(ipsec, SIMNIC_IPSEC_TX_DROP_BAD);
		kfree_skb(skb);
		return NULL;
	}
	consume_skb(skb);
	skb_list_walk_safe(segs, skb, next) {
		skb_mark_not_on_list(skb);
		if (!simnic_packet_tx_one(ipsec, sa, skb))
			continue;
		*last = skb;
		last = &skb->next;
	}
	return first;
}

/* Whether it may be taken; @news says why not. Under replay_lock. */
static bool simnic_replay_check(const struct simnic_sa *sa, u64 seq, enum simnic_sa_news *news)
{
	u64 top = sa->top;

	if (!sa->window)
		return true;
	*news = SIMNIC_NEWS_NO_SEQ;
	if (!seq)
		return false;
	if (seq > top)
		return true;
	*news = SIMNIC_NEWS_TOO_LATE;
	if (top - seq >= sa->window)
		return false;
	*news = SIMNIC_NEWS_REPLAYED;
	return !test_bit(seq % SIMNIC_WINDOW_MAX, sa->seen);
}

/* Under replay_lock. */
static void simnic_replay_advance(struct simnic_sa *sa, u64 seq)
{
	u64 at;

	if (seq > sa->top) {
		if (seq - sa->top >= SIMNIC_WINDOW_MAX)
			bitmap_zero(sa->seen, SIMNIC_WINDOW_MAX);
		else
			for (at = sa->top + 1; at < seq; at++)
				__clear_bit(at % SIMNIC_WINDOW_MAX, sa->seen);
		WRITE_ONCE(sa->top, seq);
	}
	__set_bit(seq % SIMNIC_WINDOW_MAX, sa->seen);
}

static bool simnic_replay(struct simnic_sa *sa, u64 seq, bool advance)
{
	enum simnic_sa_news news;
	bool good;

	spin_lock(&sa->replay_lock);
	good = simnic_replay_check(sa, seq, &news);
	if (good && advance)
		simnic_replay_advance(sa, seq);
	spin_unlock(&sa->replay_lock);
	if (!good) {
		simnic_sa_news(sa, news, 1);
		simnic_ipsec_count(sa->ipsec, SIMNIC_IPSEC_RX_REPLAYED);
	}
	return good;
}

/*
 * Takes ESP off, data at the network header; @len is of what is in ESP, its tag
 * included. The length of what was in it, or a negative error.
 */
static int simnic_unwrap(struct simnic_sa *sa, struct sk_buff *skb,
			 const struct simnic_ipsec_packet *packet)
{
	unsigned int len = packet->len - packet->offset - SIMNIC_ESP_HLEN;
	const u8 *trailer = skb->data + packet->len - SIMNIC_ESP_ICV_LEN - SIMNIC_ESP_TRAILER;
	unsigned int pad = trailer[0];
	u8 proto = trailer[1];

	if (pad + SIMNIC_ESP_TRAILER + SIMNIC_ESP_ICV_LEN >= len || proto == IPPROTO_NONE)
		return -EINVAL;
	len -= pad + SIMNIC_ESP_TRAILER + SIMNIC_ESP_ICV_LEN;
	memmove(skb->data - ETH_HLEN + SIMNIC_ESP_HLEN, skb->data - ETH_HLEN,
		ETH_HLEN + packet->offset);
	__skb_pull(skb, SIMNIC_ESP_HLEN);
	__skb_trim(skb, packet->offset + len);
	skb_set_mac_header(skb, -ETH_HLEN);
	skb_reset_network_header(skb);
	skb_set_transport_header(skb, packet->offset);
	simnic_set_ip(skb->data, packet->family, proto, skb->len);
	skb->ip_summed = CHECKSUM_NONE;
	return len;
}

/* Linear, nobody else's, data at the network header; in the order in which xfrm_input() does it. */
enum simnic_ipsec_verdict simnic_packet_rx(struct simnic_sa *sa, struct sk_buff *skb,
					   const struct simnic_ipsec_packet *packet)
{
	struct ip_esp_hdr *esph = (struct ip_esp_hdr *)(skb->data + packet->offset);
	u64 seq = simnic_rx_seq(sa, ntohl(esph->seq_no));
	int len;

	if (!simnic_replay(sa, seq, false))
		goto drop;
	if (simnic_sa_is_used_up(sa)) {
		simnic_sa_news(sa, SIMNIC_NEWS_IN_EXPIRED, 1);
		simnic_ipsec_count(sa->ipsec, SIMNIC_IPSEC_RX_DROP_EXPIRED);
		goto drop;
	}
	len = simnic_aead_do(sa, (u8 *)esph, packet->len - packet->offset, seq, false);
	if (len == -EBADMSG) {
		simnic_sa_news(sa, SIMNIC_NEWS_AUTH_FAILED, 1);
		simnic_ipsec_count(sa->ipsec, SIMNIC_IPSEC_RX_AUTH_FAILED);
		goto drop;
	}
	if (len) {
		simnic_ipsec_count(sa->ipsec, SIMNIC_IPSEC_RX_DROP_BAD);
		goto drop;
	}
	len = simnic_unwrap(sa, skb, packet);
	if (len < 0) {
		simnic_sa_news(sa, SIMNIC_NEWS_BAD_TRAILER, 1);
		simnic_ipsec_count(sa->ipsec, SIMNIC_IPSEC_RX_BAD_TRAILER);
		goto drop;
	}
	if (!simnic_replay(sa, seq, true))
		goto drop;
	simnic_sa_use(sa, len);
	simnic_sa_count(sa, SIMNIC_IPSEC_RX, packet->len + ETH_HLEN);
	return SIMNIC_IPSEC_PLAIN;

drop:
	kfree_skb(skb);
	return SIMNIC_IPSEC_DROPPED;
}

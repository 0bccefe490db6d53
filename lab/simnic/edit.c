// SPDX-License-Identifier: GPL-2.0
/*
 * Changing packets: VLAN tags, header rewrites, checksums. The packet is as a
 * netdev's ingress sees it: data at the network header, an outer VLAN tag, if
 * any, beside the packet. Results are what act_vlan, act_pedit and act_csum make
 * of it, except that a checksum still to be computed stays so.
 */
#include <linux/icmpv6.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tc_act/tc_csum.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/unaligned.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/ipv6.h>

#include "action.h"
#include "pipeline.h"

static int simnic_edit_vlan_mangle(struct sk_buff *skb, const struct simnic_action *action)
{
	u16 tci;
	int err;

	if (!skb_vlan_tagged(skb))
		return 0;
	if (skb_vlan_tag_present(skb)) {
		tci = skb_vlan_tag_get(skb);
		__vlan_hwaccel_clear_tag(skb);
	} else {
		err = __skb_vlan_pop(skb, &tci);
		if (err)
			return err;
	}
	tci &= ~(VLAN_VID_MASK | VLAN_PRIO_MASK);
	tci |= action->vlan.tci & (VLAN_VID_MASK | VLAN_PRIO_MASK);
	__vlan_hwaccel_put_tag(skb, action->vlan.proto, tci);
	return 0;
}

static int simnic_edit_vlan(struct sk_buff *skb, const struct simnic_action *action)
{
	int err;

	skb_push(skb, skb->mac_len);
	switch (action->kind) {
	case SIMNIC_ACT_VLAN_POP:
		err = skb_vlan_pop(skb);
		break;
	case SIMNIC_ACT_VLAN_PUSH:
		err = skb_vlan_push(skb, action->vlan.proto, action->vlan.tci);
		break;
	default:
		err = simnic_edit_vlan_mangle(skb, action);
		break;
	}
	skb_pull(skb, skb->mac_len);
	skb_reset_mac_len(skb);
	return err;
}

/* Where a header starts, from skb->data. */
static int simnic_header_offset(struct sk_buff *skb, enum flow_action_mangle_base htype,
				int *offset)
{
	int nhoff = skb_network_offset(skb);
	const struct iphdr *ip;
	struct iphdr buf;
	int proto;

	switch (htype) {
	case FLOW_ACT_MANGLE_HDR_TYPE_ETH:
		*offset = skb_mac_offset(skb);
		return 0;
	case FLOW_ACT_MANGLE_HDR_TYPE_IP4:
	case FLOW_ACT_MANGLE_HDR_TYPE_IP6:
		*offset = nhoff;
		return 0;
	default:
		break;
	}
	proto = htype == FLOW_ACT_MANGLE_HDR_TYPE_TCP ? IPPROTO_TCP : IPPROTO_UDP;
	if (skb->protocol == htons(ETH_P_IP)) {
		ip = skb_header_pointer(skb, nhoff, sizeof(buf), &buf);
		if (!ip)
			return -EINVAL;
		*offset = nhoff + ip->ihl * 4;
		return 0;
	}
	if (skb->protocol == htons(ETH_P_IPV6))
		return ipv6_find_hdr(skb, offset, proto, NULL, NULL) == proto ? 0 : -EINVAL;
	return -EINVAL;
}

/* A packet too short for the rewrite stays as it is, as act_pedit leaves it. */
static int simnic_edit_mangle(struct sk_buff *skb, const struct simnic_action *action)
{
	int offset, end;
	u32 old, val;
	u8 *at;

	if (simnic_header_offset(skb, action->mangle.htype, &offset))
		return 0;
	offset += action->mangle.offset;
	end = offset + (int)sizeof(u32);
	if (end > (int)skb->len || offset < -(int)skb_headroom(skb))
		return 0;
	if (offset < 0 && skb_cow(skb, -offset))
		return -ENOMEM;
	if (end > 0 && skb_ensure_writable(skb, end))
		return -ENOMEM;

	at = skb->data + offset;
	old = get_unaligned((u32 *)at);
	val = action->mangle.val;
	if (action->kind == SIMNIC_ACT_ADD)
		val = (old + val) & ~action->mangle.mask;
	put_unaligned((old & action->mangle.mask) ^ val, (u32 *)at);
	return 0;
}

/* The L4 header and what follows it, linear and writable. */
static void *simnic_l4(struct sk_buff *skb, unsigned int thoff, unsigned int len,
		       unsigned int header)
{
	int nhoff = skb_network_offset(skb);

	if (len < header || !pskb_may_pull(skb, nhoff + thoff + len) ||
	    skb_try_make_writable(skb, nhoff + thoff + header))
		return NULL;
	return skb_network_header(skb) + thoff;
}

static __sum16 simnic_pseudo(const struct sk_buff *skb, unsigned int len, u8 proto, __wsum sum)
{
	const struct ipv6hdr *ip6 = ipv6_hdr(skb);
	const struct iphdr *ip4 = ip_hdr(skb);

	if (ip4->version == 4)
		return csum_tcpudp_magic(ip4->saddr, ip4->daddr, len, proto, sum);
	return csum_ipv6_magic(&ip6->saddr, &ip6->daddr, len, proto, sum);
}

/* Whether the L4 checksum is left to whoever sends the packet on. */
static bool simnic_csum_pending(const struct sk_buff *skb, unsigned int thoff)
{
	return skb->ip_summed == CHECKSUM_PARTIAL &&
	       skb_checksum_start_offset(skb) == skb_network_offset(skb) + (int)thoff;
}

/* For a pending checksum the field holds the sum of the pseudo header alone. */
static int simnic_csum_pseudo_only(struct sk_buff *skb, unsigned int thoff, unsigned int len,
				   u8 proto)
{
	int nhoff = skb_network_offset(skb);
	int field = nhoff + thoff + skb->csum_offset;

	/* That of a GSO packet may not fit into its header. */
	if (skb_is_gso(skb))
		len = skb->len - nhoff - thoff;
	if (skb_ensure_writable(skb, field + sizeof(__sum16)))
		return -ENOMEM;
	*(__sum16 *)(skb->data + field) = ~simnic_pseudo(skb, len, proto, 0);
	return 0;
}

static int simnic_csum_l4(struct sk_buff *skb, unsigned int thoff, unsigned int len, u8 proto,
			  unsigned int header, unsigned int field)
{
	bool is_udp = proto == IPPROTO_UDP;
	struct udphdr *udp;
	__sum16 *check;
	u8 *l4;

	if (simnic_csum_pending(skb, thoff))
		return simnic_csum_pseudo_only(skb, thoff, len, proto);
	if (skb_is_gso(skb))
		return 0;
	l4 = simnic_l4(skb, thoff, len, header);
	if (!l4)
		return -ENOMEM;
	udp = (struct udphdr *)l4;
	check = (__sum16 *)(l4 + field);
	if (is_udp) {
		if (!udp->check && ip_hdr(skb)->version == 4)
			goto done;	/* the sender wants none */
		if (ntohs(udp->len) != len)
			return 0;
	}
	*check = 0;
	skb->csum = csum_partial(l4, len, 0);
	if (proto == IPPROTO_ICMP)
		*check = csum_fold(skb->csum);
	else
		*check = simnic_pseudo(skb, len, proto, skb->csum);
	if (is_udp && !*check)
		*check = CSUM_MANGLED_0;
done:
	skb->ip_summed = CHECKSUM_NONE;
	return 0;
}

static int simnic_csum_proto(struct sk_buff *skb, u32 flags, u8 proto, unsigned int thoff,
			     unsigned int len)
{
	switch (proto) {
	case IPPROTO_TCP:
		if (!(flags & TCA_CSUM_UPDATE_FLAG_TCP))
			return 0;
		return simnic_csum_l4(skb, thoff, len, proto, sizeof(struct tcphdr),
				      offsetof(struct tcphdr, check));
	case IPPROTO_UDP:
		if (!(flags & TCA_CSUM_UPDATE_FLAG_UDP))
			return 0;
		return simnic_csum_l4(skb, thoff, len, proto, sizeof(struct udphdr),
				      offsetof(struct udphdr, check));
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (!(flags & TCA_CSUM_UPDATE_FLAG_ICMP))
			return 0;
		return simnic_csum_l4(skb, thoff, len, proto, sizeof(struct icmp6hdr),
				      offsetof(struct icmp6hdr, icmp6_cksum));
	default:
		return 0;
	}
}

static int simnic_csum_ipv4(struct sk_buff *skb, u32 flags)
{
	int nhoff = skb_network_offset(skb);
	unsigned int thoff, total;
	struct iphdr *ip;
	int err = 0;

	if (!pskb_may_pull(skb, nhoff + sizeof(*ip)))
		return -EINVAL;
	ip = ip_hdr(skb);
	thoff = ip->ihl * 4;
	/* A GSO packet's total length is its own, or 0 when too big for it. */
	total = ntohs(ip->tot_len);
	if (!(ip->frag_off & htons(IP_OFFSET)) && ip->protocol != IPPROTO_ICMPV6)
		err = simnic_csum_proto(skb, flags, ip->protocol, thoff,
					total > thoff ? total - thoff : 0);
	if (err || !(flags & TCA_CSUM_UPDATE_FLAG_IPV4HDR))
		return err;
	if (!pskb_may_pull(skb, nhoff + thoff) || skb_try_make_writable(skb, nhoff + thoff))
		return -ENOMEM;
	ip_send_check(ip_hdr(skb));
	return 0;
}

static int simnic_csum_ipv6(struct sk_buff *skb, u32 flags)
{
	int nhoff = skb_network_offset(skb);
	unsigned int len;
	__be16 frag_off;
	int thoff;
	u8 proto;

	if (!pskb_may_pull(skb, nhoff + sizeof(struct ipv6hdr)))
		return -EINVAL;
	proto = ipv6_hdr(skb)->nexthdr;
	thoff = ipv6_skip_exthdr(skb, nhoff + sizeof(struct ipv6hdr), &proto, &frag_off);
	if (thoff < 0 || frag_off || proto == NEXTHDR_FRAGMENT || proto == IPPROTO_ICMP)
		return 0;
	thoff -= nhoff;
	len = ntohs(ipv6_hdr(skb)->payload_len) + sizeof(struct ipv6hdr);
	return simnic_csum_proto(skb, flags, proto, thoff, len > thoff ? len - thoff : 0);
}

static int simnic_edit_csum(struct sk_buff *skb, u32 flags)
{
	switch (skb->protocol) {
	case htons(ETH_P_IP):
		return simnic_csum_ipv4(skb, flags);
	case htons(ETH_P_IPV6):
		return simnic_csum_ipv6(skb, flags);
	default:
		return 0;
	}
}

int simnic_edit(struct sk_buff *skb, const struct simnic_action *action)
{
	switch (action->kind) {
	case SIMNIC_ACT_VLAN_PUSH:
	case SIMNIC_ACT_VLAN_POP:
	case SIMNIC_ACT_VLAN_MANGLE:
		return simnic_edit_vlan(skb, action);
	case SIMNIC_ACT_MANGLE:
	case SIMNIC_ACT_ADD:
		return simnic_edit_mangle(skb, action);
	case SIMNIC_ACT_CSUM:
		return simnic_edit_csum(skb, action->csum_flags);
	default:
		return 0;
	}
}

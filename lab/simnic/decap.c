// SPDX-License-Identifier: GPL-2.0
/*
 * Out of the tunnel: a packet from the wire whose outer header is for a tunnel
 * device with rules becomes what that device would receive, metadata included.
 * What the host would treat in any other way, or drop, is left to the host.
 */
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <linux/unaligned.h>
#include <net/addrconf.h>
#include <net/dst_metadata.h>
#include <net/geneve.h>
#include <net/gre.h>
#include <net/inet_ecn.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/route.h>
#include <net/vxlan.h>

#include "ipsec.h"
#include "simnic.h"
#include "tunnel.h"

/* What the outer header says. Offsets are from skb->data, the outer IP header. */
struct simnic_outer {
	bool ipv6;
	u8 proto;
	u8 tos;
	unsigned int thoff;		/* UDP or GRE */
	unsigned int end;		/* of what the IP header says is the packet */
	unsigned int inner;		/* the inner Ethernet header */
	__be16 sport, dport;
	bool csum;			/* UDP with a checksum */
	__be64 tun_id;
	IP_TUNNEL_DECLARE_FLAGS(flags);
	unsigned int opts, opts_len;	/* Geneve */
	bool has_gbp;
	u32 gbp;
};

static bool simnic_outer_ipv4(struct sk_buff *skb, struct net *net, struct simnic_outer *outer)
{
	const struct iphdr *ip;

	if (!pskb_may_pull(skb, sizeof(*ip)))
		return false;
	ip = ip_hdr(skb);
	if (ip->version != 4 || ip->ihl != 5 || ip_is_fragment(ip) ||
	    ip_fast_csum((const u8 *)ip, ip->ihl))
		return false;
	outer->proto = ip->protocol;
	outer->tos = ip->tos;
	outer->thoff = sizeof(*ip);
	outer->end = ntohs(ip->tot_len);
	return inet_addr_type(net, ip->daddr) == RTN_LOCAL;
}

static bool simnic_outer_ipv6(struct sk_buff *skb, struct net *net, struct simnic_outer *outer)
{
	const struct ipv6hdr *ip6;

	if (!pskb_may_pull(skb, sizeof(*ip6)))
		return false;
	ip6 = ipv6_hdr(skb);
	if (ip6->version != 6)
		return false;
	outer->ipv6 = true;
	outer->proto = ip6->nexthdr;
	outer->tos = ipv6_get_dsfield(ip6);
	outer->thoff = sizeof(*ip6);
	outer->end = sizeof(*ip6) + ntohs(ip6->payload_len);
	return ipv6_chk_addr(net, &ip6->daddr, NULL, 0);
}

/* The checksum is as it should be, or still to be filled in by whoever sends. */
static bool simnic_outer_csum_is_good(const struct sk_buff *skb, const struct simnic_outer *outer,
				      unsigned int len)
{
	__wsum sum;

	if (skb->ip_summed == CHECKSUM_UNNECESSARY)
		return true;
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		return skb_checksum_start_offset(skb) == (int)outer->thoff;
	sum = skb_checksum(skb, outer->thoff, len, 0);
	if (outer->ipv6)
		return !csum_ipv6_magic(&ipv6_hdr(skb)->saddr, &ipv6_hdr(skb)->daddr, len,
					IPPROTO_UDP, sum);
	return !csum_tcpudp_magic(ip_hdr(skb)->saddr, ip_hdr(skb)->daddr, len, IPPROTO_UDP, sum);
}

static bool simnic_outer_udp(struct sk_buff *skb, struct simnic_outer *outer)
{
	const struct udphdr *udp;

	if (!pskb_may_pull(skb, outer->thoff + sizeof(*udp)))
		return false;
	udp = (const struct udphdr *)(skb->data + outer->thoff);
	outer->sport = udp->source;
	outer->dport = udp->dest;
	outer->csum = udp->check;
	outer->inner = outer->thoff + sizeof(*udp);
	return ntohs(udp->len) == outer->end - outer->thoff;
}

static bool simnic_outer_vxlan(struct sk_buff *skb, const struct simnic_tunnel_conf *conf,
			       struct simnic_outer *outer)
{
	const struct vxlanhdr_gbp *gbp;
	struct vxlanhdr hdr;

	if (!pskb_may_pull(skb, outer->inner + sizeof(hdr)))
		return false;
	gbp = (const struct vxlanhdr_gbp *)(skb->data + outer->inner);
	hdr = *(const struct vxlanhdr *)gbp;
	if (!(hdr.vx_flags & VXLAN_HF_VNI))
		return false;
	if (conf->gbp && (hdr.vx_flags & VXLAN_HF_GBP)) {
		outer->has_gbp = true;
		outer->gbp = ntohs(gbp->policy_id);
		if (gbp->dont_learn)
			outer->gbp |= VXLAN_GBP_DONT_LEARN;
		if (gbp->policy_applied)
			outer->gbp |= VXLAN_GBP_POLICY_APPLIED;
	}
	if (conf->gbp)
		hdr.vx_flags &= ~VXLAN_GBP_USED_BITS;
	if ((hdr.vx_flags & ~VXLAN_HF_VNI) || (hdr.vx_vni & ~VXLAN_VNI_MASK))
		return false;
	outer->tun_id = key32_to_tunnel_id(vxlan_vni(hdr.vx_vni));
	__set_bit(IP_TUNNEL_KEY_BIT, outer->flags);
	outer->inner += sizeof(hdr);
	return true;
}

static bool simnic_outer_geneve(struct sk_buff *skb, struct simnic_outer *outer)
{
	const struct genevehdr *hdr;

	if (!pskb_may_pull(skb, outer->inner + sizeof(*hdr)))
		return false;
	hdr = (const struct genevehdr *)(skb->data + outer->inner);
	if (hdr->ver || hdr->proto_type != htons(ETH_P_TEB))
		return false;
	outer->tun_id = key32_to_tunnel_id(htonl(get_unaligned_be24(hdr->vni)));
	__set_bit(IP_TUNNEL_KEY_BIT, outer->flags);
	__assign_bit(IP_TUNNEL_OAM_BIT, outer->flags, hdr->oam);
	__assign_bit(IP_TUNNEL_CRIT_OPT_BIT, outer->flags, hdr->critical);
	outer->opts = outer->inner + sizeof(*hdr);
	outer->opts_len = hdr->opt_len * 4;
	outer->inner = outer->opts + outer->opts_len;
	return pskb_may_pull(skb, outer->inner);
}

static bool simnic_outer_gre(struct sk_buff *skb, struct simnic_outer *outer)
{
	const struct gre_base_hdr *hdr;
	unsigned int len = sizeof(*hdr);

	if (!pskb_may_pull(skb, outer->thoff + len))
		return false;
	hdr = (const struct gre_base_hdr *)(skb->data + outer->thoff);
	if (hdr->protocol != htons(ETH_P_TEB) || (hdr->flags & ~GRE_KEY))
		return false;
	if (hdr->flags & GRE_KEY) {
		len += sizeof(__be32);
		if (!pskb_may_pull(skb, outer->thoff + len))
			return false;
		hdr = (const struct gre_base_hdr *)(skb->data + outer->thoff);
		outer->tun_id = key32_to_tunnel_id(*(const __be32 *)(hdr + 1));
		__set_bit(IP_TUNNEL_KEY_BIT, outer->flags);
	}
	outer->inner = outer->thoff + len;
	return true;
}

static bool simnic_tunnel_takes(const struct simnic_tunnel_conf *conf,
				const struct simnic_outer *outer)
{
	switch (conf->kind) {
	case SIMNIC_GRE:
		return outer->proto == IPPROTO_GRE && !outer->ipv6;
	case SIMNIC_GRE6:
		return outer->proto == IPPROTO_GRE && outer->ipv6;
	default:
		return outer->proto == IPPROTO_UDP && outer->dport == conf->port;
	}
}

/* The device with rules that would receive the packet. */
static struct simnic_tunnel *simnic_decap_find(struct simnic *nic, const struct net *net,
					       const struct simnic_outer *outer)
{
	struct simnic_tunnel *tunnel;

	list_for_each_entry_rcu(tunnel, &nic->tunnels, list)
		if (atomic_read(&tunnel->rules) && net_eq(tunnel->conf.net, net) &&
		    simnic_tunnel_takes(&tunnel->conf, outer))
			return netif_running(tunnel->dev) ? tunnel : NULL;
	return NULL;
}

static bool simnic_outer_tunnel(struct sk_buff *skb, const struct simnic_tunnel_conf *conf,
				struct simnic_outer *outer)
{
	bool known;

	switch (conf->kind) {
	case SIMNIC_VXLAN:
		known = simnic_outer_vxlan(skb, conf, outer);
		break;
	case SIMNIC_GENEVE:
		known = simnic_outer_geneve(skb, outer);
		break;
	default:
		return simnic_outer_gre(skb, outer);
	}
	if (!known)
		return false;
	if (!outer->csum)
		return !outer->ipv6 || conf->zero_csum6_rx;
	return simnic_outer_csum_is_good(skb, outer, outer->end - outer->thoff);
}

/* From the outer header to the device that it is for, or NULL. */
static struct simnic_tunnel *simnic_outer_parse(struct simnic *nic, struct sk_buff *skb,
						struct simnic_outer *outer)
{
	struct net *net = dev_net(skb->dev);
	struct simnic_tunnel *tunnel;
	bool known = false;

	if (skb->protocol == htons(ETH_P_IP))
		known = simnic_outer_ipv4(skb, net, outer);
	else if (skb->protocol == htons(ETH_P_IPV6))
		known = simnic_outer_ipv6(skb, net, outer);
	if (!known || outer->end > skb->len || outer->end < outer->thoff)
		return NULL;
	if (outer->proto == IPPROTO_UDP && !simnic_outer_udp(skb, outer))
		return NULL;
	tunnel = simnic_decap_find(nic, net, outer);
	if (!tunnel || !simnic_outer_tunnel(skb, &tunnel->conf, outer))
		return NULL;
	return outer->inner + ETH_HLEN <= outer->end ? tunnel : NULL;
}

/* The outer header as metadata, as the tunnel's own driver makes it. */
static struct metadata_dst *simnic_decap_metadata(struct sk_buff *skb,
						  const struct simnic_tunnel_conf *conf,
						  const struct simnic_outer *outer)
{
	unsigned int room = conf->kind == SIMNIC_VXLAN ? sizeof(struct vxlan_metadata) :
							 outer->opts_len;
	struct vxlan_metadata *gbp;
	struct ip_tunnel_info *info;
	struct metadata_dst *dst;
	void *opts;

	if (outer->ipv6)
		dst = ipv6_tun_rx_dst(skb, outer->flags, outer->tun_id, room);
	else
		dst = ip_tun_rx_dst(skb, outer->flags, outer->tun_id, room);
	if (!dst)
		return NULL;
	info = &dst->u.tun_info;
	info->key.tp_src = outer->sport;
	info->key.tp_dst = outer->dport;
	if (outer->csum)
		__set_bit(IP_TUNNEL_CSUM_BIT, info->key.tun_flags);
	opts = ip_tunnel_info_opts(info);
	OPTIMIZER_HIDE_VAR(opts);	/* they follow the struct, whatever the compiler thinks */
	if (conf->kind == SIMNIC_GENEVE) {
		memcpy(opts, skb->data + outer->opts, outer->opts_len);
		info->options_len = outer->opts_len;
		__set_bit(IP_TUNNEL_GENEVE_OPT_BIT, info->key.tun_flags);
	} else if (outer->has_gbp) {
		gbp = opts;
		gbp->gbp = outer->gbp;
		info->options_len = sizeof(*gbp);
		__set_bit(IP_TUNNEL_VXLAN_OPT_BIT, info->key.tun_flags);
	}
	return dst;
}

/* The outer header's congestion mark goes on with the inner packet. */
static bool simnic_decap_ecn(struct sk_buff *skb, const struct simnic_outer *outer)
{
	struct iphdr ip = { .tos = outer->tos };

	switch (skb_protocol(skb, true)) {
	case htons(ETH_P_IP):
		if (skb_ensure_writable(skb, sizeof(struct iphdr)))
			return false;
		break;
	case htons(ETH_P_IPV6):
		if (skb_ensure_writable(skb, sizeof(struct ipv6hdr)))
			return false;
		break;
	default:
		return true;
	}
	return IP_ECN_decapsulate(&ip, skb) <= 1;
}

static bool simnic_decap_inner(struct sk_buff *skb, const struct simnic_tunnel *tunnel,
			       const struct simnic_outer *outer)
{
	struct metadata_dst *dst;

	if (pskb_trim_rcsum(skb, outer->end) || !pskb_may_pull(skb, outer->inner + ETH_HLEN))
		return false;
	dst = simnic_decap_metadata(skb, &tunnel->conf, outer);
	if (!dst)
		return false;
	skb_dst_set(skb, &dst->dst);
	skb_pull_rcsum(skb, outer->inner);
	skb_clear_hash(skb);
	skb->encapsulation = 0;
	skb->pkt_type = PACKET_HOST;
	skb_reset_mac_header(skb);
	skb->protocol = eth_type_trans(skb, tunnel->dev);
	skb_postpull_rcsum(skb, eth_hdr(skb), ETH_HLEN);
	skb_reset_network_header(skb);
	skb_reset_transport_header(skb);
	skb_reset_mac_len(skb);
	/* A UDP tunnel takes what it sent itself for a loop. */
	if (simnic_tunnel_is_udp(&tunnel->conf) &&
	    ether_addr_equal(eth_hdr(skb)->h_source, tunnel->dev->dev_addr))
		return false;
	return simnic_decap_ecn(skb, outer);
}

/*
 * What @skb, as the uplink's ingress sees it, has inside, as @tunnel's ingress
 * would see it. NULL if it is the host's, an error if the host would drop it.
 * @skb stays as it is in any case.
 */
struct sk_buff *simnic_decap(struct simnic *nic, struct sk_buff *skb,
			     struct simnic_tunnel **tunnel)
{
	struct simnic_outer outer = { };
	struct sk_buff *inner;

	if (list_empty(&nic->tunnels) || skb->pkt_type != PACKET_HOST || skb_is_gso(skb) ||
	    skb_vlan_tag_present(skb))
		return NULL;
	*tunnel = simnic_outer_parse(nic, skb, &outer);
	if (!*tunnel)
		return NULL;
	if (!simnic_ipsec_takes(nic->ipsec, skb))
		return ERR_PTR(-EPERM);
	inner = skb_clone(skb, GFP_ATOMIC);
	if (!inner)
		return NULL;
	if (!simnic_decap_inner(inner, *tunnel, &outer)) {
		kfree_skb(inner);
		return NULL;
	}
	return inner;
}

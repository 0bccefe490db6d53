// SPDX-License-Identifier: GPL-2.0
/*
 * Into the tunnel: the outer header itself, byte for byte the one that the
 * tunnel's own driver and the IP stack write, except for the IPv4 identification.
 * A NIC segments before it encapsulates and fills in all checksums.
 */
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <linux/unaligned.h>
#include <net/geneve.h>
#include <net/gre.h>
#include <net/gso.h>
#include <net/inet_ecn.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/ipv6.h>
#include <net/route.h>
#include <net/udp.h>
#include <net/vxlan.h>

#include "encap.h"
#include "ipsec.h"
#include "simnic.h"

static bool simnic_outer_is_ipv6(const struct ip_tunnel_info *info)
{
	return ip_tunnel_info_af(info) == AF_INET6;
}

/* Bytes between the outer Ethernet header and the inner one. */
unsigned int simnic_outer_len(const struct simnic_tunnel_conf *conf,
			      const struct ip_tunnel_info *info)
{
	unsigned int len = simnic_outer_is_ipv6(info) ? sizeof(struct ipv6hdr) :
							sizeof(struct iphdr);

	switch (conf->kind) {
	case SIMNIC_VXLAN:
		return len + sizeof(struct udphdr) + sizeof(struct vxlanhdr);
	case SIMNIC_GENEVE:
		return len + sizeof(struct udphdr) + sizeof(struct genevehdr) +
		       info->options_len;
	default:
		return len + gre_calc_hlen(info->key.tun_flags);
	}
}

static void simnic_outer_vxlan(const struct simnic_encap *encap, struct sk_buff *skb)
{
	const struct ip_tunnel_info *info = encap->info;
	const struct vxlan_metadata *md;
	struct vxlanhdr_gbp *gbp;
	struct vxlanhdr *hdr;

	hdr = __skb_push(skb, sizeof(*hdr));
	hdr->vx_flags = VXLAN_HF_VNI;
	hdr->vx_vni = vxlan_vni_field(tunnel_id_to_key32(info->key.tun_id));
	if (!encap->conf.gbp || !test_bit(IP_TUNNEL_VXLAN_OPT_BIT, info->key.tun_flags))
		return;
	md = ip_tunnel_info_opts(info);
	if (!md->gbp)
		return;
	gbp = (struct vxlanhdr_gbp *)hdr;
	hdr->vx_flags |= VXLAN_HF_GBP;
	if (md->gbp & VXLAN_GBP_DONT_LEARN)
		gbp->dont_learn = 1;
	if (md->gbp & VXLAN_GBP_POLICY_APPLIED)
		gbp->policy_applied = 1;
	gbp->policy_id = htons(md->gbp & VXLAN_GBP_ID_MASK);
}

static void simnic_outer_geneve(const struct ip_tunnel_info *info, struct sk_buff *skb)
{
	struct genevehdr *hdr;

	hdr = __skb_push(skb, sizeof(*hdr) + info->options_len);
	memset(hdr, 0, sizeof(*hdr));
	hdr->opt_len = info->options_len / 4;
	hdr->oam = test_bit(IP_TUNNEL_OAM_BIT, info->key.tun_flags);
	hdr->critical = test_bit(IP_TUNNEL_CRIT_OPT_BIT, info->key.tun_flags);
	put_unaligned_be24(ntohl(tunnel_id_to_key32(info->key.tun_id)), hdr->vni);
	hdr->proto_type = htons(ETH_P_TEB);
	ip_tunnel_info_opts_get(hdr->options, info);
}

static void simnic_outer_gre(const struct ip_tunnel_info *info, struct sk_buff *skb)
{
	bool csum = test_bit(IP_TUNNEL_CSUM_BIT, info->key.tun_flags);
	bool key = test_bit(IP_TUNNEL_KEY_BIT, info->key.tun_flags);
	struct gre_base_hdr *hdr;
	__be32 *word;

	hdr = __skb_push(skb, gre_calc_hlen(info->key.tun_flags));
	hdr->flags = (csum ? GRE_CSUM : 0) | (key ? GRE_KEY : 0);
	hdr->protocol = htons(ETH_P_TEB);
	word = (__be32 *)(hdr + 1);
	if (csum)
		*word++ = 0;
	if (key)
		*word = tunnel_id_to_key32(info->key.tun_id);
	if (csum)
		*(__sum16 *)(hdr + 1) = csum_fold(skb_checksum(skb, 0, skb->len, 0));
}

static void simnic_outer_udp(const struct simnic_path *path, struct sk_buff *skb, __be16 sport)
{
	const struct simnic_encap *encap = path->encap;
	const struct ip_tunnel_key *key = &encap->info->key;
	struct udphdr *udp;
	__wsum sum;

	udp = __skb_push(skb, sizeof(*udp));
	udp->source = sport;
	udp->dest = encap->conf.port;
	if (encap->conf.kind == SIMNIC_VXLAN && key->tp_dst)
		udp->dest = key->tp_dst;
	udp->len = htons(skb->len);
	udp->check = 0;
	if (!test_bit(IP_TUNNEL_CSUM_BIT, key->tun_flags))
		return;
	sum = skb_checksum(skb, 0, skb->len, 0);
	if (simnic_outer_is_ipv6(encap->info))
		udp->check = csum_ipv6_magic(&path->saddr6, &key->u.ipv6.dst, skb->len,
					     IPPROTO_UDP, sum);
	else
		udp->check = csum_tcpudp_magic(path->saddr, key->u.ipv4.dst, skb->len,
					       IPPROTO_UDP, sum);
	if (!udp->check)
		udp->check = CSUM_MANGLED_0;
}

/* As each of the tunnel drivers has it. The inner header is at the network header. */
static u8 simnic_outer_tos(const struct simnic_encap *encap, const struct sk_buff *skb)
{
	u8 tos = encap->info->key.tos;

	if (encap->conf.kind == SIMNIC_GRE6)
		return tos;
	/*
	 * The kernel looks for the protocol behind a tag when the GRE header is
	 * there already, and does not find it: nothing of the inner header's goes out.
	 */
	if (encap->conf.kind == SIMNIC_GRE && eth_type_vlan(skb->protocol))
		return INET_ECN_encapsulate(tos == 1 ? 0 : tos, INET_ECN_NOT_ECT);
	if (encap->conf.kind == SIMNIC_GRE && tos == 1)
		tos = ip_tunnel_get_dsfield(ip_hdr(skb), skb);
	return ip_tunnel_ecn_encap(tos, ip_hdr(skb), skb);
}

static u8 simnic_outer_ttl(const struct simnic_path *path, const struct sk_buff *skb)
{
	const struct simnic_encap *encap = path->encap;
	u8 ttl = encap->info->key.ttl;
	__be16 inner = skb->protocol;

	if (ttl || encap->conf.kind == SIMNIC_GENEVE)
		return ttl;
	if (encap->conf.kind == SIMNIC_GRE6)
		inner = skb_protocol(skb, true);
	if (!simnic_tunnel_is_udp(&encap->conf) && inner == htons(ETH_P_IP))
		return ip_hdr(skb)->ttl;
	if (!simnic_tunnel_is_udp(&encap->conf) && inner == htons(ETH_P_IPV6))
		return ipv6_hdr(skb)->hop_limit;
	if (simnic_outer_is_ipv6(encap->info))
		return ip6_dst_hoplimit(path->dst);
	return ip4_dst_hoplimit(path->dst);
}

static void simnic_outer_ipv4(const struct simnic_path *path, struct sk_buff *skb, u8 tos, u8 ttl)
{
	const struct simnic_encap *encap = path->encap;
	const struct ip_tunnel_key *key = &encap->info->key;
	bool df = test_bit(IP_TUNNEL_DONT_FRAGMENT_BIT, key->tun_flags) &&
		  !ip_mtu_locked(path->dst);
	struct iphdr *ip;

	ip = __skb_push(skb, sizeof(*ip));
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = tos;
	ip->tot_len = htons(skb->len);
	ip->frag_off = df ? htons(IP_DF) : 0;
	ip->ttl = ttl;
	ip->protocol = simnic_tunnel_is_udp(&encap->conf) ? IPPROTO_UDP : IPPROTO_GRE;
	ip->saddr = path->saddr;
	ip->daddr = key->u.ipv4.dst;
	__ip_select_ident(encap->conf.net, ip, 1);
	ip_send_check(ip);
}

/* ip6_gre makes a flow label of the flow where the sysctl has it so; UDP tunnels do not. */
static __be32 simnic_outer_label(const struct simnic_path *path, struct sk_buff *skb)
{
	const struct simnic_encap *encap = path->encap;
	const struct ip_tunnel_key *key = &encap->info->key;
	struct flowi6 fl6 = {
		.flowi6_proto = IPPROTO_GRE,
		.daddr = key->u.ipv6.dst,
		.saddr = path->saddr6,
		.flowlabel = ip6_make_flowinfo(key->tos, key->label),
		.fl6_gre_key = tunnel_id_to_key32(key->tun_id),
	};

	if (encap->conf.kind != SIMNIC_GRE6)
		return key->label;
	return ip6_make_flowlabel(encap->conf.net, skb, fl6.flowlabel, true, &fl6);
}

static void simnic_outer_ipv6(const struct simnic_path *path, struct sk_buff *skb, u8 tos, u8 ttl,
			      __be32 label)
{
	const struct simnic_encap *encap = path->encap;
	unsigned int len = skb->len;
	struct ipv6hdr *ip6;

	ip6 = __skb_push(skb, sizeof(*ip6));
	ip6_flow_hdr(ip6, tos, label);
	ip6->payload_len = htons(len);
	ip6->nexthdr = simnic_tunnel_is_udp(&encap->conf) ? IPPROTO_UDP : IPPROTO_GRE;
	ip6->hop_limit = ttl;
	ip6->saddr = path->saddr6;
	ip6->daddr = encap->info->key.u.ipv6.dst;
}

static void simnic_outer_ethernet(const struct simnic_path *path, struct sk_buff *skb,
				  const struct net_device *uplink)
{
	bool ipv6 = simnic_outer_is_ipv6(path->encap->info);
	struct ethhdr *eth;

	skb_reset_network_header(skb);
	eth = __skb_push(skb, sizeof(*eth));
	skb_reset_mac_header(skb);
	skb->mac_len = sizeof(*eth);
	ether_addr_copy(eth->h_dest, path->neigh_addr);
	ether_addr_copy(eth->h_source, uplink->dev_addr);
	eth->h_proto = ipv6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	skb->protocol = eth->h_proto;
	skb->ip_summed = CHECKSUM_NONE;
	skb->encapsulation = 0;
}

/* Everything in front of an inner frame, data at its Ethernet header, that is whole. */
static void simnic_outer_push(const struct simnic_path *path, struct sk_buff *skb,
			      const struct net_device *uplink)
{
	const struct simnic_encap *encap = path->encap;
	bool ipv6 = simnic_outer_is_ipv6(encap->info);
	u8 tos = simnic_outer_tos(encap, skb);
	u8 ttl = simnic_outer_ttl(path, skb);
	__be16 sport = 0;
	__be32 label = 0;

	if (simnic_tunnel_is_udp(&encap->conf))
		sport = udp_flow_src_port(encap->conf.net, skb, encap->conf.port_min,
					  encap->conf.port_max, true);
	if (ipv6)
		label = simnic_outer_label(path, skb);
	switch (encap->conf.kind) {
	case SIMNIC_VXLAN:
		simnic_outer_vxlan(encap, skb);
		break;
	case SIMNIC_GENEVE:
		simnic_outer_geneve(encap->info, skb);
		break;
	default:
		simnic_outer_gre(encap->info, skb);
		break;
	}
	if (simnic_tunnel_is_udp(&encap->conf))
		simnic_outer_udp(path, skb, sport);
	if (ipv6)
		simnic_outer_ipv6(path, skb, tos, ttl, label);
	else
		simnic_outer_ipv4(path, skb, tos, ttl);
	simnic_outer_ethernet(path, skb, uplink);
}

static void simnic_outer_send_one(const struct simnic_path *path, struct sk_buff *skb)
{
	const struct simnic_encap *encap = path->encap;
	struct simnic_port *port = path->uplink;
	const struct net_device *uplink = rcu_dereference(port->host);

	if (!uplink || (skb->ip_summed == CHECKSUM_PARTIAL && skb_checksum_help(skb)) ||
	    skb_vlan_inet_prepare(skb, false) || skb_cow_head(skb, encap->overhead + ETH_HLEN)) {
		simnic_count(port, SIMNIC_DROP_BAD, 1, skb->len);
		kfree_skb(skb);
		return;
	}
	simnic_outer_push(path, skb, uplink);
	skb = simnic_ipsec_tx_tunnel(port, skb, path->encrypted);
	if (skb)
		simnic_to_wire(port->nic, skb, SIMNIC_OUT_HW);
}

/* Sends @skb, data at the MAC header, down the tunnel. */
void simnic_outer_send(const struct simnic_path *path, struct sk_buff *skb)
{
	struct sk_buff *segs, *next;

	if (skb_vlan_tag_present(skb)) {
		skb = __vlan_hwaccel_push_inside(skb);
		if (!skb)
			return;
	}
	/* All segments leave by the source port of the whole. GRE has no use for the hash. */
	if (simnic_tunnel_is_udp(&path->encap->conf))
		skb_get_hash(skb);
	segs = skb_is_gso(skb) ? skb_gso_segment(skb, NETIF_F_SG | NETIF_F_HW_CSUM) : NULL;
	if (IS_ERR(segs)) {
		simnic_count(path->uplink, SIMNIC_DROP_BAD, 1, skb->len);
		kfree_skb(skb);
		return;
	}
	if (!segs) {
		simnic_outer_send_one(path, skb);
		return;
	}
	consume_skb(skb);
	skb_list_walk_safe(segs, skb, next) {
		skb_mark_not_on_list(skb);
		simnic_outer_send_one(path, skb);
	}
}

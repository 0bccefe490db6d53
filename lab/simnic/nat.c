// SPDX-License-Identifier: GPL-2.0
/*
 * Network address translation: addresses and ports are set, and checksums mended
 * by the difference, as nf_nat does it: what was wrong before stays as wrong.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/checksum.h>

#include "ct.h"

static void simnic_nat_ports(struct sk_buff *skb, struct udphdr *ports, __sum16 *check,
			     const struct simnic_tuple *to)
{
	if (check) {
		inet_proto_csum_replace2(check, skb, ports->source, to->sport, false);
		inet_proto_csum_replace2(check, skb, ports->dest, to->dport, false);
	}
	ports->source = to->sport;
	ports->dest = to->dport;
}

static void simnic_nat_ipv4(struct sk_buff *skb, struct iphdr *ip, __sum16 *check,
			    const struct simnic_tuple *to)
{
	__be32 saddr = to->src.s6_addr32[0], daddr = to->dst.s6_addr32[0];

	if (check) {
		inet_proto_csum_replace4(check, skb, ip->saddr, saddr, true);
		inet_proto_csum_replace4(check, skb, ip->daddr, daddr, true);
	}
	csum_replace4(&ip->check, ip->saddr, saddr);
	csum_replace4(&ip->check, ip->daddr, daddr);
	ip->saddr = saddr;
	ip->daddr = daddr;
}

static void simnic_nat_ipv6(struct sk_buff *skb, struct ipv6hdr *ip6, __sum16 *check,
			    const struct simnic_tuple *to)
{
	if (check) {
		inet_proto_csum_replace16(check, skb, ip6->saddr.s6_addr32, to->src.s6_addr32,
					  true);
		inet_proto_csum_replace16(check, skb, ip6->daddr.s6_addr32, to->dst.s6_addr32,
					  true);
	}
	ip6->saddr = to->src;
	ip6->daddr = to->dst;
}

/*
 * Makes the packet one of @to. It is one that a connection was found for: no
 * fragment, no IP options, no extension headers; data is at the network header.
 */
int simnic_nat(struct sk_buff *skb, const struct simnic_tuple *to)
{
	bool ipv6 = to->n_proto == htons(ETH_P_IPV6), tcp = to->ip_proto == IPPROTO_TCP;
	unsigned int thoff = ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct udphdr *udp;
	__sum16 *check;

	if (skb_ensure_writable(skb, thoff + (tcp ? sizeof(struct tcphdr) : sizeof(*udp))))
		return -ENOMEM;
	udp = (struct udphdr *)(skb->data + thoff);
	if (tcp)
		check = &((struct tcphdr *)udp)->check;
	else
		check = udp->check || skb->ip_summed == CHECKSUM_PARTIAL ? &udp->check : NULL;
	if (ipv6)
		simnic_nat_ipv6(skb, ipv6_hdr(skb), check, to);
	else
		simnic_nat_ipv4(skb, ip_hdr(skb), check, to);
	simnic_nat_ports(skb, udp, check, to);
	if (!tcp && check && !*check)
		*check = CSUM_MANGLED_0;
	return 0;
}

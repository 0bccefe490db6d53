// SPDX-License-Identifier: GPL-2.0
/*
 * Legacy mode: a plain NIC whose embedded switch knows the MAC addresses of its
 * functions and nothing else. The uplink netdev is the PF.
 */
#include "ipsec.h"
#include "simnic.h"

/* All functions that a multicast frame goes to, except its sender. */
static void simnic_legacy_flood_vfs(struct simnic *nic, const struct simnic_port *from,
				    struct sk_buff *skb)
{
	struct sk_buff *copy;
	unsigned int i;

	for (i = 1; i <= READ_ONCE(nic->vfs); i++) {
		if (&nic->ports[i] == from)
			continue;
		copy = skb_clone(skb, GFP_ATOMIC);
		if (copy)
			simnic_to_vf(&nic->ports[i], copy, SIMNIC_OUT_HW);
	}
}

static struct simnic_port *simnic_legacy_find_vf(struct simnic *nic, const u8 *addr)
{
	struct net_device *vf;
	unsigned int i;

	for (i = 1; i <= READ_ONCE(nic->vfs); i++) {
		vf = rcu_dereference(nic->ports[i].vf);
		if (vf && ether_addr_equal(vf->dev_addr, addr))
			return &nic->ports[i];
	}
	return NULL;
}

static void simnic_legacy_to_pf(struct simnic *nic, struct sk_buff *skb)
{
	struct simnic_port *uplink = simnic_uplink(nic);
	u64 packets, bytes;

	simnic_frame_size(skb, &packets, &bytes);
	if (simnic_queue(uplink, rcu_dereference(uplink->host), skb, SIMNIC_QUEUED_FRAME))
		simnic_count(uplink, SIMNIC_LOCAL_IN, packets, bytes);
}

void simnic_legacy_from_vf(struct simnic_port *port, struct sk_buff *skb)
{
	struct simnic *nic = port->nic;
	struct net_device *pf = rcu_dereference(simnic_uplink(nic)->host);
	const u8 *dst = eth_hdr(skb)->h_dest;
	struct simnic_port *to;
	struct sk_buff *copy;

	if (READ_ONCE(port->settings.spoofchk) &&
	    !ether_addr_equal(eth_hdr(skb)->h_source, port->hw_addr)) {
		simnic_count_skb(port, SIMNIC_DROP_RULE, skb);
		kfree_skb(skb);
		return;
	}
	simnic_count_skb(port, SIMNIC_IN_HW, skb);
	if (is_multicast_ether_addr(dst)) {
		simnic_legacy_flood_vfs(nic, port, skb);
		copy = skb_clone(skb, GFP_ATOMIC);
		if (copy)
			simnic_legacy_to_pf(nic, copy);
		simnic_to_wire(nic, skb, SIMNIC_OUT_HW);
		return;
	}
	to = simnic_legacy_find_vf(nic, dst);
	if (to)
		simnic_to_vf(to, skb, SIMNIC_OUT_HW);
	else if (pf && ether_addr_equal(pf->dev_addr, dst))
		simnic_legacy_to_pf(nic, skb);
	else
		simnic_to_wire(nic, skb, SIMNIC_OUT_HW);
}

void simnic_legacy_from_pf(struct simnic *nic, struct sk_buff *skb)
{
	const u8 *dst = eth_hdr(skb)->h_dest;
	struct simnic_port *to;

	if (is_multicast_ether_addr(dst)) {
		simnic_legacy_flood_vfs(nic, NULL, skb);
		simnic_to_wire(nic, skb, SIMNIC_OUT_SLOW);
		return;
	}
	to = simnic_legacy_find_vf(nic, dst);
	if (!to) {
		simnic_to_wire(nic, skb, SIMNIC_OUT_SLOW);
		return;
	}
	simnic_count_skb(simnic_uplink(nic), SIMNIC_LOCAL_OUT, skb);
	simnic_to_vf(to, skb, SIMNIC_OUT_SLOW);
}

/* Called from the uplink's NAPI, so the PF gets its share right away. */
void simnic_legacy_from_wire(struct simnic *nic, struct sk_buff *skb)
{
	struct simnic_port *uplink = simnic_uplink(nic);
	struct net_device *pf = rcu_dereference(uplink->host);
	const u8 *dst = eth_hdr(skb)->h_dest;
	struct simnic_port *to = NULL;

	if (is_multicast_ether_addr(dst))
		simnic_legacy_flood_vfs(nic, NULL, skb);
	else
		to = simnic_legacy_find_vf(nic, dst);
	if (to) {
		simnic_count_skb(uplink, SIMNIC_IN_HW, skb);
		simnic_to_vf(to, skb, SIMNIC_OUT_HW);
		return;
	}
	if (!pf) {
		kfree_skb(skb);
		return;
	}
	simnic_count_skb(uplink, SIMNIC_IN_SLOW, skb);
	skb->pkt_type = PACKET_HOST;
	skb->protocol = eth_type_trans(skb, pf);
	if (simnic_ipsec_rx(uplink, skb) != SIMNIC_IPSEC_DROPPED)
		netif_receive_skb(skb);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * The way of a packet between netdevs: into the switch, out of it, and along
 * the slow path. Everything here runs with bottom halves off.
 *
 * A packet in transit has its data at the MAC header. simnic_prepare() brings it
 * into the state in which a representor's ingress would see it.
 */
#include <linux/if_vlan.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "ipsec.h"
#include "pipeline.h"
#include "simnic.h"

/*
 * What the frame, or the frames a GSO packet stands for, are on the wire: all
 * headers, VLAN tags included, without the FCS.
 */
void simnic_frame_size(const struct sk_buff *skb, u64 *packets, u64 *bytes)
{
	const struct skb_shared_info *shinfo = skb_shinfo(skb);
	unsigned int headers, segs;

	*packets = 1;
	*bytes = skb->data + skb->len - skb_mac_header(skb);
	if (skb_vlan_tag_present(skb))
		*bytes += VLAN_HLEN;
	if (!skb_is_gso(skb) || !skb_transport_header_was_set(skb))
		return;

	headers = skb_transport_header(skb) - skb_mac_header(skb);
	if (skb_vlan_tag_present(skb))
		headers += VLAN_HLEN;
	if (shinfo->gso_type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6))
		headers += tcp_hdrlen(skb);
	else
		headers += sizeof(struct udphdr);
	if (*bytes <= headers)
		return;
	segs = DIV_ROUND_UP((unsigned int)*bytes - headers, shinfo->gso_size);
	*packets = segs;
	*bytes += (u64)(segs - 1) * headers;
}

/* What the sender's host knew of the packet does not go over the bus. */
static bool simnic_leave_host(struct sk_buff *skb)
{
	if (unlikely(!pskb_may_pull(skb, ETH_HLEN) || skb_orphan_frags_rx(skb, GFP_ATOMIC)))
		return false;
	skb_reset_mac_header(skb);
	skb_scrub_packet(skb, true);
	skb_reset_redirect(skb);
	skb->priority = 0;
	skb->encapsulation = 0;
	skb_set_queue_mapping(skb, 0);
	if (skb->ip_summed == CHECKSUM_COMPLETE)
		skb->ip_summed = CHECKSUM_NONE;
	return true;
}

/* As the host's netdev of this port would receive it. */
bool simnic_prepare(struct simnic_port *port, struct sk_buff *skb)
{
	struct net_device *host = rcu_dereference(port->host);

	if (!host || !netif_running(host)) {
		simnic_count_skb(port, SIMNIC_DROP_LINK, skb);
		kfree_skb(skb);
		return false;
	}
	skb->pkt_type = PACKET_HOST;
	skb->protocol = eth_type_trans(skb, host);
	skb_reset_network_header(skb);
	skb_reset_mac_len(skb);
	return true;
}

/* Out of the switch to a VF. Data is at the MAC header. */
void simnic_to_vf(struct simnic_port *port, struct sk_buff *skb, enum simnic_counter counter)
{
	struct net_device *vf = rcu_dereference(port->vf);
	u64 packets, bytes;

	simnic_frame_size(skb, &packets, &bytes);
	if (vf && netif_running(vf) && !is_skb_forwardable(vf, skb)) {
		simnic_count(port, SIMNIC_DROP_BAD, packets, bytes);
		kfree_skb(skb);
		return;
	}
	if (simnic_queue(port, vf, skb, SIMNIC_QUEUED_FRAME))
		simnic_count(port, counter, packets, bytes);
}

/* Out of the switch to the wire, into the peer's. Data is at the MAC header. */
void simnic_to_wire(struct simnic *nic, struct sk_buff *skb, enum simnic_counter counter)
{
	struct simnic_port *uplink = simnic_uplink(nic);
	struct simnic *peer = rcu_dereference(nic->peer);
	struct net_device *dev = NULL;
	u64 packets, bytes;

	simnic_frame_size(skb, &packets, &bytes);
	if (READ_ONCE(nic->tx_failed)) {
		simnic_count(uplink, SIMNIC_DROP_QUEUE, packets, bytes);
		kfree_skb(skb);
		return;
	}
	if (peer && READ_ONCE(nic->link) && READ_ONCE(peer->link))
		dev = rcu_dereference(simnic_uplink(peer)->host);
	if (!dev || !netif_running(dev)) {
		simnic_count(uplink, SIMNIC_DROP_LINK, packets, bytes);
		kfree_skb(skb);
		return;
	}
	/* It is on the wire now, whatever the peer makes of it. */
	simnic_count(uplink, counter, packets, bytes);
	if (!is_skb_forwardable(dev, skb)) {
		simnic_count(simnic_uplink(peer), SIMNIC_DROP_BAD, packets, bytes);
		kfree_skb(skb);
		return;
	}
	simnic_queue(simnic_uplink(peer), dev, skb, SIMNIC_QUEUED_WIRE);
}

static void simnic_bad(struct simnic_port *port, struct sk_buff *skb)
{
	simnic_count(port, SIMNIC_DROP_BAD, 1, skb->len);
	kfree_skb(skb);
}

/*
 * Through the rule table; if that has no answer, up the representor. Counted
 * when it is handed over, as it came in, so that a packet is either slow or
 * dropped, never both.
 */
static void simnic_into_switch(struct simnic_port *port, struct sk_buff *skb, bool in_poll)
{
	struct simnic_size size;

	skb = simnic_pipeline(port, skb, &size);
	if (!skb)
		return;
	if (in_poll) {
		simnic_count(port, SIMNIC_IN_SLOW, size.packets, size.bytes);
		netif_receive_skb(skb);
	} else if (simnic_queue(port, rcu_dereference(port->host), skb, SIMNIC_QUEUED_UP)) {
		simnic_count(port, SIMNIC_IN_SLOW, size.packets, size.bytes);
	}
}

netdev_tx_t simnic_vf_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	struct simnic_port *port = priv->port;

	skb_tx_timestamp(skb);
	rcu_read_lock();
	if (!simnic_leave_host(skb))
		simnic_bad(port, skb);
	else if (!READ_ONCE(port->nic->switchdev))
		simnic_legacy_from_vf(port, skb);
	else if (simnic_prepare(port, skb))
		simnic_into_switch(port, skb, false);
	rcu_read_unlock();
	return NETDEV_TX_OK;
}

netdev_tx_t simnic_rep_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct simnic_netdev *priv = netdev_priv(dev);

	skb_tx_timestamp(skb);
	rcu_read_lock();
	if (simnic_leave_host(skb))
		simnic_to_vf(priv->port, skb, SIMNIC_OUT_SLOW);
	else
		simnic_bad(priv->port, skb);
	rcu_read_unlock();
	return NETDEV_TX_OK;
}

static void simnic_uplink_xmit_one(struct simnic_port *port, struct sk_buff *skb)
{
	if (!simnic_leave_host(skb))
		simnic_bad(port, skb);
	else if (READ_ONCE(port->nic->switchdev))
		simnic_to_wire(port->nic, skb, SIMNIC_OUT_SLOW);
	else
		simnic_legacy_from_pf(port->nic, skb);
}

netdev_tx_t simnic_uplink_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	struct sk_buff *next;

	skb_tx_timestamp(skb);
	rcu_read_lock();
	skb = simnic_ipsec_tx(priv->port, skb);
	skb_list_walk_safe(skb, skb, next) {
		skb_mark_not_on_list(skb);
		simnic_uplink_xmit_one(priv->port, skb);
	}
	rcu_read_unlock();
	return NETDEV_TX_OK;
}

/* What was decrypted and is still in ESP is the host's, and no rule's. */
static void simnic_from_wire(struct simnic_port *port, struct sk_buff *skb)
{
	u64 packets, bytes;

	if (!simnic_prepare(port, skb))
		return;
	simnic_frame_size(skb, &packets, &bytes);
	switch (simnic_ipsec_rx(port, skb)) {
	case SIMNIC_IPSEC_PLAIN:
		simnic_into_switch(port, skb, true);
		break;
	case SIMNIC_IPSEC_HOST:
		simnic_count(port, SIMNIC_IN_SLOW, packets, bytes);
		netif_receive_skb(skb);
		break;
	case SIMNIC_IPSEC_DROPPED:
		break;
	}
}

/* Called from NAPI with a packet from the netdev's queue. */
void simnic_receive(struct simnic_netdev *priv, struct sk_buff *skb)
{
	struct simnic_port *port = priv->port;

	rcu_read_lock();
	switch (simnic_cb(skb)->queued) {
	case SIMNIC_QUEUED_UP:
		netif_receive_skb(skb);
		break;
	case SIMNIC_QUEUED_FRAME:
		skb->pkt_type = PACKET_HOST;
		skb->protocol = eth_type_trans(skb, priv->dev);
		netif_receive_skb(skb);
		break;
	case SIMNIC_QUEUED_WIRE:
		if (!READ_ONCE(port->nic->switchdev))
			simnic_legacy_from_wire(port->nic, skb);
		else
			simnic_from_wire(port, skb);
		break;
	}
	rcu_read_unlock();
}

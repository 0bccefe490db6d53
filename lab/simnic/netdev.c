// SPDX-License-Identifier: GPL-2.0
/*
 * The netdevs of a NIC: uplink, representors, VFs. Each receives from a bounded
 * queue in NAPI context, so that no packet takes another's stack deeper: the
 * sender only ever fills a queue.
 */
#include <linux/rtnetlink.h>

#include "fail.h"
#include "ipsec.h"
#include "simnic.h"
#include "tc.h"

#define SIMNIC_MIN_MTU	ETH_MIN_MTU
#define SIMNIC_MAX_MTU	9216

/*
 * A packet that never leaves memory needs no checksum until somebody changes
 * it, and edit.c knows what to do then.
 */
#define SIMNIC_FEATURES	(NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_RXCSUM | NETIF_F_HIGHDMA | \
			 NETIF_F_TSO | NETIF_F_TSO_ECN | NETIF_F_TSO_MANGLEID | NETIF_F_TSO6)
#define SIMNIC_VLAN_FEATURES \
			(NETIF_F_HW_VLAN_CTAG_TX | NETIF_F_HW_VLAN_CTAG_RX | \
			 NETIF_F_HW_VLAN_STAG_TX | NETIF_F_HW_VLAN_STAG_RX)

static int simnic_poll(struct napi_struct *napi, int budget)
{
	struct simnic_netdev *priv = container_of(napi, struct simnic_netdev, napi);
	struct sk_buff *skb;
	int done = 0;

	while (done < budget) {
		skb = skb_dequeue(&priv->queue);
		if (!skb)
			break;
		simnic_receive(priv, skb);
		done++;
	}
	if (done < budget)
		napi_complete_done(napi, done);
	return done;
}

/*
 * Takes the packet, always. A netdev that is down has its queue purged only
 * after a grace period from which netif_running() is false, so nothing is left
 * behind.
 */
bool simnic_queue(struct simnic_port *port, struct net_device *dev, struct sk_buff *skb,
		  enum simnic_queued queued)
{
	struct simnic_netdev *priv;

	if (!dev || !netif_running(dev)) {
		simnic_count_skb(port, SIMNIC_DROP_LINK, skb);
		kfree_skb(skb);
		return false;
	}
	priv = netdev_priv(dev);
	if (skb_queue_len_lockless(&priv->queue) >= SIMNIC_QUEUE_LEN) {
		simnic_count_skb(port, SIMNIC_DROP_QUEUE, skb);
		kfree_skb(skb);
		return false;
	}
	simnic_cb(skb)->queued = queued;
	skb_queue_tail(&priv->queue, skb);
	napi_schedule(&priv->napi);
	return true;
}

static void simnic_carrier_changed(struct simnic_netdev *priv)
{
	struct simnic *nic = priv->port->nic;
	struct simnic *peer = rcu_dereference_rtnl(nic->peer);

	simnic_nic_update_carrier(nic);
	if (peer)
		simnic_nic_update_carrier(peer);
}

static int simnic_open(struct net_device *dev)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	int err;

	err = simnic_fail(priv->port->nic, SIMNIC_OP_OPEN, NULL);
	if (err)
		return err;
	napi_enable(&priv->napi);
	if (priv->role == SIMNIC_REP)
		netif_carrier_on(dev);
	simnic_carrier_changed(priv);
	return 0;
}

static int simnic_stop(struct net_device *dev)
{
	struct simnic_netdev *priv = netdev_priv(dev);

	if (priv->role == SIMNIC_REP)
		netif_carrier_off(dev);
	simnic_carrier_changed(priv);
	napi_disable(&priv->napi);
	skb_queue_purge(&priv->queue);
	return 0;
}

static int simnic_host_set_features(struct net_device *dev, netdev_features_t features)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	int err;

	err = simnic_fail(priv->port->nic, SIMNIC_OP_SET_FEATURES, NULL);
	if (err)
		return err;
	if ((dev->features & NETIF_F_HW_TC) && !(features & NETIF_F_HW_TC) &&
	    atomic_read(&priv->port->rules)) {
		netdev_err(dev, "offloaded rules are active, hw-tc-offload stays on\n");
		return -EINVAL;
	}
	return 0;
}

static int simnic_host_set_mac(struct net_device *dev, void *addr)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	int err;

	err = simnic_fail(priv->port->nic, SIMNIC_OP_SET_MAC, NULL);
	return err ?: eth_mac_addr(dev, addr);
}

static int simnic_change_mtu(struct net_device *dev, int mtu)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	int err;

	err = simnic_fail(priv->port->nic, SIMNIC_OP_SET_MTU, NULL);
	if (!err)
		WRITE_ONCE(dev->mtu, mtu);
	return err;
}

static int simnic_uplink_parent_id(struct net_device *dev, struct netdev_phys_item_id *ppid)
{
	struct simnic_netdev *priv = netdev_priv(dev);

	if (!READ_ONCE(priv->port->nic->switchdev))
		return -EOPNOTSUPP;
	simnic_switch_id(priv->port->nic, ppid);
	return 0;
}

static const struct net_device_ops simnic_uplink_ops = {
	.ndo_open		= simnic_open,
	.ndo_stop		= simnic_stop,
	.ndo_start_xmit		= simnic_uplink_xmit,
	.ndo_set_mac_address	= simnic_host_set_mac,
	.ndo_change_mtu		= simnic_change_mtu,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_get_stats64	= simnic_get_stats64,
	.ndo_has_offload_stats	= simnic_has_offload_stats,
	.ndo_get_offload_stats	= simnic_get_offload_stats,
	.ndo_set_features	= simnic_host_set_features,
	.ndo_setup_tc		= simnic_setup_tc,
	.ndo_get_port_parent_id	= simnic_uplink_parent_id,
	.ndo_set_vf_mac		= simnic_set_vf_mac,
	.ndo_set_vf_rate	= simnic_set_vf_rate,
	.ndo_set_vf_spoofchk	= simnic_set_vf_spoofchk,
	.ndo_set_vf_link_state	= simnic_set_vf_link_state,
	.ndo_set_vf_trust	= simnic_set_vf_trust,
	.ndo_get_vf_config	= simnic_get_vf_config,
};

static const struct net_device_ops simnic_rep_ops = {
	.ndo_open		= simnic_open,
	.ndo_stop		= simnic_stop,
	.ndo_start_xmit		= simnic_rep_xmit,
	.ndo_set_mac_address	= simnic_host_set_mac,
	.ndo_change_mtu		= simnic_change_mtu,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_get_stats64	= simnic_get_stats64,
	.ndo_has_offload_stats	= simnic_has_offload_stats,
	.ndo_get_offload_stats	= simnic_get_offload_stats,
	.ndo_set_features	= simnic_host_set_features,
	.ndo_setup_tc		= simnic_setup_tc,
};

static const struct net_device_ops simnic_vf_ops = {
	.ndo_open		= simnic_open,
	.ndo_stop		= simnic_stop,
	.ndo_start_xmit		= simnic_vf_xmit,
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_change_mtu		= simnic_change_mtu,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_get_stats64	= simnic_get_stats64,
};

bool simnic_is_host_netdev(const struct net_device *dev)
{
	return dev->netdev_ops == &simnic_uplink_ops || dev->netdev_ops == &simnic_rep_ops;
}

static void simnic_netdev_setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->min_mtu = SIMNIC_MIN_MTU;
	dev->max_mtu = SIMNIC_MAX_MTU;
	dev->lltx = true;	/* the queues have their own locks */
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;	/* packets are queued and changed */
	dev->priv_flags |= IFF_NO_QUEUE | IFF_DISABLE_NETPOLL | IFF_LIVE_ADDR_CHANGE;
	dev->features = SIMNIC_FEATURES | SIMNIC_VLAN_FEATURES;
	dev->hw_features = dev->features;
	dev->vlan_features = SIMNIC_FEATURES;
}

static void simnic_role_setup(struct net_device *dev, struct simnic_port *port,
			      enum simnic_role role)
{
	u8 addr[ETH_ALEN];

	ether_addr_copy(addr, port->hw_addr);
	switch (role) {
	case SIMNIC_UPLINK:
		dev->netdev_ops = &simnic_uplink_ops;
		dev->ethtool_ops = &simnic_host_ethtool_ops;
		simnic_ipsec_setup(dev);
		break;
	case SIMNIC_REP:
		dev->netdev_ops = &simnic_rep_ops;
		dev->ethtool_ops = &simnic_host_ethtool_ops;
		addr[4] = 0xff;	/* not the VF's */
		break;
	case SIMNIC_VF:
		dev->netdev_ops = &simnic_vf_ops;
		dev->ethtool_ops = &simnic_vf_ethtool_ops;
		break;
	}
	if (role != SIMNIC_VF) {
		dev->features |= NETIF_F_HW_TC;
		dev->hw_features |= NETIF_F_HW_TC;
		SET_NETDEV_DEVLINK_PORT(dev, &port->dl_port);
	}
	eth_hw_addr_set(dev, addr);
}

static void simnic_netdev_name(const struct simnic_port *port, enum simnic_role role, char *name)
{
	unsigned int id = port->nic->id;
	char port_name[IFNAMSIZ];

	if (role != SIMNIC_VF) {
		simnic_port_name(port, port_name, sizeof(port_name));
		snprintf(name, IFNAMSIZ, "sn%u%s", id, port_name);
	} else if (port->kind == SIMNIC_PORT_VF) {
		snprintf(name, IFNAMSIZ, "sn%uv%u", id, port->index - 1);
	} else {
		snprintf(name, IFNAMSIZ, "sn%us%u", id, port->sfnum);
	}
}

static struct device *simnic_netdev_parent(struct simnic_port *port, enum simnic_role role)
{
	return role == SIMNIC_VF ? &port->fn_dev->dev : &port->nic->bus_dev->dev;
}

static struct net_device __rcu **simnic_netdev_slot(struct simnic_port *port,
						    enum simnic_role role)
{
	return role == SIMNIC_VF ? &port->vf : &port->host;
}

static void simnic_netdev_free(struct simnic_netdev *priv)
{
	netif_napi_del(&priv->napi);
	free_netdev(priv->dev);
}

static struct net_device *simnic_netdev_alloc(struct simnic_port *port, enum simnic_role role)
{
	struct simnic_netdev *priv;
	struct net_device *dev;
	char name[IFNAMSIZ];

	simnic_netdev_name(port, role, name);
	dev = alloc_netdev(sizeof(*priv), name, NET_NAME_PREDICTABLE, simnic_netdev_setup);
	if (!dev)
		return NULL;

	priv = netdev_priv(dev);
	priv->dev = dev;
	priv->port = port;
	priv->role = role;
	skb_queue_head_init(&priv->queue);
	netif_napi_add(dev, &priv->napi, simnic_poll);
	SET_NETDEV_DEV(dev, simnic_netdev_parent(port, role));
	netif_carrier_off(dev);
	return dev;
}

/* Makes the netdev of this role. A port that names one under rtnl names a registered one. */
int simnic_netdev_attach(struct simnic_port *port, enum simnic_role role)
{
	struct net_device __rcu **slot = simnic_netdev_slot(port, role);
	struct net_device *dev;
	int err;

	dev = simnic_netdev_alloc(port, role);
	if (!dev)
		return -ENOMEM;

	rtnl_lock();
	simnic_role_setup(dev, port, role);
	/* Traffic may come as soon as it is registered and up. */
	rcu_assign_pointer(*slot, dev);
	err = register_netdevice(dev);
	if (err)
		RCU_INIT_POINTER(*slot, NULL);
	rtnl_unlock();
	if (err) {
		synchronize_net();
		simnic_netdev_free(netdev_priv(dev));
	}
	return err;
}

/*
 * Removes the netdevs of this role of ports first to end - 1, those that are
 * there. All at once: the grace periods that each needs are what takes the time.
 */
void simnic_netdevs_detach(struct simnic *nic, enum simnic_role role, unsigned int first,
			   unsigned int end)
{
	struct net_device __rcu **slot;
	struct simnic_netdev *priv, *next;
	struct net_device *dev;
	LIST_HEAD(unregister);
	LIST_HEAD(dead);
	unsigned int i;

	rtnl_lock();
	for (i = first; i < end; i++) {
		slot = simnic_netdev_slot(&nic->ports[i], role);
		dev = rtnl_dereference(*slot);
		if (!dev)
			continue;
		/* Nobody finds it any more; unregistering waits for those who did. */
		RCU_INIT_POINTER(*slot, NULL);
		priv = netdev_priv(dev);
		list_add_tail(&priv->dead, &dead);
		unregister_netdevice_queue(dev, &unregister);
	}
	unregister_netdevice_many(&unregister);
	rtnl_unlock();

	if (list_empty(&dead))
		return;
	list_for_each_entry(priv, &dead, dead)
		__netif_napi_del(&priv->napi);
	synchronize_net();
	list_for_each_entry_safe(priv, next, &dead, dead)
		free_netdev(priv->dev);
}

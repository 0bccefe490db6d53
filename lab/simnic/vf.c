// SPDX-License-Identifier: GPL-2.0
/*
 * What the PF sets for its VFs: "ip link set UPLINK vf N ...", read back through
 * IFLA_VFINFO_LIST. All of it under rtnl.
 */
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include "compat.h"
#include "fail.h"
#include "simnic.h"

static struct simnic_port *simnic_vf_port(struct net_device *dev, int vf)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	struct simnic *nic = priv->port->nic;

	ASSERT_RTNL();
	if (vf < 0 || vf >= READ_ONCE(nic->vfs))
		return NULL;
	return &nic->ports[vf + 1];
}

/* The function has the new address at once; a real VF takes it when it is probed. */
int simnic_set_hw_addr(struct simnic_port *port, const u8 *hw_addr, struct netlink_ext_ack *extack)
{
	struct sockaddr_storage addr = { };
	struct net_device *vf;
	int err = 0;

	ASSERT_RTNL();
	vf = rcu_dereference_rtnl(port->vf);
	if (vf) {
		addr.ss_family = vf->type;
		memcpy(addr.__data, hw_addr, ETH_ALEN);
		err = simnic_set_mac_address(vf, &addr, extack);
	}
	if (!err)
		ether_addr_copy(port->hw_addr, hw_addr);
	return err;
}

int simnic_set_vf_mac(struct net_device *dev, int vf, u8 *mac)
{
	struct simnic_port *port = simnic_vf_port(dev, vf);
	u8 own[ETH_ALEN];
	int err;

	if (!port || is_multicast_ether_addr(mac))
		return -EINVAL;
	err = simnic_fail(port->nic, SIMNIC_OP_VF_MAC, NULL);
	if (err)
		return err;
	/* Zero takes a given address back, as CNIs do it. */
	simnic_port_own_addr(port, own);
	return simnic_set_hw_addr(port, is_zero_ether_addr(mac) ? own : mac, NULL);
}

/* Kept and shown; traffic is not shaped. */
int simnic_set_vf_rate(struct net_device *dev, int vf, int min_tx_rate, int max_tx_rate)
{
	struct simnic_port *port = simnic_vf_port(dev, vf);
	int err;

	if (!port || (max_tx_rate && min_tx_rate > max_tx_rate))
		return -EINVAL;
	err = simnic_fail(port->nic, SIMNIC_OP_VF_RATE, NULL);
	if (err)
		return err;
	port->settings.min_tx_rate = min_tx_rate;
	port->settings.max_tx_rate = max_tx_rate;
	return 0;
}

/* In legacy mode the VF then sends from its own address only. */
int simnic_set_vf_spoofchk(struct net_device *dev, int vf, bool on)
{
	struct simnic_port *port = simnic_vf_port(dev, vf);
	int err;

	if (!port)
		return -EINVAL;
	err = simnic_fail(port->nic, SIMNIC_OP_VF_SPOOFCHK, NULL);
	if (!err)
		WRITE_ONCE(port->settings.spoofchk, on);
	return err;
}

int simnic_set_vf_link_state(struct net_device *dev, int vf, int link_state)
{
	struct simnic_port *port = simnic_vf_port(dev, vf);
	int err;

	if (!port || link_state < 0 || link_state >= __IFLA_VF_LINK_STATE_MAX)
		return -EINVAL;
	err = simnic_fail(port->nic, SIMNIC_OP_VF_LINK_STATE, NULL);
	if (err)
		return err;
	port->settings.link_state = link_state;
	simnic_nic_update_carrier(port->nic);
	return 0;
}

/* Kept and shown: there is nothing here that only a trusted VF may do. */
int simnic_set_vf_trust(struct net_device *dev, int vf, bool on)
{
	struct simnic_port *port = simnic_vf_port(dev, vf);
	int err;

	if (!port)
		return -EINVAL;
	err = simnic_fail(port->nic, SIMNIC_OP_VF_TRUST, NULL);
	if (!err)
		port->settings.trusted = on;
	return err;
}

int simnic_get_vf_config(struct net_device *dev, int vf, struct ifla_vf_info *info)
{
	struct simnic_port *port = simnic_vf_port(dev, vf);

	if (!port)
		return -EINVAL;
	memset(info, 0, sizeof(*info));
	info->vf = vf;
	ether_addr_copy(info->mac, port->hw_addr);
	info->spoofchk = port->settings.spoofchk;
	info->linkstate = port->settings.link_state;
	info->min_tx_rate = port->settings.min_tx_rate;
	info->max_tx_rate = port->settings.max_tx_rate;
	info->trusted = port->settings.trusted;
	return 0;
}

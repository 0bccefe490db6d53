// SPDX-License-Identifier: GPL-2.0
/*
 * What devlink shows: the eswitch mode, the ports, the VFs' MAC addresses.
 */
#include <linux/rtnetlink.h>

#include "compat.h"
#include "simnic.h"

/* The same for all ports of one NIC, different for two NICs. */
void simnic_switch_id(const struct simnic *nic, struct netdev_phys_item_id *ppid)
{
	ppid->id_len = 8;
	memset(ppid->id, 0, ppid->id_len);
	ppid->id[0] = 0x73;
	ppid->id[1] = 0x6e;
	ppid->id[7] = nic->id;
}

static int simnic_eswitch_mode_get(struct devlink *devlink, u16 *mode)
{
	struct simnic *nic = devlink_priv(devlink);

	*mode = nic->switchdev ? DEVLINK_ESWITCH_MODE_SWITCHDEV : DEVLINK_ESWITCH_MODE_LEGACY;
	return 0;
}

static int simnic_eswitch_mode_set(struct devlink *devlink, u16 mode,
				   struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_priv(devlink);

	switch (mode) {
	case DEVLINK_ESWITCH_MODE_LEGACY:
		return nic->switchdev ? simnic_nic_set_legacy(nic, extack) : 0;
	case DEVLINK_ESWITCH_MODE_SWITCHDEV:
		return nic->switchdev ? 0 : simnic_nic_set_switchdev(nic, extack);
	default:
		NL_SET_ERR_MSG_MOD(extack, "eswitch mode is neither legacy nor switchdev");
		return -EOPNOTSUPP;
	}
}

static int simnic_eswitch_inline_mode_get(struct devlink *devlink, u8 *mode)
{
	*mode = DEVLINK_ESWITCH_INLINE_MODE_NONE;
	return 0;
}

static int simnic_eswitch_encap_mode_get(struct devlink *devlink,
					 enum devlink_eswitch_encap_mode *mode)
{
	*mode = DEVLINK_ESWITCH_ENCAP_MODE_NONE;
	return 0;
}

static int simnic_info_get(struct devlink *devlink, struct devlink_info_req *req,
			   struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_priv(devlink);
	char serial[16];
	int err;

	snprintf(serial, sizeof(serial), "SN%06u", nic->id);
	err = devlink_info_serial_number_put(req, serial);
	if (err)
		return err;
	err = devlink_info_version_fixed_put(req, DEVLINK_INFO_VERSION_GENERIC_BOARD_ID,
					     SIMNIC_NAME);
	if (err)
		return err;
	return devlink_info_version_running_put(req, DEVLINK_INFO_VERSION_GENERIC_FW,
						SIMNIC_VERSION);
}

const struct devlink_ops simnic_devlink_ops = {
	.eswitch_mode_get		= simnic_eswitch_mode_get,
	.eswitch_mode_set		= simnic_eswitch_mode_set,
	.eswitch_inline_mode_get	= simnic_eswitch_inline_mode_get,
	.eswitch_encap_mode_get		= simnic_eswitch_encap_mode_get,
	.info_get			= simnic_info_get,
};

static int simnic_port_hw_addr_get(struct devlink_port *dl_port, u8 *hw_addr, int *hw_addr_len,
				   struct netlink_ext_ack *extack)
{
	struct simnic_port *port = container_of(dl_port, struct simnic_port, dl_port);

	ether_addr_copy(hw_addr, port->hw_addr);
	*hw_addr_len = ETH_ALEN;
	return 0;
}

/* The VF has the new address at once; a real VF takes it when it is probed. */
static int simnic_port_hw_addr_set(struct devlink_port *dl_port, const u8 *hw_addr, int hw_addr_len,
				   struct netlink_ext_ack *extack)
{
	struct simnic_port *port = container_of(dl_port, struct simnic_port, dl_port);
	struct sockaddr_storage addr = { };
	struct net_device *vf;
	int err = 0;

	if (hw_addr_len != ETH_ALEN || !is_valid_ether_addr(hw_addr)) {
		NL_SET_ERR_MSG_MOD(extack, "hardware address is not a unicast Ethernet address");
		return -EINVAL;
	}
	rtnl_lock();
	vf = rcu_dereference_rtnl(port->vf);
	if (vf) {
		addr.ss_family = vf->type;
		memcpy(addr.__data, hw_addr, ETH_ALEN);
		err = simnic_set_mac_address(vf, &addr, extack);
	}
	if (!err)
		ether_addr_copy(port->hw_addr, hw_addr);
	rtnl_unlock();
	return err;
}

static const struct devlink_port_ops simnic_uplink_port_ops = { };

static const struct devlink_port_ops simnic_vf_port_ops = {
	.port_fn_hw_addr_get = simnic_port_hw_addr_get,
	.port_fn_hw_addr_set = simnic_port_hw_addr_set,
};

/*
 * The uplink's devlink port outlives changes of mode, so its switch ID cannot
 * be an attribute of the port: ndo_get_port_parent_id answers for it.
 */
int simnic_devlink_port_add(struct simnic_port *port)
{
	const struct devlink_port_ops *ops = &simnic_vf_port_ops;
	struct devlink_port_attrs attrs = { };

	memset(&port->dl_port, 0, sizeof(port->dl_port));
	if (simnic_port_is_uplink(port)) {
		ops = &simnic_uplink_port_ops;
		attrs.flavour = DEVLINK_PORT_FLAVOUR_PHYSICAL;
		attrs.phys.port_number = 0;
		devlink_port_attrs_set(&port->dl_port, &attrs);
	} else {
		simnic_switch_id(port->nic, &attrs.switch_id);
		devlink_port_attrs_set(&port->dl_port, &attrs);
		devlink_port_attrs_pci_vf_set(&port->dl_port, 0, 0, port->index - 1, false);
	}
	return devl_port_register_with_ops(port->nic->devlink, &port->dl_port, port->index, ops);
}

void simnic_devlink_port_del(struct simnic_port *port)
{
	devl_port_unregister(&port->dl_port);
}

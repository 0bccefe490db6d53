// SPDX-License-Identifier: GPL-2.0
/*
 * What devlink shows: the eswitch mode, the ports, the VFs' MAC addresses.
 */
#include <linux/rtnetlink.h>

#include "fail.h"
#include "reload.h"
#include "simnic.h"
#include "table.h"

#define SIMNIC_SF_PORT_INDEX	32768	/* where indices of SFs' devlink ports start */

/* The same for all ports of one card, different for two cards. */
void simnic_switch_id(const struct simnic *nic, struct netdev_phys_item_id *ppid)
{
	ppid->id_len = 8;
	memset(ppid->id, 0, ppid->id_len);
	ppid->id[0] = 0x73;
	ppid->id[1] = 0x6e;
	ppid->id[7] = nic->card;
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
	int err;

	err = simnic_fail(nic, SIMNIC_OP_ESWITCH_MODE_SET, extack);
	if (err)
		return err;
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

/* Both say how packets are parsed for rules: neither changes under rules, as with mlx5. */
static int simnic_eswitch_check_idle(struct simnic *nic, const char *what,
				     struct netlink_ext_ack *extack)
{
	if (!simnic_table_count(nic->table))
		return 0;
	NL_SET_ERR_MSG_FMT_MOD(extack, "can't set %s when flows are configured", what);
	return -EOPNOTSUPP;
}

static int simnic_eswitch_inline_mode_get(struct devlink *devlink, u8 *mode)
{
	struct simnic *nic = devlink_priv(devlink);

	*mode = nic->inline_mode;
	return 0;
}

static int simnic_eswitch_inline_mode_set(struct devlink *devlink, u8 mode,
					  struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_priv(devlink);
	int err;

	err = simnic_fail(nic, SIMNIC_OP_INLINE_MODE_SET, extack);
	if (!err && mode != nic->inline_mode)
		err = simnic_eswitch_check_idle(nic, "inline mode", extack);
	if (!err)
		nic->inline_mode = mode;
	return err;
}

static int simnic_eswitch_encap_mode_get(struct devlink *devlink,
					 enum devlink_eswitch_encap_mode *mode)
{
	struct simnic *nic = devlink_priv(devlink);

	*mode = nic->encap_mode;
	return 0;
}

static int simnic_eswitch_encap_mode_set(struct devlink *devlink,
					 enum devlink_eswitch_encap_mode mode,
					 struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_priv(devlink);
	int err;

	err = simnic_fail(nic, SIMNIC_OP_ENCAP_MODE_SET, extack);
	if (!err && mode != nic->encap_mode)
		err = simnic_eswitch_check_idle(nic, "encap mode", extack);
	if (!err)
		nic->encap_mode = mode;
	return err;
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
	.eswitch_inline_mode_set	= simnic_eswitch_inline_mode_set,
	.eswitch_encap_mode_get		= simnic_eswitch_encap_mode_get,
	.eswitch_encap_mode_set		= simnic_eswitch_encap_mode_set,
	.port_new			= simnic_port_new,
	.reload_actions			= BIT(DEVLINK_RELOAD_ACTION_DRIVER_REINIT) |
					  BIT(DEVLINK_RELOAD_ACTION_FW_ACTIVATE),
	.reload_down			= simnic_reload_down,
	.reload_up			= simnic_reload_up,
	.info_get			= simnic_info_get,
};

int simnic_port_hw_addr_get(struct devlink_port *dl_port, u8 *hw_addr, int *hw_addr_len,
			    struct netlink_ext_ack *extack)
{
	struct simnic_port *port = container_of(dl_port, struct simnic_port, dl_port);

	ether_addr_copy(hw_addr, port->hw_addr);
	*hw_addr_len = ETH_ALEN;
	return 0;
}

int simnic_port_hw_addr_set(struct devlink_port *dl_port, const u8 *hw_addr, int hw_addr_len,
			    struct netlink_ext_ack *extack)
{
	struct simnic_port *port = container_of(dl_port, struct simnic_port, dl_port);
	int err;

	if (hw_addr_len != ETH_ALEN || !is_valid_ether_addr(hw_addr)) {
		NL_SET_ERR_MSG_MOD(extack, "hardware address is not a unicast Ethernet address");
		return -EINVAL;
	}
	err = simnic_fail(port->nic, SIMNIC_OP_HW_ADDR_SET, extack);
	if (err)
		return err;
	rtnl_lock();
	err = simnic_set_hw_addr(port, hw_addr, extack);
	rtnl_unlock();
	return err;
}

static const struct devlink_port_ops simnic_uplink_port_ops = { };

static const struct devlink_port_ops simnic_vf_port_ops = {
	.port_fn_hw_addr_get = simnic_port_hw_addr_get,
	.port_fn_hw_addr_set = simnic_port_hw_addr_set,
};

/* As phys_port_name has it. */
void simnic_port_name(const struct simnic_port *port, char *name, size_t size)
{
	switch (port->kind) {
	case SIMNIC_PORT_UPLINK:
		snprintf(name, size, "p0");
		break;
	case SIMNIC_PORT_VF:
		snprintf(name, size, "pf0vf%u", port->index - 1);
		break;
	case SIMNIC_PORT_SF:
		snprintf(name, size, "pf0sf%u", port->sfnum);
		break;
	}
}

/*
 * The uplink's devlink port outlives changes of mode, so its switch ID cannot
 * be an attribute of the port: ndo_get_port_parent_id answers for it.
 */
int simnic_devlink_port_add(struct simnic_port *port)
{
	const struct devlink_port_ops *ops = &simnic_uplink_port_ops;
	struct devlink_port_attrs attrs = { };
	unsigned int index = port->index;
	int err;

	memset(&port->dl_port, 0, sizeof(port->dl_port));
	switch (port->kind) {
	case SIMNIC_PORT_UPLINK:
		attrs.flavour = DEVLINK_PORT_FLAVOUR_PHYSICAL;
		attrs.phys.port_number = 0;
		devlink_port_attrs_set(&port->dl_port, &attrs);
		break;
	case SIMNIC_PORT_VF:
		ops = &simnic_vf_port_ops;
		simnic_switch_id(port->nic, &attrs.switch_id);
		devlink_port_attrs_set(&port->dl_port, &attrs);
		devlink_port_attrs_pci_vf_set(&port->dl_port, 0, 0, port->index - 1, false);
		break;
	case SIMNIC_PORT_SF:
		ops = &simnic_sf_port_ops;
		index = SIMNIC_SF_PORT_INDEX + port->index - simnic_first_sf(port->nic);
		simnic_switch_id(port->nic, &attrs.switch_id);
		devlink_port_attrs_set(&port->dl_port, &attrs);
		devlink_port_attrs_pci_sf_set(&port->dl_port, 0, 0, port->sfnum, false);
		break;
	}
	err = devl_port_register_with_ops(port->nic->devlink, &port->dl_port, index, ops);
	port->exists = !err;
	return err;
}

/* Nothing to do for a port that does not exist. */
void simnic_devlink_port_del(struct simnic_port *port)
{
	if (!port->exists)
		return;
	devl_port_unregister(&port->dl_port);
	port->exists = false;
}

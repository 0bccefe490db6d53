// SPDX-License-Identifier: GPL-2.0
/*
 * Subfunctions: "devlink port add ... flavour pcisf pfnum 0 sfnum N" makes one
 * with its representor, "devlink port function set ... state active" puts it on
 * the bus, where its driver makes its netdev. Refusals are worded as mlx5's.
 * All of it under the devlink lock.
 */
#include <linux/rtnetlink.h>

#include "fail.h"
#include "simnic.h"

static struct simnic_port *simnic_sf_find(struct simnic *nic, u32 sfnum)
{
	unsigned int i;

	for (i = simnic_first_sf(nic); i < nic->nports; i++)
		if (nic->ports[i].exists && nic->ports[i].sfnum == sfnum)
			return &nic->ports[i];
	return NULL;
}

static struct simnic_port *simnic_sf_free_slot(struct simnic *nic)
{
	unsigned int i;

	for (i = simnic_first_sf(nic); i < nic->nports; i++)
		if (!nic->ports[i].exists)
			return &nic->ports[i];
	return NULL;
}

static int simnic_sf_check(const struct devlink_port_new_attrs *attrs,
			   struct netlink_ext_ack *extack)
{
	if (attrs->flavour != DEVLINK_PORT_FLAVOUR_PCI_SF) {
		NL_SET_ERR_MSG_MOD(extack, "only ports of SFs may be added");
		return -EOPNOTSUPP;
	}
	if (attrs->port_index_valid) {
		NL_SET_ERR_MSG_MOD(extack, "the port's index cannot be chosen");
		return -EOPNOTSUPP;
	}
	if (!attrs->sfnum_valid) {
		NL_SET_ERR_MSG_MOD(extack, "an unused sfnum must be given");
		return -EOPNOTSUPP;
	}
	if (attrs->controller_valid && attrs->controller) {
		NL_SET_ERR_MSG_MOD(extack, "external controllers are not supported");
		return -EOPNOTSUPP;
	}
	if (attrs->pfnum) {
		NL_SET_ERR_MSG_MOD(extack, "pfnum is not this PF's, 0");
		return -EOPNOTSUPP;
	}
	if (attrs->sfnum > SIMNIC_MAX_SFNUM) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "sfnum is greater than %u", SIMNIC_MAX_SFNUM);
		return -EINVAL;
	}
	return 0;
}

int simnic_port_new(struct devlink *devlink, const struct devlink_port_new_attrs *attrs,
		    struct netlink_ext_ack *extack, struct devlink_port **dl_port)
{
	struct simnic *nic = devlink_priv(devlink);
	struct simnic_port *port;
	int err;

	err = simnic_sf_check(attrs, extack);
	if (err)
		return err;
	if (!nic->switchdev) {
		NL_SET_ERR_MSG_MOD(extack, "ports are added in eswitch mode switchdev only");
		return -EOPNOTSUPP;
	}
	if (simnic_sf_find(nic, attrs->sfnum)) {
		NL_SET_ERR_MSG_MOD(extack, "SF already exists. Choose a different sfnum");
		return -EEXIST;
	}
	port = simnic_sf_free_slot(nic);
	if (!port) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "all %u SFs are in use", SIMNIC_MAX_SFS);
		return -ENOSPC;
	}
	err = simnic_fail(nic, SIMNIC_OP_PORT_NEW, extack);
	if (err)
		return err;
	port->sfnum = attrs->sfnum;
	err = simnic_rep_create(port);
	if (err)
		return err;
	*dl_port = &port->dl_port;
	return 0;
}

static void simnic_sf_destroy(struct simnic_port *port)
{
	simnic_fn_del(port);
	WRITE_ONCE(port->active, false);
	simnic_reps_destroy(port->nic, port->index, port->index + 1);
	simnic_port_reset(port);
}

static int simnic_port_del(struct devlink *devlink, struct devlink_port *dl_port,
			   struct netlink_ext_ack *extack)
{
	struct simnic_port *port = container_of(dl_port, struct simnic_port, dl_port);
	int err;

	err = simnic_fail(port->nic, SIMNIC_OP_PORT_DEL, extack);
	if (!err)
		simnic_sf_destroy(port);
	return err;
}

void simnic_sfs_destroy(struct simnic *nic)
{
	unsigned int i;

	for (i = simnic_first_sf(nic); i < nic->nports; i++)
		if (nic->ports[i].exists)
			simnic_sf_destroy(&nic->ports[i]);
}

/* Called under rtnl, too, when a netdev's event is told to devlink's listeners. */
static int simnic_sf_state_get(struct devlink_port *dl_port, enum devlink_port_fn_state *state,
			       enum devlink_port_fn_opstate *opstate,
			       struct netlink_ext_ack *extack)
{
	struct simnic_port *port = container_of(dl_port, struct simnic_port, dl_port);

	*state = READ_ONCE(port->active) ? DEVLINK_PORT_FN_STATE_ACTIVE :
					   DEVLINK_PORT_FN_STATE_INACTIVE;
	*opstate = rcu_access_pointer(port->vf) ? DEVLINK_PORT_FN_OPSTATE_ATTACHED :
						  DEVLINK_PORT_FN_OPSTATE_DETACHED;
	return 0;
}

static int simnic_sf_state_set(struct devlink_port *dl_port, enum devlink_port_fn_state state,
			       struct netlink_ext_ack *extack)
{
	struct simnic_port *port = container_of(dl_port, struct simnic_port, dl_port);
	bool active = state == DEVLINK_PORT_FN_STATE_ACTIVE;
	int err;

	err = simnic_fail(port->nic, SIMNIC_OP_FN_STATE_SET, extack);
	if (err || active == port->active)
		return err;
	if (active) {
		err = simnic_fn_add(port, true);
		if (err)
			return err;
	} else {
		simnic_fn_del(port);
	}
	WRITE_ONCE(port->active, active);
	return 0;
}

const struct devlink_port_ops simnic_sf_port_ops = {
	.port_del = simnic_port_del,
	.port_fn_hw_addr_get = simnic_port_hw_addr_get,
	.port_fn_hw_addr_set = simnic_port_hw_addr_set,
	.port_fn_state_get = simnic_sf_state_get,
	.port_fn_state_set = simnic_sf_state_set,
};

// SPDX-License-Identifier: GPL-2.0
/*
 * The resource "rules", and what "devlink dev reload" does: uplink and
 * representors go and come anew, rules and SFs are gone, the size of the rule
 * table is what the resource says by then. VFs stay, without link meanwhile.
 */
#include <net/devlink.h>

#include "fail.h"
#include "reload.h"
#include "simnic.h"
#include "table.h"

enum simnic_resource {
	SIMNIC_RESOURCE_RULES = 1,
};

static u64 simnic_resource_rules_occ(void *priv)
{
	struct simnic *nic = priv;

	return simnic_table_count(nic->table);
}

int simnic_resources_add(struct simnic *nic)
{
	struct devlink_resource_size_params params;
	int err;

	devlink_resource_size_params_init(&params, 0, SIMNIC_RULES_MAX, 1,
					  DEVLINK_RESOURCE_UNIT_ENTRY);
	err = devl_resource_register(nic->devlink, "rules", READ_ONCE(nic->table->max),
				     SIMNIC_RESOURCE_RULES, DEVLINK_RESOURCE_ID_PARENT_TOP,
				     &params);
	if (!err)
		devl_resource_occ_get_register(nic->devlink, SIMNIC_RESOURCE_RULES,
					       simnic_resource_rules_occ, nic);
	return err;
}

void simnic_resources_del(struct simnic *nic)
{
	devl_resource_occ_get_unregister(nic->devlink, SIMNIC_RESOURCE_RULES);
	devl_resources_unregister(nic->devlink);
}

/* At once, unlike the resource's size: through debugfs. */
int simnic_set_table_size(struct simnic *nic, u64 rules)
{
	int err;

	if (rules > SIMNIC_RULES_MAX)
		return -ERANGE;
	devl_lock(nic->devlink);
	WRITE_ONCE(nic->table->max, rules);
	simnic_resources_del(nic);
	err = simnic_resources_add(nic);
	devl_unlock(nic->devlink);
	return err;
}

int simnic_reload_down(struct devlink *devlink, bool netns_change,
		       enum devlink_reload_action action, enum devlink_reload_limit limit,
		       struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_priv(devlink);
	int err;

	if (netns_change) {
		NL_SET_ERR_MSG_MOD(extack, "the NIC stays in its network namespace");
		return -EOPNOTSUPP;
	}
	err = simnic_fail(nic, SIMNIC_OP_RELOAD_DOWN, extack);
	if (!err)
		simnic_nic_down(nic);
	return err;
}

/* When it fails, the NIC is without netdevs until a reload succeeds. */
int simnic_reload_up(struct devlink *devlink, enum devlink_reload_action action,
		     enum devlink_reload_limit limit, u32 *actions_performed,
		     struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_priv(devlink);
	u64 rules;
	int err;

	err = simnic_fail(nic, SIMNIC_OP_RELOAD_UP, extack);
	if (err)
		return err;
	if (!devl_resource_size_get(devlink, SIMNIC_RESOURCE_RULES, &rules))
		WRITE_ONCE(nic->table->max, rules);
	/* Activating firmware takes the driver down, too. */
	*actions_performed = BIT(DEVLINK_RELOAD_ACTION_DRIVER_REINIT);
	if (action == DEVLINK_RELOAD_ACTION_FW_ACTIVATE)
		*actions_performed |= BIT(DEVLINK_RELOAD_ACTION_FW_ACTIVATE);
	return simnic_nic_up(nic, extack);
}

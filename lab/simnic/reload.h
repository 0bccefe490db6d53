/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SIMNIC_RELOAD_H
#define SIMNIC_RELOAD_H

#include <net/devlink.h>

struct simnic;

int simnic_resources_add(struct simnic *nic);
void simnic_resources_del(struct simnic *nic);
int simnic_set_table_size(struct simnic *nic, u64 rules);
int simnic_reload_down(struct devlink *devlink, bool netns_change,
		       enum devlink_reload_action action, enum devlink_reload_limit limit,
		       struct netlink_ext_ack *extack);
int simnic_reload_up(struct devlink *devlink, enum devlink_reload_action action,
		     enum devlink_reload_limit limit, u32 *actions_performed,
		     struct netlink_ext_ack *extack);

#endif /* SIMNIC_RELOAD_H */

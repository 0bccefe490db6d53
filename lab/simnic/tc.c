// SPDX-License-Identifier: GPL-2.0
/*
 * TC's way in: blocks bound to the ingress of uplink and representors, flower
 * filters on them. A block shared by several of our netdevs calls back once for
 * each, and each gets its own rule.
 */
#include <net/flow_offload.h>
#include <net/pkt_cls.h>

#include "simnic.h"
#include "table.h"
#include "tc.h"

static int simnic_setup_flower(struct simnic_netdev *priv, struct flow_cls_offload *cls)
{
	struct simnic_port *port = priv->port;

	switch (cls->command) {
	case FLOW_CLS_REPLACE:
		if (!tc_can_offload_extack(priv->dev, cls->common.extack))
			return -EOPNOTSUPP;
		if (!READ_ONCE(port->nic->switchdev)) {
			NL_SET_ERR_MSG_MOD(cls->common.extack,
					   "flower is offloaded in eswitch mode switchdev only");
			return -EOPNOTSUPP;
		}
		if (READ_ONCE(port->nic->fw_failed)) {
			NL_SET_ERR_MSG_MOD(cls->common.extack, "firmware does not answer");
			return -EIO;
		}
		return simnic_table_install(port, NULL, cls);
	case FLOW_CLS_DESTROY:
		return simnic_table_remove(port, NULL, cls->cookie);
	case FLOW_CLS_STATS:
		return simnic_table_stats(port, NULL, cls);
	default:
		return -EOPNOTSUPP;
	}
}

static int simnic_block_cb(enum tc_setup_type type, void *type_data, void *cb_priv)
{
	switch (type) {
	case TC_SETUP_CLSFLOWER:
		return simnic_setup_flower(cb_priv, type_data);
	default:
		return -EOPNOTSUPP;
	}
}

int simnic_setup_tc(struct net_device *dev, enum tc_setup_type type, void *type_data)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	struct flow_block_offload *block = type_data;

	switch (type) {
	case TC_SETUP_BLOCK:
		block->unlocked_driver_cb = true;	/* the table has its own locks */
		return flow_block_cb_setup_simple(block, &priv->port->nic->block_cbs,
						  simnic_block_cb, priv, priv, true);
	default:
		return -EOPNOTSUPP;
	}
}

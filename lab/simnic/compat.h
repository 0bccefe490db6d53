/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels simnic builds for: 6.12 and newer.
 */
#ifndef SIMNIC_COMPAT_H
#define SIMNIC_COMPAT_H

#include <linux/netdevice.h>
#include <net/devlink.h>

/* Whether the host can be told of the chain that a packet is to go on from. */
#define SIMNIC_RESTORES	IS_ENABLED(CONFIG_NET_TC_SKB_EXT)

/* IFLA_GENEVE_PORT_RANGE, which came with 6.16; before, nobody sends it. */
#define SIMNIC_IFLA_GENEVE_PORT_RANGE	15

/*
 * dev_set_mac_address() takes a struct sockaddr up to 6.15 and a struct
 * sockaddr_storage since. The former is the latter's beginning.
 */
static inline int simnic_set_mac_address(struct net_device *dev, struct sockaddr_storage *addr,
					 struct netlink_ext_ack *extack)
{
	void *either = addr;

	return dev_set_mac_address(dev, either, extack);
}

/* The graceful period, none here, is an argument up to 6.17 and one of the ops since */
static inline struct devlink_health_reporter *
simnic_health_reporter_create(struct devlink *devlink,
			      const struct devlink_health_reporter_ops *ops, void *priv)
{
#ifdef SIMNIC_GRACEFUL_PERIOD_IN_OPS
	return devl_health_reporter_create(devlink, ops, priv);
#else
	return devl_health_reporter_create(devlink, ops, 0, priv);
#endif
}

static inline struct devlink_health_reporter *
simnic_port_health_reporter_create(struct devlink_port *port,
				   const struct devlink_health_reporter_ops *ops, void *priv)
{
#ifdef SIMNIC_GRACEFUL_PERIOD_IN_OPS
	return devl_port_health_reporter_create(port, ops, priv);
#else
	return devl_port_health_reporter_create(port, ops, 0, priv);
#endif
}

#endif /* SIMNIC_COMPAT_H */

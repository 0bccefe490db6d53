/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels simnic builds for: 6.12 and newer.
 */
#ifndef SIMNIC_COMPAT_H
#define SIMNIC_COMPAT_H

#include <linux/netdevice.h>

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

#endif /* SIMNIC_COMPAT_H */

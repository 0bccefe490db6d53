/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SIMNIC_TC_H
#define SIMNIC_TC_H

#include <linux/netdevice.h>

int simnic_setup_tc(struct net_device *dev, enum tc_setup_type type, void *type_data);

#endif /* SIMNIC_TC_H */

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SIMNIC_LAG_H
#define SIMNIC_LAG_H

#include <linux/types.h>

struct net_device;
struct notifier_block;
struct simnic;
struct simnic_port;

extern struct notifier_block simnic_lag_notifier;

bool simnic_same_card(const struct simnic *nic, const struct simnic *other);
void simnic_card_join(struct simnic *a, struct simnic *b);
struct simnic *simnic_card_leave(struct simnic *nic);
struct simnic_port *simnic_lag_out(struct simnic_port *port);
struct simnic_port *simnic_lag_port(struct simnic *nic, const struct net_device *bond);

#endif /* SIMNIC_LAG_H */

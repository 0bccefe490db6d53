// SPDX-License-Identifier: GPL-2.0
/*
 * Two NICs of one card: they have one switch ID, rules of the one may send to
 * ports of the other, and when both uplinks are in one bond, whatever rules send
 * to the bond or to either uplink leaves by the one that the bond transmits on.
 */
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>

#include "lag.h"
#include "simnic.h"
#include "table.h"

/* Whether rules of @nic may send to ports of @other. */
bool simnic_same_card(const struct simnic *nic, const struct simnic *other)
{
	return nic == other || rcu_access_pointer(nic->sibling) == other;
}

void simnic_card_join(struct simnic *a, struct simnic *b)
{
	lockdep_assert_held(&simnic_bus_lock);
	rcu_assign_pointer(a->sibling, b);
	rcu_assign_pointer(b->sibling, a);
}

/* From now on no rule that names ports of @nic is accepted by the sibling, which is returned. */
struct simnic *simnic_card_leave(struct simnic *nic)
{
	struct simnic *sibling;

	lockdep_assert_held(&simnic_bus_lock);
	sibling = rcu_dereference_protected(nic->sibling, lockdep_is_held(&simnic_bus_lock));
	if (!sibling)
		return NULL;
	RCU_INIT_POINTER(nic->sibling, NULL);
	RCU_INIT_POINTER(sibling->sibling, NULL);
	return sibling;
}

/* Where a packet for this port leaves. */
struct simnic_port *simnic_lag_out(struct simnic_port *port)
{
	struct simnic *nic = port->nic, *sibling;

	if (!simnic_port_is_uplink(port) || !READ_ONCE(nic->bond) || READ_ONCE(nic->bond_tx))
		return port;
	sibling = rcu_dereference(nic->sibling);
	if (!sibling || READ_ONCE(sibling->bond) != READ_ONCE(nic->bond) ||
	    !READ_ONCE(sibling->bond_tx))
		return port;
	return simnic_uplink(sibling);
}

struct simnic_lag_walk {
	const struct simnic *nic;
	bool foreign;
	bool any;
};

static int simnic_lag_look(struct net_device *dev, struct netdev_nested_priv *priv)
{
	struct simnic_lag_walk *walk = priv->data;
	const struct simnic_netdev *netdev = netdev_priv(dev);

	walk->any = true;
	if (!simnic_is_host_netdev(dev) || netdev->role != SIMNIC_UPLINK ||
	    !simnic_same_card(walk->nic, netdev->port->nic))
		walk->foreign = true;
	return 0;
}

/* The port that a bond of this card's uplinks stands for; NULL when it is not one. */
struct simnic_port *simnic_lag_port(struct simnic *nic, const struct net_device *bond)
{
	struct simnic_lag_walk walk = { .nic = nic };
	struct netdev_nested_priv priv = { .data = &walk };

	rcu_read_lock();
	netdev_walk_all_lower_dev_rcu((struct net_device *)bond, simnic_lag_look, &priv);
	rcu_read_unlock();
	return walk.any && !walk.foreign ? simnic_uplink(nic) : NULL;
}

/* Under rtnl: which bond an uplink is in, and whether the bond transmits on it. */
static int simnic_lag_event(struct notifier_block *nb, unsigned long event, void *ptr)
{
	struct net_device *dev = netdev_notifier_info_to_dev(ptr);
	const struct netdev_notifier_changelowerstate_info *lower = ptr;
	const struct netdev_notifier_changeupper_info *upper = ptr;
	const struct netdev_lag_lower_state_info *state;
	struct simnic_netdev *netdev;
	struct simnic *nic;

	if (!simnic_is_host_netdev(dev))
		return NOTIFY_DONE;
	netdev = netdev_priv(dev);
	nic = netdev->port->nic;
	if (netdev->role != SIMNIC_UPLINK)
		return NOTIFY_DONE;
	switch (event) {
	case NETDEV_CHANGEUPPER:
		if (!netif_is_lag_master(upper->upper_dev))
			break;
		WRITE_ONCE(nic->bond, upper->linking ? upper->upper_dev : NULL);
		if (!upper->linking)
			WRITE_ONCE(nic->bond_tx, false);
		break;
	case NETDEV_CHANGELOWERSTATE:
		state = lower->lower_state_info;
		if (state)
			WRITE_ONCE(nic->bond_tx, state->link_up && state->tx_enabled);
		break;
	}
	return NOTIFY_DONE;
}

struct notifier_block simnic_lag_notifier = {
	.notifier_call = simnic_lag_event,
};

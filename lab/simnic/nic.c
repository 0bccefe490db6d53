// SPDX-License-Identifier: GPL-2.0
/*
 * A NIC from its making to its end: netdevs, eswitch mode, wire.
 *
 * The uplink lives as long as the NIC. Representors live as long as their VF is
 * enabled and the eswitch is in switchdev mode; sriov.c has the VFs themselves.
 */
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <linux/unaligned.h>

#include "simnic.h"
#include "table.h"

static void simnic_carrier_set(struct net_device *dev, bool on)
{
	if (!dev)
		return;
	if (on)
		netif_carrier_on(dev);
	else
		netif_carrier_off(dev);
}

/*
 * The uplink has carrier while both ends of the wire are on and the peer is up.
 * A VF has carrier while its representor is up, as with a vport that follows
 * its representor; in legacy mode always.
 */
void simnic_nic_update_carrier(struct simnic *nic)
{
	struct net_device *dev;
	struct simnic *peer;
	unsigned int i;
	bool on;

	ASSERT_RTNL();
	peer = rcu_dereference_rtnl(nic->peer);
	on = false;
	if (peer && READ_ONCE(nic->link) && READ_ONCE(peer->link)) {
		dev = rcu_dereference_rtnl(simnic_uplink(peer)->host);
		on = dev && netif_running(dev);
	}
	simnic_carrier_set(rcu_dereference_rtnl(simnic_uplink(nic)->host), on);

	for (i = 1; i < nic->nports; i++) {
		dev = rcu_dereference_rtnl(nic->ports[i].host);
		on = !READ_ONCE(nic->switchdev) || (dev && netif_running(dev));
		simnic_carrier_set(rcu_dereference_rtnl(nic->ports[i].vf), on);
	}
}

void simnic_nic_set_link(struct simnic *nic, bool up)
{
	struct simnic *peer;

	rtnl_lock();
	WRITE_ONCE(nic->link, up);
	simnic_nic_update_carrier(nic);
	peer = rcu_dereference_rtnl(nic->peer);
	if (peer)
		simnic_nic_update_carrier(peer);
	rtnl_unlock();
}

int simnic_nic_wire(struct simnic *a, struct simnic *b)
{
	int err = 0;

	lockdep_assert_held(&simnic_bus_lock);
	if (a == b)
		return -EINVAL;

	rtnl_lock();
	if (rcu_access_pointer(a->peer) || rcu_access_pointer(b->peer)) {
		err = -EBUSY;
	} else {
		rcu_assign_pointer(a->peer, b);
		rcu_assign_pointer(b->peer, a);
		simnic_nic_update_carrier(a);
		simnic_nic_update_carrier(b);
	}
	rtnl_unlock();
	return err;
}

void simnic_nic_unwire(struct simnic *nic)
{
	struct simnic *peer;

	lockdep_assert_held(&simnic_bus_lock);
	rtnl_lock();
	peer = rcu_dereference_rtnl(nic->peer);
	if (peer) {
		RCU_INIT_POINTER(nic->peer, NULL);
		RCU_INIT_POINTER(peer->peer, NULL);
		simnic_nic_update_carrier(nic);
		simnic_nic_update_carrier(peer);
	}
	rtnl_unlock();
	synchronize_net();
}

static void simnic_reps_destroy(struct simnic *nic, unsigned int first, unsigned int end)
{
	simnic_netdevs_detach(nic, SIMNIC_REP, first, end);
	while (end > first)
		simnic_devlink_port_del(&nic->ports[--end]);
}

static int simnic_rep_create(struct simnic_port *port)
{
	int err;

	err = simnic_devlink_port_add(port);
	if (err)
		return err;
	err = simnic_netdev_attach(port, SIMNIC_REP);
	if (err)
		simnic_devlink_port_del(port);
	return err;
}

/* Those of ports first to end - 1, or none. */
static int simnic_reps_create(struct simnic *nic, unsigned int first, unsigned int end,
			      struct netlink_ext_ack *extack)
{
	unsigned int i;
	int err;

	for (i = first; i < end; i++) {
		err = simnic_rep_create(&nic->ports[i]);
		if (err) {
			NL_SET_ERR_MSG_MOD(extack, "could not create the representors");
			simnic_reps_destroy(nic, first, i);
			return err;
		}
	}
	return 0;
}

static void simnic_set_mode(struct simnic *nic, bool switchdev)
{
	rtnl_lock();
	WRITE_ONCE(nic->switchdev, switchdev);
	simnic_nic_update_carrier(nic);
	rtnl_unlock();
}

int simnic_nic_set_switchdev(struct simnic *nic, struct netlink_ext_ack *extack)
{
	int err;

	devl_assert_locked(nic->devlink);
	err = simnic_reps_create(nic, 1, nic->vfs + 1, extack);
	if (!err)
		simnic_set_mode(nic, true);
	return err;
}

int simnic_nic_set_legacy(struct simnic *nic, struct netlink_ext_ack *extack)
{
	devl_assert_locked(nic->devlink);
	if (simnic_table_count(nic->table)) {
		NL_SET_ERR_MSG_MOD(extack, "offloaded rules keep the eswitch in switchdev mode");
		return -EBUSY;
	}
	simnic_set_mode(nic, false);
	simnic_reps_destroy(nic, 1, nic->vfs + 1);
	/* A rule may have come in between the check and the mode change. */
	simnic_table_flush(nic->table);
	return 0;
}

/* What a port is like before anybody changes it. */
static void simnic_port_reset(struct simnic_port *port)
{
	memset(port->hw_addr, 0, sizeof(port->hw_addr));
	/* Locally administered, readable: 02:73:6e:ID:PORT, "sn". */
	port->hw_addr[0] = 0x02;
	port->hw_addr[1] = 0x73;
	port->hw_addr[2] = 0x6e;
	port->hw_addr[3] = port->nic->id;
	put_unaligned_be16(port->index, &port->hw_addr[4]);
}

/* The switch's side of VFs: their ports, and representors in switchdev mode. */
int simnic_nic_enable_vfs(struct simnic *nic, unsigned int vfs, struct netlink_ext_ack *extack)
{
	int err = 0;

	devl_assert_locked(nic->devlink);
	if (nic->switchdev)
		err = simnic_reps_create(nic, 1, vfs + 1, extack);
	if (!err)
		WRITE_ONCE(nic->vfs, vfs);
	return err;
}

void simnic_nic_disable_vfs(struct simnic *nic)
{
	unsigned int i;

	devl_assert_locked(nic->devlink);
	if (nic->switchdev)
		simnic_reps_destroy(nic, 1, nic->vfs + 1);
	for (i = 1; i <= nic->vfs; i++)
		simnic_port_reset(&nic->ports[i]);
	WRITE_ONCE(nic->vfs, 0);
}

static int simnic_ports_init(struct simnic *nic)
{
	struct simnic_port *port;
	unsigned int i;
	int cpu;

	for (i = 0; i < nic->nports; i++) {
		port = &nic->ports[i];
		port->nic = nic;
		port->index = i;
		simnic_port_reset(port);
		port->counts = alloc_percpu(struct simnic_counts);
		if (!port->counts)
			return -ENOMEM;
		for_each_possible_cpu(cpu)
			u64_stats_init(&per_cpu_ptr(port->counts, cpu)->syncp);
	}
	return 0;
}

static void simnic_free(struct simnic *nic)
{
	unsigned int i;

	for (i = 0; i < nic->nports; i++)
		free_percpu(nic->ports[i].counts);
	simnic_table_destroy(nic->table);
	devlink_free(nic->devlink);
}

static struct simnic *simnic_alloc(struct simnic_bus_dev *bus_dev)
{
	unsigned int nports = bus_dev->total_vfs + 1;
	struct devlink *devlink;
	struct simnic *nic;

	devlink = devlink_alloc(&simnic_devlink_ops, struct_size(nic, ports, nports),
				&bus_dev->dev);
	if (!devlink)
		return ERR_PTR(-ENOMEM);
	nic = devlink_priv(devlink);
	nic->nports = nports;
	nic->devlink = devlink;
	nic->bus_dev = bus_dev;
	nic->id = bus_dev->dev.id;
	nic->link = true;
	INIT_LIST_HEAD(&nic->block_cbs);
	nic->table = simnic_table_create();
	if (!nic->table || simnic_ports_init(nic)) {
		simnic_free(nic);
		return ERR_PTR(-ENOMEM);
	}
	return nic;
}

int simnic_nic_create(struct simnic_bus_dev *bus_dev)
{
	struct simnic *nic;
	int err;

	nic = simnic_alloc(bus_dev);
	if (IS_ERR(nic))
		return PTR_ERR(nic);

	devl_lock(nic->devlink);
	err = simnic_devlink_port_add(simnic_uplink(nic));
	if (err)
		goto err_unlock;
	err = simnic_netdev_attach(simnic_uplink(nic), SIMNIC_UPLINK);
	if (err)
		goto err_port;
	devl_register(nic->devlink);
	devl_unlock(nic->devlink);
	bus_dev->nic = nic;

	err = simnic_sriov_enable(nic, bus_dev->initial_vfs);
	if (err) {
		simnic_nic_destroy(bus_dev);
		return err;
	}
	simnic_debugfs_add(nic);
	return 0;

err_port:
	simnic_devlink_port_del(simnic_uplink(nic));
err_unlock:
	devl_unlock(nic->devlink);
	simnic_free(nic);
	return err;
}

void simnic_nic_destroy(struct simnic_bus_dev *bus_dev)
{
	struct simnic *nic = bus_dev->nic;

	simnic_debugfs_del(nic);
	simnic_sriov_disable(nic);
	devl_lock(nic->devlink);
	devl_unregister(nic->devlink);
	simnic_netdevs_detach(nic, SIMNIC_UPLINK, 0, 1);
	simnic_devlink_port_del(simnic_uplink(nic));
	devl_unlock(nic->devlink);
	simnic_table_flush(nic->table);
	bus_dev->nic = NULL;
	simnic_free(nic);
}

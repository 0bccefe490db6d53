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

#include "fail.h"
#include "health.h"
#include "ipsec.h"
#include "lag.h"
#include "reload.h"
#include "simnic.h"
#include "table.h"
#include "tunnel.h"

static void simnic_carrier_set(struct net_device *dev, bool on)
{
	if (!dev)
		return;
	if (on)
		netif_carrier_on(dev);
	else
		netif_carrier_off(dev);
}

static bool simnic_function_has_link(const struct simnic_port *port)
{
	const struct net_device *rep;

	switch (port->settings.link_state) {
	case IFLA_VF_LINK_STATE_ENABLE:
		return true;
	case IFLA_VF_LINK_STATE_DISABLE:
		return false;
	default:
		break;
	}
	if (!READ_ONCE(port->nic->switchdev))
		return true;
	rep = rcu_dereference_rtnl(port->host);
	return rep && netif_running(rep);
}

/*
 * The uplink has carrier while both ends of the wire are on and the peer is up.
 * A VF or SF has carrier while its representor is up, as with a vport that
 * follows its representor, in legacy mode always; unless its link state is set.
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
		on = simnic_function_has_link(&nic->ports[i]);
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

void simnic_reps_destroy(struct simnic *nic, unsigned int first, unsigned int end)
{
	simnic_netdevs_detach(nic, SIMNIC_REP, first, end);
	while (end > first)
		simnic_devlink_port_del(&nic->ports[--end]);
}

int simnic_rep_create(struct simnic_port *port)
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
	struct net_device *uplink;

	rtnl_lock();
	WRITE_ONCE(nic->switchdev, switchdev);
	simnic_nic_update_carrier(nic);
	/* Tells rtnetlink's listeners of the switch ID. */
	uplink = rcu_dereference_rtnl(simnic_uplink(nic)->host);
	if (uplink)
		netdev_state_change(uplink);
	rtnl_unlock();
}

static int simnic_check_unbound(struct simnic *nic, struct netlink_ext_ack *extack)
{
	unsigned int i;

	if (!READ_ONCE(nic->mode_needs_unbound_vfs))
		return 0;
	for (i = 1; i <= nic->vfs; i++) {
		if (!rcu_access_pointer(nic->ports[i].vf))
			continue;
		NL_SET_ERR_MSG_FMT_MOD(extack, "VF %u is bound to a driver: unbind VFs first",
				       i - 1);
		return -EBUSY;
	}
	return 0;
}

int simnic_nic_set_switchdev(struct simnic *nic, struct netlink_ext_ack *extack)
{
	int err;

	devl_assert_locked(nic->devlink);
	err = simnic_check_unbound(nic, extack);
	if (err)
		return err;
	err = simnic_reps_create(nic, 1, nic->vfs + 1, extack);
	if (err)
		return err;
	err = simnic_tunnels_start(nic);
	if (err)
		simnic_reps_destroy(nic, 1, nic->vfs + 1);
	else
		simnic_set_mode(nic, true);
	return err;
}

/* SFs go with switchdev mode, as mlx5's do. */
int simnic_nic_set_legacy(struct simnic *nic, struct netlink_ext_ack *extack)
{
	int err;

	devl_assert_locked(nic->devlink);
	err = simnic_check_unbound(nic, extack);
	if (err)
		return err;
	if (simnic_table_count(nic->table)) {
		NL_SET_ERR_MSG_MOD(extack, "offloaded rules keep the eswitch in switchdev mode");
		return -EBUSY;
	}
	simnic_set_mode(nic, false);
	simnic_tunnels_stop(nic);
	simnic_sfs_destroy(nic);
	simnic_reps_destroy(nic, 1, nic->vfs + 1);
	/* A rule may have come in between the check and the mode change. */
	simnic_table_flush(nic->table);
	return 0;
}

/* A port's address before it is given one. Locally administered, readable: 02:73:6e:ID:PORT, "sn". */
void simnic_port_own_addr(const struct simnic_port *port, u8 *addr)
{
	addr[0] = 0x02;
	addr[1] = 0x73;
	addr[2] = 0x6e;
	addr[3] = port->nic->id;
	put_unaligned_be16(port->index, &addr[4]);
}

/* What a port is like before anybody changes it. */
void simnic_port_reset(struct simnic_port *port)
{
	memset(&port->settings, 0, sizeof(port->settings));
	simnic_port_own_addr(port, port->hw_addr);
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
		if (i >= simnic_first_sf(nic))
			port->kind = SIMNIC_PORT_SF;
		else if (i)
			port->kind = SIMNIC_PORT_VF;
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
	simnic_ipsec_destroy(nic->ipsec);
	simnic_table_destroy(nic->table);
	simnic_faults_destroy(nic->faults);
	devlink_free(nic->devlink);
}

static struct simnic *simnic_alloc(struct simnic_bus_dev *bus_dev)
{
	unsigned int nports = 1 + bus_dev->total_vfs + SIMNIC_MAX_SFS;
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
	nic->card = bus_dev->card;
	nic->link = true;
	nic->encap_mode = DEVLINK_ESWITCH_ENCAP_MODE_BASIC;
	INIT_LIST_HEAD(&nic->block_cbs);
	INIT_LIST_HEAD(&nic->tunnels);
	INIT_LIST_HEAD(&nic->tunnel_cbs);
	nic->table = simnic_table_create(nic);
	nic->ipsec = simnic_ipsec_create(nic);
	nic->faults = simnic_faults_create();
	if (!nic->table || !nic->ipsec || !nic->faults || simnic_ports_init(nic)) {
		simnic_free(nic);
		return ERR_PTR(-ENOMEM);
	}
	return nic;
}

/* The uplink with its port and, in switchdev mode, the representors of the VFs. */
int simnic_nic_up(struct simnic *nic, struct netlink_ext_ack *extack)
{
	struct simnic_port *uplink = simnic_uplink(nic);
	bool switchdev = nic->switchdev;
	int err;

	devl_assert_locked(nic->devlink);
	/* A netdev that is being registered with a devlink port must have no switch ID yet. */
	WRITE_ONCE(nic->switchdev, false);
	err = simnic_devlink_port_add(uplink);
	if (err)
		goto err_down;
	err = simnic_health_add_port(uplink);
	if (err)
		goto err_down;
	err = simnic_netdev_attach(uplink, SIMNIC_UPLINK);
	if (err)
		goto err_down;
	if (switchdev) {
		err = simnic_reps_create(nic, 1, nic->vfs + 1, extack);
		if (!err)
			err = simnic_tunnels_start(nic);
		if (err)
			goto err_down;
	}
	simnic_set_mode(nic, switchdev);
	return 0;

err_down:
	simnic_nic_down(nic);
	WRITE_ONCE(nic->switchdev, switchdev);
	return err;
}

/* The reverse; SFs and rules are gone, too. What is not there is passed over. */
void simnic_nic_down(struct simnic *nic)
{
	devl_assert_locked(nic->devlink);
	simnic_tunnels_stop(nic);
	simnic_sfs_destroy(nic);
	simnic_reps_destroy(nic, 1, nic->vfs + 1);
	simnic_netdevs_detach(nic, SIMNIC_UPLINK, 0, 1);
	simnic_health_del_port(simnic_uplink(nic));
	simnic_devlink_port_del(simnic_uplink(nic));
	simnic_table_flush(nic->table);
}

/*
 * What the firmware's recovery does to the eswitch: representors go and come
 * anew, SFs, rules and SAs are gone. TC and xfrm still believe in those of the uplink.
 */
int simnic_nic_reset_eswitch(struct simnic *nic, struct netlink_ext_ack *extack)
{
	int err = 0;

	devl_assert_locked(nic->devlink);
	simnic_sfs_destroy(nic);
	simnic_reps_destroy(nic, 1, nic->vfs + 1);
	simnic_table_flush(nic->table);
	simnic_ipsec_flush(nic->ipsec);
	if (nic->switchdev)
		err = simnic_reps_create(nic, 1, nic->vfs + 1, extack);
	return err;
}

int simnic_nic_create(struct simnic_bus_dev *bus_dev)
{
	struct simnic *nic;
	int err;

	nic = simnic_alloc(bus_dev);
	if (IS_ERR(nic))
		return PTR_ERR(nic);

	devl_lock(nic->devlink);
	err = simnic_resources_add(nic);
	if (err)
		goto err_unlock;
	err = simnic_health_add(nic);
	if (err)
		goto err_resources;
	err = simnic_nic_up(nic, NULL);
	if (err)
		goto err_health;
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

err_health:
	simnic_health_del(nic);
err_resources:
	simnic_resources_del(nic);
err_unlock:
	devl_unlock(nic->devlink);
	simnic_free(nic);
	return err;
}

void simnic_nic_destroy(struct simnic_bus_dev *bus_dev)
{
	struct simnic *nic = bus_dev->nic;
	struct simnic *sibling;

	sibling = simnic_card_leave(nic);
	simnic_debugfs_del(nic);
	simnic_sriov_disable(nic);
	devl_lock(nic->devlink);
	devl_unregister(nic->devlink);
	simnic_nic_down(nic);
	simnic_health_del(nic);
	simnic_resources_del(nic);
	devl_unlock(nic->devlink);
	/* Its netdevs are gone: no rule is under way any more that names one. */
	if (sibling)
		simnic_table_forget(sibling->table, nic);
	bus_dev->nic = NULL;
	simnic_free(nic);
}

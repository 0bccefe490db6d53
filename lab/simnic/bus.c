// SPDX-License-Identifier: GPL-2.0
/*
 * The simnic bus: devices come and go by writing to it, as on netdevsim's.
 */
#include <linux/module.h>
#include <linux/slab.h>

#include "key.h"
#include "lag.h"
#include "simnic.h"
#include "tunnel.h"

/* Protects the list of devices and the wires between them. */
DEFINE_MUTEX(simnic_bus_lock);

static LIST_HEAD(simnic_bus_devs);	/* under simnic_bus_lock */

struct simnic_bus_dev *simnic_to_bus_dev(struct device *dev)
{
	return container_of(dev, struct simnic_bus_dev, dev);
}

static const struct attribute_group *simnic_bus_dev_groups[] = {
	&simnic_sriov_group,
	NULL
};

static void simnic_bus_dev_release(struct device *dev)
{
	kfree(simnic_to_bus_dev(dev));
}

static const struct device_type simnic_bus_dev_type = {
	.groups = simnic_bus_dev_groups,
	.release = simnic_bus_dev_release,
};

static struct simnic_bus_dev *simnic_bus_find(unsigned int id)
{
	struct simnic_bus_dev *bus_dev;

	lockdep_assert_held(&simnic_bus_lock);
	list_for_each_entry(bus_dev, &simnic_bus_devs, list)
		if (bus_dev->dev.id == id)
			return bus_dev;
	return NULL;
}

/* The NICs of a card, and the last of them. */
static unsigned int simnic_bus_card(unsigned int card, struct simnic_bus_dev **last)
{
	struct simnic_bus_dev *bus_dev;
	unsigned int nics = 0;

	lockdep_assert_held(&simnic_bus_lock);
	list_for_each_entry(bus_dev, &simnic_bus_devs, list) {
		if (bus_dev->card != card)
			continue;
		*last = bus_dev;
		nics++;
	}
	return nics;
}

static int simnic_bus_add(unsigned int id, unsigned int vfs, unsigned int total_vfs,
			  unsigned int card)
{
	struct simnic_bus_dev *bus_dev, *sibling;
	unsigned int of_card;
	int err;

	if (id > SIMNIC_MAX_ID || card > SIMNIC_MAX_ID)
		return -ERANGE;
	if (total_vfs > SIMNIC_MAX_VFS || vfs > total_vfs)
		return -ERANGE;
	of_card = simnic_bus_card(card, &sibling);
	if (simnic_bus_find(id) || of_card > 1)
		return -EEXIST;

	bus_dev = kzalloc(sizeof(*bus_dev), GFP_KERNEL);
	if (!bus_dev)
		return -ENOMEM;
	bus_dev->initial_vfs = vfs;
	bus_dev->total_vfs = total_vfs;
	bus_dev->card = card;
	bus_dev->vfs_autoprobe = true;
	bus_dev->dev.id = id;
	bus_dev->dev.bus = &simnic_bus;
	bus_dev->dev.type = &simnic_bus_dev_type;

	err = device_register(&bus_dev->dev);
	if (err) {
		put_device(&bus_dev->dev);
		return err;
	}
	if (!bus_dev->nic) {
		err = bus_dev->probe_err ?: -ENODEV;
		device_unregister(&bus_dev->dev);
		return err;
	}
	list_add_tail(&bus_dev->list, &simnic_bus_devs);
	if (of_card)
		simnic_card_join(bus_dev->nic, sibling->nic);
	return 0;
}

static void simnic_bus_del(struct simnic_bus_dev *bus_dev)
{
	lockdep_assert_held(&simnic_bus_lock);
	simnic_nic_unwire(bus_dev->nic);
	list_del(&bus_dev->list);
	device_unregister(&bus_dev->dev);
}

static ssize_t new_device_store(const struct bus_type *bus, const char *buf, size_t count)
{
	unsigned int id, vfs, total_vfs, card;
	int given, err;

	given = sscanf(buf, "%u %u %u %u", &id, &vfs, &total_vfs, &card);
	if (given < 2) {
		pr_err("write \"ID VFS [TOTALVFS [CARD]]\" to make a device\n");
		return -EINVAL;
	}
	if (given == 2)
		total_vfs = vfs;
	if (given < 4)
		card = id;
	mutex_lock(&simnic_bus_lock);
	err = simnic_bus_add(id, vfs, total_vfs, card);
	mutex_unlock(&simnic_bus_lock);
	return err ?: count;
}
static BUS_ATTR_WO(new_device);

static ssize_t del_device_store(const struct bus_type *bus, const char *buf, size_t count)
{
	struct simnic_bus_dev *bus_dev;
	unsigned int id;
	int err;

	err = kstrtouint(buf, 10, &id);
	if (err) {
		pr_err("write \"ID\" to delete a device\n");
		return err;
	}
	mutex_lock(&simnic_bus_lock);
	bus_dev = simnic_bus_find(id);
	if (bus_dev)
		simnic_bus_del(bus_dev);
	else
		err = -ENODEV;
	mutex_unlock(&simnic_bus_lock);
	return err ?: count;
}
static BUS_ATTR_WO(del_device);

/* "A B" joins two uplinks, "A" alone pulls A's cable out. */
static ssize_t wire_store(const struct bus_type *bus, const char *buf, size_t count)
{
	struct simnic_bus_dev *a, *b = NULL;
	unsigned int id_a, id_b;
	int ends, err = 0;

	ends = sscanf(buf, "%u %u", &id_a, &id_b);
	if (ends < 1) {
		pr_err("write \"A B\" to join two uplinks, \"A\" to part them\n");
		return -EINVAL;
	}
	mutex_lock(&simnic_bus_lock);
	a = simnic_bus_find(id_a);
	if (ends == 2)
		b = simnic_bus_find(id_b);
	if (!a || (ends == 2 && !b))
		err = -ENODEV;
	else if (ends == 2)
		err = simnic_nic_wire(a->nic, b->nic);
	else
		simnic_nic_unwire(a->nic);
	mutex_unlock(&simnic_bus_lock);
	return err ?: count;
}

static ssize_t wire_show(const struct bus_type *bus, char *buf)
{
	struct simnic_bus_dev *bus_dev;
	struct simnic *peer;
	ssize_t len = 0;

	mutex_lock(&simnic_bus_lock);
	list_for_each_entry(bus_dev, &simnic_bus_devs, list) {
		peer = rcu_dereference_protected(bus_dev->nic->peer,
						 lockdep_is_held(&simnic_bus_lock));
		if (peer && bus_dev->nic->id < peer->id)
			len += sysfs_emit_at(buf, len, "%u %u\n", bus_dev->nic->id, peer->id);
	}
	mutex_unlock(&simnic_bus_lock);
	return len;
}
static BUS_ATTR_RW(wire);

static struct attribute *simnic_bus_attrs[] = {
	&bus_attr_new_device.attr,
	&bus_attr_del_device.attr,
	&bus_attr_wire.attr,
	NULL
};
ATTRIBUTE_GROUPS(simnic_bus);

static int simnic_bus_match(struct device *dev, const struct device_driver *driver)
{
	if (simnic_is_fn_dev(dev))
		return simnic_fn_matches(dev, driver);
	return driver != &simnic_vf_driver && driver != &simnic_sf_driver;
}

static int simnic_bus_probe(struct device *dev)
{
	struct simnic_bus_dev *bus_dev;

	if (simnic_is_fn_dev(dev))
		return simnic_fn_probe(dev);
	bus_dev = simnic_to_bus_dev(dev);
	bus_dev->probe_err = simnic_nic_create(bus_dev);
	return bus_dev->probe_err;
}

static void simnic_bus_remove(struct device *dev)
{
	if (simnic_is_fn_dev(dev))
		simnic_fn_remove(dev);
	else
		simnic_nic_destroy(simnic_to_bus_dev(dev));
}

/* rtnl asks it of a netdev's parent: of a VF's, too. */
static int simnic_bus_num_vf(struct device *dev)
{
	struct simnic *nic;

	if (simnic_is_fn_dev(dev))
		return 0;
	nic = READ_ONCE(simnic_to_bus_dev(dev)->nic);
	return nic ? READ_ONCE(nic->vfs) : 0;
}

const struct bus_type simnic_bus = {
	.name		= SIMNIC_NAME,
	.dev_name	= SIMNIC_NAME,
	.bus_groups	= simnic_bus_groups,
	.match		= simnic_bus_match,
	.probe		= simnic_bus_probe,
	.remove		= simnic_bus_remove,
	.num_vf		= simnic_bus_num_vf,
};

static struct device_driver simnic_driver = {
	.name			= SIMNIC_NAME,
	.bus			= &simnic_bus,
	.owner			= THIS_MODULE,
	.suppress_bind_attrs	= true,	/* a device lives from new_device to del_device */
};

static int __init simnic_init(void)
{
	int err;

	simnic_key_init();
	simnic_debugfs_init();
	err = simnic_encap_init();
	if (err)
		goto err_debugfs;
	err = register_netdevice_notifier(&simnic_lag_notifier);
	if (err)
		goto err_encap;
	err = bus_register(&simnic_bus);
	if (err)
		goto err_notifier;
	err = driver_register(&simnic_vf_driver);
	if (err)
		goto err_bus;
	err = driver_register(&simnic_sf_driver);
	if (err)
		goto err_vf_driver;
	err = driver_register(&simnic_driver);
	if (err)
		goto err_sf_driver;
	return 0;

err_sf_driver:
	driver_unregister(&simnic_sf_driver);
err_vf_driver:
	driver_unregister(&simnic_vf_driver);
err_bus:
	bus_unregister(&simnic_bus);
err_notifier:
	unregister_netdevice_notifier(&simnic_lag_notifier);
err_encap:
	simnic_encap_exit();
err_debugfs:
	simnic_debugfs_exit();
	return err;
}

static void __exit simnic_exit(void)
{
	struct simnic_bus_dev *bus_dev, *next;

	mutex_lock(&simnic_bus_lock);
	list_for_each_entry_safe(bus_dev, next, &simnic_bus_devs, list)
		simnic_bus_del(bus_dev);
	mutex_unlock(&simnic_bus_lock);
	driver_unregister(&simnic_driver);
	driver_unregister(&simnic_sf_driver);
	driver_unregister(&simnic_vf_driver);
	bus_unregister(&simnic_bus);
	unregister_netdevice_notifier(&simnic_lag_notifier);
	simnic_encap_exit();
	simnic_debugfs_exit();
	rcu_barrier();	/* call_rcu() callbacks are in this module's text */
}

module_init(simnic_init);
module_exit(simnic_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Simulated switchdev SmartNIC");
MODULE_VERSION(SIMNIC_VERSION);

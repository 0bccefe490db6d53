// SPDX-License-Identifier: GPL-2.0
/*
 * VFs and SFs as devices of their own on the bus. Their drivers, simnic_vf and
 * simnic_sf, make the function's netdev, and may be unbound and bound through
 * sysfs. As of PCI there are links physfn and virtfnN between PF and VF.
 *
 * A function's device lock is taken under the PF's device lock (VFs) or the
 * devlink lock (SFs), so the drivers take no lock of the PF but rtnl.
 */
#include <linux/rtnetlink.h>
#include <linux/slab.h>

#include "fail.h"
#include "simnic.h"

struct simnic_fn_dev *simnic_to_fn_dev(struct device *dev)
{
	return container_of(dev, struct simnic_fn_dev, dev);
}

static void simnic_fn_dev_release(struct device *dev)
{
	kfree(simnic_to_fn_dev(dev));
}

static const struct device_type simnic_vf_dev_type = {
	.name = "simnic_vf",
	.release = simnic_fn_dev_release,
};

static ssize_t sfnum_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", simnic_to_fn_dev(dev)->port->sfnum);
}
static DEVICE_ATTR_RO(sfnum);

static struct attribute *simnic_sf_dev_attrs[] = {
	&dev_attr_sfnum.attr,
	NULL
};
ATTRIBUTE_GROUPS(simnic_sf_dev);

static const struct device_type simnic_sf_dev_type = {
	.name = "simnic_sf",
	.groups = simnic_sf_dev_groups,
	.release = simnic_fn_dev_release,
};

struct device_driver simnic_vf_driver = {
	.name	= "simnic_vf",
	.bus	= &simnic_bus,
	.owner	= THIS_MODULE,
};

struct device_driver simnic_sf_driver = {
	.name	= "simnic_sf",
	.bus	= &simnic_bus,
	.owner	= THIS_MODULE,
};

bool simnic_is_fn_dev(const struct device *dev)
{
	return dev->type == &simnic_vf_dev_type || dev->type == &simnic_sf_dev_type;
}

bool simnic_fn_matches(struct device *dev, const struct device_driver *driver)
{
	const struct device_driver *wanted = &simnic_sf_driver;

	if (dev->type == &simnic_vf_dev_type)
		wanted = &simnic_vf_driver;
	return driver == wanted && simnic_to_fn_dev(dev)->ready;
}

int simnic_fn_probe(struct device *dev)
{
	struct simnic_port *port = simnic_to_fn_dev(dev)->port;
	int err;

	err = simnic_fail(port->nic, SIMNIC_OP_FN_PROBE, NULL);
	if (err)
		return err;
	err = simnic_netdev_attach(port, SIMNIC_VF);
	if (err)
		return err;
	rtnl_lock();
	simnic_nic_update_carrier(port->nic);
	rtnl_unlock();
	return 0;
}

void simnic_fn_remove(struct device *dev)
{
	struct simnic_port *port = simnic_to_fn_dev(dev)->port;

	simnic_netdevs_detach(port->nic, SIMNIC_VF, port->index, port->index + 1);
}

static void simnic_vf_link_name(const struct simnic_port *port, char *name, size_t size)
{
	snprintf(name, size, "virtfn%u", port->index - 1);
}

static int simnic_fn_link(struct simnic_fn_dev *fn_dev)
{
	struct device *pf = &fn_dev->port->nic->bus_dev->dev;
	char name[16];
	int err;

	if (fn_dev->port->kind != SIMNIC_PORT_VF)
		return 0;
	simnic_vf_link_name(fn_dev->port, name, sizeof(name));
	err = sysfs_create_link(&fn_dev->dev.kobj, &pf->kobj, "physfn");
	if (err)
		return err;
	err = sysfs_create_link(&pf->kobj, &fn_dev->dev.kobj, name);
	if (err)
		sysfs_remove_link(&fn_dev->dev.kobj, "physfn");
	return err;
}

static void simnic_fn_unlink(struct simnic_fn_dev *fn_dev)
{
	struct device *pf = &fn_dev->port->nic->bus_dev->dev;
	char name[16];

	if (fn_dev->port->kind != SIMNIC_PORT_VF)
		return;
	simnic_vf_link_name(fn_dev->port, name, sizeof(name));
	sysfs_remove_link(&pf->kobj, name);
	sysfs_remove_link(&fn_dev->dev.kobj, "physfn");
}

static int simnic_fn_name(struct simnic_fn_dev *fn_dev, const struct simnic_port *port)
{
	const char *pf = dev_name(&port->nic->bus_dev->dev);

	if (port->kind == SIMNIC_PORT_VF)
		return dev_set_name(&fn_dev->dev, "%svf%u", pf, port->index - 1);
	return dev_set_name(&fn_dev->dev, "%ssf%u", pf, port->sfnum);
}

/* Puts the function on the bus and, if it may, binds its driver. */
int simnic_fn_add(struct simnic_port *port, bool bind)
{
	struct simnic_fn_dev *fn_dev;
	int err;

	fn_dev = kzalloc(sizeof(*fn_dev), GFP_KERNEL);
	if (!fn_dev)
		return -ENOMEM;
	fn_dev->port = port;
	fn_dev->dev.bus = &simnic_bus;
	fn_dev->dev.type = port->kind == SIMNIC_PORT_VF ? &simnic_vf_dev_type :
							  &simnic_sf_dev_type;
	fn_dev->dev.parent = &port->nic->bus_dev->dev;
	device_initialize(&fn_dev->dev);
	err = simnic_fn_name(fn_dev, port);
	if (err)
		goto err_put;
	err = device_add(&fn_dev->dev);
	if (err)
		goto err_put;
	err = simnic_fn_link(fn_dev);
	if (err)
		goto err_del;
	port->fn_dev = fn_dev;
	fn_dev->ready = true;
	/* A function whose driver fails stays there without one, as on PCI. */
	if (bind && device_attach(&fn_dev->dev) != 1)
		dev_warn(&fn_dev->dev, "no driver was bound\n");
	return 0;

err_del:
	device_del(&fn_dev->dev);
err_put:
	put_device(&fn_dev->dev);
	return err;
}

/* Takes the function off the bus; its driver removes the netdev if it is still there. */
void simnic_fn_del(struct simnic_port *port)
{
	if (!port->fn_dev)
		return;
	simnic_fn_unlink(port->fn_dev);
	device_unregister(&port->fn_dev->dev);
	port->fn_dev = NULL;
}

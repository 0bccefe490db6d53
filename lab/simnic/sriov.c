// SPDX-License-Identifier: GPL-2.0
/*
 * VFs as devices of their own: they come and go with sriov_numvfs, and their
 * driver, simnic_vf, makes the VF's netdev. As of PCI there are links physfn and
 * virtfnN between PF and VF.
 *
 * The PF's device lock is held while VFs come and go. A VF's device lock is
 * taken under it, so the driver takes none of the PF's locks but rtnl.
 */
#include <linux/rtnetlink.h>
#include <linux/slab.h>

#include "simnic.h"

struct simnic_vf_dev *simnic_to_vf_dev(struct device *dev)
{
	return container_of(dev, struct simnic_vf_dev, dev);
}

static void simnic_vf_dev_release(struct device *dev)
{
	kfree(simnic_to_vf_dev(dev));
}

const struct device_type simnic_vf_dev_type = {
	.name = "simnic_vf",
	.release = simnic_vf_dev_release,
};

struct device_driver simnic_vf_driver = {
	.name	= "simnic_vf",
	.bus	= &simnic_bus,
	.owner	= THIS_MODULE,
};

int simnic_vf_probe(struct device *dev)
{
	struct simnic_port *port = simnic_to_vf_dev(dev)->port;
	int err;

	err = simnic_netdev_attach(port, SIMNIC_VF);
	if (err)
		return err;
	rtnl_lock();
	simnic_nic_update_carrier(port->nic);
	rtnl_unlock();
	return 0;
}

void simnic_vf_remove(struct device *dev)
{
	struct simnic_port *port = simnic_to_vf_dev(dev)->port;

	simnic_netdevs_detach(port->nic, SIMNIC_VF, port->index, port->index + 1);
}

static void simnic_vf_link_name(const struct simnic_port *port, char *name, size_t size)
{
	snprintf(name, size, "virtfn%u", port->index - 1);
}

static int simnic_vf_dev_link(struct simnic_vf_dev *vf_dev)
{
	struct device *pf = &vf_dev->port->nic->bus_dev->dev;
	char name[16];
	int err;

	simnic_vf_link_name(vf_dev->port, name, sizeof(name));
	err = sysfs_create_link(&vf_dev->dev.kobj, &pf->kobj, "physfn");
	if (err)
		return err;
	err = sysfs_create_link(&pf->kobj, &vf_dev->dev.kobj, name);
	if (err)
		sysfs_remove_link(&vf_dev->dev.kobj, "physfn");
	return err;
}

static void simnic_vf_dev_unlink(struct simnic_vf_dev *vf_dev)
{
	struct device *pf = &vf_dev->port->nic->bus_dev->dev;
	char name[16];

	simnic_vf_link_name(vf_dev->port, name, sizeof(name));
	sysfs_remove_link(&pf->kobj, name);
	sysfs_remove_link(&vf_dev->dev.kobj, "physfn");
}

static int simnic_vf_dev_add(struct simnic_port *port)
{
	struct simnic_bus_dev *bus_dev = port->nic->bus_dev;
	struct simnic_vf_dev *vf_dev;
	int err;

	vf_dev = kzalloc(sizeof(*vf_dev), GFP_KERNEL);
	if (!vf_dev)
		return -ENOMEM;
	vf_dev->port = port;
	vf_dev->dev.bus = &simnic_bus;
	vf_dev->dev.type = &simnic_vf_dev_type;
	vf_dev->dev.parent = &bus_dev->dev;
	device_initialize(&vf_dev->dev);
	err = dev_set_name(&vf_dev->dev, "%svf%u", dev_name(&bus_dev->dev), port->index - 1);
	if (err)
		goto err_put;
	err = device_add(&vf_dev->dev);
	if (err)
		goto err_put;
	err = simnic_vf_dev_link(vf_dev);
	if (err)
		goto err_del;
	port->vf_dev = vf_dev;
	vf_dev->ready = true;
	if (!bus_dev->vfs_autoprobe)
		return 0;
	/* A VF whose driver fails stays there without one, as on PCI. */
	if (device_attach(&vf_dev->dev) != 1)
		dev_warn(&vf_dev->dev, "no driver was bound\n");
	return 0;

err_del:
	device_del(&vf_dev->dev);
err_put:
	put_device(&vf_dev->dev);
	return err;
}

/* The netdevs first, all at once; each VF's driver then has nothing left to do. */
static void simnic_vf_devs_del(struct simnic *nic, unsigned int vfs)
{
	struct simnic_port *port;

	simnic_netdevs_detach(nic, SIMNIC_VF, 1, vfs + 1);
	while (vfs) {
		port = &nic->ports[vfs--];
		simnic_vf_dev_unlink(port->vf_dev);
		device_unregister(&port->vf_dev->dev);
		port->vf_dev = NULL;
	}
}

/* Whoever calls holds the PF's device lock. */
int simnic_sriov_enable(struct simnic *nic, unsigned int vfs)
{
	unsigned int i;
	int err;

	devl_lock(nic->devlink);
	err = simnic_nic_enable_vfs(nic, vfs, NULL);
	devl_unlock(nic->devlink);
	if (err)
		return err;

	for (i = 1; i <= vfs; i++) {
		err = simnic_vf_dev_add(&nic->ports[i]);
		if (err)
			goto err_vfs;
	}
	kobject_uevent(&nic->bus_dev->dev.kobj, KOBJ_CHANGE);
	return 0;

err_vfs:
	simnic_vf_devs_del(nic, i - 1);
	devl_lock(nic->devlink);
	simnic_nic_disable_vfs(nic);
	devl_unlock(nic->devlink);
	return err;
}

/* Whoever calls holds the PF's device lock, which is all that changes nic->vfs. */
void simnic_sriov_disable(struct simnic *nic)
{
	simnic_vf_devs_del(nic, nic->vfs);
	devl_lock(nic->devlink);
	simnic_nic_disable_vfs(nic);
	devl_unlock(nic->devlink);
	kobject_uevent(&nic->bus_dev->dev.kobj, KOBJ_CHANGE);
}

static ssize_t sriov_totalvfs_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", simnic_to_bus_dev(dev)->total_vfs);
}
static DEVICE_ATTR_RO(sriov_totalvfs);

static ssize_t sriov_numvfs_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct simnic_bus_dev *bus_dev = simnic_to_bus_dev(dev);
	unsigned int vfs;

	device_lock(dev);
	vfs = bus_dev->nic ? bus_dev->nic->vfs : 0;
	device_unlock(dev);
	return sysfs_emit(buf, "%u\n", vfs);
}

static int simnic_sriov_set(struct simnic_bus_dev *bus_dev, u16 vfs)
{
	struct simnic *nic = bus_dev->nic;

	if (!nic)
		return -ENOENT;
	if (vfs > bus_dev->total_vfs)
		return -ERANGE;
	if (vfs == nic->vfs)
		return 0;
	if (!vfs) {
		simnic_sriov_disable(nic);
		return 0;
	}
	if (nic->vfs) {
		dev_warn(&bus_dev->dev, "%u VFs already enabled. Disable before enabling %u VFs\n",
			 nic->vfs, vfs);
		return -EBUSY;
	}
	return simnic_sriov_enable(nic, vfs);
}

/* As drivers/pci/iov.c has it. */
static ssize_t sriov_numvfs_store(struct device *dev, struct device_attribute *attr,
				  const char *buf, size_t count)
{
	u16 vfs;
	int err;

	if (kstrtou16(buf, 0, &vfs) < 0)
		return -EINVAL;
	device_lock(dev);
	err = simnic_sriov_set(simnic_to_bus_dev(dev), vfs);
	device_unlock(dev);
	return err ?: count;
}
static DEVICE_ATTR_RW(sriov_numvfs);

static ssize_t sriov_drivers_autoprobe_show(struct device *dev, struct device_attribute *attr,
					    char *buf)
{
	return sysfs_emit(buf, "%u\n", simnic_to_bus_dev(dev)->vfs_autoprobe);
}

static ssize_t sriov_drivers_autoprobe_store(struct device *dev, struct device_attribute *attr,
					     const char *buf, size_t count)
{
	bool autoprobe;

	if (kstrtobool(buf, &autoprobe) < 0)
		return -EINVAL;
	simnic_to_bus_dev(dev)->vfs_autoprobe = autoprobe;
	return count;
}
static DEVICE_ATTR_RW(sriov_drivers_autoprobe);

static struct attribute *simnic_sriov_attrs[] = {
	&dev_attr_sriov_totalvfs.attr,
	&dev_attr_sriov_numvfs.attr,
	&dev_attr_sriov_drivers_autoprobe.attr,
	NULL
};

const struct attribute_group simnic_sriov_group = {
	.attrs = simnic_sriov_attrs,
};

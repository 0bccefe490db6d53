// SPDX-License-Identifier: GPL-2.0
/*
 * The number of VFs: sriov_numvfs and what follows from it. The PF's device
 * lock is held while VFs come and go.
 */
#include <linux/device.h>

#include "fail.h"
#include "simnic.h"

/* The netdevs first, all at once; each VF's driver then has nothing left to do. */
static void simnic_vfs_del(struct simnic *nic, unsigned int vfs)
{
	simnic_netdevs_detach(nic, SIMNIC_VF, 1, vfs + 1);
	while (vfs)
		simnic_fn_del(&nic->ports[vfs--]);
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
		err = simnic_fn_add(&nic->ports[i], nic->bus_dev->vfs_autoprobe);
		if (err)
			goto err_vfs;
	}
	kobject_uevent(&nic->bus_dev->dev.kobj, KOBJ_CHANGE);
	return 0;

err_vfs:
	simnic_vfs_del(nic, i - 1);
	devl_lock(nic->devlink);
	simnic_nic_disable_vfs(nic);
	devl_unlock(nic->devlink);
	return err;
}

/* Whoever calls holds the PF's device lock, which is all that changes nic->vfs. */
void simnic_sriov_disable(struct simnic *nic)
{
	simnic_vfs_del(nic, nic->vfs);
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
	int err;

	if (!nic)
		return -ENOENT;
	if (vfs > bus_dev->total_vfs)
		return -ERANGE;
	if (vfs == nic->vfs)
		return 0;
	if (!vfs) {
		err = simnic_fail(nic, SIMNIC_OP_SRIOV, NULL);
		if (!err)
			simnic_sriov_disable(nic);
		return err;
	}
	if (nic->vfs) {
		dev_warn(&bus_dev->dev, "%u VFs already enabled. Disable before enabling %u VFs\n",
			 nic->vfs, vfs);
		return -EBUSY;
	}
	err = simnic_fail(nic, SIMNIC_OP_SRIOV, NULL);
	return err ?: simnic_sriov_enable(nic, vfs);
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

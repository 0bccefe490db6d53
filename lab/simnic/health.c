// SPDX-License-Identifier: GPL-2.0
/*
 * Health: what goes wrong with a NIC at work, and how it is mended. Reporter
 * "fw" is the device's: while it is in error the firmware answers nothing, and
 * recovery resets the eswitch. Reporter "tx" is the uplink port's: while it is
 * in error nothing leaves by the wire.
 */
#include <linux/rtnetlink.h>

#include "compat.h"
#include "fail.h"
#include "health.h"
#include "simnic.h"
#include "table.h"

static int simnic_fw_recover(struct devlink_health_reporter *reporter, void *context,
			     struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_health_reporter_priv(reporter);
	int err;

	err = simnic_fail(nic, SIMNIC_OP_HEALTH_RECOVER, extack);
	if (err)
		return err;
	err = simnic_nic_reset_eswitch(nic, extack);
	if (!err)
		WRITE_ONCE(nic->fw_failed, false);
	return err;
}

static int simnic_fw_diagnose(struct devlink_health_reporter *reporter, struct devlink_fmsg *fmsg,
			      struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_health_reporter_priv(reporter);

	devlink_fmsg_string_pair_put(fmsg, "firmware", READ_ONCE(nic->fw_failed) ? "failed" : "ok");
	devlink_fmsg_u32_pair_put(fmsg, "rules", simnic_table_count(nic->table));
	return 0;
}

static const struct devlink_health_reporter_ops simnic_fw_reporter_ops = {
	.name = "fw",
	.recover = simnic_fw_recover,
	.diagnose = simnic_fw_diagnose,
};

static int simnic_tx_recover(struct devlink_health_reporter *reporter, void *context,
			     struct netlink_ext_ack *extack)
{
	struct simnic *nic = devlink_health_reporter_priv(reporter);
	int err;

	err = simnic_fail(nic, SIMNIC_OP_HEALTH_RECOVER, extack);
	if (!err)
		WRITE_ONCE(nic->tx_failed, false);
	return err;
}

static const struct devlink_health_reporter_ops simnic_tx_reporter_ops = {
	.name = "tx",
	.recover = simnic_tx_recover,
};

int simnic_health_add(struct simnic *nic)
{
	struct devlink_health_reporter *reporter;

	reporter = simnic_health_reporter_create(nic->devlink, &simnic_fw_reporter_ops, nic);
	if (IS_ERR(reporter))
		return PTR_ERR(reporter);
	nic->fw_reporter = reporter;
	return 0;
}

void simnic_health_del(struct simnic *nic)
{
	if (nic->fw_reporter)
		devl_health_reporter_destroy(nic->fw_reporter);
	nic->fw_reporter = NULL;
}

int simnic_health_add_port(struct simnic_port *port)
{
	struct devlink_health_reporter *reporter;
	struct simnic *nic = port->nic;

	reporter = simnic_port_health_reporter_create(&port->dl_port, &simnic_tx_reporter_ops, nic);
	if (IS_ERR(reporter))
		return PTR_ERR(reporter);
	nic->tx_reporter = reporter;
	return 0;
}

void simnic_health_del_port(struct simnic_port *port)
{
	struct simnic *nic = port->nic;

	if (nic->tx_reporter)
		devl_health_reporter_destroy(nic->tx_reporter);
	nic->tx_reporter = NULL;
	WRITE_ONCE(nic->tx_failed, false);
}

/*
 * "fw TEXT" or "tx TEXT": an error, which is recovered from at once unless the
 * reporter's auto_recover is off. Both reporters stay while the PF's device lock
 * is held; devlink's is taken by devlink.
 */
int simnic_health_inject(struct simnic *nic, const char *line)
{
	struct device *dev = &nic->bus_dev->dev;
	const char *text = strchr(line, ' ');
	bool fw = !strncmp(line, "fw ", 3);
	struct devlink_health_reporter *reporter;

	if (!text || (!fw && strncmp(line, "tx ", 3)))
		return -EINVAL;
	/* Removal holds it and waits for us. */
	if (!device_trylock(dev))
		return restart_syscall();
	reporter = fw ? nic->fw_reporter : nic->tx_reporter;
	if (reporter) {
		WRITE_ONCE(*(fw ? &nic->fw_failed : &nic->tx_failed), true);
		/* What recovery answers is told through devlink. */
		devlink_health_report(reporter, text + 1, NULL);
	}
	device_unlock(dev);
	return reporter ? 0 : -ENODEV;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Failures by operation, set through debugfs: "OP NTH ERRNO [text]".
 */
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "fail.h"
#include "simnic.h"

#define SIMNIC_FAULTS_MAX	32
#define SIMNIC_FAULT_TEXT	64	/* NETLINK_MAX_FMTMSG_LEN less the module's name */
#define SIMNIC_FAULT_ERRNO_MAX	133	/* the last of include/uapi/asm-generic/errno.h */

struct simnic_fault {
	struct list_head list;
	enum simnic_op op;
	u32 nth;	/* calls until it fails, that one included */
	u32 err;
	char text[SIMNIC_FAULT_TEXT];
};

struct simnic_faults {
	struct mutex lock;	/* of the list */
	struct list_head list;
	unsigned int count;
};

static const char * const simnic_op_names[] = {
	[SIMNIC_OP_ESWITCH_MODE_SET]	= "eswitch_mode_set",
	[SIMNIC_OP_INLINE_MODE_SET]	= "inline_mode_set",
	[SIMNIC_OP_ENCAP_MODE_SET]	= "encap_mode_set",
	[SIMNIC_OP_SRIOV]		= "sriov",
	[SIMNIC_OP_FN_PROBE]		= "fn_probe",
	[SIMNIC_OP_PORT_NEW]		= "port_new",
	[SIMNIC_OP_PORT_DEL]		= "port_del",
	[SIMNIC_OP_HW_ADDR_SET]		= "fn_hw_addr_set",
	[SIMNIC_OP_FN_STATE_SET]	= "fn_state_set",
	[SIMNIC_OP_VF_MAC]		= "vf_mac",
	[SIMNIC_OP_VF_RATE]		= "vf_rate",
	[SIMNIC_OP_VF_SPOOFCHK]		= "vf_spoofchk",
	[SIMNIC_OP_VF_LINK_STATE]	= "vf_link_state",
	[SIMNIC_OP_VF_TRUST]		= "vf_trust",
	[SIMNIC_OP_CONN_INSTALL]	= "conn_install",
	[SIMNIC_OP_SA_ADD]		= "sa_add",
	[SIMNIC_OP_OPEN]		= "open",
	[SIMNIC_OP_SET_MAC]		= "set_mac",
	[SIMNIC_OP_SET_MTU]		= "set_mtu",
	[SIMNIC_OP_SET_FEATURES]	= "set_features",
	[SIMNIC_OP_RELOAD_DOWN]		= "reload_down",
	[SIMNIC_OP_RELOAD_UP]		= "reload_up",
	[SIMNIC_OP_HEALTH_RECOVER]	= "health_recover",
};

static_assert(ARRAY_SIZE(simnic_op_names) == SIMNIC_OPS);

struct simnic_faults *simnic_faults_create(void)
{
	struct simnic_faults *faults = kzalloc(sizeof(*faults), GFP_KERNEL);

	if (!faults)
		return NULL;
	mutex_init(&faults->lock);
	INIT_LIST_HEAD(&faults->list);
	return faults;
}

static void simnic_fault_del(struct simnic_faults *faults, struct simnic_fault *fault)
{
	lockdep_assert_held(&faults->lock);
	list_del(&fault->list);
	faults->count--;
	kfree(fault);
}

void simnic_faults_clear(struct simnic_faults *faults)
{
	struct simnic_fault *fault, *next;

	mutex_lock(&faults->lock);
	list_for_each_entry_safe(fault, next, &faults->list, list)
		simnic_fault_del(faults, fault);
	mutex_unlock(&faults->lock);
}

void simnic_faults_destroy(struct simnic_faults *faults)
{
	if (!faults)
		return;
	simnic_faults_clear(faults);
	mutex_destroy(&faults->lock);
	kfree(faults);
}

static int simnic_fault_parse(struct simnic_fault *fault, char *line)
{
	const char *op, *nth, *err;
	int index;

	op = strsep(&line, " \t");
	nth = strsep(&line, " \t");
	err = strsep(&line, " \t");
	if (!nth || !err)
		return -EINVAL;
	index = match_string(simnic_op_names, ARRAY_SIZE(simnic_op_names), op);
	if (index < 0)
		return -EINVAL;
	fault->op = index;
	if (kstrtou32(nth, 10, &fault->nth) || !fault->nth)
		return -EINVAL;
	if (kstrtou32(err, 10, &fault->err) || !fault->err || fault->err > SIMNIC_FAULT_ERRNO_MAX)
		return -EINVAL;
	if (line && strscpy(fault->text, line, sizeof(fault->text)) < 0)
		return -E2BIG;
	return 0;
}

/* One line, without its newline. */
int simnic_faults_add(struct simnic_faults *faults, const char *line)
{
	struct simnic_fault *fault;
	char *copy;
	int err;

	fault = kzalloc(sizeof(*fault), GFP_KERNEL);
	copy = kstrdup(line, GFP_KERNEL);
	err = fault && copy ? simnic_fault_parse(fault, copy) : -ENOMEM;
	kfree(copy);

	mutex_lock(&faults->lock);
	if (!err && faults->count >= SIMNIC_FAULTS_MAX)
		err = -ENOSPC;
	if (!err) {
		list_add_tail(&fault->list, &faults->list);
		faults->count++;
	}
	mutex_unlock(&faults->lock);
	if (err)
		kfree(fault);
	return err;
}

void simnic_faults_show(struct simnic_faults *faults, struct seq_file *seq)
{
	struct simnic_fault *fault;

	mutex_lock(&faults->lock);
	list_for_each_entry(fault, &faults->list, list)
		seq_printf(seq, "%s %u %u%s%s\n", simnic_op_names[fault->op], fault->nth,
			   fault->err, fault->text[0] ? " " : "", fault->text);
	mutex_unlock(&faults->lock);
}

/* Whether it is the firmware that does it. */
static bool simnic_op_needs_fw(enum simnic_op op)
{
	return op < SIMNIC_OP_OPEN && op != SIMNIC_OP_FN_PROBE;
}

/* Every fault of the operation counts the call; the first that is due answers it. */
int simnic_fail(struct simnic *nic, enum simnic_op op, struct netlink_ext_ack *extack)
{
	struct simnic_faults *faults = nic->faults;
	struct simnic_fault *fault, *next;
	int err = 0;

	if (simnic_op_needs_fw(op) && READ_ONCE(nic->fw_failed)) {
		NL_SET_ERR_MSG_MOD(extack, "firmware does not answer");
		return -EIO;
	}
	mutex_lock(&faults->lock);
	list_for_each_entry_safe(fault, next, &faults->list, list) {
		if (fault->op != op || --fault->nth)
			continue;
		if (!err) {
			err = -(int)fault->err;
			if (fault->text[0])
				NL_SET_ERR_MSG_FMT_MOD(extack, "%s", fault->text);
		}
		simnic_fault_del(faults, fault);
	}
	mutex_unlock(&faults->lock);
	return err;
}

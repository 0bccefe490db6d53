/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Failures that somebody asked for: the nth call of an operation from now on
 * fails, once, with the errno and, where the operation has one, the extack text.
 */
#ifndef SIMNIC_FAIL_H
#define SIMNIC_FAIL_H

#include <linux/types.h>

struct netlink_ext_ack;
struct seq_file;
struct simnic;
struct simnic_faults;

/* What may be made to fail; fail.c has the names. */
enum simnic_op {
	SIMNIC_OP_ESWITCH_MODE_SET,
	SIMNIC_OP_INLINE_MODE_SET,
	SIMNIC_OP_ENCAP_MODE_SET,
	SIMNIC_OP_SRIOV,
	SIMNIC_OP_FN_PROBE,
	SIMNIC_OP_PORT_NEW,
	SIMNIC_OP_PORT_DEL,
	SIMNIC_OP_HW_ADDR_SET,
	SIMNIC_OP_FN_STATE_SET,
	SIMNIC_OP_VF_MAC,
	SIMNIC_OP_VF_RATE,
	SIMNIC_OP_VF_SPOOFCHK,
	SIMNIC_OP_VF_LINK_STATE,
	SIMNIC_OP_VF_TRUST,
	SIMNIC_OP_CONN_INSTALL,
	SIMNIC_OP_SA_ADD,
	SIMNIC_OP_OPEN,
	SIMNIC_OP_SET_MAC,
	SIMNIC_OP_SET_MTU,
	SIMNIC_OP_SET_FEATURES,
	SIMNIC_OP_RELOAD_DOWN,
	SIMNIC_OP_RELOAD_UP,
	SIMNIC_OP_HEALTH_RECOVER,
	SIMNIC_OPS,
};

struct simnic_faults *simnic_faults_create(void);
void simnic_faults_destroy(struct simnic_faults *faults);
void simnic_faults_clear(struct simnic_faults *faults);
int simnic_faults_add(struct simnic_faults *faults, const char *line);
void simnic_faults_show(struct simnic_faults *faults, struct seq_file *seq);

/* What the operation is to answer: 0 to go on. Sleeps; may be called under rtnl. */
int simnic_fail(struct simnic *nic, enum simnic_op op, struct netlink_ext_ack *extack);

#endif /* SIMNIC_FAIL_H */

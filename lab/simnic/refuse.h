/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Refusals that somebody asked for: shapes of rules that the NIC is to turn
 * down, each with the sentence that the driver gives for it.
 */
#ifndef SIMNIC_REFUSE_H
#define SIMNIC_REFUSE_H

#include <linux/list.h>
#include <linux/mutex.h>

#include "action.h"
#include "key.h"

struct seq_file;

#define SIMNIC_REFUSALS_MAX	32
#define SIMNIC_REFUSE_TEXT	64	/* NETLINK_MAX_FMTMSG_LEN less the module's name */

struct simnic_refusals {
	struct mutex lock;	/* of the list */
	struct list_head list;
	unsigned int count;
};

void simnic_refuse_init(struct simnic_refusals *refuse);
void simnic_refuse_clear(struct simnic_refusals *refuse);
int simnic_refuse_add(struct simnic_refusals *refuse, const char *line);
void simnic_refuse_show(struct simnic_refusals *refuse, struct seq_file *seq);
int simnic_refuse_check(struct simnic_refusals *refuse, const struct simnic_key *mask,
			const struct simnic_action *actions, unsigned int count,
			struct netlink_ext_ack *extack);

#endif /* SIMNIC_REFUSE_H */

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The switch's pipeline: from lookup to verdict.
 */
#ifndef SIMNIC_PIPELINE_H
#define SIMNIC_PIPELINE_H

#include <linux/skbuff.h>

struct net_device;
struct simnic_action;
struct simnic_conn_meta;
struct simnic_port;

/* What came into the switch, as frames on the wire. */
struct simnic_size {
	u64 packets;
	u64 bytes;
};

/* pipeline.c */
struct sk_buff *simnic_pipeline(struct simnic_port *port, struct sk_buff *skb,
				struct simnic_size *size);

/* resume.c */
int simnic_resume_at(struct sk_buff *skb, const struct simnic_conn_meta *meta, u32 chain,
		     u64 cookie);

/* edit.c: the packet is as a netdev's ingress sees it */
int simnic_edit(struct sk_buff *skb, const struct simnic_action *action);

#endif /* SIMNIC_PIPELINE_H */

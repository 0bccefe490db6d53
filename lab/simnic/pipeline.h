/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The switch's pipeline: from lookup to verdict.
 */
#ifndef SIMNIC_PIPELINE_H
#define SIMNIC_PIPELINE_H

#include <linux/skbuff.h>

struct net_device;
struct simnic_action;
struct simnic_port;

/* pipeline.c */
struct sk_buff *simnic_pipeline(struct simnic_port *port, struct sk_buff *skb);

/* forward.c */
void simnic_slow_path(struct simnic_port *port, struct net_device *host, struct sk_buff *skb,
		      bool in_poll);

/* edit.c: the packet is as a netdev's ingress sees it */
int simnic_edit(struct sk_buff *skb, const struct simnic_action *action);

#endif /* SIMNIC_PIPELINE_H */

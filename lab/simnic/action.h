/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a rule does with a packet, checked when the rule is installed so that
 * the datapath has nothing left to refuse.
 */
#ifndef SIMNIC_ACTION_H
#define SIMNIC_ACTION_H

#include <net/flow_offload.h>

#include "key.h"

struct simnic;
struct simnic_encap;
struct simnic_port;
struct simnic_zone;

enum simnic_action_kind {
	SIMNIC_ACT_REDIRECT,
	SIMNIC_ACT_MIRROR,
	SIMNIC_ACT_DROP,
	SIMNIC_ACT_ACCEPT,
	SIMNIC_ACT_TRAP,
	SIMNIC_ACT_GOTO,
	SIMNIC_ACT_VLAN_PUSH,
	SIMNIC_ACT_VLAN_POP,
	SIMNIC_ACT_VLAN_MANGLE,
	SIMNIC_ACT_MANGLE,
	SIMNIC_ACT_ADD,
	SIMNIC_ACT_CSUM,
	SIMNIC_ACT_TUNNEL_SET,
	SIMNIC_ACT_TUNNEL_UNSET,
	SIMNIC_ACT_CT,
	SIMNIC_ACT_CT_CLEAR,
	SIMNIC_ACT_KINDS,
};

struct simnic_action {
	enum simnic_action_kind kind;
	union {
		struct {
			struct simnic_port *port;
			struct simnic_encap *encap;	/* NULL: as it is */
		} out;				/* redirect, mirror */
		u32 chain;			/* goto */
		struct {
			__be16 proto;
			u16 tci;
		} vlan;
		struct {
			enum flow_action_mangle_base htype;
			u32 offset;
			u32 mask;		/* bits to keep */
			u32 val;
		} mangle;			/* mangle, add */
		u32 csum_flags;			/* TCA_CSUM_UPDATE_FLAG_* */
		struct {
			struct simnic_zone *zone;
			u16 flags;		/* TCA_CT_ACT_* */
			u64 miss_cookie;	/* TC's name of the action */
		} ct;
	};
};

/* What a rule's match promises about its packets. */
struct simnic_shape {
	__be16 n_proto;		/* 0: any */
	u8 ip_proto;		/* 0: any */
	bool two_vlans;
	bool vlan_prio_zero;	/* tagged, with priority 0 */
};

const char *simnic_action_name(enum simnic_action_kind kind);
int simnic_actions_parse(struct simnic *nic, const struct flow_rule *flow,
			 const struct simnic_shape *shape, struct simnic_action *actions,
			 struct netlink_ext_ack *extack);
void simnic_actions_release(struct simnic_action *actions, unsigned int count);
bool simnic_actions_may_undo(const struct simnic_action *actions, unsigned int count);

#endif /* SIMNIC_ACTION_H */

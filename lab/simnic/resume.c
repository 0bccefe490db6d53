// SPDX-License-Identifier: GPL-2.0
/*
 * Where software goes on with a packet that hardware began with: at the chain
 * that has no rule for it, or at the ct action that knows no connection of it.
 * With the packet comes the connection that it was found to be of.
 */
#include <net/pkt_cls.h>
#include <net/tc_act/tc_ct.h>

#include "compat.h"
#include "ct.h"
#include "pipeline.h"

/*
 * As the host's netdev is to receive it. Under the RCU lock that @meta was found
 * under, for that is what keeps the kernel's connection. @cookie, if not 0, is
 * the action's, and says what chain it is in.
 */
int simnic_resume_at(struct sk_buff *skb, const struct simnic_conn_meta *meta, u32 chain,
		     u64 cookie)
{
#if SIMNIC_RESTORES
	struct tc_skb_ext *ext = tc_skb_ext_alloc(skb);

	if (!ext)
		return -ENOMEM;
	if (cookie) {
		ext->act_miss_cookie = cookie;
		ext->act_miss = 1;
	} else {
		ext->chain = chain;
	}
	if (meta) {
		ext->post_ct = 1;
		ext->zone = meta->key.ct_zone;
		tcf_ct_flow_table_restore_skb(skb, meta->ct);
	}
	return 0;
#else
	return -EOPNOTSUPP;
#endif
}

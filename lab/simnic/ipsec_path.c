// SPDX-License-Identifier: GPL-2.0
/*
 * Tunnels that IPsec protects. What rules send into one leaves the NIC encrypted
 * by the NIC itself, or is the host's; and what the host's policies take only if
 * it came encrypted, rules do not take out of a tunnel when it came otherwise.
 */
#include <net/dst.h>
#include <net/xfrm.h>

#include "ipsec.h"
#include "simnic.h"

/*
 * Of the route that outer packets take, as the host's policies have it: 0, nobody
 * encrypts them; 1, the NIC does, in mode packet. Else an error: the host does.
 */
int simnic_ipsec_path(const struct dst_entry *dst, struct netlink_ext_ack *extack)
{
	const struct xfrm_state *x = dst_xfrm(dst);

	if (!x && !(dst->flags & DST_XFRM_QUEUE))
		return 0;
	if (!x || x->xso.type != XFRM_DEV_OFFLOAD_PACKET ||
	    x->xso.real_dev != READ_ONCE(dst->dev) || dst_xfrm(xfrm_dst_child(dst))) {
		NL_SET_ERR_MSG_MOD(extack,
				   "IPsec of the tunnel is not in mode packet at the uplink");
		return -EOPNOTSUPP;
	}
	return 1;
}

/* Whether a route that does not stand any more may be one to be encrypted by now. */
bool simnic_ipsec_has_policies(const struct net *net)
{
	return READ_ONCE(net->xfrm.policy_count[XFRM_POLICY_OUT]);
}

/*
 * From the wire, for a tunnel, data at the outer IP header: whether the host
 * would take it. What the host itself drops is counted as it would count it.
 */
bool simnic_ipsec_takes(struct simnic_ipsec *ipsec, struct sk_buff *skb)
{
	u16 family = skb->protocol == htons(ETH_P_IP) ? AF_INET : AF_INET6;

	if (xfrm_policy_check(NULL, XFRM_POLICY_IN, skb, family))
		return true;
	simnic_ipsec_count(ipsec, SIMNIC_IPSEC_RX_DROP_POLICY);
	return false;
}

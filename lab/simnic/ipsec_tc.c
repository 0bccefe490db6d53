// SPDX-License-Identifier: GPL-2.0
/*
 * Mode packet and rules of TC on the uplink itself exclude each other, as with
 * mlx5: the host has rules before IPsec on the way in and behind it on the way
 * out, hardware the other way round. Rules of representors and of tunnel devices
 * are not meant.
 */
#include "ipsec.h"
#include "simnic.h"

/* An SA or a policy of mode packet comes. */
int simnic_ipsec_packet_get(struct simnic_ipsec *ipsec, struct netlink_ext_ack *extack)
{
	lockdep_assert_held(&ipsec->lock);
	if (ipsec->tc_rules) {
		NL_SET_ERR_MSG_FMT_MOD(extack,
				       "TC has rules on the uplink (%u), which mode packet excludes",
				       ipsec->tc_rules);
		return -EBUSY;
	}
	ipsec->npacket++;
	return 0;
}

void simnic_ipsec_packet_put(struct simnic_ipsec *ipsec)
{
	lockdep_assert_held(&ipsec->lock);
	ipsec->npacket--;
}

static bool simnic_ipsec_minds(const struct simnic_port *port, const struct simnic_tunnel *tunnel)
{
	return simnic_port_is_uplink(port) && !tunnel;
}

/* A rule of @port, or of @tunnel, comes. */
int simnic_ipsec_tc_get(const struct simnic_port *port, const struct simnic_tunnel *tunnel,
			struct netlink_ext_ack *extack)
{
	struct simnic_ipsec *ipsec = port->nic->ipsec;
	int err = 0;

	if (!simnic_ipsec_minds(port, tunnel))
		return 0;
	spin_lock_bh(&ipsec->lock);
	if (ipsec->npacket) {
		NL_SET_ERR_MSG_MOD(extack,
				   "the uplink has IPsec in mode packet, which excludes rules on it");
		err = -EBUSY;
	} else {
		ipsec->tc_rules++;
	}
	spin_unlock_bh(&ipsec->lock);
	return err;
}

void simnic_ipsec_tc_put(const struct simnic_port *port, const struct simnic_tunnel *tunnel)
{
	struct simnic_ipsec *ipsec = port->nic->ipsec;

	if (!simnic_ipsec_minds(port, tunnel))
		return;
	spin_lock_bh(&ipsec->lock);
	ipsec->tc_rules--;
	spin_unlock_bh(&ipsec->lock);
}

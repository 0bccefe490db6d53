// SPDX-License-Identifier: GPL-2.0
/*
 * Matching: from a flower rule to key and mask, from a packet to a key. The
 * kernel's own flow dissector does the latter, with the flags that cls_flower
 * gives it, so that hardware and software see the same packet.
 */
#include <linux/if_vlan.h>
#include <linux/netdevice.h>
#include <net/flow_dissector.h>

#include "key.h"

#define KIND(_id, _field, _type, _name) {				\
	.id = FLOW_DISSECTOR_KEY_##_id,					\
	.offset = offsetof(struct simnic_key, _field),			\
	.size = sizeof(struct flow_dissector_key_##_type),		\
	.name = (_name),						\
}

const struct simnic_key_kind simnic_key_kinds[] = {
	KIND(CONTROL, control, control, "control"),
	KIND(BASIC, basic, basic, "basic"),
	KIND(META, meta, meta, "meta"),
	KIND(ETH_ADDRS, eth, eth_addrs, "eth"),
	KIND(VLAN, vlan, vlan, "vlan"),
	KIND(CVLAN, cvlan, vlan, "cvlan"),
	KIND(NUM_OF_VLANS, num_of_vlans, num_of_vlans, "num_of_vlans"),
	KIND(IPV4_ADDRS, ipv4, ipv4_addrs, "ipv4"),
	KIND(IPV6_ADDRS, ipv6, ipv6_addrs, "ipv6"),
	KIND(IP, ip, ip, "ip"),
	KIND(PORTS, ports, ports, "ports"),
	KIND(TCP, tcp, tcp, "tcp_flags"),
	KIND(ICMP, icmp, icmp, "icmp"),
	KIND(ARP, arp, arp, "arp"),
	KIND(MPLS, mpls, mpls, "mpls"),
};

const unsigned int simnic_key_kinds_count = ARRAY_SIZE(simnic_key_kinds);

static struct flow_dissector simnic_dissector;

void simnic_key_init(void)
{
	struct flow_dissector_key keys[ARRAY_SIZE(simnic_key_kinds)];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(simnic_key_kinds); i++) {
		keys[i].key_id = simnic_key_kinds[i].id;
		keys[i].offset = simnic_key_kinds[i].offset;
	}
	skb_flow_dissector_init(&simnic_dissector, keys, ARRAY_SIZE(keys));
}

/* The packet is as a netdev's ingress sees it; skb->dev is that netdev. */
void simnic_key_dissect(const struct sk_buff *skb, struct simnic_key *key)
{
	memset(key, 0, sizeof(*key));
	/* As cls_flower: the dissector leaves it alone for unknown protocols. */
	key->basic.n_proto = skb_protocol(skb, false);
	key->meta.ingress_ifindex = skb->dev->ifindex;
	key->meta.ingress_iftype = skb->dev->type;
	skb_flow_dissect(skb, &simnic_dissector, key, FLOW_DISSECTOR_F_STOP_BEFORE_ENCAP);
	/* Nobody can match on it, and it is not the packet's. */
	key->control.thoff = 0;
}

bool simnic_key_uses(const struct simnic_key *mask, const struct simnic_key_kind *kind)
{
	return memchr_inv((const u8 *)mask + kind->offset, 0, kind->size);
}

static const struct simnic_key_kind *simnic_key_kind_of(enum flow_dissector_key_id id)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(simnic_key_kinds); i++)
		if (simnic_key_kinds[i].id == id)
			return &simnic_key_kinds[i];
	return NULL;
}

static int simnic_key_unsupported(enum flow_dissector_key_id id, struct netlink_ext_ack *extack)
{
	switch (id) {
	case FLOW_DISSECTOR_KEY_CT:
		NL_SET_ERR_MSG_MOD(extack, "match on conntrack state is not supported");
		break;
	case FLOW_DISSECTOR_KEY_ENC_KEYID:
	case FLOW_DISSECTOR_KEY_ENC_IPV4_ADDRS:
	case FLOW_DISSECTOR_KEY_ENC_IPV6_ADDRS:
	case FLOW_DISSECTOR_KEY_ENC_CONTROL:
	case FLOW_DISSECTOR_KEY_ENC_PORTS:
	case FLOW_DISSECTOR_KEY_ENC_IP:
	case FLOW_DISSECTOR_KEY_ENC_OPTS:
		NL_SET_ERR_MSG_MOD(extack, "match on tunnel is not supported");
		break;
	case FLOW_DISSECTOR_KEY_PORTS_RANGE:
		NL_SET_ERR_MSG_MOD(extack, "match on port ranges is not supported");
		break;
	default:
		NL_SET_ERR_MSG_FMT_MOD(extack, "match on dissector key %u is not supported", id);
		break;
	}
	return -EOPNOTSUPP;
}

static int simnic_key_check(const struct simnic_key *mask, struct netlink_ext_ack *extack)
{
	if (!flow_rule_is_supp_control_flags(FLOW_DIS_IS_FRAGMENT | FLOW_DIS_FIRST_FRAG,
					     mask->control.flags, extack))
		return -EOPNOTSUPP;
	if (mask->control.thoff) {
		NL_SET_ERR_MSG_MOD(extack, "match on transport offset is not supported");
		return -EOPNOTSUPP;
	}
	if (mask->meta.l2_miss) {
		NL_SET_ERR_MSG_MOD(extack, "match on L2 miss is not supported");
		return -EOPNOTSUPP;
	}
	if (memchr_inv(&mask->mpls.ls[1], 0, sizeof(mask->mpls.ls) - sizeof(mask->mpls.ls[0]))) {
		NL_SET_ERR_MSG_MOD(extack, "match on more than one MPLS label is not supported");
		return -EOPNOTSUPP;
	}
	return 0;
}

/*
 * cls_flower keeps both families' addresses in one place and declares both keys
 * when either is matched. The control key, which comes first, tells which it is.
 */
static bool simnic_key_is_other_family(const struct simnic_key *key, enum flow_dissector_key_id id)
{
	if (id != FLOW_DISSECTOR_KEY_IPV4_ADDRS && id != FLOW_DISSECTOR_KEY_IPV6_ADDRS)
		return false;
	return key->control.addr_type != id;
}

int simnic_key_parse(const struct flow_rule *flow, struct simnic_key *key,
		     struct simnic_key *mask, struct netlink_ext_ack *extack)
{
	struct flow_dissector *dissector = flow->match.dissector;
	u64 *k = (u64 *)key, *m = (u64 *)mask;
	const struct simnic_key_kind *kind;
	unsigned int i;

	BUILD_BUG_ON(FLOW_DISSECTOR_KEY_CONTROL != 0);
	memset(key, 0, sizeof(*key));
	memset(mask, 0, sizeof(*mask));
	for (i = 0; i < FLOW_DISSECTOR_KEY_MAX; i++) {
		if (!dissector_uses_key(dissector, i) || simnic_key_is_other_family(key, i))
			continue;
		kind = simnic_key_kind_of(i);
		if (!kind)
			return simnic_key_unsupported(i, extack);
		memcpy((u8 *)key + kind->offset,
		       skb_flow_dissector_target(dissector, i, flow->match.key), kind->size);
		memcpy((u8 *)mask + kind->offset,
		       skb_flow_dissector_target(dissector, i, flow->match.mask), kind->size);
	}
	/* Bookkeeping of the dissector; the label's mask says what is asked. */
	mask->mpls.used_lses = 0;
	for (i = 0; i < SIMNIC_KEY_WORDS; i++)
		k[i] &= m[i];
	return simnic_key_check(mask, extack);
}

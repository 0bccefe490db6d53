// SPDX-License-Identifier: GPL-2.0
/*
 * Matching: from a flower rule to key and mask, from a packet to a key. The
 * kernel's own flow dissector does the latter, with the flags that cls_flower
 * gives it, so that hardware and software see the same packet.
 */
#include <linux/if_vlan.h>
#include <linux/netdevice.h>
#include <net/flow_dissector.h>
#include <net/pkt_cls.h>

#include "compat.h"
#include "key.h"

#define SIMNIC_CT_STATES	(TCA_FLOWER_KEY_CT_FLAGS_NEW | \
				 TCA_FLOWER_KEY_CT_FLAGS_ESTABLISHED | \
				 TCA_FLOWER_KEY_CT_FLAGS_RELATED | \
				 TCA_FLOWER_KEY_CT_FLAGS_TRACKED | \
				 TCA_FLOWER_KEY_CT_FLAGS_INVALID | \
				 TCA_FLOWER_KEY_CT_FLAGS_REPLY)

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
	KIND(CT, ct, ct, "ct"),
	KIND(ENC_KEYID, enc_keyid, keyid, "enc_keyid"),
	KIND(ENC_CONTROL, enc_control, control, "enc_control"),
	KIND(ENC_IPV4_ADDRS, enc_ipv4, ipv4_addrs, "enc_ipv4"),
	KIND(ENC_IPV6_ADDRS, enc_ipv6, ipv6_addrs, "enc_ipv6"),
	KIND(ENC_PORTS, enc_ports, ports, "enc_ports"),
	KIND(ENC_IP, enc_ip, ip, "enc_ip"),
	KIND(ENC_OPTS, enc_opts, enc_opts, "enc_opts"),
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

/*
 * The packet is as a netdev's ingress sees it; skb->dev is that netdev. What
 * came out of a tunnel has its outer header as metadata, as in the host.
 */
void simnic_key_dissect(const struct sk_buff *skb, struct simnic_key *key)
{
	memset(key, 0, sizeof(*key));
	/* As cls_flower: the dissector leaves it alone for unknown protocols. */
	key->basic.n_proto = skb_protocol(skb, false);
	key->meta.ingress_ifindex = skb->dev->ifindex;
	key->meta.ingress_iftype = skb->dev->type;
	if (skb_dst(skb))
		skb_flow_dissect_tunnel_info(skb, &simnic_dissector, key);
	skb_flow_dissect(skb, &simnic_dissector, key, FLOW_DISSECTOR_F_STOP_BEFORE_ENCAP);
	/* Nobody can match on it, and it is not the packet's. */
	key->control.thoff = 0;
}

bool simnic_key_uses(const struct simnic_key *mask, const struct simnic_key_kind *kind)
{
	return memchr_inv((const u8 *)mask + kind->offset, 0, kind->size);
}

/* Whether anything of the outer header is matched. */
bool simnic_key_has_tunnel(const struct simnic_key *mask)
{
	const size_t from = offsetof(struct simnic_key, enc_keyid);

	return memchr_inv((const u8 *)mask + from, 0, sizeof(*mask) - from);
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
	case FLOW_DISSECTOR_KEY_PORTS_RANGE:
		NL_SET_ERR_MSG_MOD(extack, "match on port ranges is not supported");
		break;
	default:
		NL_SET_ERR_MSG_FMT_MOD(extack, "match on dissector key %u is not supported", id);
		break;
	}
	return -EOPNOTSUPP;
}

/* Connections that are related or invalid are never in hardware. */
static int simnic_key_check_ct(const struct simnic_key *key, const struct simnic_key *mask,
			       struct netlink_ext_ack *extack)
{
	if (!memchr_inv(&mask->ct, 0, sizeof(mask->ct)))
		return 0;
	if (!SIMNIC_RESTORES)
		NL_SET_ERR_MSG_MOD(extack, "conntrack needs a kernel with CONFIG_NET_TC_SKB_EXT");
	else if (mask->ct.ct_state & ~SIMNIC_CT_STATES)
		NL_SET_ERR_MSG_MOD(extack, "match on such a ct_state is not supported");
	else if (key->ct.ct_state & TCA_FLOWER_KEY_CT_FLAGS_RELATED)
		NL_SET_ERR_MSG_MOD(extack, "match on ct_state +rel is not supported");
	else if (key->ct.ct_state & TCA_FLOWER_KEY_CT_FLAGS_INVALID)
		NL_SET_ERR_MSG_MOD(extack, "match on ct_state +inv is not supported");
	else
		return 0;
	return -EOPNOTSUPP;
}

static int simnic_key_check(const struct simnic_key *mask, struct netlink_ext_ack *extack)
{
	if (!flow_rule_is_supp_control_flags(FLOW_DIS_IS_FRAGMENT | FLOW_DIS_FIRST_FRAG,
					     mask->control.flags, extack))
		return -EOPNOTSUPP;
	if (!flow_rule_is_supp_enc_control_flags(FLOW_DIS_F_TUNNEL_CSUM |
						 FLOW_DIS_F_TUNNEL_DONT_FRAGMENT |
						 FLOW_DIS_F_TUNNEL_OAM |
						 FLOW_DIS_F_TUNNEL_CRIT_OPT,
						 mask->enc_control.flags, extack))
		return -EOPNOTSUPP;
	if (mask->control.thoff || mask->enc_control.thoff) {
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
 * when either is matched. The control key tells which it is.
 */
static bool simnic_key_is_other_family(const struct flow_rule *flow, enum flow_dissector_key_id id)
{
	struct flow_dissector *dissector = flow->match.dissector;
	enum flow_dissector_key_id control_id, family;
	const struct flow_dissector_key_control *control;

	switch (id) {
	case FLOW_DISSECTOR_KEY_IPV4_ADDRS:
	case FLOW_DISSECTOR_KEY_IPV6_ADDRS:
		control_id = FLOW_DISSECTOR_KEY_CONTROL;
		family = id;
		break;
	case FLOW_DISSECTOR_KEY_ENC_IPV4_ADDRS:
		control_id = FLOW_DISSECTOR_KEY_ENC_CONTROL;
		family = FLOW_DISSECTOR_KEY_IPV4_ADDRS;
		break;
	case FLOW_DISSECTOR_KEY_ENC_IPV6_ADDRS:
		control_id = FLOW_DISSECTOR_KEY_ENC_CONTROL;
		family = FLOW_DISSECTOR_KEY_IPV6_ADDRS;
		break;
	default:
		return false;
	}
	if (!dissector_uses_key(dissector, control_id))
		return true;
	control = skb_flow_dissector_target(dissector, control_id, flow->match.key);
	return control->addr_type != family;
}

int simnic_key_parse(const struct flow_rule *flow, struct simnic_key *key,
		     struct simnic_key *mask, struct netlink_ext_ack *extack)
{
	struct flow_dissector *dissector = flow->match.dissector;
	u64 *k = (u64 *)key, *m = (u64 *)mask;
	const struct simnic_key_kind *kind;
	unsigned int i;

	memset(key, 0, sizeof(*key));
	memset(mask, 0, sizeof(*mask));
	for (i = 0; i < FLOW_DISSECTOR_KEY_MAX; i++) {
		if (!dissector_uses_key(dissector, i) || simnic_key_is_other_family(flow, i))
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
	return simnic_key_check_ct(key, mask, extack) ?: simnic_key_check(mask, extack);
}

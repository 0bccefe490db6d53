/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a rule can match on: one flat structure that the flow dissector fills
 * from a packet and that rules give a value and a mask for.
 */
#ifndef SIMNIC_KEY_H
#define SIMNIC_KEY_H

#include <linux/skbuff.h>
#include <net/flow_dissector.h>
#include <net/flow_offload.h>

struct simnic;

struct simnic_key {
	struct flow_dissector_key_control control;
	struct flow_dissector_key_basic basic;
	struct flow_dissector_key_meta meta;
	struct flow_dissector_key_eth_addrs eth;
	struct flow_dissector_key_vlan vlan;
	struct flow_dissector_key_vlan cvlan;
	struct flow_dissector_key_num_of_vlans num_of_vlans;
	struct flow_dissector_key_ipv4_addrs ipv4;
	struct flow_dissector_key_ipv6_addrs ipv6;
	struct flow_dissector_key_ip ip;
	struct flow_dissector_key_ports ports;
	struct flow_dissector_key_tcp tcp;
	struct flow_dissector_key_icmp icmp;
	struct flow_dissector_key_arp arp;
	struct flow_dissector_key_mpls mpls;
	struct flow_dissector_key_ct ct;
	/* The outer header, of packets that came out of a tunnel. */
	struct flow_dissector_key_keyid enc_keyid;
	struct flow_dissector_key_control enc_control;
	struct flow_dissector_key_ipv4_addrs enc_ipv4;
	struct flow_dissector_key_ipv6_addrs enc_ipv6;
	struct flow_dissector_key_ports enc_ports;
	struct flow_dissector_key_ip enc_ip;
	struct flow_dissector_key_enc_opts enc_opts;
} __aligned(sizeof(u64));

#define SIMNIC_KEY_WORDS	(sizeof(struct simnic_key) / sizeof(u64))

/* A kind of match, by the name that refusals and the rule dump use. */
struct simnic_key_kind {
	enum flow_dissector_key_id id;
	unsigned int offset;	/* in struct simnic_key */
	unsigned int size;
	const char *name;
};

extern const struct simnic_key_kind simnic_key_kinds[];
extern const unsigned int simnic_key_kinds_count;

void simnic_key_init(void);
void simnic_key_dissect(const struct sk_buff *skb, struct simnic_key *key);
bool simnic_key_has_tunnel(const struct simnic_key *mask);
int simnic_key_parse(const struct flow_rule *flow, struct simnic_key *key,
		     struct simnic_key *mask, struct netlink_ext_ack *extack);
bool simnic_key_uses(const struct simnic_key *mask, const struct simnic_key_kind *kind);

#endif /* SIMNIC_KEY_H */

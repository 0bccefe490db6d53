// SPDX-License-Identifier: GPL-2.0
/*
 * Tunnel devices: which ones the NIC can work for, and TC's way in for filters
 * on them. The NIC is told of their blocks although they are not its netdevs
 * (flow_indr_dev_register()); each NIC gets each rule and refuses what it cannot
 * do, as a rule that outputs to another NIC's port.
 */
#include <linux/if_link.h>
#include <linux/if_tunnel.h>
#include <net/geneve.h>
#include <net/gre.h>
#include <net/pkt_cls.h>
#include <net/rtnetlink.h>
#include <net/vxlan.h>

#include "compat.h"
#include "key.h"
#include "simnic.h"
#include "table.h"
#include "tunnel.h"

#define SIMNIC_CONF_ROOM	2048	/* what a tunnel says of itself, at most */

bool simnic_tunnel_kind_of(const struct net_device *dev, enum simnic_tunnel_kind *kind)
{
	if (netif_is_vxlan(dev))
		*kind = SIMNIC_VXLAN;
	else if (netif_is_geneve(dev))
		*kind = SIMNIC_GENEVE;
	else if (netif_is_gretap(dev))
		*kind = SIMNIC_GRE;
	else if (netif_is_ip6gretap(dev))
		*kind = SIMNIC_GRE6;
	else
		return false;
	return true;
}

/* One attribute of what the tunnel tells rtnetlink of its settings. */
static const struct nlattr *simnic_conf_attr(const struct sk_buff *said, int type, int len)
{
	const struct nlattr *attr = nla_find((const struct nlattr *)said->data, said->len, type);

	return attr && nla_len(attr) >= len ? attr : NULL;
}

static bool simnic_conf_is_set(const struct sk_buff *said, int type)
{
	const struct nlattr *attr = simnic_conf_attr(said, type, 1);

	return attr && nla_get_u8(attr);
}

static void simnic_conf_port_range(const struct sk_buff *said, int type,
				   struct simnic_tunnel_conf *conf)
{
	const struct ifla_vxlan_port_range *range;
	const struct nlattr *attr;

	attr = simnic_conf_attr(said, type, sizeof(*range));
	if (!attr)
		return;
	range = nla_data(attr);
	conf->port_min = ntohs(range->low);
	conf->port_max = ntohs(range->high);
}

static const char *simnic_conf_vxlan(const struct sk_buff *said, struct simnic_tunnel_conf *conf)
{
	const struct nlattr *port = simnic_conf_attr(said, IFLA_VXLAN_PORT, sizeof(__be16));

	if (!simnic_conf_is_set(said, IFLA_VXLAN_COLLECT_METADATA))
		return "tunnel device is not in external mode";
	if (simnic_conf_attr(said, IFLA_VXLAN_GPE, 0) ||
	    simnic_conf_is_set(said, IFLA_VXLAN_REMCSUM_TX) ||
	    simnic_conf_is_set(said, IFLA_VXLAN_REMCSUM_RX) ||
	    simnic_conf_is_set(said, IFLA_VXLAN_VNIFILTER))
		return "VXLAN with GPE, remote checksum or VNI filter is not supported";
	conf->port = port ? nla_get_be16(port) : 0;
	conf->gbp = simnic_conf_attr(said, IFLA_VXLAN_GBP, 0);
	conf->zero_csum6_rx = simnic_conf_is_set(said, IFLA_VXLAN_UDP_ZERO_CSUM6_RX);
	simnic_conf_port_range(said, IFLA_VXLAN_PORT_RANGE, conf);
	return NULL;
}

static const char *simnic_conf_geneve(const struct sk_buff *said, struct simnic_tunnel_conf *conf)
{
	const struct nlattr *port = simnic_conf_attr(said, IFLA_GENEVE_PORT, sizeof(__be16));

	if (!simnic_conf_attr(said, IFLA_GENEVE_COLLECT_METADATA, 0))
		return "tunnel device is not in external mode";
	if (simnic_conf_attr(said, IFLA_GENEVE_INNER_PROTO_INHERIT, 0))
		return "Geneve without inner Ethernet is not supported";
	conf->port = port ? nla_get_be16(port) : 0;
	conf->zero_csum6_rx = simnic_conf_is_set(said, IFLA_GENEVE_UDP_ZERO_CSUM6_RX);
	conf->port_min = 1;
	conf->port_max = U16_MAX;
	simnic_conf_port_range(said, SIMNIC_IFLA_GENEVE_PORT_RANGE, conf);
	return NULL;
}

static const char *simnic_conf_gre(const struct sk_buff *said)
{
	const struct nlattr *in = simnic_conf_attr(said, IFLA_GRE_IFLAGS, sizeof(__be16));
	const struct nlattr *encap = simnic_conf_attr(said, IFLA_GRE_ENCAP_TYPE, sizeof(u16));

	if (!simnic_conf_attr(said, IFLA_GRE_COLLECT_METADATA, 0))
		return "tunnel device is not in external mode";
	if (encap && nla_get_u16(encap) != TUNNEL_ENCAP_NONE)
		return "GRE inside UDP is not supported";
	if (in && (nla_get_be16(in) & (GRE_CSUM | GRE_SEQ)))
		return "GRE device that wants checksums or sequence numbers is not supported";
	return NULL;
}

static const char *simnic_conf_parse(const struct sk_buff *said, struct simnic_tunnel_conf *conf)
{
	switch (conf->kind) {
	case SIMNIC_VXLAN:
		return simnic_conf_vxlan(said, conf);
	case SIMNIC_GENEVE:
		return simnic_conf_geneve(said, conf);
	default:
		return simnic_conf_gre(said);
	}
}

/*
 * Asks the tunnel device for its settings, of which some are known to its own
 * driver and to rtnetlink only. Returns why the NIC cannot work for it, or NULL.
 */
const char *simnic_tunnel_conf_read(const struct net_device *dev, struct simnic_tunnel_conf *conf)
{
	const struct rtnl_link_ops *ops = dev->rtnl_link_ops;
	const char *unsupported;
	struct sk_buff *said;

	memset(conf, 0, sizeof(*conf));
	if (!simnic_tunnel_kind_of(dev, &conf->kind) || !ops->fill_info)
		return "output device is neither VXLAN nor Geneve nor GRE";
	conf->net = ops->get_link_net ? ops->get_link_net(dev) : dev_net(dev);
	said = alloc_skb(SIMNIC_CONF_ROOM, GFP_KERNEL);
	if (!said)
		return "out of memory";
	if (ops->fill_info(said, dev))
		unsupported = "tunnel device does not tell its settings";
	else
		unsupported = simnic_conf_parse(said, conf);
	kfree_skb(said);
	return unsupported;
}

/* The eswitch may be set to have nothing to do with tunnels. */
bool simnic_tunnels_allowed(const struct simnic *nic, struct netlink_ext_ack *extack)
{
	if (READ_ONCE(nic->encap_mode) != DEVLINK_ESWITCH_ENCAP_MODE_NONE)
		return true;
	NL_SET_ERR_MSG_MOD(extack, "encap-mode of the eswitch is none");
	return false;
}

/* Whether the rule is for packets that the NIC can tell to be the tunnel's. */
int simnic_tunnel_check_match(const struct simnic_tunnel *tunnel, const struct simnic_key *key,
			      const struct simnic_key *mask, struct netlink_ext_ack *extack)
{
	const struct net_device *uplink;
	bool same_net = false;

	if (!tunnel) {
		if (!simnic_key_has_tunnel(mask))
			return 0;
		NL_SET_ERR_MSG_MOD(extack, "match on tunnel needs a filter on a tunnel device");
		return -EOPNOTSUPP;
	}
	if (!simnic_tunnels_allowed(tunnel->nic, extack))
		return -EOPNOTSUPP;
	if (tunnel->unsupported) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "%s", tunnel->unsupported);
		return -EOPNOTSUPP;
	}
	rcu_read_lock();
	uplink = rcu_dereference(simnic_uplink(tunnel->nic)->host);
	if (uplink)
		same_net = net_eq(dev_net(uplink), tunnel->conf.net);
	rcu_read_unlock();
	if (!same_net) {
		NL_SET_ERR_MSG_MOD(extack, "tunnel and uplink are in different namespaces");
		return -EOPNOTSUPP;
	}
	if (simnic_tunnel_is_udp(&tunnel->conf) &&
	    (mask->enc_ports.dst != htons(0xffff) || key->enc_ports.dst != tunnel->conf.port)) {
		NL_SET_ERR_MSG_MOD(extack, "match needs the UDP port that the tunnel receives on");
		return -EOPNOTSUPP;
	}
	return 0;
}

static int simnic_tunnel_block_cb(enum tc_setup_type type, void *type_data, void *cb_priv)
{
	struct simnic_tunnel *tunnel = cb_priv;
	struct simnic_port *uplink = simnic_uplink(tunnel->nic);
	struct flow_cls_offload *cls = type_data;

	if (type != TC_SETUP_CLSFLOWER)
		return -EOPNOTSUPP;
	switch (cls->command) {
	case FLOW_CLS_REPLACE:
		if (READ_ONCE(tunnel->nic->fw_failed)) {
			NL_SET_ERR_MSG_MOD(cls->common.extack, "firmware does not answer");
			return -EIO;
		}
		return simnic_table_install(uplink, tunnel, cls);
	case FLOW_CLS_DESTROY:
		return simnic_table_remove(uplink, tunnel, cls->cookie);
	case FLOW_CLS_STATS:
		return simnic_table_stats(uplink, tunnel, cls);
	default:
		return -EOPNOTSUPP;
	}
}

/* The block is gone, and TC has taken its rules out before. */
static void simnic_tunnel_release(void *cb_priv)
{
	struct simnic_tunnel *tunnel = cb_priv;

	list_del_rcu(&tunnel->list);
	kfree_rcu(tunnel, rcu);
}

static struct simnic_tunnel *simnic_tunnel_find(const struct simnic *nic,
						const struct net_device *dev)
{
	struct simnic_tunnel *tunnel;

	list_for_each_entry(tunnel, &nic->tunnels, list)
		if (tunnel->dev == dev)
			return tunnel;
	return NULL;
}

static int simnic_tunnel_bind(struct simnic *nic, struct net_device *dev, struct Qdisc *sch,
			      struct flow_block_offload *block, void *data,
			      void (*cleanup)(struct flow_block_cb *block_cb))
{
	struct simnic_tunnel *tunnel;
	struct flow_block_cb *cb;

	if (simnic_tunnel_find(nic, dev))
		return -EEXIST;
	tunnel = kzalloc(sizeof(*tunnel), GFP_KERNEL);
	if (!tunnel)
		return -ENOMEM;
	tunnel->nic = nic;
	tunnel->dev = dev;
	tunnel->unsupported = simnic_tunnel_conf_read(dev, &tunnel->conf);
	list_add_tail_rcu(&tunnel->list, &nic->tunnels);
	cb = flow_indr_block_cb_alloc(simnic_tunnel_block_cb, tunnel, tunnel,
				      simnic_tunnel_release, block, dev, sch, data, nic, cleanup);
	if (IS_ERR(cb)) {
		simnic_tunnel_release(tunnel);
		return PTR_ERR(cb);
	}
	flow_block_cb_add(cb, block);
	list_add_tail(&cb->driver_list, &nic->tunnel_cbs);
	return 0;
}

static int simnic_tunnel_unbind(struct simnic *nic, struct net_device *dev,
				struct flow_block_offload *block)
{
	struct simnic_tunnel *tunnel = simnic_tunnel_find(nic, dev);
	struct flow_block_cb *cb;

	if (!tunnel)
		return -ENOENT;
	cb = flow_block_cb_lookup(block->block, simnic_tunnel_block_cb, tunnel);
	if (!cb)
		return -ENOENT;
	flow_indr_block_cb_remove(cb, block);
	list_del(&cb->driver_list);
	return 0;
}

/* One at a time: flow_indr_block_lock is held. */
static int simnic_tunnel_setup(struct net_device *dev, struct Qdisc *sch, void *cb_priv,
			       enum tc_setup_type type, void *type_data, void *data,
			       void (*cleanup)(struct flow_block_cb *block_cb))
{
	struct flow_block_offload *block = type_data;
	struct simnic *nic = cb_priv;
	enum simnic_tunnel_kind kind;

	if (!dev || type != TC_SETUP_BLOCK || !simnic_tunnel_kind_of(dev, &kind))
		return -EOPNOTSUPP;
	if (block->binder_type != FLOW_BLOCK_BINDER_TYPE_CLSACT_INGRESS)
		return -EOPNOTSUPP;
	block->unlocked_driver_cb = true;	/* the table has its own locks */
	block->driver_block_list = &nic->tunnel_cbs;
	switch (block->command) {
	case FLOW_BLOCK_BIND:
		return simnic_tunnel_bind(nic, dev, sch, block, data, cleanup);
	case FLOW_BLOCK_UNBIND:
		return simnic_tunnel_unbind(nic, dev, block);
	default:
		return -EOPNOTSUPP;
	}
}

/* Without rtnl: TC takes it for each block when the NIC stops. */
int simnic_tunnels_start(struct simnic *nic)
{
	return flow_indr_dev_register(simnic_tunnel_setup, nic);
}

/* Does nothing for a NIC that has not started. */
void simnic_tunnels_stop(struct simnic *nic)
{
	flow_indr_dev_unregister(simnic_tunnel_setup, nic, simnic_tunnel_release);
}

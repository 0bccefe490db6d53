// SPDX-License-Identifier: GPL-2.0
/*
 * Into the tunnel: where the outer header leads. Route and neighbour are looked
 * up when a rule comes, and again when either changes: the neighbour tells
 * (netevent), the route is asked with each packet whether it still stands. A
 * packet or two may go the old way before the new one is known. While there is
 * none, or it leaves through another device, rules stay and their packets take
 * the slow path.
 */
#include <linux/hashtable.h>
#include <linux/if_vlan.h>
#include <linux/jhash.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <net/gso.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/netevent.h>
#include <net/route.h>

#include "encap.h"
#include "ipsec.h"
#include "lag.h"
#include "simnic.h"

#define SIMNIC_ENCAP_RETRY	(HZ / 10)	/* between lookups that packets ask for */
#define SIMNIC_ENCAP_BEAT	HZ		/* neighbours in use are told so */

static DEFINE_MUTEX(simnic_encap_lock);		/* of the list and what is on it */
static LIST_HEAD(simnic_encaps);		/* read under RCU by notifiers */
static DEFINE_HASHTABLE(simnic_encap_keys, 10);
static struct delayed_work simnic_encap_beat;
static struct work_struct simnic_encap_work;

static void simnic_path_free(struct rcu_head *head)
{
	struct simnic_path *path = container_of(head, struct simnic_path, rcu);

	if (path->neigh)
		neigh_release(path->neigh);
	dst_release(path->dst);
	kfree(path);
}

static void simnic_path_set(struct simnic_encap *encap, struct simnic_path *path)
{
	struct simnic_path *old;

	old = rcu_replace_pointer(encap->path, path, lockdep_is_held(&simnic_encap_lock));
	if (old)
		call_rcu(&old->rcu, simnic_path_free);
}

static u8 simnic_encap_proto(const struct simnic_encap *encap)
{
	return simnic_tunnel_is_udp(&encap->conf) ? IPPROTO_UDP : IPPROTO_GRE;
}

static struct dst_entry *simnic_route4(const struct simnic_encap *encap, struct simnic_path *path)
{
	const struct ip_tunnel_key *key = &encap->info->key;
	struct flowi4 fl4 = { };
	struct rtable *rt;

	flowi4_init_output(&fl4, 0, 0, key->tos & INET_DSCP_MASK, RT_SCOPE_UNIVERSE,
			   simnic_encap_proto(encap), key->flow_flags, key->u.ipv4.dst,
			   key->u.ipv4.src, key->tp_dst, 0, GLOBAL_ROOT_UID);
	rt = ip_route_output_key(encap->conf.net, &fl4);
	if (IS_ERR(rt))
		return ERR_CAST(rt);
	path->saddr = fl4.saddr;
	return &rt->dst;
}

static struct dst_entry *simnic_route6(const struct simnic_encap *encap, struct simnic_path *path)
{
	const struct ip_tunnel_key *key = &encap->info->key;
	struct flowi6 fl6 = {
		.flowi6_proto = simnic_encap_proto(encap),
		.daddr = key->u.ipv6.dst,
		.saddr = key->u.ipv6.src,
		.fl6_dport = key->tp_dst,
		.flowlabel = ip6_make_flowinfo(key->tos, key->label),
	};
	struct dst_entry *dst;

	/* ip6_gre in external mode takes the address that the route prefers, whatever is asked. */
	if (encap->conf.kind == SIMNIC_GRE6)
		fl6.saddr = in6addr_any;
	dst = ip6_dst_lookup_flow(encap->conf.net, NULL, &fl6, NULL);
	if (IS_ERR(dst))
		return dst;
	path->saddr6 = fl6.saddr;
	path->cookie = rt6_get_cookie(dst_rt6_info(dst));
	return dst;
}

/*
 * The uplink of this card that @dst leaves by, if it leaves by one. The sibling's
 * is none any more once it begins to go, which the netdev's notifier tells of.
 */
static struct simnic_port *simnic_dst_uplink(const struct simnic_encap *encap,
					     const struct dst_entry *dst)
{
	const struct net_device *dev = READ_ONCE(dst->dev);
	const struct simnic_netdev *netdev;

	if (!simnic_is_host_netdev(dev))
		return NULL;
	netdev = netdev_priv(dev);
	if (netdev->role != SIMNIC_UPLINK || !simnic_same_card(encap->nic, netdev->port->nic) ||
	    rcu_access_pointer(netdev->port->host) != dev)
		return NULL;
	return netdev->port;
}

/* What is known of the neighbour; asks for it if that is too little. */
static void simnic_path_read_neigh(struct simnic_path *path)
{
	struct neighbour *neigh = path->neigh;

	if ((READ_ONCE(neigh->nud_state) & NUD_VALID) && !READ_ONCE(neigh->dead)) {
		neigh_ha_snapshot(path->neigh_addr, neigh, neigh->dev);
		path->resolved = true;
	} else {
		neigh_event_send(neigh, NULL);
	}
}

static int simnic_path_lookup(const struct simnic_encap *encap, struct simnic_path *path,
			      struct netlink_ext_ack *extack)
{
	bool ipv6 = ip_tunnel_info_af(encap->info) == AF_INET6;
	struct dst_entry *dst;
	int encrypted;

	dst = ipv6 ? simnic_route6(encap, path) : simnic_route4(encap, path);
	if (IS_ERR(dst)) {
		NL_SET_ERR_MSG_MOD(extack, "no route to the tunnel's other end");
		return PTR_ERR(dst);
	}
	path->dst = dst;
	path->uplink = simnic_dst_uplink(encap, dst);
	if (!path->uplink) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "route of the tunnel leaves through %s",
				       READ_ONCE(dst->dev)->name);
		return -EOPNOTSUPP;
	}
	encrypted = simnic_ipsec_path(dst, extack);
	if (encrypted < 0)
		return encrypted;
	path->encrypted = encrypted;
	path->neigh = dst_neigh_lookup(dst, ipv6 ? (const void *)&encap->info->key.u.ipv6.dst :
						   (const void *)&encap->info->key.u.ipv4.dst);
	if (IS_ERR_OR_NULL(path->neigh)) {
		path->neigh = NULL;
		NL_SET_ERR_MSG_MOD(extack, "no neighbour on the route of the tunnel");
		return -EHOSTUNREACH;
	}
	simnic_path_read_neigh(path);
	return 0;
}

/* Looks the path up anew. Without one, packets take the slow path. */
static int simnic_encap_resolve(struct simnic_encap *encap, struct netlink_ext_ack *extack)
{
	struct simnic_path *path = NULL;
	int err = -ENODEV;

	lockdep_assert_held(&simnic_encap_lock);
	WRITE_ONCE(encap->stale, false);
	WRITE_ONCE(encap->tried, jiffies);
	if (rcu_access_pointer(encap->dev)) {
		path = kzalloc(sizeof(*path), GFP_KERNEL);
		err = -ENOMEM;
	}
	if (path) {
		path->encap = encap;
		err = simnic_path_lookup(encap, path, extack);
		if (err) {
			simnic_path_free(&path->rcu);
			path = NULL;
		}
	}
	simnic_path_set(encap, path);
	return err;
}

static void simnic_encap_set_stale(struct simnic_encap *encap)
{
	WRITE_ONCE(encap->stale, true);
	schedule_work(&simnic_encap_work);
}

static void simnic_encap_resolve_stale(struct work_struct *work)
{
	struct simnic_encap *encap;

	mutex_lock(&simnic_encap_lock);
	list_for_each_entry(encap, &simnic_encaps, list)
		if (READ_ONCE(encap->stale))
			simnic_encap_resolve(encap, NULL);
	mutex_unlock(&simnic_encap_lock);
}

/* The kernel does not see the traffic, so it would never ask whether the neighbour is there. */
static void simnic_encap_beat_work(struct work_struct *work)
{
	struct simnic_encap *encap;
	struct simnic_path *path;

	mutex_lock(&simnic_encap_lock);
	list_for_each_entry(encap, &simnic_encaps, list) {
		path = rcu_dereference_protected(encap->path,
						 lockdep_is_held(&simnic_encap_lock));
		if (path && time_before(jiffies, READ_ONCE(encap->used) + 2 * SIMNIC_ENCAP_BEAT))
			neigh_event_send(path->neigh, NULL);
	}
	if (!list_empty(&simnic_encaps))
		schedule_delayed_work(&simnic_encap_beat, SIMNIC_ENCAP_BEAT);
	mutex_unlock(&simnic_encap_lock);
}

static u32 simnic_encap_hash(const struct ip_tunnel_info *info)
{
	u32 hash = jhash(&info->key, sizeof(info->key), info->options_len);

	return jhash(ip_tunnel_info_opts((struct ip_tunnel_info *)info), info->options_len, hash);
}

static bool simnic_encap_is(const struct simnic_encap *encap, const struct simnic *nic,
			    const struct net_device *dev, const struct ip_tunnel_info *info)
{
	return encap->nic == nic && rcu_access_pointer(encap->dev) == dev &&
	       encap->info->mode == info->mode &&
	       encap->info->options_len == info->options_len &&
	       !memcmp(&encap->info->key, &info->key, sizeof(info->key)) &&
	       !memcmp(ip_tunnel_info_opts(encap->info),
		       ip_tunnel_info_opts((struct ip_tunnel_info *)info), info->options_len);
}

static struct simnic_encap *simnic_encap_find(const struct simnic *nic,
					      const struct net_device *dev,
					      const struct ip_tunnel_info *info, u32 hash)
{
	struct simnic_encap *encap;

	hash_for_each_possible(simnic_encap_keys, encap, key_node, hash)
		if (simnic_encap_is(encap, nic, dev, info))
			return encap;
	return NULL;
}

static const char *simnic_encap_why_not(const struct simnic_tunnel_conf *conf,
					const struct ip_tunnel_info *info)
{
	const unsigned long *flags = info->key.tun_flags;
	bool ipv6 = ip_tunnel_info_af(info) == AF_INET6;

	if ((conf->kind == SIMNIC_GRE && ipv6) || (conf->kind == SIMNIC_GRE6 && !ipv6))
		return "tunnel_key is of the other IP version than the tunnel device";
	if (test_bit(IP_TUNNEL_SEQ_BIT, flags))
		return "GRE sequence numbers are not supported";
	if (test_bit(IP_TUNNEL_ERSPAN_OPT_BIT, flags) || info->encap.type != TUNNEL_ENCAP_NONE ||
	    info->key.nhid)
		return "tunnel_key with such options is not supported";
	if (test_bit(IP_TUNNEL_GENEVE_OPT_BIT, flags) && conf->kind != SIMNIC_GENEVE)
		return "Geneve options on a tunnel that is not Geneve";
	if (test_bit(IP_TUNNEL_VXLAN_OPT_BIT, flags) && conf->kind != SIMNIC_VXLAN)
		return "VXLAN options on a tunnel that is not VXLAN";
	return NULL;
}

static void simnic_encap_free(struct rcu_head *head)
{
	struct simnic_encap *encap = container_of(head, struct simnic_encap, rcu);

	kfree(encap->info);
	kfree(encap);
}

static struct simnic_encap *simnic_encap_alloc(struct simnic *nic, struct net_device *dev,
					       const struct ip_tunnel_info *info,
					       struct netlink_ext_ack *extack)
{
	struct simnic_encap *encap = kzalloc(sizeof(*encap), GFP_KERNEL);
	const char *why_not;

	if (!encap)
		return ERR_PTR(-ENOMEM);
	/* Had it begun to go, our notifier would have been called already. */
	if (READ_ONCE(dev->reg_state) != NETREG_REGISTERED) {
		kfree(encap);
		return ERR_PTR(-ENODEV);
	}
	why_not = simnic_tunnel_conf_read(dev, &encap->conf) ?:
		  simnic_encap_why_not(&encap->conf, info);
	if (why_not) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "%s", why_not);
		kfree(encap);
		return ERR_PTR(-EOPNOTSUPP);
	}
	encap->info = kmemdup(info, sizeof(*info) + info->options_len, GFP_KERNEL);
	if (!encap->info) {
		kfree(encap);
		return ERR_PTR(-ENOMEM);
	}
	encap->nic = nic;
	encap->used = jiffies - 2 * SIMNIC_ENCAP_BEAT;
	encap->overhead = simnic_outer_len(&encap->conf, info);
	RCU_INIT_POINTER(encap->dev, dev);
	return encap;
}

static void simnic_encap_add(struct simnic_encap *encap, u32 hash)
{
	if (list_empty(&simnic_encaps))
		schedule_delayed_work(&simnic_encap_beat, SIMNIC_ENCAP_BEAT);
	list_add_tail_rcu(&encap->list, &simnic_encaps);
	hash_add(simnic_encap_keys, &encap->key_node, hash);
}

/*
 * The outer header that @info asks of @dev, from an uplink of this NIC's card.
 * Refused when there is no route, or it is by none of them. Rules of one tunnel share it.
 */
struct simnic_encap *simnic_encap_get(struct simnic *nic, struct net_device *dev,
				      const struct ip_tunnel_info *info,
				      struct netlink_ext_ack *extack)
{
	u32 hash = simnic_encap_hash(info);
	struct simnic_encap *encap;
	int err;

	mutex_lock(&simnic_encap_lock);
	encap = simnic_encap_find(nic, dev, info, hash);
	if (!encap) {
		encap = simnic_encap_alloc(nic, dev, info, extack);
		if (IS_ERR(encap))
			goto out;
		simnic_encap_add(encap, hash);
	}
	encap->refs++;
	/* Whoever comes is told what stands in the way; those who are there go on. */
	err = rcu_access_pointer(encap->path) ? 0 : simnic_encap_resolve(encap, extack);
	mutex_unlock(&simnic_encap_lock);
	if (!err)
		return encap;
	simnic_encap_put(encap);
	return ERR_PTR(err);

out:
	mutex_unlock(&simnic_encap_lock);
	return encap;
}

void simnic_encap_put(struct simnic_encap *encap)
{
	mutex_lock(&simnic_encap_lock);
	if (!--encap->refs) {
		simnic_path_set(encap, NULL);
		list_del_rcu(&encap->list);
		hash_del(&encap->key_node);
		call_rcu(&encap->rcu, simnic_encap_free);
	}
	mutex_unlock(&simnic_encap_lock);
}

static bool simnic_path_fits(const struct simnic_path *path, const struct sk_buff *skb)
{
	int room = (int)dst_mtu(path->dst) - (int)path->encap->overhead;

	if (skb_vlan_tag_present(skb))
		room -= VLAN_HLEN;
	if (room <= 0)
		return false;
	if (skb_is_gso(skb))
		return skb_gso_validate_mac_len(skb, room);
	return skb->len + skb->mac_len <= room;
}

/*
 * The path for @skb, data at the network header; NULL: it is the host's, because
 * there is no path just now or the packet is too long for it. Under RCU.
 */
const struct simnic_path *simnic_encap_path(struct simnic_encap *encap, struct sk_buff *skb)
{
	const struct simnic_path *path = rcu_dereference(encap->path);
	const struct net_device *dev = rcu_dereference(encap->dev);

	if (!dev || !netif_running(dev))
		return NULL;
	if (!path || !path->resolved) {
		if (time_after(jiffies, READ_ONCE(encap->tried) + SIMNIC_ENCAP_RETRY))
			simnic_encap_set_stale(encap);
		return NULL;
	}
	/*
	 * Until the new route is known the old one is good enough, as with any NIC,
	 * unless it may be one of IPsec's: then it is the host that knows.
	 */
	if (!dst_check(path->dst, path->cookie)) {
		simnic_encap_set_stale(encap);
		if (path->encrypted || simnic_ipsec_has_policies(encap->conf.net))
			return NULL;
	}
	if (!simnic_path_fits(path, skb))
		return NULL;
	WRITE_ONCE(encap->used, jiffies);
	return path;
}

/* Whether packets go by hardware now, as far as the path is concerned. */
bool simnic_encap_is_resolved(struct simnic_encap *encap)
{
	const struct simnic_path *path;
	bool resolved;

	rcu_read_lock();
	path = rcu_dereference(encap->path);
	resolved = path && path->resolved;
	rcu_read_unlock();
	return resolved;
}

/* In a notifier chain that may be atomic, so the looking up is left to the work. */
static int simnic_encap_netevent(struct notifier_block *nb, unsigned long event, void *ptr)
{
	struct simnic_encap *encap;
	struct simnic_path *path;

	if (event != NETEVENT_NEIGH_UPDATE)
		return NOTIFY_DONE;
	rcu_read_lock();
	list_for_each_entry_rcu(encap, &simnic_encaps, list) {
		path = rcu_dereference(encap->path);
		if (path && path->neigh == ptr)
			simnic_encap_set_stale(encap);
	}
	rcu_read_unlock();
	return NOTIFY_DONE;
}

static struct notifier_block simnic_encap_netevent_nb = {
	.notifier_call = simnic_encap_netevent,
};

/* A tunnel device that goes leaves its rules behind; they forward nothing any more. */
static int simnic_encap_netdev_event(struct notifier_block *nb, unsigned long event, void *ptr)
{
	struct net_device *dev = netdev_notifier_info_to_dev(ptr);
	struct simnic_encap *encap;
	struct simnic_path *path;

	if (event != NETDEV_UNREGISTER)
		return NOTIFY_DONE;
	mutex_lock(&simnic_encap_lock);
	list_for_each_entry(encap, &simnic_encaps, list) {
		path = rcu_dereference_protected(encap->path,
						 lockdep_is_held(&simnic_encap_lock));
		if (rcu_access_pointer(encap->dev) == dev)
			RCU_INIT_POINTER(encap->dev, NULL);
		else if (!path || path->neigh->dev != dev)
			continue;
		simnic_path_set(encap, NULL);
	}
	mutex_unlock(&simnic_encap_lock);
	return NOTIFY_DONE;
}

static struct notifier_block simnic_encap_netdev_nb = {
	.notifier_call = simnic_encap_netdev_event,
};

int simnic_encap_init(void)
{
	int err;

	INIT_WORK(&simnic_encap_work, simnic_encap_resolve_stale);
	INIT_DELAYED_WORK(&simnic_encap_beat, simnic_encap_beat_work);
	err = register_netevent_notifier(&simnic_encap_netevent_nb);
	if (err)
		return err;
	err = register_netdevice_notifier(&simnic_encap_netdev_nb);
	if (err)
		unregister_netevent_notifier(&simnic_encap_netevent_nb);
	return err;
}

/* All rules are gone. */
void simnic_encap_exit(void)
{
	unregister_netdevice_notifier(&simnic_encap_netdev_nb);
	unregister_netevent_notifier(&simnic_encap_netevent_nb);
	cancel_work_sync(&simnic_encap_work);
	cancel_delayed_work_sync(&simnic_encap_beat);
}

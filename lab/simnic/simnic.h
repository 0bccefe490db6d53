/* SPDX-License-Identifier: GPL-2.0 */
/*
 * simnic: a switchdev SmartNIC made of software.
 *
 * Terms, as everywhere in the kernel: the uplink is the port to the wire, a
 * representor is the host's end of a VF's port, the slow path is what a packet
 * takes when the rule table has no answer for it.
 */
#ifndef SIMNIC_H
#define SIMNIC_H

#include <linux/device.h>
#include <linux/etherdevice.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/u64_stats_sync.h>
#include <net/devlink.h>

#define SIMNIC_NAME		"simnic"
#define SIMNIC_VERSION		"1.0"

#define SIMNIC_MAX_ID		255
#define SIMNIC_MAX_VFS		256
#define SIMNIC_MAX_SFS		64	/* that there are at a time */
#define SIMNIC_MAX_SFNUM	99999	/* as long as a netdev's name allows */
#define SIMNIC_QUEUE_LEN	4096	/* packets a receive queue holds */

struct simnic;
struct simnic_faults;
struct simnic_ipsec;
struct simnic_path;
struct simnic_table;

/*
 * Seen from the switch: IN comes from the VF or the wire into the switch, OUT
 * goes to the VF or the wire. HW was forwarded by the switch itself, SLOW went
 * through the host's stack. LOCAL is what a PF in legacy mode exchanges with
 * VFs. The rest are drops, each for one cause.
 */
enum simnic_counter {
	SIMNIC_IN_HW,
	SIMNIC_IN_SLOW,
	SIMNIC_OUT_HW,
	SIMNIC_OUT_SLOW,
	SIMNIC_LOCAL_IN,
	SIMNIC_LOCAL_OUT,
	SIMNIC_DROP_RULE,	/* a drop action, or a rule without a way out */
	SIMNIC_DROP_LINK,	/* the other end is down or not there */
	SIMNIC_DROP_QUEUE,	/* a receive queue was full */
	SIMNIC_DROP_BAD,	/* too short, too long, or out of memory */
	SIMNIC_COUNTERS,
};

struct simnic_counts {
	u64 packets[SIMNIC_COUNTERS];
	u64 bytes[SIMNIC_COUNTERS];
	struct u64_stats_sync syncp;
};

struct simnic_fn_dev;

enum simnic_port_kind {
	SIMNIC_PORT_UPLINK,
	SIMNIC_PORT_VF,
	SIMNIC_PORT_SF,
};

/* What ndo_set_vf_* set and IFLA_VFINFO_LIST shows, under rtnl. */
struct simnic_vf_settings {
	bool trusted;
	bool spoofchk;
	int link_state;		/* IFLA_VF_LINK_STATE_* */
	u32 min_tx_rate;
	u32 max_tx_rate;
};

/*
 * A port of the switch. Port 0 is the uplink, port n is VF n - 1, and after all
 * VFs that there may be come the SFs.
 */
struct simnic_port {
	struct simnic *nic;
	unsigned int index;
	enum simnic_port_kind kind;
	u32 sfnum;			/* of an SF that exists */
	bool exists;			/* its devlink port does */
	bool active;			/* admin state of an SF, under the devlink lock */
	struct simnic_vf_settings settings;
	struct simnic_fn_dev *fn_dev;	/* under the PF's device lock; an SF's: devlink's */
	struct net_device __rcu *host;	/* uplink netdev or representor */
	struct net_device __rcu *vf;	/* the VF's or SF's; NULL for the uplink */
	struct devlink_port dl_port;
	u8 hw_addr[ETH_ALEN];		/* what devlink says the function's MAC is */
	struct simnic_counts __percpu *counts;
	atomic_t rules;			/* rules of this ingress port */
};

/* What a netdev of ours is. */
enum simnic_role {
	SIMNIC_UPLINK,
	SIMNIC_REP,
	SIMNIC_VF,	/* the netdev of a VF or an SF */
};

/* Private part of each netdev. */
struct simnic_netdev {
	struct net_device *dev;
	struct simnic_port *port;
	enum simnic_role role;
	struct list_head dead;		/* unregistered, to be freed */
	struct napi_struct napi;
	struct sk_buff_head queue;
};

/* The device on the bus: the PF. */
struct simnic_bus_dev {
	struct device dev;
	struct list_head list;
	unsigned int initial_vfs;	/* enabled when it is plugged in */
	unsigned int total_vfs;
	unsigned int card;
	bool vfs_autoprobe;		/* a new VF is bound to the driver at once */
	struct simnic *nic;		/* under the device lock */
	int probe_err;
};

/* A function on the bus: a VF from its being enabled, an SF from its being active. */
struct simnic_fn_dev {
	struct device dev;
	struct simnic_port *port;
	bool ready;			/* its links are made: it may be bound */
};

/* The NIC: what the devlink instance is about. */
struct simnic {
	struct simnic_bus_dev *bus_dev;
	struct devlink *devlink;
	unsigned int id;
	unsigned int nports;		/* of ports[], whether they exist or not */
	unsigned int vfs;		/* enabled, under the devlink lock */
	bool switchdev;			/* eswitch mode, under the devlink lock */
	u8 inline_mode;			/* of the eswitch, under the devlink lock */
	enum devlink_eswitch_encap_mode encap_mode;	/* the same */
	bool mode_needs_unbound_vfs;
	bool fw_failed;			/* reporter "fw" is in error */
	bool tx_failed;			/* reporter "tx" is in error */
	struct devlink_health_reporter *fw_reporter;	/* under the PF's device lock */
	struct devlink_health_reporter *tx_reporter;	/* the same */
	struct simnic_faults *faults;
	bool link;			/* the wire's state at this end */
	struct simnic __rcu *peer;	/* at the other end of the wire */
	unsigned int card;		/* two NICs of one card have one switch ID */
	struct simnic __rcu *sibling;	/* the card's other NIC, under simnic_bus_lock */
	const struct net_device *bond;	/* that the uplink is in: compared, never looked into */
	bool bond_tx;			/* and transmits on */
	struct simnic_table *table;
	struct simnic_ipsec *ipsec;
	struct dentry *debugfs;
	struct list_head block_cbs;	/* under rtnl */
	struct list_head tunnels;	/* devices with a block, RCU */
	struct list_head tunnel_cbs;	/* their blocks */
	struct simnic_port ports[] __counted_by(nports);
};

/* How a queued packet is to be treated when its netdev is polled. */
enum simnic_queued {
	SIMNIC_QUEUED_UP,	/* data at the network header: up the stack */
	SIMNIC_QUEUED_FRAME,	/* data at the MAC header: up the stack */
	SIMNIC_QUEUED_WIRE,	/* data at the MAC header: into the switch */
};

struct simnic_cb {
	enum simnic_queued queued;
	struct simnic_port *out;	/* of a mirrored copy that waits */
	const struct simnic_path *path;	/* the same, into a tunnel */
};

static inline struct simnic_cb *simnic_cb(struct sk_buff *skb)
{
	BUILD_BUG_ON(sizeof(struct simnic_cb) > sizeof(skb->cb));
	return (struct simnic_cb *)skb->cb;
}

static inline bool simnic_port_is_uplink(const struct simnic_port *port)
{
	return port->kind == SIMNIC_PORT_UPLINK;
}

static inline struct simnic_port *simnic_uplink(struct simnic *nic)
{
	return &nic->ports[0];
}

/* Ports of SFs are those from this index to nports - 1. */
static inline unsigned int simnic_first_sf(const struct simnic *nic)
{
	return nic->nports - SIMNIC_MAX_SFS;
}

/* bus.c */
extern struct mutex simnic_bus_lock;	/* devices and wires */
extern const struct bus_type simnic_bus;
struct simnic_bus_dev *simnic_to_bus_dev(struct device *dev);

/* function.c */
extern struct device_driver simnic_vf_driver;
extern struct device_driver simnic_sf_driver;
bool simnic_is_fn_dev(const struct device *dev);
struct simnic_fn_dev *simnic_to_fn_dev(struct device *dev);
bool simnic_fn_matches(struct device *dev, const struct device_driver *driver);
int simnic_fn_probe(struct device *dev);
void simnic_fn_remove(struct device *dev);
int simnic_fn_add(struct simnic_port *port, bool bind);
void simnic_fn_del(struct simnic_port *port);

/* sriov.c */
extern const struct attribute_group simnic_sriov_group;
int simnic_sriov_enable(struct simnic *nic, unsigned int vfs);
void simnic_sriov_disable(struct simnic *nic);

/* sf.c */
extern const struct devlink_port_ops simnic_sf_port_ops;
int simnic_port_new(struct devlink *devlink, const struct devlink_port_new_attrs *attrs,
		    struct netlink_ext_ack *extack, struct devlink_port **dl_port);
void simnic_sfs_destroy(struct simnic *nic);

/* vf.c */
int simnic_set_hw_addr(struct simnic_port *port, const u8 *hw_addr,
		       struct netlink_ext_ack *extack);
int simnic_set_vf_mac(struct net_device *dev, int vf, u8 *mac);
int simnic_set_vf_rate(struct net_device *dev, int vf, int min_tx_rate, int max_tx_rate);
int simnic_set_vf_spoofchk(struct net_device *dev, int vf, bool on);
int simnic_set_vf_link_state(struct net_device *dev, int vf, int link_state);
int simnic_set_vf_trust(struct net_device *dev, int vf, bool on);
int simnic_get_vf_config(struct net_device *dev, int vf, struct ifla_vf_info *info);

/* nic.c */
int simnic_nic_create(struct simnic_bus_dev *bus_dev);
void simnic_nic_destroy(struct simnic_bus_dev *bus_dev);
int simnic_nic_set_switchdev(struct simnic *nic, struct netlink_ext_ack *extack);
int simnic_nic_set_legacy(struct simnic *nic, struct netlink_ext_ack *extack);
int simnic_nic_wire(struct simnic *a, struct simnic *b);
void simnic_nic_unwire(struct simnic *nic);
int simnic_nic_up(struct simnic *nic, struct netlink_ext_ack *extack);
void simnic_nic_down(struct simnic *nic);
int simnic_nic_reset_eswitch(struct simnic *nic, struct netlink_ext_ack *extack);
void simnic_nic_set_link(struct simnic *nic, bool up);
void simnic_nic_update_carrier(struct simnic *nic);
int simnic_nic_enable_vfs(struct simnic *nic, unsigned int vfs, struct netlink_ext_ack *extack);
void simnic_nic_disable_vfs(struct simnic *nic);
void simnic_port_own_addr(const struct simnic_port *port, u8 *addr);
void simnic_port_reset(struct simnic_port *port);
int simnic_rep_create(struct simnic_port *port);
void simnic_reps_destroy(struct simnic *nic, unsigned int first, unsigned int end);

/* devlink.c */
extern const struct devlink_ops simnic_devlink_ops;
int simnic_devlink_port_add(struct simnic_port *port);
void simnic_devlink_port_del(struct simnic_port *port);
int simnic_port_hw_addr_get(struct devlink_port *dl_port, u8 *hw_addr, int *hw_addr_len,
			    struct netlink_ext_ack *extack);
int simnic_port_hw_addr_set(struct devlink_port *dl_port, const u8 *hw_addr, int hw_addr_len,
			    struct netlink_ext_ack *extack);
void simnic_port_name(const struct simnic_port *port, char *name, size_t size);
void simnic_switch_id(const struct simnic *nic, struct netdev_phys_item_id *ppid);

/* netdev.c */
int simnic_netdev_attach(struct simnic_port *port, enum simnic_role role);
void simnic_netdevs_detach(struct simnic *nic, enum simnic_role role, unsigned int first,
			   unsigned int end);
bool simnic_is_host_netdev(const struct net_device *dev);
bool simnic_queue(struct simnic_port *port, struct net_device *dev, struct sk_buff *skb,
		  enum simnic_queued queued);

/* ethtool.c */
extern const struct ethtool_ops simnic_host_ethtool_ops;
extern const struct ethtool_ops simnic_vf_ethtool_ops;
void simnic_count(struct simnic_port *port, enum simnic_counter counter, u64 packets, u64 bytes);
void simnic_count_skb(struct simnic_port *port, enum simnic_counter counter,
		      const struct sk_buff *skb);
void simnic_counts_sum(const struct simnic_port *port, struct simnic_counts *sum);
void simnic_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *stats);
bool simnic_has_offload_stats(const struct net_device *dev, int attr_id);
int simnic_get_offload_stats(int attr_id, const struct net_device *dev, void *data);

/* forward.c */
void simnic_frame_size(const struct sk_buff *skb, u64 *packets, u64 *bytes);
bool simnic_prepare(struct simnic_port *port, struct sk_buff *skb);
void simnic_to_vf(struct simnic_port *port, struct sk_buff *skb, enum simnic_counter counter);
void simnic_to_wire(struct simnic *nic, struct sk_buff *skb, enum simnic_counter counter);
netdev_tx_t simnic_vf_xmit(struct sk_buff *skb, struct net_device *dev);
netdev_tx_t simnic_rep_xmit(struct sk_buff *skb, struct net_device *dev);
netdev_tx_t simnic_uplink_xmit(struct sk_buff *skb, struct net_device *dev);
void simnic_receive(struct simnic_netdev *priv, struct sk_buff *skb);

/* legacy.c */
void simnic_legacy_from_vf(struct simnic_port *port, struct sk_buff *skb);
void simnic_legacy_from_pf(struct simnic *nic, struct sk_buff *skb);
void simnic_legacy_from_wire(struct simnic *nic, struct sk_buff *skb);

/* debugfs.c */
void simnic_debugfs_init(void);
void simnic_debugfs_exit(void);
void simnic_debugfs_add(struct simnic *nic);
void simnic_debugfs_del(struct simnic *nic);

#endif /* SIMNIC_H */

// SPDX-License-Identifier: GPL-2.0
/*
 * Counters of the ports, and what ethtool and rtnetlink show of them.
 */
#include <linux/ethtool.h>
#include <linux/if_link.h>

#include "ipsec.h"
#include "simnic.h"
#include "table.h"

#define SIMNIC_SPEED	SPEED_25000

/* Called with bottom halves off, as all of the datapath is. */
void simnic_count(struct simnic_port *port, enum simnic_counter counter, u64 packets, u64 bytes)
{
	struct simnic_counts *counts = this_cpu_ptr(port->counts);

	u64_stats_update_begin(&counts->syncp);
	counts->packets[counter] += packets;
	counts->bytes[counter] += bytes;
	u64_stats_update_end(&counts->syncp);
}

void simnic_count_skb(struct simnic_port *port, enum simnic_counter counter,
		      const struct sk_buff *skb)
{
	u64 packets, bytes;

	simnic_frame_size(skb, &packets, &bytes);
	simnic_count(port, counter, packets, bytes);
}

void simnic_counts_sum(const struct simnic_port *port, struct simnic_counts *sum)
{
	const struct simnic_counts *counts;
	struct simnic_counts one;
	unsigned int start;
	int cpu, i;

	memset(sum, 0, sizeof(*sum));
	for_each_possible_cpu(cpu) {
		counts = per_cpu_ptr(port->counts, cpu);
		do {
			start = u64_stats_fetch_begin(&counts->syncp);
			memcpy(one.packets, counts->packets, sizeof(one.packets));
			memcpy(one.bytes, counts->bytes, sizeof(one.bytes));
		} while (u64_stats_fetch_retry(&counts->syncp, start));
		for (i = 0; i < SIMNIC_COUNTERS; i++) {
			sum->packets[i] += one.packets[i];
			sum->bytes[i] += one.bytes[i];
		}
	}
}

/*
 * Uplink and representor show all traffic of their port, forwarded by hardware
 * or not, as NICs do; IFLA_OFFLOAD_XSTATS_CPU_HIT has what the CPU saw.
 */
void simnic_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *stats)
{
	struct simnic_netdev *priv = netdev_priv(dev);
	struct simnic_counts sum;
	u64 *p = sum.packets, *b = sum.bytes;

	simnic_counts_sum(priv->port, &sum);
	if (priv->role == SIMNIC_VF) {
		stats->tx_packets = p[SIMNIC_IN_HW] + p[SIMNIC_IN_SLOW];
		stats->tx_bytes = b[SIMNIC_IN_HW] + b[SIMNIC_IN_SLOW];
		stats->rx_packets = p[SIMNIC_OUT_HW] + p[SIMNIC_OUT_SLOW];
		stats->rx_bytes = b[SIMNIC_OUT_HW] + b[SIMNIC_OUT_SLOW];
		stats->rx_dropped = p[SIMNIC_DROP_QUEUE];
		stats->tx_dropped = p[SIMNIC_DROP_LINK] + p[SIMNIC_DROP_BAD];
	} else {
		stats->rx_packets = p[SIMNIC_IN_HW] + p[SIMNIC_IN_SLOW] + p[SIMNIC_LOCAL_IN];
		stats->rx_bytes = b[SIMNIC_IN_HW] + b[SIMNIC_IN_SLOW] + b[SIMNIC_LOCAL_IN];
		stats->tx_packets = p[SIMNIC_OUT_HW] + p[SIMNIC_OUT_SLOW] + p[SIMNIC_LOCAL_OUT];
		stats->tx_bytes = b[SIMNIC_OUT_HW] + b[SIMNIC_OUT_SLOW] + b[SIMNIC_LOCAL_OUT];
		stats->rx_dropped = p[SIMNIC_DROP_QUEUE];
		stats->tx_dropped = p[SIMNIC_DROP_LINK] + p[SIMNIC_DROP_BAD];
	}
}

bool simnic_has_offload_stats(const struct net_device *dev, int attr_id)
{
	return attr_id == IFLA_OFFLOAD_XSTATS_CPU_HIT;
}

int simnic_get_offload_stats(int attr_id, const struct net_device *dev, void *data)
{
	const struct simnic_netdev *priv = netdev_priv(dev);
	struct rtnl_link_stats64 *stats = data;
	struct simnic_counts sum;

	if (attr_id != IFLA_OFFLOAD_XSTATS_CPU_HIT)
		return -EINVAL;
	simnic_counts_sum(priv->port, &sum);
	memset(stats, 0, sizeof(*stats));
	stats->rx_packets = sum.packets[SIMNIC_IN_SLOW];
	stats->rx_bytes = sum.bytes[SIMNIC_IN_SLOW];
	stats->tx_packets = sum.packets[SIMNIC_OUT_SLOW];
	stats->tx_bytes = sum.bytes[SIMNIC_OUT_SLOW];
	return 0;
}

struct simnic_stat {
	const char *name;	/* after "vf_" or "wire_" */
	enum simnic_counter counter;
};

/* A VF transmits into the switch, the wire is received from: in and out swap. */
static const struct simnic_stat simnic_rep_stats[] = {
	{ "vf_tx_hw", SIMNIC_IN_HW },
	{ "vf_tx_slow", SIMNIC_IN_SLOW },
	{ "vf_rx_hw", SIMNIC_OUT_HW },
	{ "vf_rx_slow", SIMNIC_OUT_SLOW },
	{ "drop_rule", SIMNIC_DROP_RULE },
	{ "drop_link", SIMNIC_DROP_LINK },
	{ "drop_queue", SIMNIC_DROP_QUEUE },
	{ "drop_bad", SIMNIC_DROP_BAD },
};

static const struct simnic_stat simnic_uplink_stats[] = {
	{ "wire_rx_hw", SIMNIC_IN_HW },
	{ "wire_rx_slow", SIMNIC_IN_SLOW },
	{ "wire_tx_hw", SIMNIC_OUT_HW },
	{ "wire_tx_slow", SIMNIC_OUT_SLOW },
	{ "drop_rule", SIMNIC_DROP_RULE },
	{ "drop_link", SIMNIC_DROP_LINK },
	{ "drop_queue", SIMNIC_DROP_QUEUE },
	{ "drop_bad", SIMNIC_DROP_BAD },
};

static const char * const simnic_table_stat_names[] = {
	"hw_rules", "hw_rules_max", "hw_installs", "hw_refusals",
	"hw_connections", "hw_connections_max", "hw_connection_refusals",
};

static_assert(ARRAY_SIZE(simnic_rep_stats) == ARRAY_SIZE(simnic_uplink_stats));

static const struct simnic_stat *simnic_stats_of(const struct net_device *dev)
{
	const struct simnic_netdev *priv = netdev_priv(dev);

	return priv->role == SIMNIC_REP ? simnic_rep_stats : simnic_uplink_stats;
}

static int simnic_get_sset_count(struct net_device *dev, int sset)
{
	const struct simnic_netdev *priv = netdev_priv(dev);

	if (sset != ETH_SS_STATS)
		return -EOPNOTSUPP;
	return 2 * ARRAY_SIZE(simnic_rep_stats) + ARRAY_SIZE(simnic_table_stat_names) +
	       (priv->role == SIMNIC_UPLINK ? SIMNIC_IPSEC_STATS : 0);
}

static void simnic_get_strings(struct net_device *dev, u32 sset, u8 *data)
{
	const struct simnic_stat *stats = simnic_stats_of(dev);
	const struct simnic_netdev *priv = netdev_priv(dev);
	int i;

	if (sset != ETH_SS_STATS)
		return;
	for (i = 0; i < ARRAY_SIZE(simnic_rep_stats); i++) {
		ethtool_sprintf(&data, "%s_packets", stats[i].name);
		ethtool_sprintf(&data, "%s_bytes", stats[i].name);
	}
	for (i = 0; i < ARRAY_SIZE(simnic_table_stat_names); i++)
		ethtool_puts(&data, simnic_table_stat_names[i]);
	if (priv->role == SIMNIC_UPLINK)
		simnic_ipsec_strings(&data);
}

static void simnic_get_ethtool_stats(struct net_device *dev, struct ethtool_stats *ignored,
				     u64 *data)
{
	const struct simnic_stat *stats = simnic_stats_of(dev);
	struct simnic_netdev *priv = netdev_priv(dev);
	struct simnic_counts sum;
	int i;

	simnic_counts_sum(priv->port, &sum);
	for (i = 0; i < ARRAY_SIZE(simnic_rep_stats); i++) {
		*data++ = sum.packets[stats[i].counter];
		*data++ = sum.bytes[stats[i].counter];
	}
	simnic_table_stats_get(priv->port->nic->table, data);
	data += ARRAY_SIZE(simnic_table_stat_names);
	if (priv->role == SIMNIC_UPLINK)
		simnic_ipsec_stats_get(priv->port->nic->ipsec, data);
}

static void simnic_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	struct simnic_netdev *priv = netdev_priv(dev);

	strscpy(info->driver, SIMNIC_NAME, sizeof(info->driver));
	strscpy(info->version, SIMNIC_VERSION, sizeof(info->version));
	strscpy(info->fw_version, SIMNIC_VERSION, sizeof(info->fw_version));
	strscpy(info->bus_info, dev_name(&priv->port->nic->bus_dev->dev), sizeof(info->bus_info));
}

static int simnic_get_link_ksettings(struct net_device *dev, struct ethtool_link_ksettings *cmd)
{
	cmd->base.speed = netif_carrier_ok(dev) ? SIMNIC_SPEED : SPEED_UNKNOWN;
	cmd->base.duplex = netif_carrier_ok(dev) ? DUPLEX_FULL : DUPLEX_UNKNOWN;
	cmd->base.port = PORT_OTHER;
	cmd->base.autoneg = AUTONEG_DISABLE;
	return 0;
}

const struct ethtool_ops simnic_host_ethtool_ops = {
	.get_drvinfo		= simnic_get_drvinfo,
	.get_link		= ethtool_op_get_link,
	.get_link_ksettings	= simnic_get_link_ksettings,
	.get_sset_count		= simnic_get_sset_count,
	.get_strings		= simnic_get_strings,
	.get_ethtool_stats	= simnic_get_ethtool_stats,
};

const struct ethtool_ops simnic_vf_ethtool_ops = {
	.get_drvinfo		= simnic_get_drvinfo,
	.get_link		= ethtool_op_get_link,
	.get_link_ksettings	= simnic_get_link_ksettings,
};

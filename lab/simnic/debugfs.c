// SPDX-License-Identifier: GPL-2.0
/*
 * Settings, faults and the table's contents under /sys/kernel/debug/simnic.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "ct.h"
#include "fail.h"
#include "health.h"
#include "ipsec.h"
#include "reload.h"
#include "simnic.h"
#include "table.h"

#define SIMNIC_LINE_MAX	128

static struct dentry *simnic_debugfs_root;

static int simnic_table_size_get(void *data, u64 *val)
{
	struct simnic *nic = data;

	*val = READ_ONCE(nic->table->max);
	return 0;
}

/* A table that shrinks below what it holds keeps what it holds. */
static int simnic_table_size_set(void *data, u64 val)
{
	return simnic_set_table_size(data, val);
}
DEFINE_DEBUGFS_ATTRIBUTE(simnic_table_size_fops, simnic_table_size_get, simnic_table_size_set,
			 "%llu\n");

static int simnic_conn_table_size_get(void *data, u64 *val)
{
	struct simnic *nic = data;

	*val = READ_ONCE(nic->table->ct->max);
	return 0;
}

/* The same of a table of connections. */
static int simnic_conn_table_size_set(void *data, u64 val)
{
	struct simnic *nic = data;

	if (val > SIMNIC_CONNS_MAX)
		return -ERANGE;
	WRITE_ONCE(nic->table->ct->max, val);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(simnic_conn_table_size_fops, simnic_conn_table_size_get,
			 simnic_conn_table_size_set, "%llu\n");

static int simnic_sa_table_size_get(void *data, u64 *val)
{
	struct simnic *nic = data;

	*val = READ_ONCE(nic->ipsec->max);
	return 0;
}

/* The same of the table of SAs. */
static int simnic_sa_table_size_set(void *data, u64 val)
{
	struct simnic *nic = data;

	if (val > SIMNIC_SAS_MAX)
		return -ERANGE;
	WRITE_ONCE(nic->ipsec->max, val);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(simnic_sa_table_size_fops, simnic_sa_table_size_get,
			 simnic_sa_table_size_set, "%llu\n");

static int simnic_install_delay_get(void *data, u64 *val)
{
	struct simnic *nic = data;

	*val = READ_ONCE(nic->table->install_delay_us);
	return 0;
}

static int simnic_install_delay_set(void *data, u64 val)
{
	struct simnic *nic = data;

	if (val > SIMNIC_DELAY_MAX_US)
		return -ERANGE;
	WRITE_ONCE(nic->table->install_delay_us, val);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(simnic_install_delay_fops, simnic_install_delay_get,
			 simnic_install_delay_set, "%llu\n");

static int simnic_counter_delay_get(void *data, u64 *val)
{
	struct simnic *nic = data;

	*val = READ_ONCE(nic->table->counter_delay_ms);
	return 0;
}

static int simnic_counter_delay_set(void *data, u64 val)
{
	struct simnic *nic = data;

	if (val > SIMNIC_DELAY_MAX_MS)
		return -ERANGE;
	simnic_table_set_counter_delay(nic->table, val);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(simnic_counter_delay_fops, simnic_counter_delay_get,
			 simnic_counter_delay_set, "%llu\n");

static int simnic_link_get(void *data, u64 *val)
{
	struct simnic *nic = data;

	*val = READ_ONCE(nic->link);
	return 0;
}

static int simnic_link_set(void *data, u64 val)
{
	if (val > 1)
		return -EINVAL;
	simnic_nic_set_link(data, val);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(simnic_link_fops, simnic_link_get, simnic_link_set, "%llu\n");

static int simnic_reset_set(void *data, u64 val)
{
	struct simnic *nic = data;

	if (val != 1)
		return -EINVAL;
	simnic_table_flush(nic->table);
	simnic_ipsec_flush(nic->ipsec);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(simnic_reset_fops, NULL, simnic_reset_set, "%llu\n");

static int simnic_rules_show(struct seq_file *seq, void *unused)
{
	struct simnic *nic = seq->private;

	simnic_table_show(nic->table, seq);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(simnic_rules);

static int simnic_chains_file_show(struct seq_file *seq, void *unused)
{
	struct simnic *nic = seq->private;

	simnic_chains_show(nic->table, seq);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(simnic_chains_file);

static int simnic_zones_file_show(struct seq_file *seq, void *unused)
{
	struct simnic *nic = seq->private;

	simnic_zones_show(nic->table->ct, seq);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(simnic_zones_file);

static int simnic_connections_show(struct seq_file *seq, void *unused)
{
	struct simnic *nic = seq->private;

	simnic_conns_show(nic->table->ct, seq);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(simnic_connections);

static int simnic_sas_file_show(struct seq_file *seq, void *unused)
{
	struct simnic *nic = seq->private;

	simnic_sas_show(nic->ipsec, seq);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(simnic_sas_file);

static int simnic_policies_file_show(struct seq_file *seq, void *unused)
{
	struct simnic *nic = seq->private;

	simnic_policies_show(nic->ipsec, seq);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(simnic_policies_file);

static int simnic_refuse_file_show(struct seq_file *seq, void *unused)
{
	struct simnic *nic = seq->private;

	simnic_refuse_show(&nic->table->refuse, seq);
	return 0;
}

static int simnic_refuse_open(struct inode *inode, struct file *file)
{
	return single_open(file, simnic_refuse_file_show, inode->i_private);
}

/* One line, without blanks at its end. */
static int simnic_line_from_user(char *line, size_t size, const char __user *buf, size_t count)
{
	if (count >= size)
		return -E2BIG;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	line[count] = '\0';
	strim(line);
	return 0;
}

static ssize_t simnic_refuse_write(struct file *file, const char __user *buf, size_t count,
				   loff_t *pos)
{
	struct seq_file *seq = file->private_data;
	struct simnic *nic = seq->private;
	char line[SIMNIC_LINE_MAX];
	int err;

	err = simnic_line_from_user(line, sizeof(line), buf, count);
	if (err)
		return err;
	if (!strcmp(line, "clear"))
		simnic_refuse_clear(&nic->table->refuse);
	else
		err = simnic_refuse_add(&nic->table->refuse, line);
	return err ?: count;
}

static const struct file_operations simnic_refuse_fops = {
	.owner		= THIS_MODULE,
	.open		= simnic_refuse_open,
	.read		= seq_read,
	.write		= simnic_refuse_write,
	.llseek		= seq_lseek,
	.release	= single_release,
};

static int simnic_fail_file_show(struct seq_file *seq, void *unused)
{
	struct simnic *nic = seq->private;

	simnic_faults_show(nic->faults, seq);
	return 0;
}

static int simnic_fail_open(struct inode *inode, struct file *file)
{
	return single_open(file, simnic_fail_file_show, inode->i_private);
}

static ssize_t simnic_fail_write(struct file *file, const char __user *buf, size_t count,
				 loff_t *pos)
{
	struct seq_file *seq = file->private_data;
	struct simnic *nic = seq->private;
	char line[SIMNIC_LINE_MAX];
	int err;

	err = simnic_line_from_user(line, sizeof(line), buf, count);
	if (err)
		return err;
	if (!strcmp(line, "clear"))
		simnic_faults_clear(nic->faults);
	else
		err = simnic_faults_add(nic->faults, line);
	return err ?: count;
}

static const struct file_operations simnic_fail_fops = {
	.owner		= THIS_MODULE,
	.open		= simnic_fail_open,
	.read		= seq_read,
	.write		= simnic_fail_write,
	.llseek		= seq_lseek,
	.release	= single_release,
};

static ssize_t simnic_health_write(struct file *file, const char __user *buf, size_t count,
				   loff_t *pos)
{
	char line[SIMNIC_LINE_MAX];
	int err;

	err = simnic_line_from_user(line, sizeof(line), buf, count);
	if (!err)
		err = simnic_health_inject(file->private_data, line);
	return err ?: count;
}

static const struct file_operations simnic_health_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.write	= simnic_health_write,
	.llseek	= noop_llseek,
};

void simnic_debugfs_add(struct simnic *nic)
{
	char name[16];

	snprintf(name, sizeof(name), "%s%u", SIMNIC_NAME, nic->id);
	nic->debugfs = debugfs_create_dir(name, simnic_debugfs_root);
	debugfs_create_file("table_size", 0600, nic->debugfs, nic, &simnic_table_size_fops);
	debugfs_create_file("install_delay_us", 0600, nic->debugfs, nic,
			    &simnic_install_delay_fops);
	debugfs_create_file("counter_delay_ms", 0600, nic->debugfs, nic,
			    &simnic_counter_delay_fops);
	debugfs_create_file("link", 0600, nic->debugfs, nic, &simnic_link_fops);
	debugfs_create_file("reset", 0200, nic->debugfs, nic, &simnic_reset_fops);
	debugfs_create_file("refuse", 0600, nic->debugfs, nic, &simnic_refuse_fops);
	debugfs_create_file("fail", 0600, nic->debugfs, nic, &simnic_fail_fops);
	debugfs_create_file("health", 0200, nic->debugfs, nic, &simnic_health_fops);
	debugfs_create_bool("mode_needs_unbound_vfs", 0600, nic->debugfs,
			    &nic->mode_needs_unbound_vfs);
	debugfs_create_file("conn_table_size", 0600, nic->debugfs, nic,
			    &simnic_conn_table_size_fops);
	debugfs_create_file("sa_table_size", 0600, nic->debugfs, nic, &simnic_sa_table_size_fops);
	debugfs_create_file("sas", 0400, nic->debugfs, nic, &simnic_sas_file_fops);
	debugfs_create_file("policies", 0400, nic->debugfs, nic, &simnic_policies_file_fops);
	debugfs_create_file("chains", 0400, nic->debugfs, nic, &simnic_chains_file_fops);
	debugfs_create_file("zones", 0400, nic->debugfs, nic, &simnic_zones_file_fops);
	debugfs_create_file("connections", 0400, nic->debugfs, nic, &simnic_connections_fops);
	debugfs_create_file("rules", 0400, nic->debugfs, nic, &simnic_rules_fops);
}

/* Returns when nobody is in one of the files any more. */
void simnic_debugfs_del(struct simnic *nic)
{
	debugfs_remove_recursive(nic->debugfs);
}

void simnic_debugfs_init(void)
{
	simnic_debugfs_root = debugfs_create_dir(SIMNIC_NAME, NULL);
}

void simnic_debugfs_exit(void)
{
	debugfs_remove_recursive(simnic_debugfs_root);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Refusals by shape, set through debugfs: "match KEY text", "action KIND text".
 */
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "refuse.h"

struct simnic_refusal {
	struct list_head list;
	const struct simnic_key_kind *key;	/* NULL: it is about an action */
	enum simnic_action_kind action;
	char text[SIMNIC_REFUSE_TEXT];
};

void simnic_refuse_init(struct simnic_refusals *refuse)
{
	mutex_init(&refuse->lock);
	INIT_LIST_HEAD(&refuse->list);
}

void simnic_refuse_clear(struct simnic_refusals *refuse)
{
	struct simnic_refusal *refusal, *next;

	mutex_lock(&refuse->lock);
	list_for_each_entry_safe(refusal, next, &refuse->list, list) {
		list_del(&refusal->list);
		kfree(refusal);
	}
	refuse->count = 0;
	mutex_unlock(&refuse->lock);
}

static int simnic_refusal_set_key(struct simnic_refusal *refusal, const char *name)
{
	unsigned int i;

	for (i = 0; i < simnic_key_kinds_count; i++) {
		if (strcmp(simnic_key_kinds[i].name, name))
			continue;
		refusal->key = &simnic_key_kinds[i];
		return 0;
	}
	return -EINVAL;
}

static int simnic_refusal_set_action(struct simnic_refusal *refusal, const char *name)
{
	enum simnic_action_kind kind;

	for (kind = 0; kind < SIMNIC_ACT_KINDS; kind++) {
		if (strcmp(simnic_action_name(kind), name))
			continue;
		refusal->action = kind;
		return 0;
	}
	return -EINVAL;
}

static int simnic_refusal_parse(struct simnic_refusal *refusal, char *line)
{
	char *what, *name;

	what = strsep(&line, " \t");
	name = strsep(&line, " \t");
	if (!name || !*name || !line || !*line)
		return -EINVAL;
	if (strscpy(refusal->text, line, sizeof(refusal->text)) < 0)
		return -E2BIG;
	if (!strcmp(what, "match"))
		return simnic_refusal_set_key(refusal, name);
	if (!strcmp(what, "action"))
		return simnic_refusal_set_action(refusal, name);
	return -EINVAL;
}

/* One line, without its newline. */
int simnic_refuse_add(struct simnic_refusals *refuse, const char *line)
{
	struct simnic_refusal *refusal;
	char *copy;
	int err;

	refusal = kzalloc(sizeof(*refusal), GFP_KERNEL);
	copy = kstrdup(line, GFP_KERNEL);
	err = refusal && copy ? simnic_refusal_parse(refusal, copy) : -ENOMEM;
	kfree(copy);

	mutex_lock(&refuse->lock);
	if (!err && refuse->count >= SIMNIC_REFUSALS_MAX)
		err = -ENOSPC;
	if (!err) {
		list_add_tail(&refusal->list, &refuse->list);
		refuse->count++;
	}
	mutex_unlock(&refuse->lock);
	if (err)
		kfree(refusal);
	return err;
}

void simnic_refuse_show(struct simnic_refusals *refuse, struct seq_file *seq)
{
	struct simnic_refusal *refusal;

	mutex_lock(&refuse->lock);
	list_for_each_entry(refusal, &refuse->list, list)
		seq_printf(seq, "%s %s %s\n", refusal->key ? "match" : "action",
			   refusal->key ? refusal->key->name :
					  simnic_action_name(refusal->action),
			   refusal->text);
	mutex_unlock(&refuse->lock);
}

static bool simnic_refusal_applies(const struct simnic_refusal *refusal,
				   const struct simnic_key *mask,
				   const struct simnic_action *actions, unsigned int count)
{
	unsigned int i;

	if (refusal->key)
		return simnic_key_uses(mask, refusal->key);
	for (i = 0; i < count; i++)
		if (actions[i].kind == refusal->action)
			return true;
	return false;
}

int simnic_refuse_check(struct simnic_refusals *refuse, const struct simnic_key *mask,
			const struct simnic_action *actions, unsigned int count,
			struct netlink_ext_ack *extack)
{
	struct simnic_refusal *refusal;
	int err = 0;

	mutex_lock(&refuse->lock);
	list_for_each_entry(refusal, &refuse->list, list) {
		if (!simnic_refusal_applies(refusal, mask, actions, count))
			continue;
		NL_SET_ERR_MSG_FMT_MOD(extack, "%s", refusal->text);
		err = -EOPNOTSUPP;
		break;
	}
	mutex_unlock(&refuse->lock);
	return err;
}

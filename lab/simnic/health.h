/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SIMNIC_HEALTH_H
#define SIMNIC_HEALTH_H

struct simnic;
struct simnic_port;

int simnic_health_add(struct simnic *nic);
void simnic_health_del(struct simnic *nic);
int simnic_health_add_port(struct simnic_port *port);
void simnic_health_del_port(struct simnic_port *port);
int simnic_health_inject(struct simnic *nic, const char *line);

#endif /* SIMNIC_HEALTH_H */

//! Answers to what the control socket and Prometheus ask.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipsec_drive::Device;
use netlink_wire::Ifindex;
use offload_engine::{Event, NicId};
use serde::Serialize;

use super::control::Ask;
use super::groups::Heard;
use super::{Connection, Daemon, answers, now};
use crate::ctl::inventory::{Entries, nic_detail, representors};
use crate::ctl::sa::{EntriesView, IpsecView, SaGroupView, TunnelGroupView};
use crate::ctl::views::{
    ConnectionView, DeclaredView, Deeds, HeardView, InventoryView, PortView, Split, StatusView,
};
use crate::ctl::{
    Asked, FlowQuery, NicQuery, OpenflowQuery, OutputFormat, PolicyQuery, PortListArgs, PortQuery,
    ProbeQuery, Query, RefusalQuery, SaQuery, TunnelQuery, inventory_text, openflow, policy, sa, text,
    tunnel,
};
use crate::ike::OffloadReport;
use crate::inventory::Nic;
use crate::ipsec;
use crate::metrics;
use crate::recording;

/// Longest wait for how much of their resources NICs use, where it is asked for.
const RESOURCES_WAIT: Duration = Duration::from_secs(1);
/// Questions that wait for it at most; further ones are answered at once.
const DEFERRED_MAX: usize = 64;

impl Daemon {
    /// Answers, or asks the kernel first for what nobody tells it of: the use of NICs' resources, and what security
    /// associations took.
    pub(super) fn take_or_defer(&mut self, ask: Ask, events: &mut Vec<Event>) {
        let (of_resources, of_ipsec) = match &ask {
            Ask::Metrics(_) => (true, true),
            Ask::Query(asked, _) => {
                let of_nic = matches!(asked.query, Query::Nic(NicQuery::Show { .. }));
                (of_nic, matches!(asked.query, Query::Sa(_)))
            }
            Ask::Level(..) | Ask::Exit(_) => (false, false),
        };
        let may_wait = self.deferred.len() < DEFERRED_MAX;
        let resources = of_resources && may_wait && self.discovery.want_resources(&mut self.inventory);
        let ipsec = of_ipsec && may_wait && self.ipsec.want();
        let waits = resources || ipsec;
        match waits {
            true => self.deferred.push((ask, Instant::now())),
            false => self.take_ask(ask, events),
        }
    }

    /// Answers what waited for a reading, once it is done or it has waited long enough.
    pub(super) fn answer_deferred(&mut self, events: &mut Vec<Event>) {
        if self.deferred.is_empty() {
            return;
        }
        let all = self.discovery.resources_are_read() && self.ipsec.is_read();
        let is_due = |(_, since): &(Ask, Instant)| all || since.elapsed() >= RESOURCES_WAIT;
        let (due, waiting) = std::mem::take(&mut self.deferred).into_iter().partition(is_due);
        self.deferred = waiting;
        for (ask, _) in due {
            self.take_ask(ask, events);
        }
    }

    pub(super) fn take_ask(&mut self, ask: Ask, events: &mut Vec<Event>) {
        // A client that is gone meanwhile does not want its answer any more.
        match ask {
            // It takes longer than the loop may.
            Ask::Query(Asked { query: Query::Probe(ProbeQuery::Load), .. }, reply) => {
                self.probes.look(self.inventory.nics_told(), Some(reply));
            }
            Ask::Query(asked, reply) => {
                let answer = self.answer(&asked, events);
                let _ = reply.send(answer);
            }
            Ask::Metrics(reply) => {
                let (status, ports) = self.status();
                let _ = reply.send(metrics::render(&status, &ports));
            }
            Ask::Level(level, reply) => {
                self.level.set(level);
                let _ = reply.send(Ok(String::new()));
            }
            Ask::Exit(reply) => {
                self.end(events);
                let _ = reply.send(Ok(String::new()));
            }
        }
    }

    fn answer(&mut self, asked: &Asked, events: &mut Vec<Event>) -> Result<String, String> {
        let Asked { query, output, width } = asked;
        let (output, width) = (*output, *width);
        match query {
            Query::Status => {
                let (status, _) = self.status();
                Ok(print(output, &status, text::status))
            }
            Query::Flow(FlowQuery::List(list)) => {
                let (flows, total) = answers::flow_list(&self.engine, now(), list);
                #[derive(Serialize)]
                struct Flows<T> {
                    total: u64,
                    flows: T,
                }
                Ok(match output {
                    OutputFormat::Json => json(&Flows { total, flows }),
                    OutputFormat::Table => text::flow_list(&flows, total, width),
                })
            }
            Query::Flow(FlowQuery::Why { ufid }) => {
                let why = answers::flow_why(&self.engine, now(), *ufid).ok_or_else(|| {
                    format!("there is no flow {ufid}: it may be gone (ovs-offloadctl flow list shows those there are)")
                })?;
                Ok(print(output, &why, text::flow_why))
            }
            Query::Port(PortQuery::List(PortListArgs { representors: true })) => {
                let ports = answers::summary(&self.engine, now()).ports;
                let representors = representors(&self.inventory.snapshot(), &entries_of(&ports));
                Ok(print(output, &representors, |ports| inventory_text::representor_list(ports, width)))
            }
            Query::Port(PortQuery::List(_)) => {
                let ports = answers::summary(&self.engine, now()).ports;
                let ports = answers::with_bonds(ports, &self.inventory.snapshot());
                Ok(print(output, &ports, |ports| text::port_list(ports, width)))
            }
            Query::Nic(NicQuery::Apply(_)) | Query::Port(PortQuery::Attach(_) | PortQuery::Detach(_)) => {
                Err("ovs-offloadctl changes NICs itself, without the daemon".to_owned())
            }
            Query::Nic(NicQuery::List) => {
                let snapshot = self.inventory.snapshot();
                let nics = answers::nics(&self.engine, &snapshot, self.declared_nics());
                Ok(print(output, &nics, |nics| inventory_text::nic_list(nics, width)))
            }
            Query::Nic(NicQuery::Show { nic }) => {
                let ports = answers::summary(&self.engine, now()).ports;
                let (snapshot, counts) = (self.inventory.snapshot(), answers::counts_of_nics(&self.engine));
                let view = |nic: &Nic| {
                    answers::nic_view(&self.engine, nic, &snapshot, &counts, self.declared_nics())
                };
                let detail = nic_detail(&snapshot, nic, view, &entries_of(&ports));
                let detail = detail.ok_or_else(|| {
                    format!("there is no NIC {nic} with an eswitch (ovs-offloadctl nic list shows those there are)")
                })?;
                Ok(print(output, &detail, |detail| inventory_text::nic_show(detail, width)))
            }
            Query::Refusal(RefusalQuery::List) => {
                let refused = answers::summary(&self.engine, now()).refused;
                Ok(print(output, &refused, |refused| text::refusal_list(refused, width)))
            }
            Query::Openflow(OpenflowQuery::List) => {
                let sums = openflow::list(&self.engine.openflow());
                Ok(print(output, &sums, |sums| openflow::openflow_list(sums, width)))
            }
            Query::Sa(SaQuery::List) => {
                let (owners, device) = (self.ike.owners(), |ifindex| self.netdev_name(ifindex));
                let sas = ipsec::sa_list(&self.ipsec.books, self.scene(&owners), device);
                Ok(print(output, &sas, |sas| sa::sa_list(sas, width)))
            }
            Query::Sa(SaQuery::Why { spi }) => {
                let (owners, device) = (self.ike.owners(), |ifindex| self.netdev_name(ifindex));
                let found = ipsec::sa_why(&self.ipsec.books, *spi, self.scene(&owners), device);
                if found.is_empty() {
                    return Err(format!(
                        "there is no security association with SPI {spi} (ovs-offloadctl sa list shows those there are)"
                    ));
                }
                Ok(print(output, &found, |found| sa::sa_why(found)))
            }
            Query::Tunnel(TunnelQuery::List) => {
                let tunnels = self.ike.tunnels();
                Ok(print(output, &tunnels, |tunnels| tunnel::tunnel_list(tunnels, width)))
            }
            Query::Policy(PolicyQuery::Show) => {
                let rules = policy::rules(self.engine.rules(), &self.engine.rule_views());
                Ok(print(output, &rules, |rules| policy::rule_list(rules, width)))
            }
            Query::Policy(PolicyQuery::Test(test)) => {
                let tested = self.test_policy(&test.flow)?;
                Ok(print(output, &tested, policy::policy_test))
            }
            Query::Policy(PolicyQuery::Check { .. }) => {
                Err("ovs-offloadctl checks files itself, without the daemon".to_owned())
            }
            Query::Probe(ProbeQuery::Load) => Err("it is answered when it is read".to_owned()),
            Query::Recording(asked) => recording::answer(&mut self.engine, now(), asked),
            Query::Reload => {
                self.reload(events)?;
                Ok(done(output, "the configuration is in force"))
            }
            Query::Drain { off, nic: Some(nic) } => {
                let id = self.nic_named(nic)?;
                events.push(Event::DrainNic { nic: id, on: !off });
                let sentence = if *off {
                    "the NIC is used again"
                } else {
                    "the NIC is being emptied, and is kept empty"
                };
                Ok(done(output, sentence))
            }
            Query::Drain { off, nic: None } => {
                self.draining = !off;
                events.push(Event::Drain(!off));
                let sentence = if *off {
                    "hardware is used again"
                } else {
                    "hardware is being emptied, and is kept empty"
                };
                Ok(done(output, sentence))
            }
            Query::Version => Ok(match output {
                OutputFormat::Json => json(&serde_json::json!({"version": env!("CARGO_PKG_VERSION")})),
                OutputFormat::Table => concat!("ovs-offloadd ", env!("CARGO_PKG_VERSION")).to_owned(),
            }),
        }
    }

    /// The NIC with this number or devlink handle; where several have one switch id, the first, which has the counts.
    fn nic_named(&mut self, name: &str) -> Result<NicId, String> {
        let nics = self.inventory.snapshot().nics;
        let is_named = |nic: &&Nic| nic.name() == name || nic.number.to_string() == name;
        let found = nics.iter().find(is_named).map(|nic| nic.switch.unwrap_or(nic.number));
        found.ok_or_else(|| format!("there is no NIC {name} (see nic list)"))
    }

    /// Tries the rules in force on a flow: a live one by its id, or one that is described.
    fn test_policy(&self, flow: &str) -> Result<policy::PolicyTest, String> {
        let rules = self.engine.rules();
        let Ok(ufid) = flow.trim().parse::<netlink_wire::Ufid>() else {
            let sketch = policy::sketch(flow)?;
            return Ok(self.engine.trace_rules_of(&sketch, |trace| policy::test_of(flow, rules, &trace)));
        };
        self.engine.trace_rules(now(), ufid, |trace| policy::test_of(flow, rules, &trace)).ok_or_else(|| {
            format!("there is no flow {ufid} in TC: it may be gone, or in the kernel datapath, where no rule is asked")
        })
    }

    fn status(&mut self) -> (StatusView, Vec<PortView>) {
        let at = now();
        let summary = answers::summary(&self.engine, at);
        let status = self.engine.status(at);
        let config = self.config.config();
        let tally = status.tally;
        let mut flows = summary.flows;
        flows.untracked = tally.megaflows_left_out;
        let snapshot = self.inventory.snapshot();
        let nics = answers::nics(&self.engine, &snapshot, self.declared_nics());
        let installs_per_s_max = nics.iter().filter_map(|nic| nic.installs_per_s_max).max();
        let view = StatusView {
            version: env!("CARGO_PKG_VERSION"),
            mode: status.mode.as_str(),
            mode_note: super::startup::mode_note(config.mode, status.mode, status.ovs),
            draining: self.draining,
            recirculation: answers::recirculation(&self.engine),
            uptime_s: self.started.elapsed().as_secs(),
            ovs_version: self.vswitchd_version.clone().or_else(|| self.ovs_version.clone()),
            kernel: self.kernel.clone(),
            connections: self.connections(),
            flows,
            rate: status.lately.map_or_else(Split::default, |(moved, over)| answers::per_second(moved, over)),
            traffic: answers::split(status.totals),
            localities: answers::localities(&self.engine),
            namespaces: answers::namespaces(&self.engine),
            rules: policy::rules(self.engine.rules(), &self.engine.rule_views()),
            nics,
            inventory: self.inventory_view(snapshot.stale.len()),
            ipsec: self.ipsec_view(),
            openflow: openflow::tables(&self.engine.openflow()),
            declared: self.declared(),
            refused: summary.refused,
            done: Deeds {
                promotions: tally.promotions,
                clean_promotions: tally.clean_promotions,
                promotions_per_s: self.pace.per_s,
                installs_per_s_max: installs_per_s_max.unwrap_or_else(|| config.nic.installs_per_s.per_s()),
                demotions: tally.demotions,
                gaps: tally.gaps,
                undone: tally.undone,
                races_repaired: tally.races_repaired,
                race_longest_us: tally.race_longest_us,
                flows_cleared: tally.flows_cleared,
                lost_in_hardware: tally.lost_in_hardware,
                changes_missed: tally.changes_missed,
                foreign_filters: tally.foreign_filters.into(),
                malformed: self.tc.dropped.0
                    + self.datapath.dropped.0
                    + self.discovery.dropped.0
                    + self.ipsec.dropped.0,
            },
            config_error: self.config.error(),
            restart_needed: self.config.restart_needed(),
            notes: self.notes(),
        };
        (view, summary.ports)
    }

    fn inventory_view(&self, stale_ports: usize) -> InventoryView {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let heard = self.discovery.heard().into_iter().map(|(source, heard)| {
            let Heard { notifications, updates } = heard;
            (source.name(), HeardView { notifications, updates })
        });
        InventoryView {
            complete_after_ms: self.discovery.complete_after().map(ms),
            questions: self.discovery.asked(),
            heard: heard.collect(),
            stale_ports: stale_ports as u64,
        }
    }

    fn scene<'a>(&'a self, owners: &'a ipsec::Owners) -> ipsec::Scene<'a> {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_s = since_1970.map_or(0, |time| time.as_secs());
        ipsec::Scene { interfaces: &self.interfaces, chassis: &self.chassis, owners, now_s }
    }

    fn netdev_name(&self, ifindex: Ifindex) -> Option<String> {
        self.inventory.name_of(ifindex).map(ToOwned::to_owned)
    }

    fn ipsec_view(&self) -> IpsecView {
        let books = &self.ipsec.books;
        let group = |(class, sum): (ipsec::Class, ipsec::Sum)| SaGroupView {
            offload: class.offload,
            direction: class.direction,
            sas: sum.sas,
            bytes: sum.bytes,
            packets: sum.packets,
            outside_window: sum.outside_window,
            replayed: sum.replayed,
            forged: sum.forged,
        };
        let [soft_expired, hard_expired] = books.expired;
        let OffloadReport { moves, entries, .. } = self.ike.offload();
        let entries_of = |(device, used, room): (Option<Device>, u32, Option<u32>)| {
            let name = device.and_then(|device| self.netdev_name(Ifindex(device.0)));
            EntriesView { device: name.unwrap_or_else(|| "unknown".to_owned()), used, room }
        };
        IpsecView {
            groups: books.sums().into_iter().map(group).collect(),
            policies: books.policies() as u64,
            soft_expired,
            hard_expired,
            acquires: books.acquires,
            left_out: books.left_out,
            tunnels: self.tunnel_groups(),
            moves: [
                ("to_nic", moves.to_nic),
                ("to_software", moves.to_software),
                ("missed", moves.missed),
                ("lost", moves.lost),
            ]
            .into(),
            entries: entries.into_iter().map(entries_of).collect(),
        }
    }

    fn tunnel_groups(&self) -> Vec<TunnelGroupView> {
        let mut groups = BTreeMap::new();
        for tunnel in self.ike.tunnels() {
            let Some(asks) = tunnel.asks else { continue };
            *groups.entry((asks, tunnel.carried.unwrap_or("unknown"))).or_insert(0) += 1;
        }
        let view = |((asks, carried), tunnels)| TunnelGroupView { asks, carried, tunnels };
        groups.into_iter().map(view).collect()
    }

    fn declared_nics(&self) -> answers::Declared<'_> {
        answers::Declared { nics: &self.config.config().devices, looks: &self.nics.sentences }
    }

    fn declared(&self) -> Vec<DeclaredView> {
        let said = self.nics.sentences.iter().map(|(devlink, (reached, sentence))| DeclaredView {
            devlink: devlink.clone(),
            reached: *reached,
            sentence: sentence.clone(),
        });
        said.collect()
    }

    fn connections(&self) -> Vec<ConnectionView> {
        let view = |name, connection: &Connection| ConnectionView {
            name,
            up: connection.up,
            detail: connection.detail.clone(),
            losses: connection.losses,
        };
        let overruns =
            self.tc.overruns + self.datapath.overruns + self.discovery.overruns + self.ipsec.overruns;
        let mut connections = vec![
            view("ovsdb", &self.ovsdb_connection),
            view("vswitchd", &self.vswitchd_connection),
            // Without its netlink sockets the daemon ends.
            ConnectionView { name: "netlink", up: true, detail: None, losses: overruns },
        ];
        if self.guard.is_needed() {
            let mut guard = view("guard", &self.guard.connection);
            if guard.up && self.guard.removed > 0 {
                guard.detail = Some(format!("it has removed {} rules", self.guard.removed));
            }
            connections.push(guard);
        }
        connections.extend(self.ike.connection());
        connections
            .extend(self.southbound.connection.as_ref().map(|connection| view("southbound", connection)));
        connections
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.datapath.is_there() {
            notes.push("there is no kernel datapath: the module openvswitch is not loaded".to_owned());
        }
        notes.extend(self.southbound.note.clone());
        notes.extend(self.ike.notes());
        notes.extend(self.ipsec.why_not().map(ToOwned::to_owned));
        if let Some(why) = &self.journal_error {
            notes.push(format!("the journal cannot be written: {why}"));
        }
        notes
    }
}

/// Flows in hardware by the device they come in by.
fn entries_of(ports: &[PortView]) -> Entries {
    ports.iter().map(|port| (Ifindex(port.ifindex), port.flows_hardware)).collect()
}

fn print<T: Serialize + ?Sized>(output: OutputFormat, view: &T, text: impl FnOnce(&T) -> String) -> String {
    match output {
        OutputFormat::Json => json(view),
        OutputFormat::Table => text(view),
    }
}

fn done(output: OutputFormat, sentence: &str) -> String {
    match output {
        OutputFormat::Json => json(&serde_json::json!({"done": sentence})),
        OutputFormat::Table => sentence.to_owned(),
    }
}

fn json<T: Serialize + ?Sized>(view: &T) -> String {
    serde_json::to_string_pretty(view).expect("views have string keys and numbers only")
}

//! The table of keys: the one place that knows a key's name, default, meaning and check.

use std::net::SocketAddr;
use std::time::Duration;

mod words;

use super::rules::place;
use super::value::{RateSetting, Scalar, absolute_or_default};
use super::{Config, InstallsSetting, LogLevel, SouthboundSetting};
use words::{COUNTERS, FORMATS, MODES, OFFLOADS, RECIRCULATIONS, SAVINGS};

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its name with its table: `policy.min-rate`.
    pub name: &'static str,
    /// Its default as TOML.
    pub default: &'static str,
    /// What may be written, in words.
    pub shape: &'static str,
    /// What it does, in sentences.
    pub doc: &'static str,
    /// Whether `Open_vSwitch.external_ids:offloadd-*` may set it too.
    pub in_ovsdb: bool,
    /// Whether a reload is enough for a change.
    pub reloads: bool,
    /// Checks a value and puts it in its place.
    pub set: fn(&mut Config, &Scalar) -> Result<(), String>,
}

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Every key there is, in the order of the default file.
pub static KEYS: &[Key] = &[
    Key {
        name: "mode",
        default: "\"auto\"",
        shape: "\"auto\", \"observe\", \"steer\" or \"shadow\"",
        doc: "What the daemon may do. \"observe\" reads and reports. \"steer\" moves flows that Open vSwitch has \
              put in TC between software and hardware; it needs other_config:hw-offload=true and \
              other_config:tc-policy=skip_hw in Open vSwitch, and refuses to start without. \"auto\" steers where \
              both are set and observes elsewhere. \"shadow\" places rules of its own for flows of the kernel datapath \
              where other_config:hw-offload is not true, and observes elsewhere; it needs ovs-offload-guard, and is \
              never chosen by \"auto\" (docs/shadow.md).",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.one_of(MODES).map(|mode| config.mode = mode),
    },
    Key {
        name: "ovs.database",
        default: "\"default\"",
        shape: "\"default\", \"unix:PATH\", \"tcp:HOST:PORT\" or \"ssl:HOST:PORT\"",
        doc: "Open vSwitch's database. The default is db.sock in the run directory.",
        in_ovsdb: false,
        reloads: false,
        set: |config, value| {
            let remote = value.string()?;
            let known = ["unix:", "tcp:", "ssl:"].iter().any(|scheme| remote.starts_with(scheme));
            config.ovs.database = match remote {
                "default" => None,
                remote if known => Some(remote.to_owned()),
                _ => return Err("must begin with unix:, tcp: or ssl:".into()),
            };
            Ok(())
        },
    },
    Key {
        name: "ovs.rundir",
        default: "\"default\"",
        shape: "\"default\" or an absolute path",
        doc: "Run directory shared with Open vSwitch: its pidfiles, its control sockets and ours. The default is \
              the environment's OVS_RUNDIR, or /var/run/openvswitch.",
        in_ovsdb: false,
        reloads: false,
        set: |config, value| absolute_or_default(value).map(|path| config.ovs.rundir = path),
    },
    Key {
        name: "ovs.vswitchd-timeout",
        default: "\"5 s\"",
        shape: "time, 100 ms to 5 min",
        doc: "Longest wait for an answer of ovs-vswitchd on its control socket. Its main thread may be busy; a \
              command that was not answered in time is checked against the kernel before anything else is done.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| {
            value.duration(ms(100), ms(300_000)).map(|time| config.ovs.vswitchd_timeout = time)
        },
    },
    Key {
        name: "ovn.southbound",
        default: "\"none\"",
        shape: "\"none\", \"ovn-remote\", or remotes with commas, each tcp:IP:PORT or ssl:IP:PORT",
        doc: "OVN's Southbound database, which says what logical switch a port is on, whose OpenStack project it is, and \
              which chassis an address belongs to. \"ovn-remote\" asks where ovn-controller does: \
              external_ids:ovn-remote in Open vSwitch. With ssl: the keys of Open vSwitch's own daemons are used. \
              Nothing depends on it.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| {
            config.ovn.southbound = match value.string()? {
                "none" => SouthboundSetting::None,
                "ovn-remote" => SouthboundSetting::OvnRemote,
                remotes => {
                    crate::daemon::southbound_remotes(remotes)?;
                    SouthboundSetting::At(remotes.to_owned())
                }
            };
            Ok(())
        },
    },
    Key {
        name: "ovn.publish",
        default: "\"no\"",
        shape: "\"yes\" or \"no\"",
        doc: "Whether this node's row in the Southbound database's table Chassis says in external_ids:offloadd-* what it \
              can offload: version, mode, NICs in switchdev mode and rules they take. It needs ovn.southbound.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| {
            value.one_of(&[("yes", true), ("no", false)]).map(|publish| config.ovn.publish = publish)
        },
    },
    Key {
        name: "control.socket",
        default: "\"default\"",
        shape: "\"default\" or an absolute path",
        doc: "Control socket for ovs-offloadctl and ovs-appctl. The default is ovs-offloadd.PID.ctl in the run \
              directory, which both find by themselves.",
        in_ovsdb: false,
        reloads: false,
        set: |config, value| absolute_or_default(value).map(|path| config.control.socket = path),
    },
    Key {
        name: "log.level",
        default: "\"info\"",
        shape: "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        doc: "Least severe message that is logged. ovs-appctl -t ovs-offloadd vlog/set LEVEL changes it until the \
              next reload.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.one_of(LogLevel::WORDS).map(|level| config.log.level = level),
    },
    Key {
        name: "log.format",
        default: "\"auto\"",
        shape: "\"auto\", \"text\", \"json\" or \"journald\"",
        doc: "Where and how messages are logged: text or json on standard error, or the journal's own protocol. \
              \"auto\" takes the journal when started by systemd, else text.",
        in_ovsdb: false,
        reloads: false,
        set: |config, value| value.one_of(FORMATS).map(|format| config.log.format = format),
    },
    Key {
        name: "steer.counters",
        default: "\"fast\"",
        shape: "\"exact\" or \"fast\"",
        doc: "How a promotion treats a flow that has already counted packets. \"exact\" first has ovs-vswitchd \
              modify the flow to what it is, so that OpenFlow counters never fall; it costs a command to \
              ovs-vswitchd's main thread per promotion, and is done right after a round of revalidation, so that a \
              promotion waits up to other_config:max-revalidator (500 ms) for it. \"fast\" only replaces the \
              rule: on Open vSwitch 3.2 and later the OpenFlow counters of that flow fall once by what it had \
              counted.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.one_of(COUNTERS).map(|counters| config.steer.counters = counters),
    },
    Key {
        name: "steer.recirculation",
        default: "\"auto\"",
        shape: "\"auto\", \"always\" or \"never\"",
        doc: "Whether rules that recirculation joins, as conntrack does, may be in hardware. \"auto\": where the kernel is \
              known to go on in TC in the chain where the NIC stopped (CONFIG_NET_TC_SKB_EXT), which is told by whether Open \
              vSwitch could have it share recirculation ids. \"always\" is for a kernel that does without telling: where it \
              does not, packets that the NIC hands back in the middle are treated twice.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| {
            value.one_of(RECIRCULATIONS).map(|recirculation| config.steer.recirculation = recirculation)
        },
    },
    Key {
        name: "shadow.guard",
        default: "\"default\"",
        shape: "\"default\", \"none\" or an absolute path",
        doc: "Socket of ovs-offload-guard, without which mode shadow places nothing: it removes the daemon's rules when the \
              daemon dies or hangs. The default is /run/ovs-offloadd/guard.sock. With \"none\", for a lab, they stay then until \
              the next daemon starts.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| {
            config.shadow.guard = match value {
                Scalar::Text(text) if text == "none" => None,
                value => Some(absolute_or_default(value)?.unwrap_or_else(|| crate::guard::SOCKET.into())),
            };
            Ok(())
        },
    },
    Key {
        name: "shadow.gaps",
        default: "false",
        shape: "true or false",
        doc: "Whether mode shadow takes a rule out of hardware for a moment once half of Open vSwitch's other_config:max-idle is over, so \
              that it sees a packet and keeps the megaflow. Without, megaflows in hardware are deleted after max-idle, and made anew \
              with the next packet; a longer max-idle makes both rarer. It needs a policy.epoch well below max-idle \
              (docs/shadow.md).",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.boolean().map(|gaps| config.shadow.gaps = gaps),
    },
    Key {
        name: "policy.default",
        default: "\"auto\"",
        shape: "\"hardware\", \"software\" or \"auto\"",
        doc: "Where flows go that no rule matches: in hardware while there is room, in software always, or where what \
              they save earns it.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| place(value).map(|place| config.policy.default = place),
    },
    Key {
        name: "policy.saving",
        default: "\"bytes\"",
        shape: "\"bytes\", \"packets\" or \"cpu\"",
        doc: "What an entry is there to save: bytes or packets that no longer cross the CPU, or the CPU time they are \
              estimated to take.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.one_of(SAVINGS).map(|saving| config.policy.saving = saving),
    },
    Key {
        name: "policy.min-rate",
        default: "\"0 bit/s\"",
        shape: "rate",
        doc: "Least rate of a flow that is promoted. Without one, what it is expected to save decides alone.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.rate().map(|rate| config.policy.min_rate = rate),
    },
    Key {
        name: "policy.min-age",
        default: "\"0 s\"",
        shape: "time, up to 1 h",
        doc: "Least age of a flow that is promoted. Without one, what it has moved decides alone.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| {
            value.duration(Duration::ZERO, ms(3_600_000)).map(|time| config.policy.min_age = time)
        },
    },
    Key {
        name: "policy.hysteresis",
        default: "0.25",
        shape: "number from 0 to 10, or a percentage",
        doc: "Margin by which a newcomer must save more than the flow it displaces. 0.25 means a quarter more.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.ratio(0.0, 10.0).map(|ratio| config.policy.hysteresis = ratio),
    },
    Key {
        name: "policy.min-residency",
        default: "\"250 ms\"",
        shape: "time, up to 1 h",
        doc: "Least stay in hardware before a flow may be displaced by a hotter one.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| {
            value.duration(Duration::ZERO, ms(3_600_000)).map(|time| config.policy.min_residency = time)
        },
    },
    Key {
        name: "policy.epoch",
        default: "\"500 ms\"",
        shape: "time, 50 ms to 1 min",
        doc: "Time between two readings of all TC filters. After each of them rates are known afresh and the plan is \
              made anew.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.duration(ms(50), ms(60_000)).map(|time| config.policy.epoch = time),
    },
    Key {
        name: "nic.capacity",
        default: "\"learn\"",
        shape: "\"learn\" or a whole number from 0 to 16777216",
        doc: "Entries each NIC has room for. \"learn\" finds out from the NIC's refusals and tries again from time \
              to time.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.capacity(1 << 24).map(|entries| config.nic.capacity = entries),
    },
    Key {
        name: "nic.counter-delay",
        default: "\"1 s\"",
        shape: "time, up to 1 min",
        doc: "How late the NIC's counters may be: no silence shorter than this is taken for a pause of the flow. mlx5 \
              reads its counters once a second.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| {
            value.duration(Duration::ZERO, ms(60_000)).map(|time| config.nic.counter_delay = time)
        },
    },
    Key {
        name: "nic.installs-per-s",
        default: "1000",
        shape: "\"learn\" or a whole number from 1 to 1000000",
        doc: "Most rules that are put in each NIC in a second. \"learn\" finds out how long its driver takes for one, and \
              lets it be busy with them for half of the time: 1000 before it has seen any, from 1 to 10000 then.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| {
            config.nic.installs_per_s = match value {
                Scalar::Text(text) | Scalar::Loose(text) if text == "learn" => InstallsSetting::Learn,
                Scalar::Text(_) => return Err("must be \"learn\" or a whole number without quotes".into()),
                value => InstallsSetting::PerSecond(value.integer(1, 1_000_000)?),
            };
            Ok(())
        },
    },
    Key {
        name: "nic.install-burst",
        default: "500",
        shape: "whole number from 1 to 1000000",
        doc: "Most rules that are put in each NIC at once after a quiet time; no more than a second's worth.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.integer(1, 1_000_000).map(|number| config.nic.install_burst = number),
    },
    Key {
        name: "ipsec.drive",
        default: "false",
        shape: "true or false",
        doc: "Whether tunnels that are marked for IPsec in OVSDB, as for ovs-monitor-ipsec, are protected at this daemon's word: it \
              has strongSwan load, initiate and unload what they need (docs/ipsec.md). While ovs-monitor-ipsec runs nothing is \
              done but what ipsec.libreswan says. Turned off, what is there stays.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| value.boolean().map(|drive| config.ipsec.drive = drive),
    },
    Key {
        name: "ipsec.libreswan",
        default: "false",
        shape: "true or false",
        doc: "With ipsec.drive: whether tunnels that ovs-monitor-ipsec has Libreswan protect are told what to ask of NICs, by \
              ipsec.offload: options:ipsec_nic-offload is written in OVSDB where nobody has written it (docs/ipsec.md). Turned \
              off, what was written is taken out.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| value.boolean().map(|libreswan| config.ipsec.libreswan = libreswan),
    },
    Key {
        name: "ipsec.vici",
        default: "\"default\"",
        shape: "\"default\" or an absolute path",
        doc: "Control socket of strongSwan's charon. The default is /run/charon.vici.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| {
            config.ipsec.vici = absolute_or_default(value)?.unwrap_or_else(|| crate::ike::VICI_SOCKET.into());
            Ok(())
        },
    },
    Key {
        name: "ipsec.offload",
        default: "\"auto\"",
        shape: "\"packet\", \"crypto\", \"auto\" or \"none\"",
        doc: "What a NIC is asked for where options:ipsec_nic-offload of a tunnel does not say: all of IPsec (\"packet\") or its \
              ciphers (\"crypto\"), without either of which the tunnel does not come up then; the most it can once the tunnel \
              has earned it, and software before (\"auto\"); nothing.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.one_of(OFFLOADS).map(|offload| config.ipsec.offload = offload),
    },
    Key {
        name: "ipsec.entries",
        default: "\"learn\"",
        shape: "\"learn\" or a whole number from 0 to 1000000",
        doc: "Connections of tunnels that each NIC has room for: two security associations of GRE, four of a tunnel over UDP, and as \
              many more while they are negotiated anew. Tunnels with \"auto\" compete for them. \"learn\" finds out from what \
              comes up in software though a NIC was asked.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| value.capacity(1_000_000).map(|entries| config.ipsec.entries = entries),
    },
    Key {
        name: "ipsec.min-rate",
        default: "\"1 Mbit/s\"",
        shape: "rate in bits or bytes",
        doc: "Least rate of a tunnel with \"auto\" that is worth an entry: it is negotiated anew to have it. With \"0 bit/s\" each is \
              that there is room for.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| match value.rate()? {
            RateSetting::Bits(rate) => {
                config.ipsec.min_rate = rate;
                Ok(())
            }
            RateSetting::Packets(_) => Err("must be a rate of bits or bytes".into()),
        },
    },
    Key {
        name: "dump.datapath-interval",
        default: "\"2 s\"",
        shape: "time, 50 ms to 10 min",
        doc: "Time between two readings of the kernel datapath's flows, for their counters.",
        in_ovsdb: true,
        reloads: true,
        set: |config, value| {
            value.duration(ms(50), ms(600_000)).map(|time| config.dump.datapath_interval = time)
        },
    },
    Key {
        name: "metrics.listen",
        default: "\"127.0.0.1:9476\"",
        shape: "\"ADDRESS:PORT\" or \"off\"",
        doc: "Address of the Prometheus listener (plain HTTP, path /metrics). It has no authentication: leave it on \
              a loopback address unless the network in front of it does.",
        in_ovsdb: false,
        reloads: false,
        set: |config, value| {
            config.metrics.listen = match value.string()? {
                "off" => None,
                text => Some(text.parse::<SocketAddr>().map_err(|_| {
                    format!("{text:?} is not ADDRESS:PORT, such as \"127.0.0.1:9476\", nor \"off\"")
                })?),
            };
            Ok(())
        },
    },
    Key {
        name: "limits.flows-max",
        default: "1000000",
        shape: "whole number from 1000 to 16777216",
        doc: "Most flows that are tracked. Those beyond stay in software and are counted in status.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| value.integer(1_000, 1 << 24).map(|number| config.limits.flows_max = number),
    },
    Key {
        name: "limits.new-flows-max",
        default: "20000",
        shape: "whole number from 100 to 16777216",
        doc: "New megaflows by one port in a second that mode shadow follows. Where more come, all of that port stay in \
              software (too_many_new) until it has been less than half of that for 5 s.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| value.integer(100, 1 << 24).map(|number| config.limits.new_flows_max = number),
    },
    Key {
        name: "limits.socket-buffer",
        default: "16777216",
        shape: "whole number of bytes from 65536 to 1073741824",
        doc: "Receive buffer of each notification socket. When it overflows everything is read afresh, and status \
              counts it.",
        in_ovsdb: false,
        reloads: false,
        set: |config, value| {
            value.integer(1 << 16, 1 << 30).map(|number| config.limits.socket_buffer = number)
        },
    },
    Key {
        name: "limits.requests-in-flight",
        default: "32",
        shape: "whole number from 1 to 256",
        doc: "Most requests sent to the kernel in one batch, before their answers are read.",
        in_ovsdb: false,
        reloads: false,
        set: |config, value| value.integer(1, 256).map(|number| config.limits.requests_in_flight = number),
    },
    Key {
        name: "limits.control-clients",
        default: "16",
        shape: "whole number from 1 to 1024",
        doc: "Most clients of the control socket, and of the metrics listener, at a time. Further ones wait.",
        in_ovsdb: false,
        reloads: false,
        set: |config, value| value.integer(1, 1_024).map(|number| config.limits.control_clients = number),
    },
    Key {
        name: "limits.record-bytes",
        default: "1073741824",
        shape: "whole number of bytes from 1048576 to 1099511627776",
        doc: "Most bytes of an event log (--record). Recording ends there, and says so; the daemon goes on.",
        in_ovsdb: false,
        reloads: true,
        set: |config, value| {
            value.integer(1 << 20, 1 << 40).map(|number| config.limits.record_bytes = number)
        },
    },
];

#[cfg(test)]
mod tests;

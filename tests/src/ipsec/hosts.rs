//! Two hosts with a tunnel between them: a namespace each, with Open vSwitch, charon and the daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{
    Charon, Daemon, Failure, Lab, Libreswan, Middle, Netns, Outcome, Ovs, Simnic, run, wait_for, wait_until,
};
use serde_json::Value;

use super::capture::{Capture, SEEN};

/// On a machine with nothing else to do it takes a few seconds.
pub(super) const DONE_WITHIN: Duration = Duration::from_secs(90);
pub(super) const PINGS: usize = 10;
/// Of a wire without NICs.
const ENDS: [&str; 2] = ["wire0", "wire1"];

/// Settings of an Open vSwitch whose filters the daemon steers.
const STEERED: [&str; 2] = ["hw-offload=true", "tc-policy=skip_hw"];
/// What tunnels are on the wire, if nobody encrypts them.
const TUNNELS: &str = "udp port 6081 or udp port 4789 or proto gre";

/// An IKE daemon as a host has it.
pub(super) trait Ike: Sized {
    fn begin(lab: &Lab, netns: &Netns, ovs: &Ovs) -> Outcome<Self>;
    /// What the daemon is told of it.
    fn config(&self) -> String;
    /// Everything it logged.
    fn said(&self) -> String;
}

impl Ike for Charon {
    fn begin(lab: &Lab, netns: &Netns, _ovs: &Ovs) -> Outcome<Self> {
        Self::start(lab, netns)
    }

    fn config(&self) -> String {
        format!("vici = \"{}\"\n", self.socket().display())
    }

    fn said(&self) -> String {
        self.log()
    }
}

impl Ike for Libreswan {
    fn begin(lab: &Lab, netns: &Netns, ovs: &Ovs) -> Outcome<Self> {
        Self::start(lab, netns, ovs)
    }

    fn config(&self) -> String {
        "libreswan = true\nvici = \"/nonexistent/charon.vici\"\n".to_owned()
    }

    fn said(&self) -> String {
        self.log()
    }
}

/// One end.
pub(super) struct Host<I = Charon> {
    pub(super) daemon: Daemon,
    /// Its IKE daemon, charon or another.
    pub(super) charon: I,
    pub(super) ovs: Ovs,
    pub(super) netns: Netns,
    /// What speaks through the tunnel, if that is not the host itself.
    pod: Option<Netns>,
    /// Its address on the wire.
    pub(super) outer: &'static str,
    /// In the tunnel.
    pub(super) inner: &'static str,
}

/// Both ends, `kind` of tunnel between them.
pub(super) struct Hosts<I = Charon> {
    /// Theirs, in the order of the two, where the wire is between NICs. They go first, and none of their devices back to the guest's
    /// own namespace: there devlink warns of the switch ID that the uplink of a switch has.
    nics: Option<([Simnic; 2], Middle)>,
    pub(super) left: Host<I>,
    pub(super) right: Host<I>,
}

impl Hosts {
    /// With addresses on the wire and the daemons' configuration, beyond where charon is. There is no tunnel yet.
    pub(super) fn new(lab: &mut Lab, outer: [&'static str; 2], config: &str) -> Outcome<Self> {
        run("ip", &["link", "add", ENDS[0], "type", "veth", "peer", "name", ENDS[1]])?;
        let left = Netns::new(lab, "left")?;
        Self::on_the_ends_of(lab, left, ENDS.map(str::to_owned), None, outer, ("observe", config))
    }

    /// The same with a NIC each, whose hardware can do IPsec.
    pub(super) fn with_nics(lab: &mut Lab, outer: [&'static str; 2], config: &str) -> Outcome<Self> {
        let (nics, middle, ends) = Self::two_nics()?;
        let left = Netns::new(lab, "left")?;
        Self::on_the_ends_of(lab, left, ends, Some((nics, middle)), outer, ("observe", config))
    }

    /// The same, and the first host is the guest itself: devlink tells of a NIC in its own namespace alone.
    pub(super) fn with_nic_of_the_guest(lab: &mut Lab, outer: [&'static str; 2]) -> Outcome<Self> {
        let (nics, middle, ends) = Self::two_nics()?;
        let left = Netns::of_the_guest(lab)?;
        Self::on_the_ends_of(lab, left, ends, Some((nics, middle)), outer, ("observe", ""))
    }

    /// The same with NICs that forward, too: a pod behind the VF of each speaks through the tunnel, and the daemons place its flows.
    pub(super) fn with_pods(lab: &mut Lab, outer: [&'static str; 2]) -> Outcome<Self> {
        let nics = [Simnic::new(0, 1)?, Simnic::new(1, 1)?];
        for nic in &nics {
            nic.set_mode("switchdev")?;
        }
        let middle = Middle::between([&nics[0], &nics[1]], [2, 3])?;
        let ends = [nics[0].uplink(), nics[1].uplink()];
        let config = ("steer", "policy.min-rate = \"1 Mbit/s\"");
        let left = Netns::new(lab, "left")?;
        Self::on_the_ends_of(lab, left, ends, Some((nics, middle)), outer, config)
    }
}

impl Hosts<Libreswan> {
    /// With a NIC each, whose hardware can do IPsec, and Libreswan in place of charon.
    pub(super) fn of_libreswan(lab: &mut Lab, outer: [&'static str; 2], config: &str) -> Outcome<Self> {
        let (nics, middle, ends) = Self::two_nics()?;
        let left = Netns::new(lab, "left")?;
        Self::on_the_ends_of(lab, left, ends, Some((nics, middle)), outer, ("observe", config))
    }
}

impl<I: Ike> Hosts<I> {
    fn two_nics() -> Outcome<([Simnic; 2], Middle, [String; 2])> {
        let nics = [Simnic::new(0, 0)?, Simnic::new(1, 0)?];
        let middle = Middle::between([&nics[0], &nics[1]], [2, 3])?;
        let ends = [nics[0].uplink(), nics[1].uplink()];
        Ok((nics, middle, ends))
    }

    fn on_the_ends_of(
        lab: &mut Lab,
        left: Netns,
        [left_end, right_end]: [String; 2],
        nics: Option<([Simnic; 2], Middle)>,
        outer: [&'static str; 2],
        (mode, config): (&str, &str),
    ) -> Outcome<Self> {
        let right = Netns::new(lab, "right")?;
        // Without duplicate address detection an address is there at once.
        for (netns, wire, address) in [(&left, &left_end, outer[0]), (&right, &right_end, outer[1])] {
            run("ip", &["link", "set", wire, "netns", netns.name()])?;
            let (bits, nodad): (_, &[&str]) =
                if address.contains(':') { (64, &["nodad"]) } else { (24, &[]) };
            let address = format!("{address}/{bits}");
            netns.run(&[&["ip", "address", "add", &address, "dev", wire][..], nodad].concat())?;
            netns.run(&["ip", "link", "set", wire, "up"])?;
        }
        let plugged = |at: usize| nics.as_ref().map(|(nics, _)| &nics[at]).filter(|_| mode == "steer");
        let config = format!("mode = \"{mode}\"\n{config}");
        let left = Host::start(lab, left, plugged(0), [outer[0], "10.20.0.1"], &config)?;
        let right = Host::start(lab, right, plugged(1), [outer[1], "10.20.0.2"], &config)?;
        Ok(Self { nics, left, right })
    }

    /// The NIC of each end.
    pub(super) fn nics(&self) -> Outcome<&[Simnic; 2]> {
        let none = || Failure::new("the wire is not between NICs");
        self.nics.as_ref().map(|(nics, _)| nics).ok_or_else(none)
    }

    /// `tcpdump` of what is on the wire. A NIC's own host sees what it gives to its hardware, and not what that makes of it.
    pub(super) fn tcpdump(&self) -> Command {
        let (mut command, device) = match &self.nics {
            Some((_, middle)) => (Command::new("tcpdump"), middle.device(0)),
            None => (self.left.netns.command("tcpdump"), ENDS[0].to_owned()),
        };
        command.args(["-i", &device]);
        command
    }

    pub(super) fn both(&self) -> [(&Host<I>, &Host<I>); 2] {
        [(&self.left, &self.right), (&self.right, &self.left)]
    }

    /// Adds the tunnel `tun0` of this type with these options at both ends. Open vSwitch 4.0 takes none without `remote_ip`, which
    /// therefore comes with it.
    pub(super) fn tunnel(&self, kind: &str, options: &[&str]) -> Outcome {
        for (host, peer) in self.both() {
            let (kind, remote) = (format!("type={kind}"), format!("options:remote_ip={}", peer.outer));
            let local = format!("options:local_ip={}", host.outer);
            let port = ["add-port", "br0", "tun0", "--", "set", "Interface", "tun0", &kind, &remote, &local];
            host.ovs.vsctl(&[&port[..], options].concat())?;
        }
        Ok(())
    }

    /// Waits until both daemons show the tunnel as up.
    pub(super) fn are_up(&self) -> Outcome {
        for (host, _) in self.both() {
            host.is_shown("up")?;
        }
        Ok(())
    }

    /// Waits until the first end has at least four security associations, none of them of those before, and both are up.
    pub(super) fn have_others_than(&self, before: &[String]) -> Outcome {
        wait_until("security associations are others", DONE_WITHIN, || {
            let now = self.left.spis()?;
            Ok(now.len() >= 4 && now.iter().all(|spi| !before.contains(spi)))
        })
        .map_err(|failure| self.explained(&failure))?;
        self.are_up()
    }

    /// Both can be reached through the tunnel.
    pub(super) fn reach_each_other(&self) -> Outcome {
        for (host, peer) in self.both() {
            wait_until(&format!("{} is reached", peer.inner), DONE_WITHIN, || {
                Ok(host.speaker().pings(peer.inner))
            })
            .map_err(|failure| self.explained(&failure))?;
        }
        Ok(())
    }

    /// Sends what is to be recognised through the tunnel, and has what is on the wire: whether that was seen, and packets of ESP.
    pub(super) fn on_the_wire(&self, lab: &Lab, name: &str) -> Outcome<(bool, usize)> {
        let capture = Capture::start(lab, self.tcpdump(), name)?;
        let pattern: String = SEEN.iter().map(|byte| format!("{byte:02x}")).collect();
        let count = PINGS.to_string();
        let words = [
            "ping",
            "-n",
            "-c",
            &count,
            "-i",
            "0.2",
            "-W",
            "10",
            "-s",
            "64",
            "-p",
            &pattern,
            self.right.inner,
        ];
        self.left.speaker().run(&words)?;
        // What was sent and answered comes to the file a little later.
        // What IKE has to say meanwhile is none of it.
        let carried = format!("esp or {TUNNELS}");
        wait_until("all is captured", DONE_WITHIN, || Ok(capture.packets(&carried)? >= 2 * PINGS))?;
        capture.stop()
    }

    /// Nothing of what the tunnel carries is seen on the wire, and it is there, encrypted, both ways.
    pub(super) fn are_private(&self, lab: &Lab, name: &str) -> Outcome {
        let (seen, esp) = self.on_the_wire(lab, name)?;
        ensure!(!seen, "what the tunnel carries is on the wire in the clear ({name})");
        ensure!(esp >= 2 * PINGS, "{esp} packets of ESP on the wire, for {PINGS} pings and their answers");
        Ok(())
    }

    /// Has something done, and counts the packets of ESP that are on the wire meanwhile; none is to be of a tunnel in the clear.
    pub(super) fn only_esp_while(
        &self,
        lab: &Lab,
        name: &str,
        done: impl FnOnce() -> Outcome,
    ) -> Outcome<usize> {
        self.so_much_esp_while(lab, name, 0, done)
    }

    /// The same, where at least so many packets of ESP are to be on the wire. They come to the file a little later.
    pub(super) fn so_much_esp_while(
        &self,
        lab: &Lab,
        name: &str,
        least: usize,
        done: impl FnOnce() -> Outcome,
    ) -> Outcome<usize> {
        let capture = Capture::start(lab, self.tcpdump(), name)?;
        done()?;
        wait_until(&format!("{least} packets of ESP are captured ({name})"), DONE_WITHIN, || {
            let esp = capture.packets("esp")?;
            ensure!(esp >= least, "{esp} are");
            Ok(true)
        })?;
        let (clear, esp) = (capture.packets(TUNNELS)?, capture.packets("esp")?);
        capture.stop()?;
        ensure!(clear == 0, "{clear} packets of tunnels are on the wire in the clear ({name})");
        Ok(esp)
    }

    /// A failure with what both kernels and NICs have, and where they dropped what; no keys are shown.
    pub(super) fn with_tables(&self, failure: &Failure) -> Failure {
        let tables = self.both().map(|(host, _)| {
            let said =
                ["ip -s xfrm state list nokeys", "ip xfrm policy", "cat /proc/net/xfrm_stat", "ip neigh"];
            let of_kernel = said.map(|words| {
                host.netns
                    .run(&words.split(' ').collect::<Vec<_>>())
                    .unwrap_or_else(|failure| failure.to_string())
            });
            of_kernel.join("\n")
        });
        let nics = self.nics().into_iter().flatten().enumerate().map(|(at, nic)| {
            let netns = &self.both()[at].0.netns;
            let counters = netns.ethtool_counters(&nic.uplink()).unwrap_or_default();
            let counters: Vec<_> =
                counters.into_iter().filter(|(name, count)| name.contains("ipsec") && *count > 0).collect();
            format!(
                "{}\n{}\n{counters:?}",
                nic.shown("sas").unwrap_or_default(),
                nic.shown("policies").unwrap_or_default()
            )
        });
        Failure::new(format!(
            "{failure}\n{}\n{}",
            tables.join("\n---\n"),
            nics.collect::<Vec<_>>().join("\n---\n")
        ))
    }

    /// A failure with what both charons have to say.
    pub(super) fn explained(&self, failure: &Failure) -> Failure {
        let tail = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(25)..].join("\n")
        };
        let tails = self.both().map(|(host, _)| {
            let shown = host.daemon.ctl(&["tunnel", "list"]).unwrap_or_default();
            format!("{shown}{}", tail(host.charon.said()))
        });
        Failure::new(format!("{failure}\n{}", tails.join("\n---\n")))
    }
}

impl<I: Ike> Host<I> {
    /// With a pod at the VF of its NIC, or else nobody but the host itself in the tunnel.
    fn start(
        lab: &mut Lab,
        netns: Netns,
        nic: Option<&Simnic>,
        [outer, inner]: [&'static str; 2],
        config: &str,
    ) -> Outcome<Self> {
        let ovs = Ovs::start_in(lab, &netns, if nic.is_some() { &STEERED } else { &[] })?;
        ovs.vsctl(&["add-br", "br0"])?;
        let pod = nic.map(|nic| Self::plug(lab, &netns, &ovs, nic)).transpose()?;
        let (speaker, device) =
            (pod.as_ref().unwrap_or(&netns), nic.map_or("br0".to_owned(), |nic| nic.vf(0)));
        speaker.run(&["ip", "address", "add", &format!("{inner}/24"), "dev", &device])?;
        // Room for tunnel and ESP on the wire.
        speaker.run(&["ip", "link", "set", &device, "mtu", "1300", "up"])?;
        let charon = I::begin(lab, &netns, &ovs)?;
        let daemon = Daemon::start(lab, &ovs, &Self::config(&charon, config))?;
        Ok(Self { daemon, charon, ovs, netns, pod, outer, inner })
    }

    /// A pod that has the NIC's VF, whose representor is on the bridge.
    fn plug(lab: &mut Lab, netns: &Netns, ovs: &Ovs, nic: &Simnic) -> Outcome<Netns> {
        let (pod, representor) = (Netns::new(lab, "pod")?, nic.representor(0));
        run("ip", &["link", "set", &nic.vf(0), "netns", pod.name()])?;
        run("ip", &["link", "set", &representor, "netns", netns.name()])?;
        netns.run(&["ip", "link", "set", &representor, "up"])?;
        ovs.vsctl(&["add-port", "br0", &representor])?;
        Ok(pod)
    }

    /// What speaks through the tunnel.
    pub(super) fn speaker(&self) -> &Netns {
        self.pod.as_ref().unwrap_or(&self.netns)
    }

    /// What the daemon is started with.
    pub(super) fn config(charon: &I, more: &str) -> String {
        format!("{more}\n[ipsec]\ndrive = true\n{}", charon.config())
    }

    /// Sets something of the tunnel's row.
    pub(super) fn set(&self, words: &[&str]) -> Outcome {
        self.ovs.vsctl(&[&["set", "Interface", "tun0"][..], words].concat()).map(drop)
    }

    /// The tunnel as the daemon shows it.
    pub(super) fn tunnel(&self) -> Outcome<Option<Value>> {
        let tunnels = self.daemon.json(&["tunnel", "list"])?;
        Ok(tunnels.as_array().and_then(|all| all.iter().find(|tunnel| tunnel["tunnel"] == "tun0")).cloned())
    }

    /// Waits until the daemon shows the tunnel in this state.
    pub(super) fn is_shown(&self, state: &str) -> Outcome<Value> {
        let what = format!("the tunnel is {state} at {}", self.outer);
        let found =
            wait_for(&what, DONE_WITHIN, || Ok(self.tunnel()?.filter(|tunnel| tunnel["state"] == state)));
        found.or_else(|failure| {
            let (shown, log) = (self.tunnel()?, self.charon.said());
            let log: Vec<&str> = log.lines().collect();
            let tail = log[log.len().saturating_sub(30)..].join("\n");
            Err(Failure::new(format!("{failure}: {shown:?}\n{tail}")))
        })
    }

    /// SPIs of the security associations that the kernel has here, those left out that it waits for.
    pub(super) fn spis(&self) -> Outcome<Vec<String>> {
        let text = self.netns.run(&["ip", "xfrm", "state"])?;
        let words = text.lines().filter_map(|line| line.trim().strip_prefix("proto esp spi "));
        let spis = words.filter_map(|rest| rest.split_whitespace().next()).filter(|spi| *spi != "0x00000000");
        Ok(spis.map(str::to_owned).collect())
    }

    /// Policies of the kernel here that are about a UDP port.
    pub(super) fn policies(&self, port: u16) -> Outcome<usize> {
        let text = self.netns.run(&["ip", "xfrm", "policy"])?;
        Ok(text.matches(&format!("port {port} ")).count())
    }

    /// Has Open vSwitch name this key and certificate as the host's own, and change what else is said at the same moment.
    pub(super) fn is_known_by(&self, (key, certificate): &(PathBuf, PathBuf), also: &[&str]) -> Outcome {
        let key = format!("other_config:private_key={}", key.display());
        let certificate = format!("other_config:certificate={}", certificate.display());
        self.ovs.vsctl(&[&["set", "Open_vSwitch", ".", &certificate, &key], also].concat())?;
        Ok(())
    }

    /// A key and a certificate for it, signed by an authority or by itself: their paths.
    pub(super) fn certificate(
        &self,
        lab: &Lab,
        name: &str,
        authority: Option<&Authority>,
    ) -> Outcome<(PathBuf, PathBuf)> {
        let (key, certificate) =
            (lab.dir().join(format!("{name}-key.pem")), lab.dir().join(format!("{name}.pem")));
        pki(&["--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem"], &key)?;
        let (dn, path) = (format!("O=lab, CN={name}"), key.display().to_string());
        match authority {
            None => pki(
                &["--self", "--in", &path, "--type", "ecdsa", "--dn", &dn, "--san", name, "--outform", "pem"],
                &certificate,
            )?,
            Some(Authority { key, certificate: ca }) => {
                let (ca_key, ca) = (key.display().to_string(), ca.display().to_string());
                let words = [
                    "--issue",
                    "--in",
                    &path,
                    "--type",
                    "priv",
                    "--cacert",
                    &ca,
                    "--cakey",
                    &ca_key,
                    "--dn",
                    &dn,
                    "--san",
                    name,
                    "--outform",
                    "pem",
                ];
                pki(&words, &certificate)?;
            }
        }
        Ok((key, certificate))
    }
}

/// Who signs certificates.
pub(super) struct Authority {
    key: PathBuf,
    pub(super) certificate: PathBuf,
}

impl Authority {
    pub(super) fn new(lab: &Lab) -> Outcome<Self> {
        let (key, certificate) = (lab.dir().join("ca-key.pem"), lab.dir().join("ca.pem"));
        pki(&["--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem"], &key)?;
        let path = key.display().to_string();
        let words = [
            "--self",
            "--ca",
            "--in",
            &path,
            "--type",
            "ecdsa",
            "--dn",
            "O=lab, CN=authority",
            "--outform",
            "pem",
        ];
        pki(&words, &certificate)?;
        Ok(Self { key, certificate })
    }
}

fn pki(words: &[&str], out: &Path) -> Outcome {
    let text = run("pki", words)?;
    Ok(fs::write(out, text)?)
}

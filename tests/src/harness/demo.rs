//! The demo topology, lab/topologies/demo.sh: the same that a shell in the lab and `cargo xtask demo` have.

use super::{Netns, Outcome, Ovs, output};

/// The demo topology on one Open vSwitch, taken down when dropped if it was brought up here.
#[derive(Debug)]
pub struct Demo<'a> {
    ovs: &'a Ovs,
    brought_up_here: bool,
    /// The workload behind virtual function 0, [`Demo::VM0`].
    pub vm0: Netns,
    /// The workload behind virtual function 1, [`Demo::VM1`].
    pub vm1: Netns,
    /// The host behind the wire, [`Demo::REMOTE`].
    pub remote: Netns,
}

impl<'a> Demo<'a> {
    /// Address of the workload behind virtual function 0.
    pub const VM0: &'static str = "10.10.0.1";
    /// Address of the workload behind virtual function 1.
    pub const VM1: &'static str = "10.10.0.2";
    /// Address of the host behind the wire.
    pub const REMOTE: &'static str = "10.10.0.100";

    /// Brings it up; when this returns, the three reach each other.
    pub fn up(ovs: &'a Ovs) -> Outcome<Self> {
        // Taken down by Drop even when it comes up in part only.
        let mut demo = Self::running(ovs);
        demo.brought_up_here = true;
        output(ovs.command("demo.sh").arg("up"))?;
        Ok(demo)
    }

    /// The one that is up, as a shell in the lab has it.
    pub fn running(ovs: &'a Ovs) -> Self {
        let (vm0, vm1) = (Netns::existing("vm0"), Netns::existing("vm1"));
        Self { ovs, brought_up_here: false, vm0, vm1, remote: Netns::existing("remote") }
    }

    /// Leaves vm0 nothing to say to the remote host by itself.
    pub fn hush_vm0(&self) -> Outcome {
        let mac = self.remote.run(&["cat", "/sys/class/net/sn1p0/address"])?;
        let known = ["ip", "neigh", "replace", Self::REMOTE, "lladdr", mac.trim(), "dev", "sn0v0", "nud"];
        self.vm0.run(&[&known[..], &["permanent"]].concat())?;
        self.vm0.run(&["sysctl", "-q", "-w", "net.ipv6.conf.sn0v0.disable_ipv6=1"])?;
        Ok(())
    }
}

impl Drop for Demo<'_> {
    fn drop(&mut self) {
        if !self.brought_up_here {
            return;
        }
        if let Err(failure) = output(self.ovs.command("demo.sh").arg("down")) {
            eprintln!("taking the demo topology down: {failure}");
        }
    }
}

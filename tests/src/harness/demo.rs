//! The demo topology, lab/topologies/demo.sh: the same that a shell in the lab and `cargo xtask demo` have.

use super::{Netns, Outcome, Ovs, output};

/// The demo topology on one Open vSwitch, taken down when dropped.
#[derive(Debug)]
pub struct Demo<'a> {
    ovs: &'a Ovs,
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
        let demo = Self {
            ovs,
            vm0: Netns::existing("vm0"),
            vm1: Netns::existing("vm1"),
            remote: Netns::existing("remote"),
        };
        output(ovs.command("demo.sh").arg("up"))?;
        Ok(demo)
    }
}

impl Drop for Demo<'_> {
    fn drop(&mut self) {
        if let Err(failure) = output(self.ovs.command("demo.sh").arg("down")) {
            eprintln!("taking the demo topology down: {failure}");
        }
    }
}

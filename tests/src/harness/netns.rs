//! Network namespaces: workloads and remote hosts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Lab, Outcome, nic, output, run};

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
    whose: Whose,
}

/// Whose it is, which tells what is done when it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// It is removed.
    MadeHere,
    /// The guest's own: its name is removed, and IPsec, which would be the next test's.
    TheGuests,
    /// It stays.
    Others,
}

impl Netns {
    /// Makes a namespace with its loopback up; `word` is part of its name.
    pub fn new(lab: &mut Lab, word: &str) -> Outcome<Self> {
        let name = lab.unique(word);
        run("ip", &["netns", "add", &name])?;
        let netns = Self { name, whose: Whose::MadeHere };
        netns.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// The guest's own, which keeps all but IPsec when this is dropped.
    pub fn of_the_guest(lab: &mut Lab) -> Outcome<Self> {
        let name = lab.unique("guest");
        run("ip", &["netns", "attach", &name, "1"])?;
        Ok(Self { name, whose: Whose::TheGuests })
    }

    /// A namespace that something else made, and removes.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), whose: Whose::Others }
    }

    /// As `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `program`, to be run in the namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program: PathBuf = program.as_ref().into();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program in the namespace and gives its output.
    pub fn run(&self, words: &[&str]) -> Outcome<String> {
        let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
        output(self.command(program).args(arguments))
    }

    /// Moves the device `name` of the guest's own namespace here, gives it an address and brings it up.
    pub fn adopt(&self, name: &str, address: &str) -> Outcome {
        run("ip", &["link", "set", name, "netns", &self.name])?;
        self.run(&["ip", "address", "add", address, "dev", name])?;
        self.run(&["ip", "link", "set", name, "up"])?;
        Ok(())
    }

    /// The counters that `ethtool -S` shows for a device here.
    pub fn ethtool_counters(&self, device: &str) -> Outcome<BTreeMap<String, u64>> {
        Ok(nic::counters(&self.run(&["ethtool", "-S", device])?))
    }

    /// Whether one ping of `address` is answered within a second.
    pub fn pings(&self, address: &str) -> bool {
        let mut ping = self.command("ping");
        ping.args(["-c", "1", "-W", "1", address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        ping.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.whose == Whose::TheGuests {
            for of in ["state", "policy"] {
                let _ = run("ip", &["xfrm", of, "flush"]);
            }
        }
        if self.whose != Whose::Others {
            // A namespace that is left over has a name no other test uses.
            let _ = run("ip", &["netns", "delete", &self.name]);
        }
    }
}

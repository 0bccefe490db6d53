//! What tests are made of: a guest's pieces as values that clean up after themselves, and the runner.

mod agreement;
mod daemon;
mod demo;
mod failure;
mod guard;
mod kernel_log;
mod need;
mod netns;
mod nic;
mod ovn;
mod ovs;
mod pings;
mod process;
mod runner;
mod streams;
mod systemd;
mod tc_watch;
mod wait;

pub use crate::{ensure, fact};
pub use agreement::{Placements, agree, agree_on_all, agree_on_card, ufid_of_rule};
pub use daemon::{Daemon, RunningCtl};
pub use demo::Demo;
pub use failure::{Failure, Outcome};
pub use guard::Guard;
pub use need::Need;
pub use netns::Netns;
pub use nic::{SentByVf, Simnic, ethtool_counters};
pub use ovn::Ovn;
pub use ovs::{Ovs, OvsDaemon};
pub use pings::Pings;
pub use process::{cpu_time, output, program, run};
pub use runner::{Lab, Test, run_all};
pub use streams::{Played, Received, Receiver, Sender, Sent, Stream};
pub use systemd::Systemd;
pub use tc_watch::{Seen, TcWatch, netlink_sockets};
pub use wait::{wait_for, wait_until};

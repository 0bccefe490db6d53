#![no_std]
#![forbid(unsafe_code)]
//! Which IPsec connections the tunnels of Open vSwitch want, and how an IKE daemon is brought to them. No clocks, no IO.
//!
//! [`wanted`] reads what `ovs-monitor-ipsec` reads of OVSDB and says which connections there are to be, or why a tunnel can have
//! none. [`strongswan`] puts a connection into the words of strongSwan, [`vici`] is the protocol that these travel by, [`Known`] is
//! what strongSwan has, and [`Reconciler`] decides what is done next, from what is wanted and what the IKE daemon has. Which of the connections with offload
//! `auto` ask a NIC for anything is decided by the [`Mover`] before, from what the kernel says of their security associations.
//! Where `ovs-monitor-ipsec` has Libreswan do it, what that asks a NIC for is an option of the interface: [`libreswan`].

extern crate alloc;

mod connection;
mod demand;
mod guard;
mod kernel;
mod known;
pub mod libreswan;
pub mod listed;
mod loss;
mod moving;
mod place;
mod ranking;
mod reconcile;
mod secret;
pub mod strongswan;
mod tunnel;
pub mod vici;
mod wanted;

pub use connection::{Auth, Carries, Connection, ConnectionName, Content, Host, Offload};
pub use demand::{Planned, REPLAY_WINDOWS};
pub use guard::{Guard, SkbMark};
pub use kernel::{Carriage, Carried, Device, EspId, Kernel, KernelSa, Seen};
pub use known::{Extent, Known};
pub use moving::{Mover, Moves};
pub use place::Missed;
pub use ranking::{Rank, Ranked, Terms};
pub use reconcile::{Millis, Progress, Reconciler, State, Step, There};
pub use secret::Secret;
pub use tunnel::TunnelRow;
pub use wanted::{Reason, Wanted, wanted};

//! Firmware below charon that fails.

use lab_tests::ensure;
use lab_tests::harness::{Lab, Outcome, wait_until};

use super::hosts::{DONE_WITHIN, Hosts};
use super::nics::{IPV4, is_carried_by_both};

/// The kernel still has all of it, and charon's own packets pass: nobody else would find out.
pub(super) fn what_the_firmware_of_a_nic_lost_is_negotiated_anew(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::with_nic_of_the_guest(lab, IPV4)?;
    hosts.tunnel("geneve", &["options:psk=swordfish", "options:ipsec_nic-offload=packet"])?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    let (nic, before) = (&hosts.nics()?[0], hosts.left.spis()?);
    hosts.only_esp_while(lab, "reset", || {
        nic.set("health", "fw assertion failed at 0x1234")?;
        let left = hosts.left.spis()?;
        ensure!(before.iter().all(|spi| left.contains(spi)), "the kernel has {left:?}, and had {before:?}");
        hosts.have_others_than(&before)?;
        hosts.reach_each_other()
    })?;
    wait_until("the NIC has what the kernel has", DONE_WITHIN, || {
        Ok(nic.shown("sas")?.lines().count() == hosts.left.spis()?.len())
    })?;
    is_carried_by_both(&hosts, lab)
}

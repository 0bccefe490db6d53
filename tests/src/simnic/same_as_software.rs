//! Each match and each action against TC's software path: the same frames get through, the same bytes come out.

use std::time::Duration;

use super::cases::{
    Case, OUT, header_edits, header_edits_v6, l2_cases, l3_cases, l4_cases, outputs, vlan_cases, vlan_edits,
};
use super::frame::frame;
use super::rig::{Rig, Software, batch, hex, receive};
use crate::harness::{Failure, Lab, Outcome, ensure};
use crate::io::packet_socket::PacketSocket;

/// Frames as bytes, in the order in which they came.
type Frames = Vec<Vec<u8>>;

/// One topology in hardware and its twin in software.
struct Twins {
    rig: Rig,
    _software: Software,
    hardware_ends: [PacketSocket; 3],
    software_ends: [PacketSocket; 3],
}

impl Twins {
    fn new() -> Outcome<Self> {
        let rig = Rig::new()?;
        let software = Software::new()?;
        let hardware_ends = [rig.vf(0)?, rig.vf(1)?, rig.vf(2)?];
        let software_ends =
            [PacketSocket::open("swinx")?, PacketSocket::open("swoutx")?, PacketSocket::open("swcopyx")?];
        Ok(Self { rig, _software: software, hardware_ends, software_ends })
    }

    fn try_case(&self, case: &Case) -> Outcome {
        self.set_filters(case, case)?;
        let (hardware, copies) = self.run_hardware(case)?;
        let (software, software_copies) = self.run_software(case)?;
        compare("output", &hardware, &software)?;
        compare("copy", &copies, &software_copies)?;
        if case.copies > 0 {
            return Ok(());
        }
        let edited = case.actions != OUT;
        for (index, bytes) in hardware.iter().enumerate() {
            let sent = case.frames.iter().enumerate().filter(|(_, (_, matches))| *matches).nth(index);
            let Some((id, (frame, _))) = sent else { continue };
            let same = frame.encode(id) == *bytes;
            ensure!(same != edited, "frame {id} came out {}", if same { "unchanged" } else { "changed" });
        }
        Ok(())
    }

    /// Sets the case's filter in hardware on one side and in software on the other, in place of the last case's.
    fn set_filters(&self, hardware: &Case, software: &Case) -> Outcome {
        let device = self.rig.nic.representor(0);
        let actions = hardware.actions.replace("OUT", "REP1").replace("COPY", "REP2");
        batch(
            "tc",
            [
                format!("filter delete dev {device} ingress"),
                "filter delete dev swin ingress".to_owned(),
                self.rig
                    .named(&format!("filter add dev {device} ingress {} skip_sw {actions}", hardware.filter)),
                format!(
                    "filter add dev swin ingress {} skip_hw {}",
                    software.filter,
                    software.actions.replace("OUT", "swout").replace("COPY", "swcopy")
                ),
            ]
            .into_iter(),
        )
    }

    fn run_hardware(&self, case: &Case) -> Outcome<(Frames, Frames)> {
        let rep = PacketSocket::open(&self.rig.nic.representor(0))?;
        let seen = exchange(case, &self.hardware_ends)?;
        let matching = case.frames.iter().filter(|(_, matches)| *matches).count();
        let missed = receive(&rep, case.frames.len() - matching)?;
        let sent = case.frames.iter().enumerate().filter(|(_, (_, matches))| !matches);
        for (missed, (id, (frame, _))) in missed.iter().zip(sent) {
            ensure!(*missed == frame.encode(id), "the miss of frame {id} came up as {}", hex(missed));
        }
        let rules = self.rig.nic.rules()?;
        ensure!(rules.contains(&format!(" packets {matching} ")), "{matching} match, counted: {rules}");
        Ok(seen)
    }

    fn run_software(&self, case: &Case) -> Outcome<(Frames, Frames)> {
        exchange(case, &self.software_ends)
    }
}

/// Sends the case's frames into the first end; what comes out of the other two.
fn exchange(case: &Case, ends: &[PacketSocket; 3]) -> Outcome<(Frames, Frames)> {
    for (id, (frame, _)) in case.frames.iter().enumerate() {
        ends[0].send(&frame.encode(id))?;
    }
    let matching = case.frames.iter().filter(|(_, matches)| *matches).count();
    let out = receive(&ends[1], if case.passes { matching } else { 0 })?;
    Ok((out, receive(&ends[2], case.copies)?))
}

fn compare(what: &str, hardware: &[Vec<u8>], software: &[Vec<u8>]) -> Outcome {
    for (index, (hard, soft)) in hardware.iter().zip(software).enumerate() {
        ensure!(hard == soft, "{what} {index}: hardware {} software {}", hex(hard), hex(soft));
    }
    ensure!(hardware.len() == software.len(), "{what}: {} and {}", hardware.len(), software.len());
    Ok(())
}

/// Tries all cases and reports every one that differs.
fn try_all(cases: Vec<Case>) -> Outcome {
    let twins = Twins::new()?;
    let mut wrong = String::new();
    for case in &cases {
        if let Err(failure) = twins.try_case(case) {
            wrong.push_str(&format!("\n  {} {}: {failure}", case.filter, case.actions));
            // What is still on its way is not to disturb the next case.
            for end in twins.hardware_ends.iter().chain(&twins.software_ends) {
                while end.receive(Duration::ZERO)?.is_some() {}
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

pub(super) fn matches_pick_the_frames_that_software_picks(_: &mut Lab) -> Outcome {
    try_all([l2_cases(), vlan_cases(), l3_cases(), l4_cases()].into_iter().flatten().collect())
}

pub(super) fn vlan_actions_make_the_bytes_that_software_makes(_: &mut Lab) -> Outcome {
    try_all(vlan_edits())
}

pub(super) fn rewrites_make_the_bytes_that_software_makes(_: &mut Lab) -> Outcome {
    try_all([header_edits(), header_edits_v6()].into_iter().flatten().collect())
}

pub(super) fn mirrored_and_dropped_frames_are_those_of_software(_: &mut Lab) -> Outcome {
    try_all(outputs())
}

/// A guard against a comparison that cannot fail: a rule that edits is not the same as one that does not.
pub(super) fn the_comparison_notices_a_difference(_: &mut Lab) -> Outcome {
    let twins = Twins::new()?;
    let plain = Case::matching("protocol ip flower", vec![(frame(), true)]);
    let edited = Case::editing("protocol ip flower", "action vlan push id 7", vec![frame()]);
    twins.set_filters(&plain, &edited)?;
    let (hardware, _) = twins.run_hardware(&plain)?;
    let (software, _) = twins.run_software(&edited)?;
    match compare("output", &hardware, &software) {
        Ok(()) => Err(Failure::new("a tagged and an untagged frame compared equal")),
        Err(_) => Ok(()),
    }
}

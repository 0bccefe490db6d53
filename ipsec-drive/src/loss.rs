//! Children that the IKE daemon takes for installed while the kernel, or the NIC that carries them, has lost them.
//!
//! A device that goes takes the security associations that it carried along (`xfrm_dev_state_flush()`), and so does whoever flushes them.
//! A NIC whose firmware was reset has none any more, and the kernel still has them. Nobody tells the IKE daemon, which goes on as if it
//! had them until they are rekeyed: its own packets pass, and so its peer is not found dead.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::listed::ChildSa;
use crate::{Kernel, Millis};

/// What is known of children that were seen, by number.
#[derive(Debug, Default)]
pub(crate) struct Losses(BTreeMap<u32, Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    since: Millis,
    /// The reading of the kernel that it was missing in first.
    missed: Option<Millis>,
    is_lost: bool,
}

impl Losses {
    /// Children that are lost: their packets can come in no more.
    ///
    /// What comes in is looked at alone: what goes out may be installed later, and where it is not there the kernel asks for it. A
    /// child has to be missing in two readings that began after it was seen, so that one that just goes is not taken for lost. One that a
    /// device carries which was reset after the child was seen is lost at once.
    pub(crate) fn look<'a>(
        &mut self,
        now: Millis,
        installed: impl IntoIterator<Item = &'a ChildSa>,
        kernel: &Kernel,
    ) -> BTreeSet<u32> {
        let mut before = core::mem::take(&mut self.0);
        for child in installed {
            let new = Seen { since: now, missed: None, is_lost: false };
            let mut seen = before.remove(&child.id).unwrap_or(new);
            seen.is_lost |= kernel.reset_below(child).is_some_and(|at| at >= seen.since);
            let [inward, _] = child.ids();
            match inward {
                Some(id) if !kernel.sas.contains_key(&id) && kernel.read > seen.since => {
                    let first = *seen.missed.get_or_insert(kernel.read);
                    seen.is_lost |= kernel.read > first;
                }
                // Nothing brings it back: whoever has lost one, negotiates another.
                _ => seen.missed = None,
            }
            self.0.insert(child.id, seen);
        }
        self.0.iter().filter(|(_, seen)| seen.is_lost).map(|(id, _)| *id).collect()
    }

    /// Whether one more reading says of a child that it is lost.
    pub(crate) fn has_doubts(&self) -> bool {
        self.0.values().any(|seen| seen.missed.is_some() && !seen.is_lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSa;
    use alloc::vec::Vec;

    fn there(ids: &[u32]) -> Vec<ChildSa> {
        let child = |id: &u32| ChildSa {
            connection: "offloadd-x".into(),
            child: "x".into(),
            id: *id,
            is_installed: true,
            local: Some([192, 0, 2, 1].into()),
            remote: Some([192, 0, 2, 2].into()),
            spis: [Some(*id), Some(*id)],
        };
        ids.iter().map(child).collect()
    }

    fn kernel(read: u64, of: &[ChildSa], without: &[u32]) -> Kernel {
        let there = of.iter().filter(|child| !without.contains(&child.id));
        let sas = there.flat_map(ChildSa::ids).flatten().map(|id| (id, KernelSa::default()));
        Kernel { read: Millis(read), sas: sas.collect(), ..Kernel::default() }
    }

    #[test]
    fn a_child_is_lost_that_two_readings_do_not_have_though_they_began_after_it() {
        let (mut losses, both) = (Losses::default(), there(&[1, 2]));
        let mut at = |now, read, without: &[u32]| {
            let lost = losses.look(Millis(now), &both, &kernel(read, &both, without));
            (lost.into_iter().collect::<Vec<_>>(), losses.has_doubts())
        };
        assert_eq!(at(10, 5, &[2]), (Vec::new(), false), "that reading began before it was there");
        assert_eq!(at(30, 20, &[2]), (Vec::new(), true), "it may be on its way out");
        assert_eq!(at(31, 20, &[2]), (Vec::new(), true), "it is the same reading");
        assert_eq!(at(50, 40, &[2]), ([2].into(), false));
        assert_eq!(at(60, 40, &[2]), ([2].into(), false));
    }

    #[test]
    fn a_child_is_lost_whose_device_was_reset_after_it_was_seen() {
        let (mut losses, both) = (Losses::default(), there(&[1, 2]));
        let mut kernel = kernel(5, &both, &[]);
        // The one in a NIC, the other in software.
        for id in both[0].ids().into_iter().flatten() {
            let carried = crate::Carried::Packet;
            kernel
                .sas
                .insert(id, KernelSa { carried, device: Some(crate::Device(7)), ..KernelSa::default() });
        }
        kernel.resets = [(crate::Device(7), Millis(9))].into();
        assert_eq!(losses.look(Millis(10), &both, &kernel).len(), 0, "it came after that");
        kernel.resets = [(crate::Device(8), Millis(20))].into();
        assert_eq!(losses.look(Millis(21), &both, &kernel).len(), 0, "that is another");
        kernel.resets.insert(crate::Device(7), Millis(20));
        assert_eq!(losses.look(Millis(22), &both, &kernel), [1].into());
        assert_eq!(losses.look(Millis(23), &there(&[2, 3]), &kernel).len(), 0, "others are there");
    }

    #[test]
    fn a_child_that_is_rekeyed_or_comes_late_is_not_lost() {
        let mut losses = Losses::default();
        let look = |losses: &mut Losses, now, there: &[ChildSa], kernel: &Kernel| {
            losses.look(Millis(now), there, kernel).len()
        };
        let (one, other) = (there(&[1]), there(&[2]));
        assert_eq!(look(&mut losses, 0, &one, &kernel(0, &one, &[])), 0);
        assert_eq!(look(&mut losses, 20, &one, &kernel(10, &one, &[1])), 0);
        assert_eq!(look(&mut losses, 40, &one, &kernel(30, &one, &[])), 0);
        assert_eq!(
            look(&mut losses, 60, &one, &kernel(50, &one, &[1])),
            0,
            "missing twice, and there in between"
        );
        assert_eq!(look(&mut losses, 80, &other, &kernel(70, &other, &[])), 0);
        let mut outward = kernel(90, &other, &[]);
        outward.sas.retain(|id, _| id.dst == core::net::IpAddr::from([192, 0, 2, 1]));
        for ms in [100, 120, 140] {
            outward.read = Millis(ms - 5);
            assert_eq!(
                look(&mut losses, ms, &other, &outward),
                0,
                "what goes out is asked for by the kernel"
            );
        }
    }
}

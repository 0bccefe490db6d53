//! Which shapes of rules a driver takes, as far as it has shown.

use crate::ports::NicId;
use crate::refusal::Refusal;
use alloc::collections::BTreeMap;
use netlink_wire::Ufid;
use policies::Micros;
use tc_flower::Shape;

/// Shapes remembered of one NIC. A pipeline has some dozens.
const SHAPES_MAX: usize = 1024;
/// So many megaflows of a shape have to be refused, and none taken, for the shape to be the reason. What a driver does
/// not like may be a value, too.
const REFUSALS_ENOUGH: u8 = 3;
/// How long one that is tried keeps the others of its shape waiting, when the time of a refused shape has passed.
const TRIAL: Micros = Micros::from_secs(5);

/// What a driver has shown of a shape.
#[derive(Clone, Debug)]
enum Known {
    /// It took one. What it refuses of this shape, it refuses for another reason.
    Taken,
    /// It took none so far.
    Refused {
        /// The last that it refused, so that one megaflow refused twice counts once.
        last: Ufid,
        /// Megaflows that it refused.
        times: u8,
        /// Its words.
        why: Refusal,
        /// Until when no other one is tried.
        until: Micros,
    },
}

/// What the drivers have shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shapes(BTreeMap<NicId, BTreeMap<Shape, Known>>);

impl Shapes {
    /// Whether nothing is known of a NIC: then no shape need be made out.
    pub(crate) fn is_empty(&self, nic: NicId) -> bool {
        self.0.get(&nic).is_none_or(BTreeMap::is_empty)
    }

    /// A rule of this shape is in hardware.
    pub(crate) fn taken(&mut self, nic: NicId, shape: Shape) {
        self.note(nic, shape, Known::Taken);
    }

    /// The driver, or the kernel for it, refused a rule of this shape for what it is. Once it has refused enough of them, the
    /// shape counts as refused until `until`.
    pub(crate) fn refused(&mut self, nic: NicId, shape: Shape, ufid: Ufid, why: &Refusal, until: Micros) {
        let known = self.0.get(&nic).and_then(|shapes| shapes.get(&shape));
        let times = match known {
            Some(Known::Taken) => return,
            Some(Known::Refused { last, times, .. }) if *last == ufid => *times,
            Some(Known::Refused { times, .. }) => times.saturating_add(1),
            None => 1,
        };
        self.note(nic, shape, Known::Refused { last: ufid, times, why: why.clone(), until });
    }

    /// Until when no rule of this shape is to be tried, and what the driver said.
    pub(crate) fn verdict(&self, now: Micros, nic: NicId, shape: &Shape) -> Option<(Micros, &Refusal)> {
        match self.0.get(&nic)?.get(shape)? {
            Known::Refused { times, why, until, .. } if *times >= REFUSALS_ENOUGH && now < *until => {
                Some((*until, why))
            }
            _ => None,
        }
    }

    /// A rule of this shape is about to be tried. If it is the first since the shape's time has passed, the others
    /// wait for what becomes of it.
    pub(crate) fn tried(&mut self, now: Micros, nic: NicId, shape: &Shape) {
        let known = self.0.get_mut(&nic).and_then(|shapes| shapes.get_mut(shape));
        if let Some(Known::Refused { times: REFUSALS_ENOUGH.., until, .. }) = known {
            *until = now.plus(TRIAL);
        }
    }

    /// The driver may answer differently now.
    pub(crate) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// The driver of one NIC may answer differently now.
    pub(crate) fn forget(&mut self, nic: NicId) {
        self.0.remove(&nic);
    }

    fn note(&mut self, nic: NicId, shape: Shape, known: Known) {
        let shapes = self.0.entry(nic).or_default();
        if shapes.len() >= SHAPES_MAX && !shapes.contains_key(&shape) {
            // Whichever: what is forgotten is learned again, at the cost of some refusals.
            shapes.pop_first();
        }
        shapes.insert(shape, known);
    }
}

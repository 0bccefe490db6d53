//! One connection that competes for a NIC's entries: where it is, and what follows from what became of it.

use crate::reconcile::Standing;
use crate::{Carriage, Carried, Device, Millis, Offload};

/// Initiations without a child, after which less is asked for.
const TRIES: u32 = 3;
/// How often children are had anew that came in software and may have been made before a NIC was asked for.
const DOUBTS: u32 = 2;
/// The first wait before mode packet is tried again where a connection came up without it alone, and the longest.
const PACKET_AGAIN_MS: u64 = 120_000;
const PACKET_AGAIN_MS_MAX: u64 = 7_200_000;

/// A connection, for the planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TunnelId(pub(crate) u32);

/// Where a connection is, as far as the planner was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Software,
    Promoting,
    Placed,
    Demoting,
}

/// Why a NIC does not have a connection that was to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// It came up, in software.
    CameInSoftware,
    /// It did not come up: its ends know each other, and have no child.
    DidNotComeUp,
    /// The peer did not answer.
    PeerIsSilent,
    /// The IKE daemon did not load it.
    NotLoaded,
}

/// What is to be said of a connection to the planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Nothing.
    Stays,
    /// Nothing, but its children are to be had anew: some are where they must not be.
    Anew,
    /// It is in the NIC.
    CameIn,
    /// It was to come into the NIC, and did not.
    Missed(Missed),
    /// It is not in the NIC any more.
    Left {
        /// Some of it still is.
        is_half: bool,
    },
}

/// What is known of a connection that is up, when it is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fact {
    /// Where all its children are carried; none where the kernel has not told of all of them.
    pub(crate) carriage: Option<Carriage>,
    /// It has children that packets can use.
    pub(crate) has_children: bool,
    /// Its ends know each other.
    pub(crate) is_established: bool,
    /// As it was brought.
    pub(crate) standing: Option<Standing>,
    /// A demand of NICs is known that it does not meet.
    pub(crate) is_unmet: bool,
}

/// A connection that is ranked.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) id: TunnelId,
    pub(crate) nic: Option<Device>,
    pub(crate) place: Place,
    /// Mode crypto alone is asked for, for it did not come up with more.
    pub(crate) is_lesser: bool,
    pub(crate) packet_again: Option<(Millis, u64)>,
    pub(crate) missed: Option<(Missed, u32)>,
    /// How often it was tried again since it was given an entry, for it was not sure what its children had asked for.
    doubts: u32,
}

impl Tunnel {
    pub(crate) fn new(id: TunnelId, nic: Option<Device>, place: Place) -> Self {
        Self { id, nic, place, is_lesser: false, packet_again: None, missed: None, doubts: 0 }
    }

    /// What it asks a NIC for, by where it is.
    pub(crate) fn asks(&self) -> Offload {
        match self.place {
            Place::Software | Place::Demoting => Offload::None,
            Place::Promoting | Place::Placed if self.is_lesser => Offload::Crypto,
            Place::Promoting | Place::Placed => Offload::Auto,
        }
    }

    /// The planner has it moved.
    pub(crate) fn goes(&mut self, place: Place) {
        (self.place, self.doubts) = (place, 0);
    }

    /// Takes over what became of it.
    pub(crate) fn judge(&mut self, now: Millis, fact: Fact) -> Judged {
        let asked = fact.standing.filter(|standing| standing.offload == Some(self.asks()));
        let carriage = fact.carriage.filter(|_| asked.is_some_and(|standing| standing.is_settled));
        let is_tried = asked.is_some_and(|standing| standing.initiated >= TRIES);
        match self.place {
            Place::Software => match carriage {
                // Rekeyed with the settings of before, or somebody else's doing.
                Some(carriage) if carriage.least >= Carried::Crypto => self.came_in(),
                Some(carriage) if carriage.most > Carried::Software => Judged::Anew,
                _ => Judged::Stays,
            },
            Place::Promoting => self.judge_promotion(now, fact, carriage, is_tried),
            Place::Placed => self.judge_placed(now, fact, carriage, is_tried),
            Place::Demoting => match carriage {
                Some(carriage) if carriage.most == Carried::Software => self.left(),
                // The peer had it made just before the connection was loaded for software.
                Some(_) => Judged::Anew,
                None if fact.has_children => Judged::Stays,
                None => self.left(),
            },
        }
    }

    fn judge_promotion(
        &mut self,
        now: Millis,
        fact: Fact,
        carriage: Option<Carriage>,
        is_tried: bool,
    ) -> Judged {
        let is_certain = fact.standing.is_some_and(|standing| standing.is_certain);
        let missed = match carriage {
            Some(carriage) if carriage.least >= Carried::Crypto => return self.came_in(),
            Some(_) if !is_certain && self.doubts < DOUBTS => {
                self.doubts += 1;
                return Judged::Anew;
            }
            Some(_) => Missed::CameInSoftware,
            None if fact.standing.is_some_and(|standing| standing.is_refused) => Missed::NotLoaded,
            None if is_tried && fact.is_established => Missed::DidNotComeUp,
            None if is_tried => Missed::PeerIsSilent,
            None => return Judged::Stays,
        };
        if missed == Missed::DidNotComeUp && !self.is_lesser {
            self.lessen(now);
            return Judged::Stays;
        }
        self.miss(missed);
        Judged::Missed(missed)
    }

    fn judge_placed(
        &mut self,
        now: Millis,
        fact: Fact,
        carriage: Option<Carriage>,
        is_tried: bool,
    ) -> Judged {
        match carriage {
            Some(carriage) if carriage.least == Carried::Software => {
                let is_half = carriage.most > Carried::Software;
                if is_half {
                    self.miss(Missed::CameInSoftware);
                }
                self.left();
                return Judged::Left { is_half };
            }
            None if !fact.has_children => return self.left(),
            _ => {}
        }
        if is_tried && fact.is_established && !self.is_lesser {
            self.lessen(now);
        } else if self.is_lesser && self.packet_again.is_some_and(|(again, _)| now >= again) {
            self.is_lesser = false;
            return Judged::Anew;
        } else if carriage.is_some_and(|carriage| carriage.least == Carried::Packet) {
            self.packet_again = None;
        }
        Judged::Stays
    }

    fn came_in(&mut self) -> Judged {
        (self.place, self.missed) = (Place::Placed, None);
        Judged::CameIn
    }

    fn left(&mut self) -> Judged {
        (self.place, self.is_lesser, self.packet_again) = (Place::Software, false, None);
        Judged::Left { is_half: false }
    }

    /// Asks for the ciphers alone from now on, and for more again later and later.
    fn lessen(&mut self, now: Millis) {
        let wait = self.packet_again.map_or(PACKET_AGAIN_MS, |(_, wait)| wait.saturating_mul(2));
        let wait = wait.min(PACKET_AGAIN_MS_MAX);
        (self.is_lesser, self.packet_again) = (true, Some((Millis(now.0.saturating_add(wait)), wait)));
    }

    fn miss(&mut self, missed: Missed) {
        let times = self.missed.map_or(0, |(_, times)| times).saturating_add(1);
        (self.place, self.is_lesser, self.packet_again) = (Place::Software, false, None);
        self.missed = Some((missed, times));
    }
}

//! Who answers for the rules that are there, and when they have to go.
//!
//! Pure: told what happened and when it was. What it promises: a lease is given only while every rule of mode shadow that is
//! there is answered for, and rules that nobody answers for are asked to be removed within [`Terms`]' times.

use std::time::Duration;

use offload_engine::Micros;

/// How long is waited for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The longest silence of a daemon that answers for rules.
    pub lease: Duration,
    /// From a daemon's death, or the guard's own start, until its rules go where no other has taken them over.
    pub grace: Duration,
}

/// Between a removal that failed and the next try; it doubles up to [`AGAIN_AFTER_MAX`].
const AGAIN_AFTER: Micros = Micros::from_millis(50);
const AGAIN_AFTER_MAX: Micros = Micros::from_secs(1);
/// Between removals while a daemon that was silent for too long is still there: what it was about to ask of the kernel when it
/// stopped comes after it goes on.
const WATCHED_EVERY: Micros = Micros::from_secs(1);

/// What is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every rule of mode shadow.
    All,
    /// Those that are not on these devices.
    NotOn(Vec<u32>),
}

/// What was heard of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It came, with this process id.
    Hello {
        /// The kernel's word for who it is.
        pid: i32,
        /// Whether it says that it answers for the rules that are there.
        answers: bool,
    },
    /// It is alive.
    Beat,
    /// It has taken over the rules on these devices.
    Took(Vec<u32>),
    /// It ends in order.
    Bye,
    /// Its connection has ended: it is dead.
    Lost,
}

/// What is to be said to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    None,
    /// It may place and keep rules for so long; none while there are others to be taken over, within that time.
    Lease {
        /// From its last beat.
        lasts: Duration,
        /// From now.
        take_within: Duration,
    },
    /// Its rules were removed; the connection ends.
    Taken,
}

/// The daemon that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Nobody,
    /// It has no lease: there may be rules that it does not answer for.
    Waiting {
        heard: Micros,
    },
    /// It answers for all rules.
    Holds {
        heard: Micros,
    },
    /// It was silent for too long, and is there all the same.
    Silent,
}

/// A removal that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    at: Micros,
    scope: Scope,
    /// After so long, if it fails.
    again_after: Micros,
    /// It was tried: some of it may be gone.
    tried: bool,
}

impl Due {
    fn all(at: Micros) -> Self {
        Self { at, scope: Scope::All, again_after: AGAIN_AFTER, tried: false }
    }
}

/// The guard's decisions.
#[derive(Debug, Clone)]
pub struct Watch {
    terms: Terms,
    link: Link,
    /// The process that last held a lease. None after the guard's own start.
    holder: Option<i32>,
    /// The process that is connected.
    pid: i32,
    due: Option<Due>,
    /// A daemon may answer for rules that are due, as it did before the guard knew it.
    may_answer: bool,
}

impl Watch {
    /// A guard that has just been started, and does not know whether a daemon lives. One before it may have noted when rules were
    /// [due](Self::due_at): guards that die one after the other do not put that off.
    pub fn new(now: Micros, terms: Terms, noted: Option<Micros>) -> Self {
        let at = now.plus(micros(terms.grace.max(terms.lease)));
        let due = Some(Due::all(noted.map_or(at, |noted| noted.min(at))));
        Self { terms, link: Link::Nobody, holder: None, pid: 0, due, may_answer: true }
    }

    /// When rules that nobody answers for are due, to be noted for the next guard.
    pub fn due_at(&self) -> Option<Micros> {
        self.due.as_ref().map(|due| due.at)
    }

    /// Whether a daemon is connected.
    pub fn is_linked(&self) -> bool {
        self.link != Link::Nobody
    }

    /// Takes what was heard; what to answer.
    pub fn heard(&mut self, now: Micros, heard: Heard) -> Reply {
        self.note_silence(now);
        match heard {
            Heard::Hello { pid, answers } => self.hello(now, pid, answers),
            Heard::Beat => self.beat(now),
            Heard::Took(devices) => {
                if let (Link::Waiting { .. }, Some(due)) = (self.link, &mut self.due)
                    && due.scope == Scope::All
                    && !due.tried
                    && now < due.at
                {
                    *due = Due { scope: Scope::NotOn(devices), ..Due::all(now) };
                }
                Reply::None
            }
            Heard::Bye => {
                self.link = Link::Nobody;
                self.is_due_all(now);
                Reply::None
            }
            Heard::Lost => {
                self.lost(now);
                Reply::None
            }
        }
    }

    fn hello(&mut self, now: Micros, pid: i32, answers: bool) -> Reply {
        let in_time = self.due.as_ref().is_some_and(|due| due.scope == Scope::All && now < due.at);
        let goes_on = self.may_answer && in_time && self.holder.is_none_or(|holder| holder == pid);
        self.pid = pid;
        if answers && !goes_on {
            self.link = Link::Nobody;
            return Reply::Taken;
        }
        if answers {
            (self.due, self.holder, self.link) = (None, Some(pid), Link::Holds { heard: now });
        } else {
            self.link = Link::Waiting { heard: now };
        }
        self.lease(now)
    }

    fn beat(&mut self, now: Micros) -> Reply {
        match self.link {
            Link::Nobody => Reply::Taken,
            Link::Silent => {
                // It goes on, and what it had asked for may come only now.
                self.link = Link::Nobody;
                self.is_due_all(now);
                Reply::Taken
            }
            Link::Waiting { .. } if self.due.is_some() => {
                self.link = Link::Waiting { heard: now };
                self.lease(now)
            }
            Link::Waiting { .. } | Link::Holds { .. } => {
                (self.link, self.holder) = (Link::Holds { heard: now }, Some(self.pid));
                self.lease(now)
            }
        }
    }

    fn lost(&mut self, now: Micros) {
        let grace = now.plus(micros(self.terms.grace));
        match self.link {
            Link::Nobody => {}
            Link::Silent => self.is_due_all(now),
            Link::Holds { .. } => {
                (self.due, self.may_answer) = (Some(Due::all(grace)), true);
            }
            Link::Waiting { .. } => {
                // What it had taken over is right up to now, and others may take it over again.
                if self.due.as_ref().is_none_or(|due| due.scope != Scope::All) {
                    (self.due, self.may_answer) = (Some(Due::all(grace)), false);
                }
            }
        }
        self.link = Link::Nobody;
    }

    fn lease(&self, now: Micros) -> Reply {
        let lasts = match self.link {
            Link::Holds { .. } => self.terms.lease,
            _ => Duration::ZERO,
        };
        let waits = self.due.as_ref().filter(|due| due.scope == Scope::All).map(|due| due.at.since(now));
        Reply::Lease { lasts, take_within: Duration::from_micros(waits.unwrap_or_default().0) }
    }

    fn is_due_all(&mut self, now: Micros) {
        (self.due, self.may_answer) = (Some(Due::all(now)), false);
    }

    fn note_silence(&mut self, now: Micros) {
        let (Link::Waiting { heard } | Link::Holds { heard }) = self.link else { return };
        if now.since(heard) >= micros(self.terms.lease) {
            self.link = Link::Silent;
            self.is_due_all(now);
        }
    }

    /// What is to be removed now, if anything is.
    pub fn tick(&mut self, now: Micros) -> Option<&Scope> {
        self.note_silence(now);
        let due = self.due.as_ref().filter(|due| now >= due.at)?;
        Some(&due.scope)
    }

    /// A removal that [`tick`](Self::tick) asked for began at `began` and has ended: whether nothing is left of what was to be
    /// removed. The daemon could not be listened to meanwhile.
    pub fn swept(&mut self, began: Micros, now: Micros, is_whole: bool) {
        let Some(due) = &mut self.due else { return };
        self.may_answer = false;
        if !is_whole {
            (due.at, due.tried) = (now.plus(due.again_after), true);
            due.again_after = Micros(due.again_after.0.saturating_mul(2)).min(AGAIN_AFTER_MAX);
        } else if self.link == Link::Silent {
            *due = Due::all(now.plus(WATCHED_EVERY));
        } else {
            self.due = None;
        }
        let deaf = now.since(began);
        if let Link::Waiting { heard } | Link::Holds { heard } = &mut self.link {
            *heard = heard.plus(deaf);
        }
    }

    /// When [`tick`](Self::tick) is to be asked next.
    pub fn wake_at(&self) -> Option<Micros> {
        let silent = match self.link {
            Link::Waiting { heard } | Link::Holds { heard } => Some(heard.plus(micros(self.terms.lease))),
            Link::Nobody | Link::Silent => None,
        };
        silent.into_iter().chain(self.due.as_ref().map(|due| due.at)).min()
    }
}

fn micros(time: Duration) -> Micros {
    Micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;

//! Carries out what was planned: every step is verified by reading back, and what was done is undone when one fails.

use std::fmt;

use super::declared::DeclaredNic;
use super::observed::{Nic, Observed};
use super::plan::{path, plan};
use super::step::Operation;
use super::target::{Target, Unmet};

/// What a plan is carried out with.
pub trait Hands {
    /// Reads how things are.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn observe(&mut self) -> Result<Observed, String>;

    /// Does one operation. That it says so is not taken for its being done.
    ///
    /// # Errors
    /// Who refused, and why.
    fn apply(&mut self, operation: &Operation, now: &Observed) -> Result<(), String>;

    /// Waits a moment for what was asked for to become visible; `tries` says how often this was done before for the same
    /// step. Returns whether it makes sense to look again.
    fn wait(&mut self, tries: u32) -> bool;

    /// Tells that a step begins, or that it is undone.
    fn progress(&mut self, _operation: &Operation, _undo: bool) {}
}

/// A step that did not go well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Which; none where things could not be read.
    pub step: Option<Operation>,
    /// Why.
    pub why: String,
}

/// How carrying out a plan ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as declared.
    Reached {
        /// What was done for it; nothing where it was so already.
        done: Vec<Operation>,
    },
    /// Something that is declared cannot be; nothing was done.
    Impossible(Vec<Unmet>),
    /// A step failed, and everything is as it was before.
    Undone {
        /// The step.
        failed: Failed,
        /// What had been done and was undone, in the order of doing.
        done: Vec<Operation>,
    },
    /// A step failed, and not everything could be brought back.
    Stuck {
        /// The step.
        failed: Failed,
        /// What had been done.
        done: Vec<Operation>,
        /// Steps of the undo that failed.
        undo: Vec<Failed>,
        /// What is otherwise than before.
        differences: Vec<String>,
    },
}

/// Times that a plan is made anew because what was done turns out not to have lasted.
const ROUNDS: usize = 3;
/// Times that the way back is tried.
const RESTORES: usize = 3;
/// Times that things are read for one answer.
const READS: u32 = 3;

/// Makes a NIC as it is declared, or leaves it as it is, or says what came of it.
pub fn run(declared: &DeclaredNic, hands: &mut dyn Hands) -> Outcome {
    let before = match read(hands) {
        Ok(before) => before,
        Err(why) => return Outcome::Undone { failed: Failed { step: None, why }, done: Vec::new() },
    };
    let mut work = Work { hands, done: Vec::new(), last: Some(before.clone()) };
    match work.reach(declared, &before) {
        Ok(()) => Outcome::Reached { done: work.operations() },
        Err(Ended::Impossible(unmet)) => Outcome::Impossible(unmet),
        Err(Ended::Failed(failed)) => work.undo(&before, failed),
    }
}

enum Ended {
    Impossible(Vec<Unmet>),
    Failed(Failed),
}

fn read(hands: &mut dyn Hands) -> Result<Observed, String> {
    let mut tries = 0;
    loop {
        match hands.observe() {
            Ok(observed) => return Ok(observed),
            Err(why) if tries + 1 >= READS || !hands.wait(tries) => return Err(why),
            Err(_) => tries += 1,
        }
    }
}

/// A step that was begun, with what was before it.
struct Done {
    operation: Operation,
    before: Observed,
}

struct Work<'h> {
    hands: &'h mut dyn Hands,
    done: Vec<Done>,
    /// What was read when the step before was seen to be done: the next begins from there.
    last: Option<Observed>,
}

impl Work<'_> {
    fn operations(&self) -> Vec<Operation> {
        self.done.iter().map(|done| done.operation.clone()).collect()
    }

    fn reach(&mut self, declared: &DeclaredNic, before: &Observed) -> Result<(), Ended> {
        let mut steps = plan(declared, before).map_err(Ended::Impossible)?;
        for _ in 0..ROUNDS {
            for step in steps {
                self.step(step).map_err(Ended::Failed)?;
            }
            self.last = None;
            let now = read(self.hands).map_err(|why| Ended::Failed(Failed { step: None, why }))?;
            steps = plan(declared, &now).map_err(|unmet| {
                let why = unmet.iter().map(Unmet::to_string).collect::<Vec<_>>().join("; ");
                Ended::Failed(Failed { step: None, why })
            })?;
            if steps.is_empty() {
                return Ok(());
            }
        }
        let why = format!("it does not last: {} is to be done again and again", list(&steps));
        Err(Ended::Failed(Failed { step: None, why }))
    }

    /// Does a step and sees that it is done; nothing where it is done already.
    fn step(&mut self, operation: Operation) -> Result<(), Failed> {
        let ready = |now: &Observed| operation.holds(now) || operation.can_begin(now);
        let before = match self.last.take().filter(ready) {
            Some(last) => Some(last),
            None => self.until(&operation, ready)?,
        };
        let Some(before) = before else {
            let why = "what it is to be done to is not there".to_owned();
            return Err(Failed { step: Some(operation), why });
        };
        if operation.holds(&before) {
            self.last = Some(before);
            return Ok(());
        }
        self.hands.progress(&operation, false);
        // Begun is as good as done: one that was refused may have come half the way.
        self.done.push(Done { operation: operation.clone(), before: before.clone() });
        let refused = self.hands.apply(&operation, &before).err();
        if let Some(why) = refused {
            return Err(Failed { step: Some(operation), why });
        }
        match self.until(&operation, |now| operation.holds(now))? {
            Some(now) => {
                self.last = Some(now);
                Ok(())
            }
            None => {
                let why = "nothing refused it, but it does not show".to_owned();
                Err(Failed { step: Some(operation), why })
            }
        }
    }

    /// Reads until `is_so`; none where patience ends first.
    fn until(
        &mut self,
        operation: &Operation,
        is_so: impl Fn(&Observed) -> bool,
    ) -> Result<Option<Observed>, Failed> {
        let failed = |why| Failed { step: Some(operation.clone()), why };
        let mut tries = 0;
        loop {
            let now = read(self.hands).map_err(failed)?;
            if is_so(&now) {
                return Ok(Some(now));
            }
            if !self.hands.wait(tries) {
                return Ok(None);
            }
            tries += 1;
        }
    }

    /// Undoes what was done, last first, and compares with what was before.
    fn undo(mut self, before: &Observed, failed: Failed) -> Outcome {
        let done = self.operations();
        let mut wrong = Vec::new();
        self.last = None;
        for step in std::mem::take(&mut self.done).into_iter().rev() {
            if let Some(inverse) = step.operation.inverse(&step.before) {
                wrong.extend(self.undo_step(inverse).err());
            }
        }
        let mut differences = vec!["it cannot be read".to_owned()];
        for round in 0..=RESTORES {
            self.last = None;
            let Ok(now) = read(self.hands) else { continue };
            differences = compare(before.nic.as_ref(), now.nic.as_ref());
            // Draining is no state of the NIC, but it must not stay.
            let drains =
                now.drain.is_some_and(|drain| drain.on) && !before.drain.is_some_and(|drain| drain.on);
            if drains {
                differences.push("the NIC is kept empty of flows".to_owned());
            }
            if differences.is_empty() {
                return Outcome::Undone { failed, done };
            }
            if round < RESTORES {
                // What a step took along with it: the way back is planned as any way is.
                let target = before.nic.as_ref().map(Target::as_is).unwrap_or_default();
                let mut steps = path(&now, &target);
                if drains && !steps.contains(&Operation::Drain(false)) {
                    steps.push(Operation::Drain(false));
                }
                for step in steps {
                    wrong.extend(self.undo_step(step).err());
                }
            }
        }
        Outcome::Stuck { failed, done, undo: wrong, differences }
    }

    fn undo_step(&mut self, operation: Operation) -> Result<(), Failed> {
        self.hands.progress(&operation, true);
        let result = self.step(operation);
        self.done.clear();
        if result.is_err() {
            self.last = None;
        }
        result
    }
}

fn compare(before: Option<&Nic>, now: Option<&Nic>) -> Vec<String> {
    match (before, now) {
        (Some(before), Some(now)) => before.differences(now),
        (None, None) => Vec::new(),
        (Some(_), None) => vec!["the NIC is gone".to_owned()],
        (None, Some(_)) => vec!["the NIC has come".to_owned()],
    }
}

fn list(steps: &[Operation]) -> String {
    steps.iter().map(Operation::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Some(step) => write!(f, "{step}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

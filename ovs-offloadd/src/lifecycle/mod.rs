//! The life of NICs, their functions and representors: what is declared is compared with what is there, and made so
//! step by step.
//!
//! Pure but for what [`run::Hands`] does. [`plan`] compares and says what would have to be done in which order;
//! [`run`] does it, reads back what each step did, and undoes what it did when a step fails.

pub mod command;
pub mod declared;
pub mod observed;
pub mod plan;
pub mod run;
#[cfg(test)]
mod simulation;
pub mod step;
pub mod target;

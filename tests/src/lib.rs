//! Building blocks of the lab's integration tests: a guest's pieces as values, and the packet generator.

pub mod harness;
pub mod traffic;

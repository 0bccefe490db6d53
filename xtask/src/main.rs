//! Set-up, demo and tests.

fn main() {}

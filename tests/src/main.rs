//! Integration tests that run inside the lab guest: real Open vSwitch, real kernel, simulated SmartNIC.
//!
//! `lab-tests` runs them all and takes the options of `cargo test`'s own runner (a filter, `--list`, `--exact` …).
//! Environment:
//!
//! - `LAB_SUITE`: `full` (default), `release` for the tests whose result depends on the guest's release, or `conntrack` for
//!   those that need a kernel that offloads connections;
//! - `LAB_SUBJECTS`: only these subjects, with commas (`faults,races`), or all but these (`-lab,steer`); empty for all;
//! - `LAB_LONG=1` adds those that take minutes;
//! - `REQUIRE`: what must not be lacking, comma-separated names of [`Need`](lab_tests::harness::Need) or `all`: a test that
//!   lacks it fails, where it would be reported as ignored;
//! - `LAB_LOGS`: where the files of a failed test are left.
//!
//! `lab-tests demo` is what `cargo xtask demo` shows.
//!
//! `lab-tests bench` prints how long reading 10,000 filters takes us, `tc` and Open vSwitch.
//!
//! `lab-tests traffic send|receive|play …` is the packet generator that the tests use, for use by hand too.

mod bench;
mod demo;
mod doctor;
mod faults;
mod hot;
mod inventory;
mod io;
mod ipsec;
mod lab;
mod lifecycle;
mod ovn;
mod ovsdb;
mod races;
mod replay;
mod shadow;
mod simnic;
mod steer;

use std::process::ExitCode;

use lab_tests::harness::{self, Test};
use lab_tests::traffic;

/// Every subject's tests.
const SUBJECTS: &[(&str, &[Test])] = &[
    ("lab", lab::TESTS),
    ("ovsdb", ovsdb::TESTS),
    ("simnic", simnic::TESTS),
    ("steer", steer::TESTS),
    ("shadow", shadow::TESTS),
    ("judge", shadow::JUDGE),
    ("faults", faults::TESTS),
    ("hot", hot::TESTS),
    ("races", races::TESTS),
    ("replay", replay::TESTS),
    ("doctor", doctor::TESTS),
    ("lifecycle", lifecycle::TESTS),
    ("ovn", ovn::TESTS),
    ("inventory", inventory::TESTS),
    ("ipsec", ipsec::TESTS),
    ("ike", ipsec::DRIVEN),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().map(String::as_str) == Some("traffic") {
        return traffic::main(arguments.skip(1));
    }
    if arguments.peek().map(String::as_str) == Some("demo") {
        return demo::main();
    }
    if arguments.peek().map(String::as_str) == Some("bench") {
        return bench::main();
    }
    harness::run_all(SUBJECTS)
}

//! The offload-aware companion daemon of Open vSwitch.

fn main() {}

//! Mode shadow while more megaflows come than it can follow: how far it falls behind, and what of the traffic it still places.
//!
//! `cargo bench -p offload-engine --bench storm [-- RATE …]` prints a table. Megaflows come and go at a rate, one of 500
//! carries half of all packets; a hundred big ones of another port stay. Each rate is run with all megaflows followed, and with
//! `limits.new-flows-max` as it is by default. What is told of them are the kernel's bytes, received from a socket and decoded
//! as the daemon does, and the engine plans by the policy's default. Its clock is the CPU time that this thread takes for it,
//! so that the machine's other work is not in it; what the kernel, `ovs-vswitchd` and the NIC take is not in it either, but for
//! each rule that is made or removed, which is 100 us.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[path = "../../tests/shadow_mode/kernel.rs"]
mod kernel;
mod world;

use offload_engine::Settings;
use world::{Offered, Storm};

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let brief = !std::env::args().any(|argument| argument == "--bench");
    println!(
        "| offered per s | followed per s | live | handled per s | behind, p50 / p99 / worst | losses noticed | big ones in hardware | \
         of another port |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let asked: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let rates = match (brief, asked.is_empty()) {
        (true, _) => vec![100],
        (false, true) => vec![1_000, 5_000, 10_000, 20_000, 30_000, 50_000],
        (false, false) => asked,
    };
    let seconds = if brief { 1 } else { 20 };
    for per_s in rates {
        for followed_max in [u32::MAX, Settings::default().new_megaflows_max] {
            let offered = Offered { per_s, live_max: 200_000, seconds, followed_max };
            if followed_max < u32::MAX && per_s <= u64::from(followed_max) {
                continue;
            }
            let seen = Storm::new(offered).run();
            println!(
                "| {per_s} | {} | {} | {} | {:.1} / {:.1} / {:.1} ms | {} | {:.1} % | {:.1} % |",
                if followed_max == u32::MAX { "all".to_owned() } else { followed_max.to_string() },
                seen.live,
                seen.handled / seconds,
                seen.behind(0.5),
                seen.behind(0.99),
                seen.behind(1.0),
                seen.losses,
                100.0 * seen.big_in_hardware,
                100.0 * seen.steady_in_hardware,
            );
        }
    }
}

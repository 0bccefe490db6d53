//! Removes ovs-offloadd's rules of mode shadow when nobody answers for them any more.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ovs_offloadd::config::{LogFormat, LogLevel, Scalar};
use ovs_offloadd::guard::{SOCKET, Terms, run};
use ovs_offloadd::logging;

/// Remove ovs-offloadd's own rules (mode shadow) from the NICs when it dies or hangs
#[derive(Debug, Parser)]
#[command(
    name = "ovs-offload-guard",
    version,
    after_help = "Exit status: 0 ended when told to, 2 cannot run (one sentence says why, and nothing changed).",
    max_term_width = 110
)]
struct Arguments {
    /// Where ovs-offloadd finds it (its key shadow.guard)
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// Longest silence of ovs-offloadd, which it keeps its rules over
    #[arg(long, value_name = "TIME", default_value = "3 s", value_parser = time)]
    lease: Duration,
    /// Time for another ovs-offloadd to take over the rules of one that died
    #[arg(long, value_name = "TIME", default_value = "5 s", value_parser = time)]
    grace: Duration,
}

fn time(text: &str) -> Result<Duration, String> {
    Scalar::Text(text.to_owned()).duration(Duration::from_millis(100), Duration::from_secs(600))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let terms = Terms { lease: arguments.lease, grace: arguments.grace };
    let outcome = logging::start(LogFormat::Auto, LogLevel::Info).and_then(|_| run(&arguments.socket, terms));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("ovs-offload-guard: {sentence}");
            ExitCode::from(2)
        }
    }
}

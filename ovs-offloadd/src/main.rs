//! The offload-aware companion daemon of Open vSwitch.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ovs_offloadd::{config, daemon};

/// Decide which of Open vSwitch's datapath flows live in the SmartNIC
#[derive(Debug, Parser)]
#[command(
    name = "ovs-offloadd",
    version,
    after_help = "Exit status: 0 ended when told to, 2 cannot run (one sentence says why, and nothing changed).",
    max_term_width = 110
)]
struct Arguments {
    /// Configuration file [default: /etc/ovs-offloadd.toml, if there is one]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write every event with its time to FILE, for ovs-offloadctl replay
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Check the configuration, say ok or what is wrong, and end
    #[arg(long)]
    check: bool,
    /// Print the default configuration file, with every key and its meaning, and end
    #[arg(long, conflicts_with = "check")]
    default_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.default_config {
        print!("{}", config::default_file());
        return ExitCode::SUCCESS;
    }
    let config_file =
        arguments.config.or_else(|| Some(daemon::default_config_file()).filter(|file| file.exists()));
    let options = daemon::Options { config_file, record: arguments.record };
    let outcome = if arguments.check { daemon::check(&options) } else { daemon::run(&options) };
    match outcome {
        Ok(()) if arguments.check => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("ovs-offloadd: {sentence}");
            ExitCode::from(2)
        }
    }
}

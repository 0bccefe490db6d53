//! The options of `ovs-offloadctl replay`.

use std::path::PathBuf;

use clap::Args;
use policies::Micros;

/// Which traffic, and what is done with it.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ReplayArgs {
    /// CSV of flows (header flow,start_s,end_s,packets,bytes,on_s,off_s,tenant), or an event log of `ovs-offloadd
    /// --record`
    pub file: PathBuf,
    /// Configuration whose policy the planner works by [default: the built-in one]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Entries of the NIC's table
    #[arg(long, value_name = "NUMBER", default_value_t = 1_024)]
    pub entries: u32,
    /// Of a recording, only the flows of this NIC compete, as `nic list` numbers them; the others count in the totals
    #[arg(long, value_name = "NUMBER")]
    pub nic: Option<u16>,
    /// Installs per second that the NIC takes [default: nic.installs-per-s of the policy, 1000 where that is "learn"]
    #[arg(long, value_name = "NUMBER")]
    pub installs_per_s: Option<u32>,
    /// How often the planner decides
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = epoch)]
    pub epoch: Micros,
    /// How often the oracle and the other policies decide
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = epoch)]
    pub oracle_epoch: Micros,
    /// How much of the beginning is left out of the result
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = span)]
    pub warmup: Micros,
    /// Stop there: what comes later in the file is left out [default: the end of the file]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub until: Option<Micros>,
    /// Also try a family of averages of bytes, half-lives 0.1 s to 10 s and hystereses 1 to 2, and tell the best
    #[arg(long)]
    pub ewma: bool,
    /// Replay with tables of many sizes, and draw the curve: writes PREFIX.svg and PREFIX.csv
    #[arg(long)]
    pub sweep: bool,
    /// Sizes for --sweep [default: 16 to 32768, powers of two]
    #[arg(long, value_name = "NUMBER,…", value_delimiter = ',', requires = "sweep")]
    pub sweep_entries: Vec<u32>,
    /// What --sweep writes to [default: the file's name without its extension, in the current directory]
    #[arg(long, value_name = "PREFIX", requires = "sweep")]
    pub sweep_to: Option<PathBuf>,
}

impl ReplayArgs {
    pub(super) fn sweep_prefix(&self) -> PathBuf {
        let stem = || self.file.file_stem().map_or_else(|| "replay".into(), PathBuf::from);
        self.sweep_to.clone().unwrap_or_else(stem)
    }
}

/// A time on the command line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// No time at all.
    #[error("{0}")]
    NoTime(policies::NotAQuantity),
    /// Too short or too long for an epoch.
    #[error("an epoch takes 1 ms to 60 s")]
    Epoch,
}

fn span(text: &str) -> Result<Micros, Bad> {
    text.parse().map_err(Bad::NoTime)
}

fn epoch(text: &str) -> Result<Micros, Bad> {
    let epoch = span(text)?;
    if (Micros::from_millis(1)..=Micros::from_secs(60)).contains(&epoch) {
        Ok(epoch)
    } else {
        Err(Bad::Epoch)
    }
}

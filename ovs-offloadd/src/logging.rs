//! Logging: the journal or standard error, with a level that can be changed while the daemon runs.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogFormat, LogLevel};

/// Changes the level of the running log.
#[derive(Debug, Clone)]
pub struct LevelHandle(reload::Handle<LevelFilter, Registry>);

impl LevelHandle {
    /// Logs from this level on.
    pub fn set(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, which is when the process ends.
        let _ = self.0.modify(|filter| *filter = filter_of(level));
    }
}

const fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Starts logging.
///
/// # Errors
/// One sentence: the journal was asked for and is not there.
pub fn start(format: LogFormat, level: LogLevel) -> Result<LevelHandle, String> {
    let (filter, handle) = reload::Layer::new(filter_of(level));
    let registry = tracing_subscriber::registry();
    let journal = || tracing_journald::layer().map_err(|error| format!("cannot log to the journal: {error}"));
    // systemd sets it where standard error goes to the journal.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    let output: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Journald => Box::new(journal()?),
        LogFormat::Auto if under_systemd && journal().is_ok() => Box::new(journal()?),
        LogFormat::Json => Box::new(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)),
        LogFormat::Auto | LogFormat::Text => Box::new(
            tracing_subscriber::fmt::layer()
                .with_target(false)
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr),
        ),
    };
    // The filter comes first, so that what it leaves out costs nothing below.
    registry
        .with(filter.and_then(output))
        .try_init()
        .map_err(|error| format!("cannot start logging: {error}"))?;
    Ok(LevelHandle(handle))
}

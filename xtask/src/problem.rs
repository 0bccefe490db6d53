//! What stops a command, told in one sentence that says what to do.

use std::fmt;

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Something is missing or wrong on this machine or in the call: exit code 2.
    Cannot(String),
    /// The work was done and its result is a failure: exit code 1.
    Failed(String),
    /// A command run on the user's behalf ended with this status, which is passed on.
    Status(u8),
}

impl Problem {
    /// Something is missing: `why` is a whole sentence that says what to do.
    pub(crate) fn cannot(why: impl Into<String>) -> Self {
        Self::Cannot(why.into())
    }

    /// The code this process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Cannot(_) => 2,
            Self::Failed(_) => 1,
            Self::Status(status) => *status,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cannot(why) | Self::Failed(why) => f.write_str(why),
            Self::Status(status) => write!(f, "the command ended with status {status}"),
        }
    }
}

/// Adds what was being done to an operating system error.
pub(crate) trait Doing<T> {
    /// `what` completes "could not …".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Problem>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Problem> {
        self.map_err(|error| Problem::Cannot(format!("Could not {}: {error}.", what())))
    }
}

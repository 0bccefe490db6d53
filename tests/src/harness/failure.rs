//! Why a test failed.

use std::fmt;

/// Why a test failed, as a sentence with what was seen.
#[derive(Debug)]
pub struct Failure(String);

/// The result of a test, and of most of its steps.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure for this reason.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Fails the test with the formatted reason unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::harness::Failure::new(format!($($reason)+)));
        }
    };
}

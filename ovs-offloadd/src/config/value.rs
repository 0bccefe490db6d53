//! Values of configuration keys: numbers with their unit, as people write them.
//!
//! Nothing here knows a key; a value is read, or refused with a sentence that says what would do.

use std::path::PathBuf;
use std::time::Duration;

use super::CapacitySetting;

/// A value as it stands in its source.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scalar {
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML float.
    Float(f64),
    /// A TOML boolean.
    Bool(bool),
    /// A value of an OVSDB `external_ids` map: a string that may stand for a number.
    Loose(String),
}

/// A rate, in the unit it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateSetting {
    /// Bits per second.
    Bits(u64),
    /// Packets per second.
    Packets(u64),
}

impl Default for RateSetting {
    fn default() -> Self {
        Self::Bits(0)
    }
}

impl Scalar {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Loose(text) => Some(text),
            _ => None,
        }
    }

    /// The value as text, and not empty.
    pub fn string(&self) -> Result<&str, String> {
        match self.text() {
            Some("") => Err("must not be empty".into()),
            Some(text) => Ok(text),
            None => Err(format!("must be a string, not {}", self.kind())),
        }
    }

    /// One word of a closed set.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, String> {
        let list = || words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let text = self.text().ok_or_else(|| format!("must be one of {}", list()))?;
        words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("{text:?} is not one of {}", list()))
    }

    /// An integer within a range, bounds included.
    pub fn integer(&self, least: u64, most: u64) -> Result<u64, String> {
        let number = match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Loose(text) => text.trim().replace('_', "").parse().ok(),
            _ => return Err(format!("must be a whole number from {least} to {most}, not {}", self.kind())),
        };
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("must be a whole number from {least} to {most}"))
    }

    /// A truth value.
    pub fn boolean(&self) -> Result<bool, String> {
        match self {
            Self::Bool(value) => Ok(*value),
            Self::Loose(text) if text == "true" || text == "false" => Ok(text == "true"),
            _ => Err("must be true or false".into()),
        }
    }

    /// A fraction within a range, bounds included: `0.25` or `"25 %"`.
    pub fn ratio(&self, least: f64, most: f64) -> Result<f64, String> {
        let number = match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            Self::Text(text) | Self::Loose(text) => match text.trim().strip_suffix('%') {
                Some(percent) => percent.trim().parse().ok().map(|percent: f64| percent / 100.0),
                None => text.trim().parse().ok(),
            },
            Self::Bool(_) => None,
        };
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("must be a number from {least} to {most}, such as 0.25 or \"25 %\""))
    }

    /// A length of time with its unit, within a range.
    pub fn duration(&self, least: Duration, most: Duration) -> Result<Duration, String> {
        let text = self.text().ok_or_else(|| {
            format!("must be a time with its unit in quotes, such as \"500 ms\", not {}", self.kind())
        })?;
        let value = duration(text)?;
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            Err(format!("must be from {} to {}", show_duration(least), show_duration(most)))
        }
    }

    /// A rate with its unit.
    pub fn rate(&self) -> Result<RateSetting, String> {
        let text = self.text().ok_or_else(|| {
            format!("must be a rate with its unit in quotes, such as \"2 Mbit/s\", not {}", self.kind())
        })?;
        rate(text)
    }

    /// "learn", or entries up to a bound.
    pub fn capacity(&self, most: u64) -> Result<CapacitySetting, String> {
        match self {
            Self::Text(text) | Self::Loose(text) if text == "learn" => Ok(CapacitySetting::Learn),
            Self::Text(_) => Err("must be \"learn\" or a whole number without quotes".into()),
            value => value.integer(0, most).map(CapacitySetting::Entries),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Loose(_) => "a string",
            Self::Integer(_) => "an integer without a unit",
            Self::Float(_) => "a number without a unit",
            Self::Bool(_) => "a boolean",
        }
    }
}

/// An absolute path, or nothing for `"default"`.
pub(super) fn absolute_or_default(value: &Scalar) -> Result<Option<PathBuf>, String> {
    match value.string()? {
        "default" => Ok(None),
        path if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
        _ => Err("must be an absolute path".into()),
    }
}

/// Splits `"500 ms"` into `500.0` and `"ms"`.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.replace('_', "").parse().ok()?;
    number.is_finite().then_some((number, unit.trim()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || format!("{text:?} is not a time: write a number and one of us, ms, s, min, h, d");
    let (number, unit) = number_and_unit(text).ok_or_else(wanted)?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(wanted()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wanted())
}

fn rate(text: &str) -> Result<RateSetting, String> {
    let wanted = || {
        format!(
            "{text:?} is not a rate: write a number and one of bit/s, pkt/s, with k, M, G or T before it for more"
        )
    };
    let (number, unit) = number_and_unit(text).ok_or_else(wanted)?;
    let (factor, unit) = match unit.split_at_checked(1) {
        Some(("k", unit)) => (1e3, unit),
        Some(("M", unit)) => (1e6, unit),
        Some(("G", unit)) => (1e9, unit),
        Some(("T", unit)) => (1e12, unit),
        _ => (1.0, unit),
    };
    let value = number * factor;
    match unit {
        "bit/s" if value <= 1e18 => Ok(RateSetting::Bits(value as u64)),
        "pkt/s" if value <= 1e18 => Ok(RateSetting::Packets(value as u64)),
        _ => Err(wanted()),
    }
}

/// A time as a person reads it: `500 ms`, `3d 4h`.
pub fn show_duration(value: Duration) -> String {
    let seconds = value.as_secs();
    match seconds {
        0 if value.subsec_millis() == 0 => format!("{} us", value.subsec_micros()),
        0 => format!("{} ms", value.as_millis()),
        1..=59 if value.subsec_millis() != 0 => format!("{:.1} s", value.as_secs_f64()),
        1..=59 => format!("{seconds} s"),
        60..=3_599 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        60..=3_599 => format!("{}min {}s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{}h {}min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_unit() {
        assert_eq!(duration("500 ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("10 min"), Ok(Duration::from_secs(600)));
        assert!(duration("500").is_err());
        assert!(duration("-1 s").is_err());
        assert!(duration("1e400 s").is_err());
        assert!(duration("9999999999999999999999 d").is_err());
    }

    #[test]
    fn a_rate_needs_its_unit_and_its_case() {
        assert_eq!(rate("2 Mbit/s"), Ok(RateSetting::Bits(2_000_000)));
        assert_eq!(rate("1.5 Gbit/s"), Ok(RateSetting::Bits(1_500_000_000)));
        assert_eq!(rate("10 kpkt/s"), Ok(RateSetting::Packets(10_000)));
        assert_eq!(rate("7 bit/s"), Ok(RateSetting::Bits(7)));
        assert!(rate("2 mbit/s").is_err());
        assert!(rate("2").is_err());
        assert!(rate("99999999999 Tbit/s").is_err());
    }

    #[test]
    fn a_number_of_another_type_is_refused_with_what_would_do() {
        let sentence = Scalar::Integer(500).duration(Duration::ZERO, Duration::MAX).unwrap_err();
        assert!(sentence.contains("\"500 ms\""), "{sentence}");
        assert!(Scalar::Text("5".into()).integer(0, 9).is_err());
        assert_eq!(Scalar::Loose("5".into()).integer(0, 9), Ok(5));
        assert_eq!(Scalar::Integer(-1).integer(0, 9), Err("must be a whole number from 0 to 9".into()));
    }

    #[test]
    fn a_ratio_may_be_a_percentage() {
        assert_eq!(Scalar::Text("25 %".into()).ratio(0.0, 1.0), Ok(0.25));
        assert_eq!(Scalar::Float(0.5).ratio(0.0, 1.0), Ok(0.5));
        assert!(Scalar::Text("150 %".into()).ratio(0.0, 1.0).is_err());
        assert!(Scalar::Float(f64::NAN).ratio(0.0, 1.0).is_err());
    }
}

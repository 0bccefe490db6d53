//! Constants: numbers, addresses with masks, quoted patterns, names of address sets.

use alloc::string::{String, ToString};
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use super::diagnostic::Problem;
use super::syntax::Span;

/// How a number is written, and with that what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `80`
    Decimal,
    /// `0x50`
    Hexadecimal,
    /// `10.0.0.1`
    Ipv4,
    /// `fd00::1`
    Ipv6,
    /// `52:54:00:12:34:56`
    Ethernet,
}

/// A number, an address or a block of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The bits; none of them outside `mask`.
    pub value: u128,
    /// Which bits count; `None` for all.
    pub mask: Option<u128>,
    /// How it is written.
    pub format: Format,
}

/// What a field can be compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constant {
    /// A number or an address.
    Number(Number, Span),
    /// What stood in quotes: a name, a pattern, a rate or a time, as the field has it. Wildcards are `*` and `?`;
    /// a backslash takes the meaning from the character after it.
    Quoted(String, Span),
    /// `$name`: an address set.
    AddressSet(String, Span),
}

impl Constant {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            Self::Number(_, span) | Self::Quoted(_, span) | Self::AddressSet(_, span) => *span,
        }
    }
}

impl Format {
    /// The number of bits, where the format says it.
    pub(super) fn width(self) -> Option<u8> {
        match self {
            Self::Decimal | Self::Hexadecimal => None,
            Self::Ipv4 => Some(32),
            Self::Ipv6 => Some(128),
            Self::Ethernet => Some(48),
        }
    }

    /// With an article, for error messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Decimal | Self::Hexadecimal => "a number",
            Self::Ipv4 => "an IPv4 address",
            Self::Ipv6 => "an IPv6 address",
            Self::Ethernet => "an Ethernet address",
        }
    }
}

/// The lowest `width` bits.
pub(super) fn ones(width: u8) -> u128 {
    if width >= 128 { u128::MAX } else { (1_u128 << width) - 1 }
}

impl Number {
    /// Reads `value` or `value/mask`, as [`Format`] shows them.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (value, Some(mask)),
            None => (text, None),
        };
        let (value, format) = parse_value(value)?;
        let Some(mask) = mask else { return Ok(Self { value, mask: None, format }) };
        let mask = parse_mask(mask, format, text)?;
        if value & !mask != 0 {
            let suggestion = Self { value: value & mask, mask: Some(mask), format };
            return Err(Problem::BitsOutsideMask {
                found: text.to_string(),
                suggestion: suggestion.to_string(),
            });
        }
        let exact = format.width().is_some_and(|width| mask == ones(width));
        Ok(Self { value, mask: (!exact).then_some(mask), format })
    }
}

fn parse_value(text: &str) -> Result<(u128, Format), Problem> {
    let bad = || Problem::BadNumber(text.to_string());
    if text.contains(':') {
        if let Some(value) = parse_ethernet(text) {
            return Ok((value, Format::Ethernet));
        }
        let address: Ipv6Addr = text.parse().map_err(|_| bad())?;
        return Ok((address.to_bits(), Format::Ipv6));
    }
    if text.contains('.') {
        let address: Ipv4Addr = text.parse().map_err(|_| bad())?;
        return Ok((u128::from(address.to_bits()), Format::Ipv4));
    }
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if digits.starts_with('+') {
            return Err(bad());
        }
        let value = u128::from_str_radix(digits, 16).map_err(|_| bad())?;
        return Ok((value, Format::Hexadecimal));
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0')) {
        return Err(bad());
    }
    Ok((text.parse().map_err(|_| bad())?, Format::Decimal))
}

fn parse_mask(text: &str, format: Format, whole: &str) -> Result<u128, Problem> {
    let (mask, mask_format) = parse_value(text)?;
    match (format, mask_format) {
        (Format::Ipv4, Format::Decimal) if mask <= 32 => Ok(ones(32) ^ ones(32 - mask as u8)),
        (Format::Ipv6, Format::Decimal) if mask <= 128 => Ok(ones(128) ^ ones(128 - mask as u8)),
        (Format::Ipv4 | Format::Ipv6, Format::Decimal) => Err(Problem::BadNumber(whole.to_string())),
        (a, b) if a == b => Ok(mask),
        _ => Err(Problem::MaskOfAnotherKind(whole.to_string())),
    }
}

fn parse_ethernet(text: &str) -> Option<u128> {
    if text.len() != 17 {
        return None;
    }
    let mut value = 0_u128;
    for (i, byte) in text.split(':').enumerate() {
        let two_digits = byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
        if i > 5 || !two_digits {
            return None;
        }
        value = value << 8 | u128::from_str_radix(byte, 16).ok()?;
    }
    Some(value)
}

/// A value in the notation of its format.
pub(super) struct Written(pub(super) u128, pub(super) Format);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Format::Decimal => write!(f, "{}", self.0),
            Format::Hexadecimal => write!(f, "{:#x}", self.0),
            Format::Ipv4 => write!(f, "{}", Ipv4Addr::from_bits(self.0 as u32)),
            Format::Ipv6 => write!(f, "{}", Ipv6Addr::from_bits(self.0)),
            Format::Ethernet => {
                for i in (0..6).rev() {
                    write!(f, "{:02x}{}", self.0 >> (8 * i) & 0xff, if i == 0 { "" } else { ":" })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Written(self.value, self.format).fmt(f)?;
        let Some(mask) = self.mask else { return Ok(()) };
        match (self.format, self.format.width()) {
            (Format::Ipv4 | Format::Ipv6, Some(width))
                if (!mask & ones(width)).wrapping_add(1).is_power_of_two() =>
            {
                write!(f, "/{}", mask.count_ones())
            }
            // IPv6's /0: the inverted mask is all ones and wraps to zero above.
            (Format::Ipv6, _) if mask == 0 => f.write_str("/0"),
            _ => write!(f, "/{}", Written(mask, self.format)),
        }
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number, _) => number.fmt(f),
            Self::Quoted(text, _) => f.write_str(&quoted(text)),
            Self::AddressSet(name, _) => write!(f, "${name}"),
        }
    }
}

/// `text` in quotes. Backslashes are part of the pattern already; only the quote itself needs one.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if c == '"' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

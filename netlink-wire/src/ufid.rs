//! The name Open vSwitch gives to one megaflow. Nothing about its contents.

use core::fmt;
use core::str::FromStr;

/// The unique flow identifier of a megaflow: `OVS_FLOW_ATTR_UFID`, and the cookie of the TC actions made from it.
///
/// Sixteen bytes in the order of the wire. Displayed and read as Open vSwitch prints it: `ufid:` and groups of 8, 4,
/// 4, 4 and 12 hexadecimal digits (`odp_format_ufid()` in `lib/odp-util.c`). Each group of eight digits is one
/// 32-bit word of the host's byte order, which is why the text does not show the bytes in their order on a
/// little-endian host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ufid([u8; 16]);

impl Ufid {
    /// The identifier whose bytes on the wire are these.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes as they are on the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Its four 32-bit words, the first one first in print.
    fn words(&self) -> [u32; 4] {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(self.0.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    }
}

impl fmt::Display for Ufid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.words();
        write!(f, "ufid:{a:08x}-{:04x}-{:04x}-{:04x}-{:04x}{d:08x}", b >> 16, b & 0xffff, c >> 16, c & 0xffff)
    }
}

impl fmt::Debug for Ufid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a unique flow identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAUfid;

impl fmt::Display for NotAUfid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a UFID: expected 32 hexadecimal digits as 8-4-4-4-12, with or without `ufid:` before them",
        )
    }
}

impl core::error::Error for NotAUfid {}

impl FromStr for Ufid {
    type Err = NotAUfid;

    fn from_str(text: &str) -> Result<Self, NotAUfid> {
        let text = text.strip_prefix("ufid:").unwrap_or(text);
        let mut lengths = [8usize, 4, 4, 4, 12].into_iter();
        let mut value: u128 = 0;
        for group in text.split('-') {
            if lengths.next() != Some(group.len()) || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(NotAUfid);
            }
            let digits = u128::from_str_radix(group, 16).map_err(|_| NotAUfid)?;
            value = (value << (4 * group.len())) | digits;
        }
        if lengths.next().is_some() {
            return Err(NotAUfid);
        }
        let mut bytes = [0; 16];
        for (bytes, shift) in bytes.chunks_exact_mut(4).zip([96u32, 64, 32, 0]) {
            let word = (value >> shift) as u32;
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_is_four_host_order_words_as_open_vswitch_prints_them() {
        let mut bytes = [0u8; 16];
        for (word, out) in
            [0x6a1f_0ab1u32, 0x5d2c_4c08, 0x9d6e_1f0a, 0x0102_0304].iter().zip(bytes.chunks_mut(4))
        {
            out.copy_from_slice(&word.to_ne_bytes());
        }
        let ufid = Ufid::from_bytes(bytes);
        assert_eq!(ufid.to_string(), "ufid:6a1f0ab1-5d2c-4c08-9d6e-1f0a01020304");
        assert_eq!("6a1f0ab1-5d2c-4c08-9d6e-1f0a01020304".parse(), Ok(ufid));
        assert_eq!(ufid.to_string().parse(), Ok(ufid));
    }

    #[test]
    fn wrong_groups_digits_and_lengths_are_refused() {
        for text in [
            "",
            "ufid:",
            "6a1f0ab15d2c4c089d6e1f0a01020304",
            "6a1f0ab1-5d2c-4c08-9d6e",
            "6a1f0ab1-5d2c-4c08-9d6e-1f0a0102030",
            "6a1f0ab1-5d2c-4c08-9d6e-1f0a01020304-0",
            "+a1f0ab1-5d2c-4c08-9d6e-1f0a01020304",
            "6a1f0abg-5d2c-4c08-9d6e-1f0a01020304",
        ] {
            assert_eq!(text.parse::<Ufid>(), Err(NotAUfid), "{text}");
        }
    }
}

//! Numbers and texts as bytes: varints of seven bits each, the lowest first, the top bit set in all but the last (LEB128).

use super::Malformed;

/// Appends to the bytes of a record.
pub(super) trait Put {
    fn byte(&mut self, byte: u8);
    fn number(&mut self, value: u64);
    fn signed(&mut self, value: i64);
    /// The number of something, or 0 for "not known".
    fn reference(&mut self, number: Option<u32>);
    /// The lowest `bytes` bytes of a value.
    fn wide(&mut self, value: u128, bytes: usize);
}

impl Put for alloc::vec::Vec<u8> {
    fn byte(&mut self, byte: u8) {
        self.push(byte);
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn signed(&mut self, value: i64) {
        self.number((value as u64) << 1 ^ (value >> 63) as u64);
    }

    fn reference(&mut self, number: Option<u32>) {
        self.number(number.map_or(0, |number| u64::from(number) + 1));
    }

    fn wide(&mut self, value: u128, bytes: usize) {
        self.extend_from_slice(value.to_le_bytes().get(..bytes).unwrap_or_default());
    }
}

/// Why nothing could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end within the record.
    Short,
    /// The record is wrong.
    Wrong(Malformed),
}

pub(super) fn wrong<T>(why: &'static str) -> Result<T, Fault> {
    Err(Fault::Wrong(Malformed(why)))
}

/// Reads the bytes of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Take<'a> {
    bytes: &'a [u8],
}

impl<'a> Take<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        let (first, rest) = self.bytes.split_first().ok_or(Fault::Short)?;
        self.bytes = rest;
        Ok(*first)
    }

    #[inline]
    pub(super) fn number(&mut self) -> Result<u64, Fault> {
        // Most numbers are short.
        if let Some((first, rest)) = self.bytes.split_first()
            && *first < 0x80
        {
            self.bytes = rest;
            return Ok(u64::from(*first));
        }
        self.long_number()
    }

    fn long_number(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for (index, byte) in self.bytes.iter().enumerate() {
            let bits = u64::from(byte & 0x7f);
            if index > 9 || index == 9 && bits > 1 {
                return wrong("a number has more than 64 bits");
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[index + 1..];
                return Ok(value);
            }
        }
        Err(Fault::Short)
    }

    pub(super) fn signed(&mut self) -> Result<i64, Fault> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u32, why: &'static str) -> Result<u32, Fault> {
        match u32::try_from(self.number()?) {
            Ok(value) if value < end => Ok(value),
            _ => wrong(why),
        }
    }

    pub(super) fn reference(&mut self) -> Result<Option<u32>, Fault> {
        Ok(self.below(u32::MAX, "a reference is too great")?.checked_sub(1))
    }

    pub(super) fn wide(&mut self, bytes: usize) -> Result<u128, Fault> {
        let mut value = [0; 16];
        let part = self.slice(bytes)?;
        if let Some(place) = value.get_mut(..bytes) {
            place.copy_from_slice(part);
        }
        Ok(u128::from_le_bytes(value))
    }

    pub(super) fn slice(&mut self, bytes: usize) -> Result<&'a [u8], Fault> {
        let (part, rest) = self.bytes.split_at_checked(bytes).ok_or(Fault::Short)?;
        self.bytes = rest;
        Ok(part)
    }
}

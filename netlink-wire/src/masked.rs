//! A value together with the bits of it that matter.

use crate::{DpPort, EtherType, MacAddr, RecircId};
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// A fixed number of bits that a mask can be laid over.
pub trait Bits: Copy + Eq {
    /// No bit set: a mask under which every value matches.
    const ZEROS: Self;
    /// Every bit set: a mask under which exactly one value matches.
    const ONES: Self;
    /// The bits set in both.
    #[must_use]
    fn and(self, other: Self) -> Self;
}

macro_rules! integer_bits {
    ($($int:ty),*) => {$(
        impl Bits for $int {
            const ZEROS: Self = 0;
            const ONES: Self = <$int>::MAX;
            fn and(self, other: Self) -> Self {
                self & other
            }
        }
    )*};
}
integer_bits!(u8, u16, u32, u64, u128);

impl<const N: usize> Bits for [u8; N] {
    const ZEROS: Self = [0; N];
    const ONES: Self = [0xff; N];
    fn and(mut self, other: Self) -> Self {
        for (byte, mask) in self.iter_mut().zip(other) {
            *byte &= mask;
        }
        self
    }
}

impl Bits for MacAddr {
    const ZEROS: Self = Self([0; 6]);
    const ONES: Self = Self([0xff; 6]);
    fn and(self, other: Self) -> Self {
        Self(self.0.and(other.0))
    }
}

macro_rules! newtype_bits {
    ($($name:ident),*) => {$(
        impl Bits for $name {
            const ZEROS: Self = Self(0);
            const ONES: Self = Self(!0);
            fn and(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }
    )*};
}
newtype_bits!(DpPort, EtherType, RecircId);

impl Bits for Ipv4Addr {
    const ZEROS: Self = Self::UNSPECIFIED;
    const ONES: Self = Self::BROADCAST;
    fn and(self, other: Self) -> Self {
        self & other
    }
}

impl Bits for Ipv6Addr {
    const ZEROS: Self = Self::UNSPECIFIED;
    const ONES: Self = Self::from_bits(u128::MAX);
    fn and(self, other: Self) -> Self {
        self & other
    }
}

/// A match on some bits of a value: a packet matches if its value agrees with `value` wherever `mask` has a one.
///
/// `value` may have bits outside the mask; they mean nothing, but are kept as they were read, so that a filter can be
/// written back as it was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Masked<T> {
    /// The value to agree with.
    pub value: T,
    /// Which of its bits matter.
    pub mask: T,
}

/// A match on no bit.
impl<T: Bits> Default for Masked<T> {
    fn default() -> Self {
        Self::ANY
    }
}

impl<T: Bits> Masked<T> {
    /// A match on no bit.
    pub const ANY: Self = Self { value: T::ZEROS, mask: T::ZEROS };

    /// A match on every bit.
    pub const fn exact(value: T) -> Self {
        Self { value, mask: T::ONES }
    }

    /// A match on the bits of `mask`.
    pub const fn new(value: T, mask: T) -> Self {
        Self { value, mask }
    }

    /// Whether every bit matters.
    pub fn is_exact(&self) -> bool {
        self.mask == T::ONES
    }

    /// Whether no bit matters, so that everything matches.
    pub fn is_any(&self) -> bool {
        self.mask == T::ZEROS
    }

    /// Whether a packet with this value matches.
    pub fn matches(&self, value: T) -> bool {
        value.and(self.mask) == self.value.and(self.mask)
    }

    /// The value without the bits outside the mask.
    #[must_use]
    pub fn significant(&self) -> T {
        self.value.and(self.mask)
    }

    /// The one value that matches, where every bit matters.
    pub fn as_exact(&self) -> Option<T> {
        self.is_exact().then_some(self.value)
    }

    /// The same match on another representation of the same bits.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Masked<U> {
        Masked { value: f(self.value), mask: f(self.mask) }
    }
}

/// `value` where every bit matters, `value/mask` elsewhere.
impl<T: Bits + fmt::Display> fmt::Display for Masked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)?;
        if self.is_exact() {
            return Ok(());
        }
        f.write_str("/")?;
        self.mask.fmt(f)
    }
}

/// `0x1` where every bit matters, `0x1/0x3` elsewhere.
impl<T: Bits + fmt::LowerHex> fmt::LowerHex for Masked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)?;
        if self.is_exact() {
            return Ok(());
        }
        f.write_str("/")?;
        self.mask.fmt(f)
    }
}

/// The length of a mask of leading ones, which is how an address's mask is written: `/24`.
pub fn prefix_length(mask: u128, width: u32) -> Option<u32> {
    let shifted = mask << (128 - width);
    let ones = shifted.leading_ones();
    (shifted.count_ones() == ones).then_some(ones)
}

/// `10.0.0.0/24`, or `10.0.0.0/255.0.255.0` where the mask is no prefix.
pub struct Ipv4Net(pub Masked<Ipv4Addr>);

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match prefix_length(self.0.mask.to_bits().into(), 32) {
            Some(32) => self.0.value.fmt(f),
            Some(length) => write!(f, "{}/{length}", self.0.value),
            None => self.0.fmt(f),
        }
    }
}

/// `2001:db8::/32`, or address and mask where the mask is no prefix.
pub struct Ipv6Net(pub Masked<Ipv6Addr>);

impl fmt::Display for Ipv6Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match prefix_length(self.0.mask.to_bits(), 128) {
            Some(128) => self.0.value.fmt(f),
            Some(length) => write!(f, "{}/{length}", self.0.value),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn only_bits_under_the_mask_decide() {
        let net = Masked::new(Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(255, 255, 0, 0));
        assert!(net.matches(Ipv4Addr::new(10, 1, 9, 9)));
        assert!(!net.matches(Ipv4Addr::new(10, 2, 2, 3)));
        assert_eq!(net.significant(), Ipv4Addr::new(10, 1, 0, 0));
        assert!(!net.is_exact() && !net.is_any());
    }

    #[test]
    fn prefix_masks_print_as_lengths_and_others_in_full() {
        assert_eq!(prefix_length(0, 32), Some(0));
        assert_eq!(prefix_length(0, 128), Some(0));
        let net = |mask| format!("{}", Ipv4Net(Masked::new(Ipv4Addr::new(10, 0, 0, 0), mask)));
        assert_eq!(net(Ipv4Addr::new(255, 255, 255, 0)), "10.0.0.0/24");
        assert_eq!(net(Ipv4Addr::BROADCAST), "10.0.0.0");
        assert_eq!(net(Ipv4Addr::new(255, 0, 255, 0)), "10.0.0.0/255.0.255.0");
        let net6 = Masked::new("2001:db8::".parse().unwrap(), Ipv6Addr::from_bits(!0 << 96));
        assert_eq!(format!("{}", Ipv6Net(net6)), "2001:db8::/32");
    }
}

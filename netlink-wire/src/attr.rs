//! Reading attributes: `struct nlattr` of `linux/netlink.h`. Borrows the received bytes and never allocates.

use crate::malformed::{Family, Malformed, Why};
use core::net::{Ipv4Addr, Ipv6Addr};

/// `NLA_F_NESTED`: the payload is itself a list of attributes.
pub const NLA_F_NESTED: u16 = 1 << 15;
/// `NLA_F_NET_BYTEORDER`: the payload is in network byte order.
pub const NLA_F_NET_BYTEORDER: u16 = 1 << 14;
/// `NLA_TYPE_MASK`: what is left of the type field without the two flags.
pub const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);
/// Bytes of `struct nlattr`.
pub const NLA_HDRLEN: usize = 4;

/// The next multiple of four, to which attributes and messages are padded.
pub const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A list of attributes, read one after the other.
///
/// The iterator ends after the first attribute whose length is wrong: what follows cannot be found. Up to three bytes
/// of padding at the end are ignored, as the kernel does.
#[derive(Clone, Copy, Debug)]
pub struct Attrs<'a> {
    bytes: &'a [u8],
    offset: usize,
    family: Family,
}

impl<'a> Attrs<'a> {
    /// The attributes in `bytes`, which begin at `offset` of the received buffer.
    pub const fn new(bytes: &'a [u8], family: Family, offset: usize) -> Self {
        Self { bytes, offset, family }
    }

    /// The bytes not read yet.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// That an attribute which must be there is not.
    pub const fn missing(&self, attr: u16) -> Malformed {
        Malformed { family: self.family, attr, offset: self.offset, why: Why::Missing }
    }

    /// The first attribute of this type.
    ///
    /// # Errors
    /// A list that is broken before it.
    pub fn find(self, kind: u16) -> Result<Option<Attr<'a>>, Malformed> {
        for attr in self {
            let attr = attr?;
            if attr.kind() == kind {
                return Ok(Some(attr));
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.bytes.split_first_chunk::<NLA_HDRLEN>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let raw_kind = u16::from_ne_bytes([header[2], header[3]]);
        let Some(payload) = self.bytes.get(NLA_HDRLEN..length) else {
            let offset = self.offset;
            self.bytes = &[];
            let attr = raw_kind & NLA_TYPE_MASK;
            return Some(Err(Malformed { family: self.family, attr, offset, why: Why::Truncated }));
        };
        let attr = Attr { payload, offset: self.offset, raw_kind, family: self.family };
        let step = align(length).min(self.bytes.len());
        self.bytes = &self.bytes[step..];
        self.offset += step;
        Some(Ok(attr))
    }
}

/// One attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr<'a> {
    payload: &'a [u8],
    offset: usize,
    raw_kind: u16,
    family: Family,
}

impl<'a> Attr<'a> {
    /// Its type, without [`NLA_F_NESTED`] and [`NLA_F_NET_BYTEORDER`].
    #[inline]
    pub const fn kind(&self) -> u16 {
        self.raw_kind & NLA_TYPE_MASK
    }

    /// Whether the sender marked it [`NLA_F_NESTED`]. Many nests of the kernel are not marked.
    pub const fn is_marked_nested(&self) -> bool {
        self.raw_kind & NLA_F_NESTED != 0
    }

    /// Its payload, without padding.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Where its header begins, in bytes from the start of the received buffer.
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Its payload as a list of attributes.
    #[inline]
    pub const fn nested(&self) -> Attrs<'a> {
        Attrs { bytes: self.payload, offset: self.offset + NLA_HDRLEN, family: self.family }
    }

    /// The first and the second half of its payload, as attributes of the same type: value and mask of
    /// `OVS_ACTION_ATTR_SET_MASKED`.
    pub(crate) fn halves(&self) -> (Self, Self) {
        let (first, second) = self.payload.split_at(self.payload.len() / 2);
        (Self { payload: first, ..*self }, Self { payload: second, ..*self })
    }

    /// What is wrong with this attribute.
    #[cold]
    pub const fn malformed(&self, why: Why) -> Malformed {
        Malformed { family: self.family, attr: self.kind(), offset: self.offset, why }
    }

    /// The first `N` bytes. A longer payload is allowed: the kernel appends fields to its structures.
    ///
    /// # Errors
    /// A payload of less than `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        match self.payload.first_chunk::<N>() {
            Some(bytes) => Ok(*bytes),
            None => Err(self.too_short(N)),
        }
    }

    /// That `need` bytes are not there.
    #[cold]
    pub fn too_short(&self, need: usize) -> Malformed {
        let clamp = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        self.malformed(Why::TooShort { need: clamp(need), have: clamp(self.payload.len()) })
    }

    /// A byte.
    ///
    /// # Errors
    /// An empty payload.
    #[inline]
    pub fn u8(&self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A number in the host's byte order.
    ///
    /// # Errors
    /// Less than two bytes.
    #[inline]
    pub fn u16(&self) -> Result<u16, Malformed> {
        Ok(u16::from_ne_bytes(self.array()?))
    }

    /// A number in the host's byte order.
    ///
    /// # Errors
    /// Less than four bytes.
    #[inline]
    pub fn u32(&self) -> Result<u32, Malformed> {
        Ok(u32::from_ne_bytes(self.array()?))
    }

    /// A number in the host's byte order.
    ///
    /// # Errors
    /// Less than four bytes.
    #[inline]
    pub fn i32(&self) -> Result<i32, Malformed> {
        Ok(i32::from_ne_bytes(self.array()?))
    }

    /// A number in the host's byte order.
    ///
    /// # Errors
    /// Less than eight bytes.
    #[inline]
    pub fn u64(&self) -> Result<u64, Malformed> {
        Ok(u64::from_ne_bytes(self.array()?))
    }

    /// A number in network byte order.
    ///
    /// # Errors
    /// Less than two bytes.
    #[inline]
    pub fn be16(&self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// A number in network byte order.
    ///
    /// # Errors
    /// Less than four bytes.
    #[inline]
    pub fn be32(&self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A number in network byte order.
    ///
    /// # Errors
    /// Less than eight bytes.
    #[inline]
    pub fn be64(&self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// An IPv4 address.
    ///
    /// # Errors
    /// Less than four bytes.
    #[inline]
    pub fn ipv4(&self) -> Result<Ipv4Addr, Malformed> {
        Ok(Ipv4Addr::from(self.array::<4>()?))
    }

    /// An IPv6 address.
    ///
    /// # Errors
    /// Less than sixteen bytes.
    #[inline]
    pub fn ipv6(&self) -> Result<Ipv6Addr, Malformed> {
        Ok(Ipv6Addr::from(self.array::<16>()?))
    }

    /// A text, which ends at the first zero byte or at the end of the payload.
    ///
    /// # Errors
    /// A text that is not UTF-8.
    pub fn text(&self) -> Result<&'a str, Malformed> {
        let end = self.payload.iter().position(|&b| b == 0).unwrap_or(self.payload.len());
        core::str::from_utf8(&self.payload[..end]).map_err(|_| self.malformed(Why::NotText))
    }

    /// `struct nla_bitfield32`: a value, and which of its bits are meant.
    ///
    /// # Errors
    /// Less than eight bytes.
    pub fn bitfield32(&self) -> Result<(u32, u32), Malformed> {
        let [a, b, c, d, e, f, g, h] = self.array()?;
        Ok((u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])))
    }
}

/// Reads numbers out of a fixed structure, one after the other.
///
/// For structures whose length was checked before: past the end it reads zeros.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes.
    #[inline]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((bytes, rest)) => {
                self.0 = rest;
                *bytes
            }
            None => [0; N],
        }
    }

    /// The next byte.
    #[inline]
    pub fn u8(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    /// The next two bytes in the host's order.
    #[inline]
    pub fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.bytes())
    }

    /// The next four bytes in the host's order.
    #[inline]
    pub fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.bytes())
    }

    /// The next four bytes in the host's order.
    #[inline]
    pub fn i32(&mut self) -> i32 {
        i32::from_ne_bytes(self.bytes())
    }

    /// The next eight bytes in the host's order.
    #[inline]
    pub fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.bytes())
    }

    /// The next two bytes in network order.
    #[inline]
    pub fn be16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes())
    }

    /// The next four bytes in network order.
    #[inline]
    pub fn be32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }

    /// The next four bytes as an address.
    #[inline]
    pub fn ipv4(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(self.bytes::<4>())
    }

    /// The next sixteen bytes as an address.
    #[inline]
    pub fn ipv6(&mut self) -> Ipv6Addr {
        Ipv6Addr::from(self.bytes::<16>())
    }
}

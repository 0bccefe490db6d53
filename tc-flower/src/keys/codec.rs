//! How one key's value is laid out in its attribute. One type per layout, for the table-like definitions of the keys.

use core::net::{Ipv4Addr, Ipv6Addr};
use netlink_wire::{Attr, Bits, EtherType, MacAddr, Malformed, Masked, MessageWriter};

/// A layout.
pub(crate) trait Layout {
    type Value: Copy;
    fn read(attr: &Attr<'_>) -> Result<Self::Value, Malformed>;
    fn put(writer: &mut MessageWriter, attr: u16, value: Self::Value);
}

macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident: $value:ty, $read:expr, $put:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl Layout for $name {
            type Value = $value;

            #[inline]
            fn read(attr: &Attr<'_>) -> Result<$value, Malformed> {
                $read(attr)
            }

            fn put(writer: &mut MessageWriter, attr: u16, value: $value) {
                $put(writer, attr, value);
            }
        }
    )*};
}

type W = MessageWriter;

layout! {
    /// A byte.
    Byte: u8, Attr::u8, W::put_u8;
    /// Two bytes in the host's order.
    Host16: u16, Attr::u16, W::put_u16;
    /// Two bytes in network order.
    Net16: u16, Attr::be16, W::put_be16;
    /// Four bytes in the host's order.
    Host32: u32, Attr::u32, W::put_u32;
    /// Four bytes in network order.
    Net32: u32, Attr::be32, W::put_be32;
    /// An Ethernet address.
    Mac: MacAddr, |a: &Attr<'_>| a.array().map(MacAddr), |w: &mut W, n, v: MacAddr| w.put(n, &v.0);
    /// An Ethernet type in network order.
    Type: EtherType, |a: &Attr<'_>| a.be16().map(EtherType), |w: &mut W, n, v: EtherType| w.put_be16(n, v.0);
    /// An IPv4 address.
    V4: Ipv4Addr, Attr::ipv4, |w: &mut W, n, v: Ipv4Addr| w.put(n, &v.octets());
    /// An IPv6 address.
    V6: Ipv6Addr, Attr::ipv6, |w: &mut W, n, v: Ipv6Addr| w.put(n, &v.octets());
    /// Sixteen bytes as they are.
    Raw16: [u8; 16], Attr::array, |w: &mut W, n, v: [u8; 16]| w.put(n, &v);
}

/// A key's value was read: every bit matters, unless a mask says otherwise.
#[inline]
pub(crate) fn take_value<T: Bits>(key: &mut Option<Masked<T>>, value: T) {
    match key {
        Some(key) => key.value = value,
        None => *key = Some(Masked::exact(value)),
    }
}

/// A key's mask was read.
#[inline]
pub(crate) fn take_mask<T: Bits>(key: &mut Option<Masked<T>>, mask: T) {
    match key {
        Some(key) => key.mask = mask,
        None => *key = Some(Masked::new(T::ZEROS, mask)),
    }
}

/// Defines the keys of one protocol: a structure, its reader and its writer.
///
/// `masked L(V, M)` is a key of layout `L` whose value is attribute `TCA_FLOWER_V` and whose mask is attribute
/// `TCA_FLOWER_M`; `exact L(V)` is one that has no mask.
macro_rules! keys {
    (
        $(#[$doc:meta])*
        $name:ident {
            $($(#[$key_doc:meta])* $key:ident: $how:ident $layout:ident($($attr:ident),+);)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        pub struct $name {
            $($(#[$key_doc])* pub $key: $crate::keys::codec::key_type!($how $layout),)*
        }

        impl $name {
            /// Whether there is no key of this protocol.
            pub fn is_empty(&self) -> bool {
                $(self.$key.is_none())&&*
            }

            /// Reads an attribute if it is one of these.
            #[inline]
            pub(crate) fn take(
                &mut self,
                attr: &netlink_wire::Attr<'_>,
            ) -> Result<bool, netlink_wire::Malformed> {
                match attr.kind() {
                    $($($crate::keys::attr::$attr)|+ => $crate::keys::codec::take_key!(self.$key, attr, $how $layout($($attr),+)),)*
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// The same keys under the same masks, with no bit set in their values.
            pub(crate) fn without_values(&self) -> Self {
                Self { $($key: $crate::keys::codec::bare_key!(self.$key, $how)),* }
            }

            /// Writes the keys there are.
            pub(crate) fn put(&self, writer: &mut netlink_wire::MessageWriter) {
                $($crate::keys::codec::put_key!(self.$key, writer, $how $layout($($attr),+));)*
            }
        }
    };
}

/// The type of a key, spelled out so that the documentation shows it.
macro_rules! key_type {
    (masked $layout:ident) => { Option<netlink_wire::Masked<$crate::keys::codec::key_type!($layout)>> };
    (exact $layout:ident) => { Option<$crate::keys::codec::key_type!($layout)> };
    (Byte) => { u8 };
    (Host16) => { u16 };
    (Net16) => { u16 };
    (Host32) => { u32 };
    (Net32) => { u32 };
    (Mac) => { netlink_wire::MacAddr };
    (Type) => { netlink_wire::EtherType };
    (V4) => { core::net::Ipv4Addr };
    (V6) => { core::net::Ipv6Addr };
    (Raw16) => { [u8; 16] };
}

macro_rules! take_key {
    ($self:ident.$key:ident, $attr:ident, masked $layout:ident($value:ident, $mask:ident)) => {{
        use $crate::keys::codec::Layout as _;
        let read = $layout::read($attr)?;
        match $attr.kind() {
            $crate::keys::attr::$value => $crate::keys::codec::take_value(&mut $self.$key, read),
            _ => $crate::keys::codec::take_mask(&mut $self.$key, read),
        }
    }};
    ($self:ident.$key:ident, $attr:ident, exact $layout:ident($value:ident)) => {{
        use $crate::keys::codec::Layout as _;
        $self.$key = Some($layout::read($attr)?);
    }};
}

macro_rules! put_key {
    ($self:ident.$key:ident, $writer:ident, masked $layout:ident($value:ident, $mask:ident)) => {
        if let Some(key) = $self.$key {
            use $crate::keys::codec::Layout as _;
            $layout::put($writer, $crate::keys::attr::$value, key.value);
            $layout::put($writer, $crate::keys::attr::$mask, key.mask);
        }
    };
    ($self:ident.$key:ident, $writer:ident, exact $layout:ident($value:ident)) => {
        if let Some(key) = $self.$key {
            use $crate::keys::codec::Layout as _;
            $layout::put($writer, $crate::keys::attr::$value, key);
        }
    };
}

macro_rules! bare_key {
    ($self:ident.$key:ident, masked) => {
        $self.$key.map(|key| netlink_wire::Masked { value: netlink_wire::Bits::ZEROS, ..key })
    };
    ($self:ident.$key:ident, exact) => {
        $self.$key.map(|_| netlink_wire::Bits::ZEROS)
    };
}

pub(crate) use {bare_key, key_type, keys, put_key, take_key};

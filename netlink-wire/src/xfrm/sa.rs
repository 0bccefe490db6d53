//! Security associations: `struct xfrm_usersa_info` and what comes with it, but for the keys.

use super::selector::{self, Selector};
use super::{DeviceOffload, XFRMA_ALG_AEAD, XFRMA_IF_ID, XFRMA_MARK, XFRMA_OFFLOAD_DEV};
use crate::attr::{Attr, Attrs, Fields};
use crate::malformed::Malformed;
use alloc::boxed::Box;
use core::fmt;
use core::net::IpAddr;

/// Bytes of `struct xfrm_usersa_info`.
pub(super) const USERSA_INFO: usize = 224;
/// Where `struct xfrm_usersa_info` has what was taken: bytes, then packets.
pub(super) const CURRENT: usize = 160;
/// Bytes of `struct xfrm_usersa_id`.
pub(super) const USERSA_ID: usize = 24;
/// `XFRMA_ALG_AUTH`
const XFRMA_ALG_AUTH: u16 = 1;
/// `XFRMA_ALG_CRYPT`
const XFRMA_ALG_CRYPT: u16 = 2;
/// `XFRMA_ENCAP`
const XFRMA_ENCAP: u16 = 4;
/// `XFRMA_REPLAY_VAL`
const XFRMA_REPLAY_VAL: u16 = 10;
/// `XFRMA_ALG_AUTH_TRUNC`
const XFRMA_ALG_AUTH_TRUNC: u16 = 20;
/// `XFRMA_REPLAY_ESN_VAL`
const XFRMA_REPLAY_ESN_VAL: u16 = 23;
/// `XFRMA_SA_DIR`. Linux 6.10 and newer.
const XFRMA_SA_DIR: u16 = 33;
/// `XFRM_STATE_ESN`
const XFRM_STATE_ESN: u8 = 128;
/// `XFRM_INF` of `net/xfrm.h`: no limit.
const XFRM_INF: u64 = !0;
/// Bytes of the name in `struct xfrm_algo` and its like.
const ALGORITHM_NAME: usize = 64;

crate::id!(
    /// A security parameter index: `xfrm_id.spi`, in the host's order.
    Spi(u32),
    "{:#010x}"
);
crate::id!(
    /// The number by which policies find their security associations: `xfrm_usersa_info.reqid`.
    Reqid(u32),
    "{}"
);

/// What names a security association: destination, SPI, protocol and mark (`xfrm_state_lookup()` of `net/xfrm/xfrm_state.c`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SaId {
    /// Destination of the packets on the wire.
    pub dst: IpAddr,
    /// Security parameter index.
    pub spi: Spi,
    /// `IPPROTO_ESP` (50), `IPPROTO_AH` (51) or `IPPROTO_COMP` (108).
    pub proto: u8,
    /// Mark of the packets, and the bits of it that matter.
    pub mark: (u32, u32),
}

/// How packets are wrapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SaMode {
    /// `XFRM_MODE_TRANSPORT`
    Transport,
    /// `XFRM_MODE_TUNNEL`
    Tunnel,
    /// Any other.
    Other(u8),
}

impl SaMode {
    pub(super) const fn of(number: u8) -> Self {
        match number {
            0 => Self::Transport,
            1 => Self::Tunnel,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for SaMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport => f.write_str("transport"),
            Self::Tunnel => f.write_str("tunnel"),
            Self::Other(number) => write!(f, "mode {number}"),
        }
    }
}

/// Which way packets go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SaDirection {
    /// They come from the peer.
    In,
    /// They go to the peer.
    Out,
}

impl SaDirection {
    /// The word for it in tables and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// A cipher or an authentication: its name and sizes. The key is never read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Algorithm {
    /// The kernel's name: `rfc4106(gcm(aes))`.
    pub name: Box<str>,
    /// Bits of the key, with the salt where there is one.
    pub key_bits: u32,
    /// Bits of the authentication tag, where it has one.
    pub icv_bits: Option<u32>,
}

impl Algorithm {
    /// Reads the name and the sizes that stand before the key: `struct xfrm_algo`, `_auth` and `_aead`.
    fn read(attr: &Attr<'_>, has_icv: bool) -> Result<Self, Malformed> {
        let head: [u8; ALGORITHM_NAME + 4] = attr.array()?;
        let name = head[..ALGORITHM_NAME].split(|byte| *byte == 0).next().unwrap_or_default();
        // The kernel's names are ASCII; anything else would come from nowhere.
        let name = core::str::from_utf8(name).unwrap_or("?");
        let mut sizes = Fields(&head[ALGORITHM_NAME..]);
        let key_bits = sizes.u32();
        let icv_bits = match has_icv {
            true => {
                let whole: [u8; ALGORITHM_NAME + 8] = attr.array()?;
                Some(Fields(&whole[ALGORITHM_NAME + 4..]).u32())
            }
            false => None,
        };
        Ok(Self { name: name.into(), key_bits, icv_bits })
    }
}

/// Limits of one kind; none for unlimited.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Limit {
    /// From here on a new one is asked for.
    pub soft: Option<u64>,
    /// From here on it is dead.
    pub hard: Option<u64>,
}

/// How long a security association lives: `struct xfrm_lifetime_cfg`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lifetime {
    /// Bytes.
    pub bytes: Limit,
    /// Packets.
    pub packets: Limit,
    /// Seconds since it was added; 0 of the kernel is no limit.
    pub added_s: Limit,
    /// Seconds since its first use.
    pub used_s: Limit,
}

impl Lifetime {
    fn read(fields: &mut Fields<'_>) -> Self {
        let count = |value: u64| (value != XFRM_INF).then_some(value);
        let seconds = |value: u64| (value != 0 && value != XFRM_INF).then_some(value);
        let (soft_bytes, hard_bytes) = (fields.u64(), fields.u64());
        let (soft_packets, hard_packets) = (fields.u64(), fields.u64());
        let (soft_added, hard_added) = (fields.u64(), fields.u64());
        let (soft_used, hard_used) = (fields.u64(), fields.u64());
        Self {
            bytes: Limit { soft: count(soft_bytes), hard: count(hard_bytes) },
            packets: Limit { soft: count(soft_packets), hard: count(hard_packets) },
            added_s: Limit { soft: seconds(soft_added), hard: seconds(hard_added) },
            used_s: Limit { soft: seconds(soft_used), hard: seconds(hard_used) },
        }
    }
}

/// Where the guard against replay stands: `struct xfrm_replay_state`, `_esn`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Replay {
    /// Packets it looks back.
    pub window: u32,
    /// The number of the last packet sent.
    pub sent: u64,
    /// The highest number of a packet received.
    pub received: u64,
}

/// A security association, without its keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sa {
    /// Its name.
    pub id: SaId,
    /// Source of the packets on the wire.
    pub src: IpAddr,
    /// Which packets it takes, where it says; in mode transport those of the policy.
    pub selector: Selector,
    /// How it wraps them.
    pub mode: SaMode,
    /// What policies find it by.
    pub reqid: Reqid,
    /// Which way its packets go, where the kernel was told.
    pub direction: Option<SaDirection>,
    /// `XFRMA_IF_ID`: the interface of kind xfrm that it belongs to; 0 for none.
    pub if_id: u32,
    /// Extended sequence numbers (`XFRM_STATE_ESN`).
    pub esn: bool,
    /// Whether ESP is put into UDP (`XFRMA_ENCAP`).
    pub udp_encap: bool,
    /// The ciphers and authentications.
    pub algorithms: [Option<Algorithm>; 2],
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Bytes that it took.
    pub bytes: u64,
    /// Packets that it took.
    pub packets: u64,
    /// When it was added, in seconds since 1970.
    pub added_at_s: u64,
    /// Where the guard against replay stands.
    pub replay: Replay,
    /// Packets that came again (`xfrm_stats.replay`).
    pub replayed: u32,
    /// Packets that were outside of the window.
    pub outside_window: u32,
    /// Packets that were forged or broken.
    pub forged: u32,
    /// The device that carries it, if one does.
    pub offload: Option<DeviceOffload>,
}

impl Sa {
    /// Reads it; none where it is of an address family that is not IP.
    pub(super) fn read(info: &[u8; USERSA_INFO], attrs: Attrs<'_>) -> Result<Option<Self>, Malformed> {
        let mut fields = Fields(info);
        let selector = Selector::read(&mut fields);
        let (dst, spi, proto) = (fields.bytes(), fields.be32(), fields.u8());
        fields.bytes::<3>();
        let src = fields.bytes();
        let lifetime = Lifetime::read(&mut fields);
        let (bytes, packets, added_at_s, _used_at) = (fields.u64(), fields.u64(), fields.u64(), fields.u64());
        let (outside_window, replayed, forged) = (fields.u32(), fields.u32(), fields.u32());
        let (_seq, reqid, family) = (fields.u32(), fields.u32(), fields.u16());
        let (mode, window, flags) = (fields.u8(), fields.u8(), fields.u8());
        let (Some(dst), Some(src)) = (selector::address(dst, family), selector::address(src, family)) else {
            return Ok(None);
        };
        let mut sa = Self {
            id: SaId { dst, spi: Spi(spi), proto, mark: (0, 0) },
            src,
            selector,
            mode: SaMode::of(mode),
            reqid: Reqid(reqid),
            direction: None,
            if_id: 0,
            esn: flags & XFRM_STATE_ESN != 0,
            udp_encap: false,
            algorithms: [None, None],
            lifetime,
            bytes,
            packets,
            added_at_s,
            replay: Replay { window: window.into(), ..Replay::default() },
            replayed,
            outside_window,
            forged,
            offload: None,
        };
        for attr in attrs {
            sa.take(&attr?)?;
        }
        Ok(Some(sa))
    }

    fn take(&mut self, attr: &Attr<'_>) -> Result<(), Malformed> {
        match attr.kind() {
            XFRMA_ALG_AEAD => self.algorithms[0] = Some(Algorithm::read(attr, true)?),
            XFRMA_ALG_CRYPT => self.algorithms[0] = Some(Algorithm::read(attr, false)?),
            XFRMA_ALG_AUTH_TRUNC => self.algorithms[1] = Some(Algorithm::read(attr, true)?),
            // The kernel tells both, for programs that know the older alone.
            XFRMA_ALG_AUTH if self.algorithms[1].is_none() => {
                self.algorithms[1] = Some(Algorithm::read(attr, false)?);
            }
            XFRMA_ENCAP => self.udp_encap = true,
            XFRMA_MARK => self.id.mark = mark(attr)?,
            XFRMA_IF_ID => self.if_id = attr.u32()?,
            XFRMA_OFFLOAD_DEV => self.offload = DeviceOffload::read(attr)?,
            XFRMA_SA_DIR => {
                self.direction = match attr.u8()? {
                    1 => Some(SaDirection::In),
                    2 => Some(SaDirection::Out),
                    _ => None,
                }
            }
            XFRMA_REPLAY_VAL => {
                let state: [u8; 12] = attr.array()?;
                let mut fields = Fields(&state);
                (self.replay.sent, self.replay.received) = (fields.u32().into(), fields.u32().into());
            }
            XFRMA_REPLAY_ESN_VAL => {
                // struct xfrm_replay_state_esn: words of the bitmap, oseq, seq, oseq_hi, seq_hi, window.
                let state: [u8; 24] = attr.array()?;
                let mut fields = Fields(&state);
                let _words = fields.u32();
                let low = [fields.u32(), fields.u32()].map(u64::from);
                let high = [fields.u32(), fields.u32()].map(|high| u64::from(high) << 32);
                self.replay =
                    Replay { window: fields.u32(), sent: high[0] | low[0], received: high[1] | low[1] };
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether it is carried by a device in whole.
    pub fn is_in_hardware(&self) -> bool {
        self.offload.is_some_and(|offload| offload.packet)
    }

    /// The way of its packets: as the kernel was told, else as its device was.
    pub fn told_direction(&self) -> Option<SaDirection> {
        let of_device = |offload: DeviceOffload| match offload.inbound {
            true => SaDirection::In,
            false => SaDirection::Out,
        };
        self.direction.or(self.offload.map(of_device))
    }
}

impl SaId {
    /// Reads `struct xfrm_usersa_id`, and the mark beside it; none for a family that is not IP.
    pub(super) fn read(id: &[u8; USERSA_ID], attrs: Attrs<'_>) -> Result<Option<Self>, Malformed> {
        let mut fields = Fields(id);
        let (dst, spi, family, proto) = (fields.bytes(), fields.be32(), fields.u16(), fields.u8());
        let Some(dst) = selector::address(dst, family) else { return Ok(None) };
        let mark = attrs.find(XFRMA_MARK)?.map(|attr| mark(&attr)).transpose()?.unwrap_or_default();
        Ok(Some(Self { dst, spi: Spi(spi), proto, mark }))
    }
}

fn mark(attr: &Attr<'_>) -> Result<(u32, u32), Malformed> {
    let bytes: [u8; 8] = attr.array()?;
    let mut fields = Fields(&bytes);
    Ok((fields.u32(), fields.u32()))
}

//! The action `police`: limits a rate, or the length of packets.

use super::codec::{Common, Generic};
use super::{ActionIndex, ActionReport, Control};
use crate::Unsupported;
use netlink_wire::attr::Fields;
use netlink_wire::{Attrs, Malformed, MessageWriter};

/// `struct tc_ratespec` of `linux/pkt_sched.h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RateSpec {
    /// `cell_log`, `linklayer`, `overhead`, `cell_align`, `mpu`: how a packet's length is counted.
    pub cell: [u8; 8],
    /// `rate`, in bytes per second. 0: no limit.
    pub rate: u32,
}

/// The action `police`.
///
/// Open vSwitch uses it in two ways: a meter is one that was made on its own and is named by its index
/// (`0x10000000` and up); `check_pkt_len` is one of the filter's own, with a length ([`mtu`](Self::mtu)) and what
/// happens to shorter packets ([`result`](Self::result)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Police {
    /// `limit` of `struct tc_police`
    pub limit: u32,
    /// `burst`, in ticks of the packet scheduler (64 ns).
    pub burst: u32,
    /// `mtu`: the longest packet that is not over the limit, in bytes.
    pub mtu: u32,
    /// `rate`
    pub rate: RateSpec,
    /// `peakrate`
    pub peak_rate: RateSpec,
    /// `TCA_POLICE_RESULT`: what happens to a packet within the limit.
    pub result: Option<Control>,
    /// `TCA_POLICE_AVRATE`
    pub average_rate: Option<u32>,
    /// `TCA_POLICE_RATE64`, in bytes per second, where 32 bits do not suffice.
    pub rate64: Option<u64>,
    /// `TCA_POLICE_PEAKRATE64`, in bytes per second.
    pub peak_rate64: Option<u64>,
    /// `TCA_POLICE_PKTRATE64`, in packets per second.
    pub packet_rate: Option<u64>,
    /// `TCA_POLICE_PKTBURST64`, in ticks.
    pub packet_burst: Option<u64>,
}

/// `METER_POLICE_IDS_BASE` and `METER_POLICE_IDS_MAX` of Open vSwitch's `lib/tc.h`.
const METERS: core::ops::RangeInclusive<u32> = 0x1000_0000..=0x1fff_ffff;

impl ActionIndex {
    /// Whether a police action of this index is a meter of Open vSwitch.
    pub fn is_meter(self) -> bool {
        METERS.contains(&self.0)
    }
}

const TCA_POLICE_TBF: u16 = 1;
const TCA_POLICE_RATE: u16 = 2;
const TCA_POLICE_AVRATE: u16 = 4;
const TCA_POLICE_RESULT: u16 = 5;
const TCA_POLICE_TM: u16 = 6;
const TCA_POLICE_PAD: u16 = 7;
const TCA_POLICE_RATE64: u16 = 8;
const TCA_POLICE_PEAKRATE64: u16 = 9;
const TCA_POLICE_PKTRATE64: u16 = 10;
const TCA_POLICE_PKTBURST64: u16 = 11;
/// `TC_RTAB_SIZE` of `linux/pkt_sched.h`.
const RATE_TABLE: usize = 1024;
/// Bytes of `struct tc_police`.
const TBF: usize = 56;

impl RateSpec {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { cell: fields.bytes(), rate: fields.u32() }
    }

    fn bytes(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.cell);
        bytes[8..].copy_from_slice(&self.rate.to_ne_bytes());
        bytes
    }
}

impl Police {
    /// Whether this action can be written back: as a meter by its index, or made anew.
    pub(super) fn check(&self, report: &ActionReport, position: usize) -> Result<(), Unsupported> {
        if report.action.index.is_meter() {
            return Ok(());
        }
        if report.is_standalone() {
            return Err(Unsupported::SharedAction { position, kind: super::KindName::Police });
        }
        let is_limited = self.rate.rate != 0 || self.peak_rate.rate != 0 || self.average_rate.is_some();
        match is_limited {
            true => Err(Unsupported::PoliceRate { position }),
            false => Ok(()),
        }
    }

    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let mut police = Self::default();
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_POLICE_TBF => {
                    let bytes = attr.array::<TBF>()?;
                    let mut fields = Fields(&bytes);
                    common.generic.index = ActionIndex(fields.u32());
                    common.generic.control = Control::from_number(fields.i32());
                    (police.limit, police.burst, police.mtu) = (fields.u32(), fields.u32(), fields.u32());
                    police.rate = RateSpec::read(&mut fields);
                    police.peak_rate = RateSpec::read(&mut fields);
                    common.generic.references = fields.i32();
                    common.generic.bindings = fields.i32();
                }
                TCA_POLICE_RESULT => police.result = Some(Control::from_number(attr.i32()?)),
                TCA_POLICE_AVRATE => police.average_rate = Some(attr.u32()?),
                TCA_POLICE_RATE64 => police.rate64 = Some(attr.u64()?),
                TCA_POLICE_PEAKRATE64 => police.peak_rate64 = Some(attr.u64()?),
                TCA_POLICE_PKTRATE64 => police.packet_rate = Some(attr.u64()?),
                TCA_POLICE_PKTBURST64 => police.packet_burst = Some(attr.u64()?),
                TCA_POLICE_TM => common.take_times(&attr)?,
                TCA_POLICE_PAD => {}
                other => common.unknown(other),
            }
        }
        Ok(police)
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        let mut tbf = [0; TBF];
        tbf[..4].copy_from_slice(&generic.index.0.to_ne_bytes());
        tbf[4..8].copy_from_slice(&generic.control.number().to_ne_bytes());
        for (at, word) in [(8, self.limit), (12, self.burst), (16, self.mtu)] {
            tbf[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        tbf[20..32].copy_from_slice(&self.rate.bytes());
        tbf[32..44].copy_from_slice(&self.peak_rate.bytes());
        writer.put(TCA_POLICE_TBF, &tbf);
        if self.rate.rate != 0 && generic.index == ActionIndex(0) {
            // The kernel wants a table of times and, where the rate tells the link layer, reads nothing in it
            // (qdisc_get_rtab() of net/sched/sch_api.c).
            writer.put(TCA_POLICE_RATE, &[0; RATE_TABLE]);
        }
        if let Some(result) = self.result {
            writer.put_u32(TCA_POLICE_RESULT, result.number().cast_unsigned());
        }
        if let Some(rate) = self.average_rate {
            writer.put_u32(TCA_POLICE_AVRATE, rate);
        }
        let longs = [
            (TCA_POLICE_RATE64, self.rate64),
            (TCA_POLICE_PEAKRATE64, self.peak_rate64),
            (TCA_POLICE_PKTRATE64, self.packet_rate),
            (TCA_POLICE_PKTBURST64, self.packet_burst),
        ];
        for (attr, value) in longs {
            if let Some(value) = value {
                writer.put_u64(attr, value);
            }
        }
    }
}

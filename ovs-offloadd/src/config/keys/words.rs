//! The words that keys take, and what each stands for.

use ipsec_drive::Offload;

use crate::config::{CountersSetting, LogFormat, ModeSetting, RecirculationSetting, SavingSetting};

pub(super) const MODES: &[(&str, ModeSetting)] = &[
    ("auto", ModeSetting::Auto),
    ("observe", ModeSetting::Observe),
    ("steer", ModeSetting::Steer),
    ("shadow", ModeSetting::Shadow),
];
pub(super) const COUNTERS: &[(&str, CountersSetting)] =
    &[("exact", CountersSetting::Exact), ("fast", CountersSetting::Fast)];
pub(super) const RECIRCULATIONS: &[(&str, RecirculationSetting)] = &[
    ("auto", RecirculationSetting::Auto),
    ("always", RecirculationSetting::Always),
    ("never", RecirculationSetting::Never),
];
pub(super) const SAVINGS: &[(&str, SavingSetting)] =
    &[("bytes", SavingSetting::Bytes), ("packets", SavingSetting::Packets), ("cpu", SavingSetting::Cpu)];
pub(super) const OFFLOADS: &[(&str, Offload)] = &[
    ("packet", Offload::Packet),
    ("crypto", Offload::Crypto),
    ("auto", Offload::Auto),
    ("none", Offload::None),
];
pub(super) const FORMATS: &[(&str, LogFormat)] = &[
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
    ("journald", LogFormat::Journald),
];

//! What the engine knows of Open vSwitch itself: its version, its settings, and the mode they allow.

use core::fmt;
use policies::Micros;

/// The version of a running `ovs-vswitchd`, from `Open_vSwitch.ovs_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OvsVersion {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number.
    pub patch: u16,
}

impl OvsVersion {
    /// A version from its numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `3.5.0`, `3.1`, `3.7.90-rc1`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |part: Option<&str>| -> Option<u16> {
            let part = part?;
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        };
        let mut parts = text.trim().split('.');
        Some(Self {
            major: number(parts.next())?,
            minor: number(parts.next())?,
            patch: number(parts.next()).unwrap_or(0),
        })
    }

    /// Whether this version takes a restart of TC's counters out of the OpenFlow counters.
    ///
    /// OVS before 3.2 clips a negative difference to zero; later ones subtract it (`ofproto-dpif-upcall.c`,
    /// `revalidate_ukey`).
    pub fn subtracts_restarted_counters(self) -> bool {
        self >= Self::new(3, 2, 0)
    }
}

impl fmt::Display for OvsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// `Open_vSwitch.other_config:tc-policy`: where OVS itself puts its TC filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcPolicy {
    /// Software and hardware (OVS's default).
    #[default]
    None,
    /// Hardware only.
    SkipSw,
    /// Software only: what steer mode needs.
    SkipHw,
}

impl TcPolicy {
    /// Reads the value of `tc-policy`; anything unknown is what OVS takes it for, `none`.
    pub fn parse(text: &str) -> Self {
        match text {
            "skip_sw" => Self::SkipSw,
            "skip_hw" => Self::SkipHw,
            _ => Self::None,
        }
    }

    /// The value as OVS spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SkipSw => "skip_sw",
            Self::SkipHw => "skip_hw",
        }
    }
}

/// What OVSDB says of Open vSwitch's offloading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OvsSettings {
    /// The running version, if `ovs-vswitchd` has told it.
    pub version: Option<OvsVersion>,
    /// `other_config:hw-offload`.
    pub hw_offload: bool,
    /// `other_config:tc-policy`.
    pub tc_policy: TcPolicy,
    /// `other_config:max-idle`, where it is set to something that Open vSwitch takes.
    pub max_idle: Option<Micros>,
}

impl OvsSettings {
    /// `OFPROTO_MAX_IDLE_DEFAULT` (`ofproto/ofproto.h`)
    pub const MAX_IDLE_DEFAULT: Micros = Micros::from_secs(10);

    /// How long Open vSwitch keeps a megaflow that has no packets.
    pub fn max_idle(&self) -> Micros {
        self.max_idle.unwrap_or(Self::MAX_IDLE_DEFAULT)
    }
}

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeWanted {
    /// Steer where OVS is set up for it, otherwise observe.
    #[default]
    Auto,
    /// Read only.
    Observe,
    /// Decide placement of OVS's own filters.
    Steer,
    /// Place rules of our own where OVS does not offload.
    Shadow,
}

/// What the engine does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Counts and explains; changes nothing.
    #[default]
    Observe,
    /// Moves OVS's own TC filters between software and hardware.
    Steer,
    /// Places rules of our own, made from what OVS's kernel datapath does.
    Shadow,
}

impl Mode {
    /// The mode that `wanted` comes to under `ovs`.
    ///
    /// Steering needs OVS to put every filter into TC's software path and nowhere else: with another `tc-policy`
    /// OVS itself fills the table, and no policy of ours could hold.
    pub fn choose(wanted: ModeWanted, ovs: &OvsSettings) -> Self {
        let ready = ovs.hw_offload && ovs.tc_policy == TcPolicy::SkipHw;
        match wanted {
            ModeWanted::Observe => Self::Observe,
            ModeWanted::Auto | ModeWanted::Steer if ready => Self::Steer,
            ModeWanted::Auto | ModeWanted::Steer => Self::Observe,
            // Never by itself: a daemon that is killed leaves rules that nobody removes.
            ModeWanted::Shadow if !ovs.hw_offload => Self::Shadow,
            ModeWanted::Shadow => Self::Observe,
        }
    }

    /// The word used in configuration, `status` and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Steer => "steer",
            Self::Shadow => "shadow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_releases_and_of_development_are_read() {
        assert_eq!(OvsVersion::parse("3.5.0"), Some(OvsVersion::new(3, 5, 0)));
        assert_eq!(OvsVersion::parse("3.1"), Some(OvsVersion::new(3, 1, 0)));
        assert_eq!(OvsVersion::parse("4.0.90-rc1"), Some(OvsVersion::new(4, 0, 90)));
        assert_eq!(OvsVersion::parse("three"), None);
        assert_eq!(OvsVersion::parse(""), None);
    }

    #[test]
    fn counters_are_subtracted_from_3_2_on() {
        assert!(!OvsVersion::new(3, 1, 9).subtracts_restarted_counters());
        assert!(OvsVersion::new(3, 2, 0).subtracts_restarted_counters());
        assert!(OvsVersion::new(4, 0, 0).subtracts_restarted_counters());
    }

    #[test]
    fn steering_needs_hw_offload_and_skip_hw() {
        let mut ovs = OvsSettings { hw_offload: true, tc_policy: TcPolicy::SkipHw, ..OvsSettings::default() };
        assert_eq!(Mode::choose(ModeWanted::Auto, &ovs), Mode::Steer);
        assert_eq!(Mode::choose(ModeWanted::Observe, &ovs), Mode::Observe);
        ovs.tc_policy = TcPolicy::None;
        assert_eq!(Mode::choose(ModeWanted::Auto, &ovs), Mode::Observe);
        assert_eq!(Mode::choose(ModeWanted::Shadow, &ovs), Mode::Observe, "Open vSwitch offloads itself");
        ovs = OvsSettings { hw_offload: false, tc_policy: TcPolicy::SkipHw, ..ovs };
        assert_eq!(Mode::choose(ModeWanted::Shadow, &ovs), Mode::Shadow);
        assert_eq!(Mode::choose(ModeWanted::Auto, &ovs), Mode::Observe, "shadow is chosen by name only");
        assert_eq!(Mode::choose(ModeWanted::Steer, &ovs), Mode::Observe);
    }
}

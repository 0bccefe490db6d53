//! Sets of bits: a filter's flags, an action's flags, and where statistics come from.

use core::fmt;
use core::ops::{BitAnd, BitOr, Not};

macro_rules! bit_set {
    ($(#[$doc:meta])* $name:ident($int:ty) { $($(#[$flag_doc:meta])* $flag:ident = $value:expr, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl $name {
            /// No bit.
            pub const NONE: Self = Self(0);
            $($(#[$flag_doc])* pub const $flag: Self = Self($value);)*

            /// Whether every bit of `other` is set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// These bits without those of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// The bits of both.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Whether no bit is set.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                self.with(other)
            }
        }

        impl BitAnd for $name {
            type Output = Self;
            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }

        impl Not for $name {
            type Output = Self;
            fn not(self) -> Self {
                Self(!self.0)
            }
        }

        /// The names of the bits, with spaces between; a number for the rest.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut rest = self.0;
                let mut separator = "";
                $(if rest & $value != 0 {
                    write!(f, concat!("{}", $text), separator)?;
                    separator = " ";
                    rest &= !$value;
                })*
                match rest {
                    0 => Ok(()),
                    rest => write!(f, "{separator}{rest:#x}"),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}
pub(crate) use bit_set;

bit_set! {
    /// `TCA_FLOWER_FLAGS`: where a filter may be and where it is (`TCA_CLS_FLAGS_*` of `linux/pkt_cls.h`).
    FilterFlags(u32) {
        /// `TCA_CLS_FLAGS_SKIP_HW`: not to be placed in hardware.
        SKIP_HW = 1 << 0, "skip_hw";
        /// `TCA_CLS_FLAGS_SKIP_SW`: to be placed in hardware only.
        SKIP_SW = 1 << 1, "skip_sw";
        /// `TCA_CLS_FLAGS_IN_HW`: the kernel reports that at least one device has it in hardware.
        IN_HW = 1 << 2, "in_hw";
        /// `TCA_CLS_FLAGS_NOT_IN_HW`: the kernel reports that no device has it in hardware.
        NOT_IN_HW = 1 << 3, "not_in_hw";
        /// `TCA_CLS_FLAGS_VERBOSE`: let the driver say why not, even if the request succeeds without it.
        VERBOSE = 1 << 4, "verbose";
    }
}

impl FilterFlags {
    /// What a request may set. The rest is the kernel's to report.
    pub const REQUESTABLE: Self = Self(Self::SKIP_HW.0 | Self::SKIP_SW.0 | Self::VERBOSE.0);
}

bit_set! {
    /// `TCA_ACT_FLAGS`: how an action is kept (`TCA_ACT_FLAGS_*` of `linux/pkt_cls.h`).
    ActionFlags(u32) {
        /// `TCA_ACT_FLAGS_NO_PERCPU_STATS`: one counter for all processors, which saves memory. Open vSwitch sets it.
        NO_PERCPU_STATS = 1 << 0, "no_percpu";
        /// `TCA_ACT_FLAGS_SKIP_HW`: born under a filter with skip_hw, and never again to be under one without.
        SKIP_HW = 1 << 1, "skip_hw";
        /// `TCA_ACT_FLAGS_SKIP_SW`: born under a filter with skip_sw.
        SKIP_SW = 1 << 2, "skip_sw";
    }
}

bit_set! {
    /// `TCA_ACT_HW_STATS`, `TCA_ACT_USED_HW_STATS`: how an action's hardware counters are, or may be, read.
    HwStats(u8) {
        /// `TCA_ACT_HW_STATS_IMMEDIATE`: at the time of the dump.
        IMMEDIATE = 1 << 0, "immediate";
        /// `TCA_ACT_HW_STATS_DELAYED`: they may be some seconds old.
        DELAYED = 1 << 1, "delayed";
    }
}

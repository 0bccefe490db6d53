//! The kernel's device events: `NETLINK_KOBJECT_UEVENT`, `kobject_uevent_env` of the kernel's `lib/kobject_uevent.c`.
//!
//! Not netlink's framing: a datagram is `ACTION@DEVPATH` and then `KEY=value`, each ended by a zero byte. With SR-IOV the
//! physical function's device changes when virtual functions come or go (`sriov_enable`, `drivers/pci/iov.c`), which
//! nothing else tells where they have no network devices.

use crate::malformed::{Family, Malformed, Why};

/// The multicast group of the kernel itself; udev has another.
pub const KERNEL_GROUP: u32 = 1;

/// What became of the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Action {
    /// `KOBJ_ADD`
    Add,
    /// `KOBJ_REMOVE`
    Remove,
    /// `KOBJ_CHANGE`
    Change,
    /// `KOBJ_BIND`: a driver took it.
    Bind,
    /// `KOBJ_UNBIND`: its driver left it.
    Unbind,
    /// Any other.
    Other,
}

/// A device event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uevent<'a> {
    /// `ACTION`
    pub action: Action,
    /// `DEVPATH`, below `/sys`: `/devices/pci0000:00/0000:00:02.0/0000:03:00.0`.
    pub path: &'a str,
    /// `SUBSYSTEM`: the bus of a device, `pci`, or its class, `net`.
    pub subsystem: &'a str,
}

impl<'a> Uevent<'a> {
    /// Reads a datagram of [`KERNEL_GROUP`].
    ///
    /// # Errors
    /// Bytes that are no device event.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = |why| Malformed { family: Family::Uevent, attr: 0, offset: 0, why };
        let (mut action, mut path, mut subsystem) = (None, None, None);
        let mut parts = bytes.split(|byte| *byte == 0);
        let head = parts.next().unwrap_or_default();
        if !head.contains(&b'@') {
            return Err(malformed(Why::Missing));
        }
        for part in parts {
            // Values of keys that are not asked for need not be text.
            for (key, value) in
                [("ACTION=", &mut action), ("DEVPATH=", &mut path), ("SUBSYSTEM=", &mut subsystem)]
            {
                if let Some(rest) = part.strip_prefix(key.as_bytes()) {
                    *value = Some(core::str::from_utf8(rest).map_err(|_| malformed(Why::NotText))?);
                }
            }
        }
        let action = match action.ok_or_else(|| malformed(Why::Missing))? {
            "add" => Action::Add,
            "remove" => Action::Remove,
            "change" => Action::Change,
            "bind" => Action::Bind,
            "unbind" => Action::Unbind,
            _ => Action::Other,
        };
        Ok(Self {
            action,
            path: path.ok_or_else(|| malformed(Why::Missing))?,
            subsystem: subsystem.unwrap_or_default(),
        })
    }

    /// The device's name on its bus: the last part of its path.
    pub fn device(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As `udevadm monitor --kernel --property` shows it where VFs come.
    const CHANGE: &[u8] = b"change@/devices/pci0000:00/0000:00:02.0/0000:03:00.0\0ACTION=change\0\
        DEVPATH=/devices/pci0000:00/0000:00:02.0/0000:03:00.0\0SUBSYSTEM=pci\0DRIVER=mlx5_core\0SEQNUM=4711\0";

    #[test]
    fn a_device_that_changed_is_known_by_its_name_on_its_bus() {
        let event = Uevent::decode(CHANGE).unwrap();
        assert_eq!((event.action, event.subsystem, event.device()), (Action::Change, "pci", "0000:03:00.0"));
    }

    #[test]
    fn what_is_no_event_of_the_kernel_is_malformed() {
        for bytes in
            [&b""[..], b"libudev\0", b"add@/x\0SUBSYSTEM=net\0", b"add@/x\0ACTION=add\0DEVPATH=\xff\0"]
        {
            assert!(Uevent::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}

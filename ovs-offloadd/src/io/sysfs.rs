//! The few facts that only sysfs tells.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// More virtual functions than any device has; a bound on what a directory can make us keep.
const FUNCTIONS_MAX: usize = 65_536;

/// Whether it names something in a directory, and does not lead elsewhere.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// The device's directory below `root`, unless a name in it leads elsewhere.
pub(crate) fn directory(root: &Path, bus: &str, device: &str) -> Option<PathBuf> {
    (is_name(bus) && is_name(device)).then(|| root.join("sys/bus").join(bus).join("devices").join(device))
}

/// Last part of what a link points to.
pub(crate) fn target(link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Name of the driver of a device, empty where there is none.
pub fn driver_of(bus: &str, device: &str) -> String {
    driver_below(Path::new("/"), bus, device)
}

fn driver_below(root: &Path, bus: &str, device: &str) -> String {
    directory(root, bus, device).and_then(|directory| target(&directory.join("driver"))).unwrap_or_default()
}

/// `sriov_numvfs`, `sriov_totalvfs`, and what each `virtfnN` points to: the device of that virtual function.
///
/// None for a device without SR-IOV. The kernel may answer only when a change that is under way has ended
/// (`sriov_numvfs_show` of `drivers/pci/pci-sysfs.c`).
pub fn sriov_of(bus: &str, device: &str) -> Option<(u32, u32, BTreeMap<u16, String>)> {
    sriov_below(Path::new("/"), bus, device)
}

fn sriov_below(root: &Path, bus: &str, device: &str) -> Option<(u32, u32, BTreeMap<u16, String>)> {
    let directory = directory(root, bus, device)?;
    let number = |file: &str| -> Option<u32> {
        std::fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
    };
    let (vfs, vfs_max) = (number("sriov_numvfs")?, number("sriov_totalvfs")?);
    let function = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let index = name.to_str()?.strip_prefix("virtfn")?.parse().ok()?;
        Some((index, target(&entry.path())?))
    };
    let entries = std::fs::read_dir(&directory).ok()?;
    let functions = entries.filter_map(Result::ok).filter_map(function).take(FUNCTIONS_MAX).collect();
    Some((vfs, vfs_max, functions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_device_that_is_not_there_has_no_driver() {
        assert_eq!(driver_of("pci", "0000:ff:1f.7"), "");
        assert_eq!(driver_of("../../etc", "passwd"), "");
    }

    #[test]
    fn virtual_functions_are_counted_and_named() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/bus/pci/devices/0000:03:00.0");
        std::fs::create_dir_all(&device).unwrap();
        assert_eq!(sriov_below(root.path(), "pci", "0000:03:00.0"), None);
        std::fs::write(device.join("sriov_numvfs"), "2\n").unwrap();
        std::fs::write(device.join("sriov_totalvfs"), "16\n").unwrap();
        for (name, to) in
            [("virtfn0", "../0000:03:00.2"), ("virtfn1", "../0000:03:00.3"), ("virtfnx", "../a")]
        {
            symlink(to, device.join(name)).unwrap();
        }
        symlink("../../../../bus/pci/drivers/mlx5_core", device.join("driver")).unwrap();
        let functions = [(0, "0000:03:00.2".to_owned()), (1, "0000:03:00.3".to_owned())].into();
        assert_eq!(sriov_below(root.path(), "pci", "0000:03:00.0"), Some((2, 16, functions)));
        assert_eq!(driver_below(root.path(), "pci", "0000:03:00.0"), "mlx5_core");
        assert_eq!(sriov_below(root.path(), "pci", "../0000:03:00.0"), None);
    }
}

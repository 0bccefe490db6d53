//! Functions and their drivers, as sysfs has them: on PCI, and on any bus that does as PCI does.

use std::collections::BTreeMap;
use std::path::Path;

use netlink_wire::devlink::Handle;

use crate::io::sysfs::{directory, is_name, target};
use crate::lifecycle::declared::Function;
use crate::lifecycle::observed::Driver;

/// A function's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FunctionDevice {
    pub(super) bus: String,
    pub(super) name: String,
    pub(super) driver: Driver,
}

/// What sysfs says of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Device {
    pub(super) vfs: u16,
    /// None without SR-IOV.
    pub(super) vfs_max: Option<u16>,
    pub(super) functions: BTreeMap<Function, FunctionDevice>,
}

fn function_device(path: &Path) -> Option<FunctionDevice> {
    let name = std::fs::canonicalize(path).ok()?.file_name()?.to_string_lossy().into_owned();
    let driver = match target(&path.join("driver")) {
        Some(driver) => Driver::Bound(driver),
        None => Driver::Unbound,
    };
    Some(FunctionDevice { bus: target(&path.join("subsystem"))?, name, driver })
}

/// What there is of a NIC; none where there is no such device.
pub(super) fn look(root: &Path, handle: &Handle) -> Option<Device> {
    let directory = directory(root, &handle.bus, &handle.device)?;
    let number = |file: &str| -> Option<u16> {
        std::fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
    };
    let entries = std::fs::read_dir(&directory).ok()?;
    let mut functions = BTreeMap::new();
    for entry in entries.filter_map(Result::ok) {
        let (name, path) = (entry.file_name(), entry.path());
        let vf = name.to_str().and_then(|name| name.strip_prefix("virtfn")?.parse().ok()).map(Function::vf);
        // A sub-function's device is a child of the NIC's, and has its number in a file.
        let sf = || std::fs::read_to_string(path.join("sfnum")).ok()?.trim().parse().ok().map(Function::sf);
        if let Some(function) = vf.or_else(sf)
            && let Some(device) = function_device(&path)
        {
            functions.insert(function, device);
        }
    }
    Some(Device { vfs: number("sriov_numvfs").unwrap_or(0), vfs_max: number("sriov_totalvfs"), functions })
}

/// Number of the physical function: the last digit of a PCI address, else 0.
pub(super) fn pf_of(handle: &Handle) -> u16 {
    match (&*handle.bus, handle.device.rsplit_once('.')) {
        ("pci", Some((_, function))) => function.parse().unwrap_or(0),
        _ => 0,
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("writing {text} to {}: {error}", path.display()))
}

/// Writes `sriov_numvfs`.
pub(super) fn set_vfs(root: &Path, handle: &Handle, count: u16) -> Result<(), String> {
    let directory = directory(root, &handle.bus, &handle.device).ok_or("no such device")?;
    write(&directory.join("sriov_numvfs"), &count.to_string())
}

/// Binds a device to a driver, or unbinds it.
pub(super) fn bind(root: &Path, bus: &str, device: &str, driver: &str, bind: bool) -> Result<(), String> {
    if ![bus, device, driver].into_iter().all(is_name) {
        return Err("not the name of a bus, device or driver".to_owned());
    }
    let file = if bind { "bind" } else { "unbind" };
    write(&root.join("sys/bus").join(bus).join("drivers").join(driver).join(file), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, read_to_string, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn functions_are_found_with_their_drivers() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let handle: Handle = "pci/0000:03:00.1".parse().unwrap();
        assert_eq!(look(root, &handle), None);
        let devices = root.join("sys/bus/pci/devices");
        for name in ["0000:03:00.1", "0000:03:00.2", "0000:03:00.3"] {
            create_dir_all(devices.join(name)).unwrap();
            symlink("../../../../bus/pci", devices.join(name).join("subsystem")).unwrap();
        }
        let nic = devices.join("0000:03:00.1");
        symlink("../../drivers/mlx5_core", devices.join("0000:03:00.3/driver")).unwrap();
        symlink("../0000:03:00.2", nic.join("virtfn0")).unwrap();
        symlink("../0000:03:00.3", nic.join("virtfn1")).unwrap();
        let sf = nic.join("mlx5_core.sf.4");
        create_dir_all(&sf).unwrap();
        write(sf.join("sfnum"), "88\n").unwrap();
        symlink("../../../../../bus/auxiliary", sf.join("subsystem")).unwrap();
        write(nic.join("sriov_numvfs"), "2\n").unwrap();
        write(nic.join("sriov_totalvfs"), "16\n").unwrap();
        let device =
            |bus: &str, name: &str, driver| FunctionDevice { bus: bus.into(), name: name.into(), driver };
        let functions = [
            (Function::vf(0), device("pci", "0000:03:00.2", Driver::Unbound)),
            (Function::vf(1), device("pci", "0000:03:00.3", Driver::Bound("mlx5_core".into()))),
            (Function::sf(88), device("auxiliary", "mlx5_core.sf.4", Driver::Unbound)),
        ];
        assert_eq!(
            look(root, &handle),
            Some(Device { vfs: 2, vfs_max: Some(16), functions: functions.into() })
        );
        assert_eq!(pf_of(&handle), 1);
        set_vfs(root, &handle, 4).unwrap();
        assert_eq!(read_to_string(nic.join("sriov_numvfs")).unwrap(), "4");
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let up = Handle { bus: "..".into(), device: "x".into() };
        assert_eq!(look(root.path(), &up), None);
        assert!(set_vfs(root.path(), &up, 1).is_err());
        assert!(bind(root.path(), "pci", "../x", "a", true).is_err());
    }
}

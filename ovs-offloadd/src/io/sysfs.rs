//! The few facts that only sysfs tells.

use std::path::Path;

/// Name of the driver of a device, empty where there is none.
pub fn driver_of(bus: &str, device: &str) -> String {
    // Names come from the kernel; a slash in one would lead elsewhere.
    if [bus, device].iter().any(|name| name.contains('/') || *name == "..") {
        return String::new();
    }
    let link = Path::new("/sys/bus").join(bus).join("devices").join(device).join("driver");
    let target = std::fs::read_link(link).unwrap_or_default();
    target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_has_no_driver() {
        assert_eq!(driver_of("pci", "0000:ff:1f.7"), "");
        assert_eq!(driver_of("../../etc", "passwd"), "");
    }
}

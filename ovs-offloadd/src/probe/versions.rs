//! What answers: driver, firmware and kernel.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::report::Versions;
use crate::doctor;

/// Of the NIC of this devlink handle, as they are now.
pub async fn versions(nic: &str, driver: String, limit: Duration) -> Versions {
    let uname = rustix::system::uname();
    Versions {
        driver_version: module_version(nic),
        driver,
        firmware: doctor::firmware(nic, limit).await,
        kernel: uname.release().to_string_lossy().into_owned(),
        kernel_build: uname.version().to_string_lossy().into_owned(),
    }
}

/// The version of the driver's module, which modules of the kernel's own tree lack.
fn module_version(nic: &str) -> Option<String> {
    let (bus, device) = nic.split_once('/')?;
    if [bus, device].iter().any(|part| part.is_empty() || part.contains('/') || *part == "..") {
        return None;
    }
    let file = Path::new("/sys/bus").join(bus).join("devices").join(device).join("driver/module/version");
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().chars().take(64).collect()).filter(|text: &String| !text.is_empty())
}

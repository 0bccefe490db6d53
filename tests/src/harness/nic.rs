//! The simulated SmartNIC as a test handles it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::{Failure, Outcome, run};

/// A simulated NIC, removed when dropped if it was plugged in here.
#[derive(Debug)]
pub struct Simnic {
    id: u32,
    plugged_in_here: bool,
}

impl Simnic {
    /// Plugs in NIC `id` with `vfs` virtual functions, in eswitch mode legacy.
    pub fn new(id: u32, vfs: u32) -> Outcome<Self> {
        run("modprobe", &["simnic"])?;
        write("/sys/bus/simnic/new_device", &format!("{id} {vfs}"))?;
        Ok(Self { id, plugged_in_here: true })
    }

    /// Plugs in NIC `id` without virtual functions, in eswitch mode legacy; it takes up to `total` of them.
    pub fn with_total_vfs(id: u32, total: u32) -> Outcome<Self> {
        run("modprobe", &["simnic"])?;
        write("/sys/bus/simnic/new_device", &format!("{id} 0 {total}"))?;
        Ok(Self { id, plugged_in_here: true })
    }

    /// Plugs in NIC `id`, without virtual functions, as the second one of the card that NIC `card` is on.
    pub fn on_card(id: u32, card: u32) -> Outcome<Self> {
        write("/sys/bus/simnic/new_device", &format!("{id} 0 0 {card}"))?;
        Ok(Self { id, plugged_in_here: true })
    }

    /// Writes `vfs` to `sriov_numvfs`.
    pub fn enable_vfs(&self, vfs: u32) -> Outcome {
        write(&format!("{}/sriov_numvfs", self.device()), &vfs.to_string())
    }

    /// The PF's directory in sysfs.
    pub fn device(&self) -> String {
        format!("/sys/bus/simnic/devices/simnic{}", self.id)
    }

    /// The name on the bus of virtual function `vf`.
    pub fn vf_device(&self, vf: u32) -> String {
        format!("simnic{}vf{vf}", self.id)
    }

    /// Takes the driver off virtual function `vf`: its netdev goes.
    pub fn unbind_vf(&self, vf: u32) -> Outcome {
        write("/sys/bus/simnic/drivers/simnic_vf/unbind", &self.vf_device(vf))
    }

    /// Binds virtual function `vf` to its driver, which makes its netdev.
    pub fn bind_vf(&self, vf: u32) -> Outcome {
        write("/sys/bus/simnic/drivers/simnic_vf/bind", &self.vf_device(vf))
    }

    /// A NIC that something else plugged in, and removes.
    pub const fn existing(id: u32) -> Self {
        Self { id, plugged_in_here: false }
    }

    /// The devlink handle.
    pub fn devlink(&self) -> String {
        format!("simnic/simnic{}", self.id)
    }

    /// Changes the eswitch mode: `legacy` or `switchdev`.
    pub fn set_mode(&self, mode: &str) -> Outcome {
        run("devlink", &["dev", "eswitch", "set", &self.devlink(), "mode", mode]).map(drop)
    }

    /// Name of the uplink netdev.
    pub fn uplink(&self) -> String {
        format!("sn{}p0", self.id)
    }

    /// Name of the netdev of virtual function `vf`.
    pub fn vf(&self, vf: u32) -> String {
        format!("sn{}v{vf}", self.id)
    }

    /// Name of the representor of virtual function `vf`, which exists in mode switchdev.
    pub fn representor(&self, vf: u32) -> String {
        format!("sn{}pf0vf{vf}", self.id)
    }

    /// Joins the uplinks of two NICs with a wire.
    pub fn wire(&self, other: &Self) -> Outcome {
        write("/sys/bus/simnic/wire", &format!("{} {}", self.id, other.id))
    }

    /// Changes a setting or injects a fault: the name of a file in the NIC's debugfs directory, and what to write.
    pub fn set(&self, setting: &str, value: &str) -> Outcome {
        write(&self.debugfs(setting).to_string_lossy(), value)
    }

    /// The hardware's rule table, as simnic shows it.
    pub fn rules(&self) -> Outcome<String> {
        self.shown("rules")
    }

    /// One of the hardware's tables, by the name of its file in the NIC's debugfs directory.
    pub fn shown(&self, table: &str) -> Outcome<String> {
        Ok(fs::read_to_string(self.debugfs(table))?)
    }

    fn debugfs(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/sys/kernel/debug/simnic/simnic{}/{file}", self.id))
    }
}

impl Drop for Simnic {
    fn drop(&mut self) {
        if !self.plugged_in_here {
            return;
        }
        // A test may have unplugged it already.
        let _ = fs::write("/sys/bus/simnic/del_device", self.id.to_string());
    }
}

/// The counters that `ethtool -S` shows for the netdev `name` of the guest's own namespace.
pub fn ethtool_counters(name: &str) -> Outcome<BTreeMap<String, u64>> {
    Ok(counters(&run("ethtool", &["-S", name])?))
}

/// What `ethtool -S` says.
pub(super) fn counters(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.filter_map(|(key, value)| Some((key.trim().to_owned(), value.trim().parse().ok()?))).collect()
}

fn write(path: &str, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| Failure::new(format!("writing `{text}` to {path}: {error}")))
}

/// What `ethtool -S` of a representor says of the packets its VF sent.
#[derive(Debug, Clone, Copy)]
pub struct SentByVf {
    /// Packets forwarded by the NIC.
    pub hardware: u64,
    /// Packets seen by the CPU.
    pub slow: u64,
    /// Bytes forwarded by the NIC, Ethernet headers included.
    pub hardware_bytes: u64,
    /// Bytes seen by the CPU, Ethernet headers included.
    pub slow_bytes: u64,
}

impl SentByVf {
    /// Of the VF whose representor is called `representor`.
    ///
    /// # Errors
    ///
    /// When there is no such device, or it has no such counters.
    pub fn read(representor: &str) -> Outcome<Self> {
        let counters = ethtool_counters(representor)?;
        let value = |name: &str| {
            counters.get(name).copied().ok_or_else(|| Failure::new(format!("ethtool -S shows no {name}")))
        };
        Ok(Self {
            hardware: value("vf_tx_hw_packets")?,
            slow: value("vf_tx_slow_packets")?,
            hardware_bytes: value("vf_tx_hw_bytes")?,
            slow_bytes: value("vf_tx_slow_bytes")?,
        })
    }

    /// What was sent after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            hardware: self.hardware - earlier.hardware,
            slow: self.slow - earlier.slow,
            hardware_bytes: self.hardware_bytes - earlier.hardware_bytes,
            slow_bytes: self.slow_bytes - earlier.slow_bytes,
        }
    }
}

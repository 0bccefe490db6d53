//! Facts out of files: `/proc`, `/boot`, `/lib/modules`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use flate2::read::GzDecoder;

use crate::doctor::{Fact, Kernel, Process, Route};

/// No file read here is longer: the kernel's configuration has 300 KB, `modules.dep` 1 MB, a full routing table 60 MB.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// Ticks of `/proc` per second: `USER_HZ`, 100 on all that Linux runs Open vSwitch on.
const TICKS_PER_S: u64 = 100;

fn read_all(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read(path: &Path) -> Fact<String> {
    File::open(path).and_then(read_all).map_err(|error| format!("{}: {error}", path.display()))
}

/// The kernel: its release, options and modules.
pub(super) fn kernel(root: &Path) -> Kernel {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let built = uname.version().to_string_lossy().into_owned();
    Kernel { options: options(root, &release), modules: modules(root, &release), release, built }
}

/// The options of the running kernel, from where distributions put them.
fn options(root: &Path, release: &str) -> Fact<BTreeMap<String, char>> {
    let own = root.join("proc/config.gz");
    if let Ok(file) = File::open(&own) {
        let text = read_all(GzDecoder::new(file)).map_err(|error| format!("{}: {error}", own.display()))?;
        return Ok(options_in(&text));
    }
    let places = [
        format!("boot/config-{release}"),
        format!("lib/modules/{release}/config"),
        format!("usr/lib/modules/{release}/config"),
        format!("lib/modules/{release}/build/.config"),
    ];
    let found = places.iter().find_map(|place| read(&root.join(place)).ok());
    let text = found.ok_or_else(|| format!("neither /proc/config.gz nor /boot/config-{release} is there"))?;
    Ok(options_in(&text))
}

fn options_in(text: &str) -> BTreeMap<String, char> {
    let pairs = text.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='));
    pairs
        .filter_map(|(name, value)| match value.trim() {
            "y" => Some((name.to_owned(), 'y')),
            "m" => Some((name.to_owned(), 'm')),
            _ => None,
        })
        .collect()
}

/// Modules that are loaded, built in, or on disk.
fn modules(root: &Path, release: &str) -> Fact<BTreeSet<String>> {
    let directory = root.join("lib/modules").join(release);
    let on_disk = read(&directory.join("modules.dep"))?;
    let mut names: BTreeSet<String> =
        on_disk.lines().filter_map(|line| module_of(line.split(':').next()?)).collect();
    let built_in = read(&directory.join("modules.builtin")).unwrap_or_default();
    names.extend(built_in.lines().filter_map(module_of));
    let loaded = read(&root.join("proc/modules")).unwrap_or_default();
    names.extend(loaded.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)));
    Ok(names)
}

/// `kernel/net/sched/cls_flower.ko.xz` is `cls_flower`.
fn module_of(path: &str) -> Option<String> {
    let file = path.trim().rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// A process and its age.
pub(super) fn process(root: &Path, pid: i32) -> Fact<Process> {
    let stat = read(&root.join(format!("proc/{pid}/stat")))?;
    let uptime = read(&root.join("proc/uptime"))?;
    let age_ms = age_ms(&stat, &uptime).ok_or_else(|| format!("/proc/{pid}/stat cannot be understood"))?;
    Ok(Process { pid, age_ms })
}

fn age_ms(stat: &str, uptime: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may have anything in it; `starttime` is the 22nd.
    let (_, after_name) = stat.rsplit_once(')')?;
    let started: u64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    let (seconds, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
    let now = seconds.parse::<u64>().ok()?.checked_mul(1_000)? + hundredths.parse::<u64>().ok()? * 10;
    Some(now.saturating_sub(started.checked_mul(1_000)? / TICKS_PER_S))
}

/// Routes of the main table.
pub(super) fn routes(root: &Path) -> Fact<Vec<Route>> {
    let v4 = read(&root.join("proc/net/route"))?;
    // Absent where IPv6 is off.
    let v6 = read(&root.join("proc/net/ipv6_route")).unwrap_or_default();
    Ok(v4.lines().filter_map(route_v4).chain(v6.lines().filter_map(route_v6)).collect())
}

/// `RTF_UP`, and `RTF_REJECT`: a route that packets can take has the first and not the second.
fn usable(flags: &str) -> Option<()> {
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (flags & 0x1 != 0 && flags & 0x200 == 0).then_some(())
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses as the machine's words in hexadecimal.
fn route_v4(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [device, to, _, flags, _, _, metric, mask, ..] = fields[..] else { return None };
    usable(flags)?;
    let word = |text: &str| Some(u32::from_be(u32::from_str_radix(text, 16).ok()?));
    let prefix = u8::try_from(word(mask)?.count_ones()).ok()?;
    let to = IpAddr::V4(Ipv4Addr::from_bits(word(to)?));
    Some(Route { to, prefix, device: device.to_owned(), metric: metric.parse().ok()? })
}

/// `destination prefix source prefix gateway metric refcnt use flags device`, all in hexadecimal.
fn route_v6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [to, prefix, _, _, _, metric, _, _, flags, device] = fields[..] else { return None };
    usable(flags)?;
    Some(Route {
        to: IpAddr::V6(Ipv6Addr::from_bits(u128::from_str_radix(to, 16).ok()?)),
        prefix: u8::from_str_radix(prefix, 16).ok()?,
        device: device.to_owned(),
        metric: u32::from_str_radix(metric, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn put(root: &Path, file: &str, bytes: &[u8]) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    const CONFIG: &str = "# CONFIG_NET_TC_SKB_EXT is not set\nCONFIG_NET_CLS_FLOWER=m\nCONFIG_NET_SWITCHDEV=y\nCONFIG_HZ=250\n";

    #[test]
    fn options_are_the_running_kernels_own_or_else_the_boot_directorys() {
        let root = tempfile::tempdir().unwrap();
        let why = options(root.path(), "6.12.0").unwrap_err();
        assert_eq!(why, "neither /proc/config.gz nor /boot/config-6.12.0 is there");
        put(root.path(), "boot/config-6.12.0", CONFIG.as_bytes());
        let found = options(root.path(), "6.12.0").unwrap();
        assert_eq!(found, [("NET_CLS_FLOWER".to_owned(), 'm'), ("NET_SWITCHDEV".to_owned(), 'y')].into());
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"CONFIG_NET_TC_SKB_EXT=y\n").unwrap();
        put(root.path(), "proc/config.gz", &gz.finish().unwrap());
        assert_eq!(options(root.path(), "6.12.0").unwrap(), [("NET_TC_SKB_EXT".to_owned(), 'y')].into());
        put(root.path(), "proc/config.gz", b"no gzip");
        assert!(options(root.path(), "6.12.0").unwrap_err().contains("config.gz"));
    }

    #[test]
    fn modules_are_those_on_disk_built_in_and_loaded() {
        let root = tempfile::tempdir().unwrap();
        assert!(modules(root.path(), "6.12.0").unwrap_err().contains("modules.dep"));
        put(
            root.path(),
            "lib/modules/6.12.0/modules.dep",
            b"kernel/net/sched/act_ct.ko.xz: kernel/net/nf.ko.xz\nupdates/nf-x.ko:\n",
        );
        put(root.path(), "lib/modules/6.12.0/modules.builtin", b"kernel/net/sched/cls_flower.ko\n");
        put(root.path(), "proc/modules", b"openvswitch 200704 0 - Live 0x0\n");
        let found: Vec<String> = modules(root.path(), "6.12.0").unwrap().into_iter().collect();
        assert_eq!(found, ["act_ct", "cls_flower", "nf_x", "openvswitch"]);
    }

    #[test]
    fn the_age_of_a_process_is_told_whatever_its_name() {
        let stat = "7 (ovs) S 1 (x) S 1 7 7 0 -1 4194560 1 0 0 0 5 6 0 0 10 -10 4 0 12345 1 2 3\n";
        assert_eq!(age_ms(stat, "200.50 300.00\n"), Some(200_500 - 123_450));
        assert_eq!(age_ms("7 (ovs) S 1", "200.50 300.00"), None);
        assert!(process(Path::new("/"), std::process::id().cast_signed()).is_ok());
    }

    #[test]
    fn routes_of_both_families_are_read_and_those_that_reject_are_not() {
        // As `cat /proc/net/route` of a little-endian machine shows 10.1.0.0/16 by eth0 with metric 100.
        let v4 = "eth0\t0000010A\t00000000\t0001\t0\t0\t100\t0000FFFF\t0\t0\t0";
        let route = route_v4(v4).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!((route.to, route.prefix, route.metric), ("10.1.0.0".parse().unwrap(), 16, 100));
        }
        assert_eq!(route_v4("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask"), None);
        assert_eq!(route_v4(&v4.replace("\t0001\t", "\t0201\t")), None);
        let v6 = "fd000000000000000000000000000000 08 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 00000400 00000001 00000000 00000001 eth1";
        let route = route_v6(v6).unwrap();
        assert_eq!((route.to, route.prefix, &*route.device), ("fd00::".parse().unwrap(), 8, "eth1"));
        assert_eq!(route_v6(&v6.replace("00000001 eth1", "00200200 lo")), None);
    }
}

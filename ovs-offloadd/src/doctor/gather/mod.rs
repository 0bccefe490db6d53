//! Asks for the facts: each by itself, so that one that cannot be had leaves the others.

mod database;
mod files;
mod netlink;

use std::path::{Path, PathBuf};
use std::time::Duration;

use caps::{CapSet, Capability};

pub(crate) use netlink::{excluding_rules, firmware};

use super::{DoctorArgs, Fact, Facts};
use crate::config::{Config, ModeSetting, assignments_in_external_ids, read_file};
use crate::daemon::{default_config_file, version_in};
use crate::io::rundir::{control_socket, running_pid};
use crate::io::unixctl::Client;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// Open vSwitch's run directory, if not the configuration's.
    pub rundir: Option<PathBuf>,
    /// The longest wait for one answer.
    pub timeout: Duration,
}

/// Open vSwitch's run directory, by the options, the configuration or the environment.
pub fn rundir(args: &DoctorArgs, places: &Places) -> PathBuf {
    let known = configuration(config_file(args).as_deref()).unwrap_or_else(|_| Config::defaults());
    places.rundir.clone().unwrap_or_else(|| known.rundir())
}

fn config_file(args: &DoctorArgs) -> Option<PathBuf> {
    args.config.clone().or_else(|| Some(default_config_file()).filter(|file| file.exists()))
}

/// Gathers everything.
pub async fn gather(args: &DoctorArgs, places: &Places) -> Facts {
    let file = config_file(args);
    let config = configuration(file.as_deref());
    let known = config.clone().unwrap_or_else(|_| Config::defaults());
    let rundir = places.rundir.clone().unwrap_or_else(|| known.rundir());
    let remote = match &known.ovs.database {
        Some(remote) => remote.clone(),
        None => format!("unix:{}", rundir.join("db.sock").display()),
    };
    let root = Path::new("/");
    let limit = places.timeout;
    let ovsdb = database::read(&remote, limit).await;
    let (ovsdb, ids) = match ovsdb {
        Ok((mut ovs, ids)) => {
            // The database may tell none, or that of another start.
            ovs.version = running_version(&rundir, limit).await.or(ovs.version);
            (Ok(ovs), ids)
        }
        Err(why) => (Err(why), Vec::new()),
    };
    let devlink = netlink::devlink(limit).await;
    let links = netlink::links(limit, devlink.as_ref().ok()).await;
    let filters = match &links {
        Ok(links) => netlink::filters(limit, links).await,
        Err(_) => Default::default(),
    };
    let no_guard = config.as_ref().ok().and_then(|config| no_guard(config.shadow.guard.as_deref()));
    let gaps = config.as_ref().is_ok_and(|config| config.shadow.gaps);
    Facts {
        nics: devlink.map(|found| found.nics),
        kernel: files::kernel(root),
        links,
        vswitchd: running_pid(&rundir, "ovs-vswitchd")
            .map_err(|error| error.to_string())
            .and_then(|pid| files::process(root, pid)),
        ovsdb,
        shares_recirc_ids: netlink::shares_recirc_ids(limit).await,
        routes: files::routes(root),
        ingress_qdiscs: netlink::ingress_qdiscs(limit).await,
        filters,
        mode: config.and_then(|_| mode(file.as_deref(), &ids)),
        ipsec: netlink::ipsec(limit).await,
        ovn: ovn_version(&rundir, limit).await,
        daemon_runs: running_pid(&rundir, "ovs-offloadd").is_ok(),
        no_guard,
        gaps,
        net_admin: caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN)
            .map_err(|error| error.to_string()),
    }
}

/// Why there is no guard at this socket, if there is none.
fn no_guard(socket: Option<&Path>) -> Option<String> {
    let Some(socket) = socket else { return Some("shadow.guard is \"none\"".to_owned()) };
    let unreachable = crate::io::seqpacket::connect(socket).err()?;
    Some(format!("nobody answers at {}: {unreachable}", socket.display()))
}

/// The version of the ovn-controller that runs: in OVN's run directory, beside Open vSwitch's, or in that itself.
async fn ovn_version(rundir: &Path, limit: Duration) -> Option<String> {
    let of_environment = std::env::var_os("OVN_RUNDIR").map(PathBuf::from);
    let beside = rundir.parent().map(|parent| parent.join("ovn"));
    for directory in [of_environment, beside, Some(rundir.to_owned())].into_iter().flatten() {
        let Ok(socket) = control_socket(&directory, "ovn-controller") else { continue };
        let reply = Client::new(socket).command("version", &[], limit).await.ok()?;
        // `ovn-controller 25.03.0`, and lines of what it is built with.
        return reply.lines().next()?.split_whitespace().nth(1).map(str::to_owned);
    }
    None
}

/// The version of the ovs-vswitchd that runs, in its own words.
async fn running_version(rundir: &Path, limit: Duration) -> Option<String> {
    let socket = control_socket(rundir, "ovs-vswitchd").ok()?;
    let reply = Client::new(socket).command("version", &[], limit).await.ok()?;
    version_in(&reply).map(str::to_owned)
}

fn configuration(file: Option<&Path>) -> Fact<Config> {
    let Some(file) = file else { return Ok(Config::defaults()) };
    read_file(file).and_then(|written| Config::from_file(&[], &written)).map_err(|errors| errors.to_string())
}

/// The mode by the file and, where that says nothing, by the database, as the daemon takes it.
fn mode(file: Option<&Path>, ids: &[(String, String)]) -> Fact<ModeSetting> {
    let ids = ids.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // What is wrong there the daemon leaves out, and goes on.
    let weaker = assignments_in_external_ids(ids).unwrap_or_default();
    let config = match file {
        Some(file) => read_file(file).and_then(|written| Config::from_file(&weaker, &written)),
        None => Config::from_layers(&[&weaker]),
    };
    config.map(|config| config.mode).map_err(|errors| errors.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_there_where_somebody_listens() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("guard.sock");
        assert!(no_guard(Some(&socket)).unwrap().contains("guard.sock: No such file"));
        let _listener = crate::io::seqpacket::listen(&socket).unwrap();
        assert_eq!(no_guard(Some(&socket)), None);
        assert!(no_guard(None).is_some());
    }

    #[test]
    fn the_mode_is_the_files_before_the_databases() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.toml");
        let ids = [("offloadd-mode".to_owned(), "observe".to_owned())];
        assert_eq!(mode(None, &[]), Ok(ModeSetting::Auto));
        assert_eq!(mode(None, &ids), Ok(ModeSetting::Observe));
        std::fs::write(&file, "mode = \"steer\"\n").unwrap();
        assert_eq!(mode(Some(&file), &ids), Ok(ModeSetting::Steer));
        std::fs::write(&file, "mode = 3\n").unwrap();
        assert!(configuration(Some(&file)).unwrap_err().contains("c.toml"));
    }

    #[tokio::test]
    async fn a_host_without_open_vswitch_is_looked_at_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let places =
            Places { rundir: Some(directory.path().to_owned()), timeout: Duration::from_millis(200) };
        let facts = gather(&DoctorArgs::default(), &places).await;
        assert!(facts.ovsdb.is_err() && facts.vswitchd.is_err());
        assert!(facts.all_links().any(|(_, link)| link.name == "lo"), "{:?}", facts.links);
        let report = super::super::judge(&facts);
        assert_eq!(report.exit_status(), 1);
        assert!(report.text(None).contains("ovsdb-unreachable"));
    }
}

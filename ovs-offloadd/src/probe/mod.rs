//! `ovs-offloadctl doctor --probe PORT`: what this very NIC and driver take, one match and action at a time.
//!
//! [`list::probes`] are the filters, as values. Each is installed with `skip_sw`, so that the driver has to answer, and removed
//! before the next, in a chain that no filter of anybody goes to ([`run::SCRATCH_CHAIN`]): a packet starts in chain 0 and
//! gets there by `goto` alone, in hardware as in software, so that none is treated otherwise while a probe runs. The qdisc
//! is the one that is there, and stays.

mod kept;
mod kernel;
pub mod list;
mod matches;
pub mod report;
mod run;
pub mod scene;
mod versions;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use tc_flower::Chain;

pub use kept::{forget, holds, read_all, refusals, write};
pub use report::Matrix;
pub use run::{MARK, SCRATCH_CHAIN};
pub use versions::versions;

use crate::doctor::{self, DoctorArgs, Places};
use report::{FORMAT, PortName};

/// Highest chain that can be asked for: the next one is gone to, and TC has 2^28.
pub const CHAIN_MAX: u32 = 0x0fff_fffe;

/// What is to be probed.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The port.
    pub port: &'a str,
    /// The chain, if not [`SCRATCH_CHAIN`].
    pub chain: Option<Chain>,
    /// Open vSwitch's run directory, where a lock and what was seen are kept.
    pub rundir: PathBuf,
    /// Seconds since 1970.
    pub now_s: u64,
}

/// Probes a port, until all is tried or `stop` is set.
///
/// # Errors
/// A sentence: why nothing was tried, or that a filter could not be removed.
pub async fn probe(
    asked: &Asked<'_>,
    args: &DoctorArgs,
    places: &Places,
    stop: &AtomicBool,
) -> Result<Matrix, String> {
    let facts = doctor::gather(args, places).await;
    let mut tc = kernel::Rtnetlink::open(places.timeout)?;
    let qdiscs = tc.qdiscs().await.map_err(|why| format!("qdiscs cannot be listed: {why}"))?;
    let scene = scene::find(&facts, &qdiscs, asked.port)?;
    let chain = asked.chain.unwrap_or(SCRATCH_CHAIN);
    let mut lock = kept::Lock::take(&asked.rundir)?;
    let mut left_over = 0;
    if let Some((places, chain)) = lock.left.take() {
        left_over += run::clear(&mut tc, &places, chain).await?;
    }
    let at = scene.places();
    left_over += run::clear(&mut tc, &at, chain).await?;
    let cannot_note = |error: std::io::Error| format!("cannot note where filters are: {error}");
    lock.note(&at, chain).map_err(cannot_note)?;
    let tried = run::walk(&mut tc, &scene, chain, stop).await?;
    lock.clear().map_err(cannot_note)?;
    let complete = !stop.load(Ordering::Relaxed);
    let versions = versions(&scene.nic, scene.driver.clone(), places.timeout).await;
    let name = |(name, role): (String, doctor::Role)| PortName { name, role: role.into() };
    Ok(Matrix {
        format: FORMAT,
        probed_at_s: asked.now_s,
        ovs_offloadd: env!("CARGO_PKG_VERSION").to_owned(),
        nic: scene.nic,
        versions,
        port: name((scene.port, scene.role)),
        port_name: scene.port_name,
        toward: scene.toward.map(name),
        tunnels: scene.tunnels,
        qdisc: scene.qdisc,
        chain: chain.0,
        left_over,
        complete,
        tried,
    })
}

//! A session with charon: what it has is read, what is next is done, until it is lost or the orders are others.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipsec_drive::listed::{self, ChildSa};
use ipsec_drive::vici::Builder;
use ipsec_drive::{
    Auth, Connection, ConnectionName, Extent, Known, Mover, Moves, Reconciler, Seen, Step, Wanted, strongswan,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::beside::Beside;
use super::certificates::{self, Files};
use super::contents::Contents;
use super::driver::monitor;
use super::looks::{After, Look, Looks, Pause};
use super::progress::{self, Log};
use super::uplinks::Uplinks;
use super::vici::{Failure, Vici};
use super::{OffloadReport, Orders, Report, Rows, Standing, now};

/// The longest wait for an answer: what charon has is listed when none of it is just being negotiated, which took it 12 s on an emulated
/// machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Events that come together are looked after together: when there was none for so long, or that is too long. While charon negotiates, each end
/// sends what the other cannot read yet, and the processor is better left to them.
const GATHER: Duration = Duration::from_millis(250);
const GATHER_MAX: Duration = Duration::from_secs(1);

/// Why a session is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody gives orders any more.
    NoOrders,
    /// Another charon is to be driven, or none.
    OtherOrders,
    /// Charon is gone, or does not answer.
    Lost(String),
}

/// Why there is a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// Orders are others, or it is time to look.
    Due,
    /// Charon or the kernel tells something, and more may come with it.
    Told,
}

/// A connection to ask and be told by, and what is known of what was loaded. It is one, so that what is told comes in its place among the
/// answers.
pub(super) struct Session {
    socket: PathBuf,
    charon: Vici,
    version: String,
    known: Known,
    looks: Looks,
    /// How the last turn ended.
    after: Option<After>,
    reconciler: Reconciler,
    mover: Mover,
    /// What was done before this session.
    moved_before: Moves,
    log: Log,
    contents: Contents,
    uplinks: Uplinks,
    beside: Beside,
    /// The private key that charon has of us, by its own name for it.
    key: Option<String>,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there who can be driven, in a sentence.
    pub(super) async fn open(socket: &Path, moved_before: Moves) -> Result<Self, String> {
        let mut charon = Vici::connect(socket, LIMIT).await?;
        let words = |failure: Failure| format!("{}: {}", socket.display(), failure.words());
        for event in listed::EVENTS {
            charon.register(event).await.map_err(words)?;
        }
        let answer = charon.ask("version", &Builder::default()).await.map_err(words)?;
        let said = |key: &str| answer.value(key).unwrap_or("of unknown version").to_owned();
        let version = format!("strongSwan {} ({})", said("version"), said("daemon"));
        info!(%version, "IPsec of tunnels is made by it, at our word");
        Ok(Self {
            socket: socket.to_owned(),
            charon,
            version,
            known: Known::default(),
            looks: Looks::default(),
            after: None,
            reconciler: Reconciler::default(),
            mover: Mover::default(),
            moved_before,
            log: Log::default(),
            contents: Contents::default(),
            uplinks: Uplinks::default(),
            beside: Beside::default(),
            key: None,
        })
    }

    /// What was moved, before this session and in it.
    pub(super) fn moves(&self) -> Moves {
        self.moved_before + self.mover.moves()
    }

    /// Does what is ordered until that is over.
    pub(super) async fn drive(
        &mut self,
        orders: &mut watch::Receiver<Orders>,
        kernel: &mut watch::Receiver<Seen>,
        report: &watch::Sender<Report>,
    ) -> End {
        loop {
            let told = kernel.borrow_and_update().clone();
            let now = orders.borrow_and_update().clone();
            let Some(rows) = now.rows.as_ref().filter(|_| now.drive && now.vici == self.socket) else {
                return End::OtherOrders;
            };
            // It was started after us, and fights us from now on.
            if monitor(&now.rundir).is_some() {
                return End::OtherOrders;
            }
            let pause = match self.turn(rows, &now, &told, report).await {
                Ok(pause) => pause,
                Err(why) => return End::Lost(why),
            };
            let waited = match self.wait(pause, orders, kernel).await {
                Ok(Some(Woken::Told)) => self.gather().await,
                Ok(Some(Woken::Due)) => Ok(()),
                Ok(None) => return End::NoOrders,
                Err(why) => Err(why),
            };
            if let Err(why) = waited {
                return End::Lost(why);
            }
        }
    }

    /// Waits until it is time for the next turn. Returns why it is; none where nobody gives orders any more.
    async fn wait(
        &mut self,
        pause: Pause,
        orders: &mut watch::Receiver<Orders>,
        kernel: &mut watch::Receiver<Seen>,
    ) -> Result<Option<Woken>, String> {
        let rest = tokio::time::sleep(pause.rest);
        let due = tokio::time::sleep(pause.again.max(pause.rest));
        tokio::pin!(rest, due);
        // What was told while answers were waited for is not looked after yet.
        let (mut rests, mut is_told) = (true, self.charon.has_told());
        while rests || !is_told {
            tokio::select! {
                changed = orders.changed() => return Ok(changed.is_ok().then_some(Woken::Due)),
                changed = kernel.changed(), if !is_told => match changed {
                    Ok(()) => is_told = true,
                    Err(_) => return Ok(None),
                },
                told = self.charon.told() => {
                    told.map_err(Failure::words)?;
                    is_told = true;
                }
                () = &mut rest, if rests => rests = false,
                () = &mut due => return Ok(Some(Woken::Due)),
            }
        }
        Ok(Some(Woken::Told))
    }

    /// Hears what is told together.
    async fn gather(&mut self) -> Result<(), String> {
        let longest = tokio::time::sleep(GATHER_MAX);
        tokio::pin!(longest);
        loop {
            tokio::select! {
                told = self.charon.told() => told.map_err(Failure::words)?,
                () = tokio::time::sleep(GATHER) => return Ok(()),
                () = &mut longest => return Ok(()),
            }
        }
    }

    /// Looks, does what is next, and reports; returns how long not to look again.
    async fn turn(
        &mut self,
        rows: &Rows,
        orders: &Orders,
        kernel: &Seen,
        report: &watch::Sender<Report>,
    ) -> Result<Pause, String> {
        let wanted = ipsec_drive::wanted(&rows.tunnels, &rows.host, orders.offload);
        let wanted = self.with_contents(wanted).await?;
        self.look().await.map_err(Failure::words)?;
        let begin = Instant::now();
        let mut there = self.known.there();
        let listed = (now(), there.children.iter().flat_map(ChildSa::ids).flatten().collect());
        self.mover.set_terms(now(), orders.terms);
        there.share_beside(&wanted);
        self.uplinks.look(&wanted, kernel, self.after == Some(After::Settled)).await;
        let is_unmet = |connection: &Connection| !self.uplinks.unmet(connection, kernel).is_empty();
        let mut asked = self.mover.turn(now(), &wanted, &mut there, kernel, &self.reconciler, is_unmet);
        self.uplinks.spare_charon(&mut asked, kernel);
        let steps = self.reconciler.steps(now(), &asked, &there);
        self.log.unmet(&wanted, |connection| self.uplinks.unmet(connection, kernel));
        let mut thought = begin.elapsed();
        for step in &steps {
            let answer = match self.take(step).await {
                Ok(()) => Ok(()),
                Err(Failure::Refused(why)) => Err(why),
                Err(Failure::Lost(why)) => return Err(why),
            };
            debug!(connection = %step.name(), step = word(step), ?answer, "step of IPsec");
            self.reconciler.answered(now(), step, answer);
        }
        self.forget_key(&wanted).await.map_err(Failure::words)?;
        let begin = Instant::now();
        let progress = self.reconciler.progress().map(|(name, progress)| (name.clone(), progress)).collect();
        self.log.changes(&progress);
        let unmet = |connection: &Connection| self.uplinks.unmet(connection, kernel);
        let tunnels = progress::of(rows, &wanted, &progress, (&self.mover, now()), unmet);
        let after = ended(&steps, tunnels.iter().all(progress::is_settled));
        let standing = Standing::Driving(self.version.clone());
        let offload = OffloadReport {
            moves: self.moves(),
            entries: self.mover.entries().collect(),
            has_doubts: self.mover.has_doubts(),
        };
        let unguarded = progress::unguarded(&wanted, self.reconciler.guard_refused());
        report.send_modify(|report| {
            if report.unguarded != unguarded
                && let Some(why) = &unguarded
            {
                warn!(%why, "packets of tunnels may pass in the clear");
            }
            (report.standing, report.tunnels, report.offload) = (standing, tunnels, offload);
            (report.unguarded, report.listed) = (unguarded, Some(listed));
        });
        self.after = Some(after);
        thought += begin.elapsed();
        Ok(Pause::after(after, thought))
    }

    /// What is wanted, with what is in the files.
    async fn with_contents(&mut self, mut wanted: Wanted) -> Result<Wanted, String> {
        let mut contents = std::mem::take(&mut self.contents);
        let looked = tokio::task::spawn_blocking(move || {
            contents.look(&mut wanted);
            (contents, wanted)
        });
        let (contents, wanted) = looked.await.map_err(|error| error.to_string())?;
        self.contents = contents;
        Ok(wanted)
    }

    /// Learns what charon has: of what it has told, and of a list where one is due.
    async fn look(&mut self) -> Result<(), Failure> {
        let mut is_understood = true;
        for (name, event) in self.charon.take_told() {
            is_understood &= self.known.told(&name, &event);
        }
        if !is_understood {
            self.looks.forget();
        }
        let look = self.looks.next(Instant::now(), self.after);
        let (extent, message) = match look {
            Look::Everything => (Extent::Everything, Builder::default()),
            Look::IkeSas => (Extent::IkeSas, listed::list_without_children()),
            Look::Nothing => return Ok(()),
        };
        let begin = Instant::now();
        self.known.begin();
        let known = &mut self.known;
        let mut is_understood = true;
        let listed = self.charon.list("list-sas", &message, "list-sa", |name, event| match name {
            "list-sa" => known.row(extent, event),
            name => is_understood &= known.told(name, event),
        });
        listed.await?;
        let answer = self.charon.ask("get-conns", &Builder::default()).await?;
        let connections = answer.list("conns").iter().filter_map(|name| ConnectionName::ours(name)).collect();
        self.known.end(extent, connections);
        self.looks.looked(look, Instant::now(), begin.elapsed());
        if !is_understood {
            self.looks.forget();
        }
        Ok(())
    }

    async fn take(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Load(connection) => self.load(connection).await,
            Step::Initiate { name, child } => {
                self.known.initiated(name);
                self.charon.have_done("initiate", &strongswan::initiate(name, child)).await
            }
            Step::Terminate { id, .. } => {
                self.done_or_gone("terminate", &strongswan::terminate_child(*id)).await?;
                self.known.terminated(*id);
                Ok(())
            }
            Step::Restart(name) => {
                self.done_or_gone("terminate", &strongswan::terminate(name)).await?;
                self.terminate_children(name).await
            }
            Step::Unload(name) => self.unload(name).await,
            Step::Guard(guard) => {
                self.charon.have_done("load-conn", &strongswan::load_guard(guard)).await?;
                self.known.loaded(&guard.name);
                Ok(())
            }
        }
    }

    async fn load(&mut self, connection: &Connection) -> Result<(), Failure> {
        let auth = connection.auth.clone();
        let read = tokio::task::spawn_blocking(move || certificates::read(&auth)).await;
        let files = read.map_err(|error| Failure::Refused(error.to_string()))?.map_err(Failure::Refused)?;
        if let Some(secret) = strongswan::load_shared(connection) {
            self.charon.have_done("load-shared", &secret).await?;
        }
        let certificates = match files {
            None => strongswan::Certificates::default(),
            Some(Files { certificates, key }) => {
                self.load_key(&key).await?;
                certificates
            }
        };
        // Before it is in a NIC, and until it is told to be in none.
        let closed = strongswan::load_closed(connection);
        if let Some(closed) = &closed {
            self.charon.have_done("load-conn", closed).await?;
        }
        let beside = self.beside.of(connection);
        let before = self.beside.load(connection, certificates);
        self.load_as_known(&connection.name).await?;
        self.known.loaded(&connection.name);
        // Its children, as they are now, are in their messages, too.
        for name in before.union(&beside) {
            self.load_as_known(name).await?;
        }
        match closed {
            Some(_) => Ok(()),
            None => self.unload_closed(&connection.name).await,
        }
    }

    async fn load_as_known(&mut self, name: &ConnectionName) -> Result<(), Failure> {
        match self.beside.message(name) {
            Some(message) => self.charon.have_done("load-conn", &message).await,
            None => Ok(()),
        }
    }

    /// Takes down children of a connection, whichever beside it has the IKE SA that carries them.
    async fn terminate_children(&mut self, name: &ConnectionName) -> Result<(), Failure> {
        for message in strongswan::terminate_children(name) {
            self.done_or_gone("terminate", &message).await?;
        }
        Ok(())
    }

    async fn unload_closed(&mut self, name: &ConnectionName) -> Result<(), Failure> {
        self.done_or_gone("unload-conn", &strongswan::one("name", &name.closed())).await
    }

    async fn load_key(&mut self, key: &[u8]) -> Result<(), Failure> {
        let answer = self.charon.ask("load-key", &strongswan::load_key(key)).await?;
        ipsec_drive::vici::success(&answer)
            .map_err(|why| Failure::Refused(format!("other_config:private_key: {why}")))?;
        let id = answer.value("id").map(ToOwned::to_owned);
        if self.key != id
            && let Some(before) = std::mem::replace(&mut self.key, id)
        {
            self.unload_key(&before).await?;
        }
        Ok(())
    }

    /// Takes our key out when no connection needs it.
    async fn forget_key(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        let is_needed =
            wanted.connections.values().any(|connection| !matches!(connection.auth, Auth::Psk(_)));
        match self.key.take_if(|_| !is_needed) {
            Some(key) => self.unload_key(&key).await,
            None => Ok(()),
        }
    }

    async fn unload_key(&mut self, id: &str) -> Result<(), Failure> {
        self.done_or_gone("unload-key", &strongswan::one("id", id)).await
    }

    async fn unload(&mut self, name: &ConnectionName) -> Result<(), Failure> {
        // The connection first, or the peer could have it made anew.
        self.done_or_gone("unload-conn", &strongswan::one("name", name.as_str())).await?;
        self.known.unloaded(name);
        for beside in self.beside.unload(name) {
            self.load_as_known(&beside).await?;
        }
        self.unload_closed(name).await?;
        self.done_or_gone("terminate", &strongswan::terminate(name)).await?;
        self.terminate_children(name).await?;
        self.done_or_gone("unload-shared", &strongswan::one("id", name.as_str())).await
    }

    /// Has something taken out that may not be there any more.
    async fn done_or_gone(&mut self, command: &str, message: &Builder) -> Result<(), Failure> {
        match self.charon.have_done(command, message).await {
            Err(Failure::Refused(why)) => {
                debug!(command, why, "there was nothing to take out");
                Ok(())
            }
            other => other,
        }
    }
}

fn ended(steps: &[Step], is_settled: bool) -> After {
    let is_load = |step: &Step| matches!(step, Step::Load(_));
    match (steps.is_empty(), is_settled) {
        (false, _) if steps.iter().any(is_load) => After::Loads,
        (false, _) => After::Steps,
        (true, false) => After::Waits,
        (true, true) => After::Settled,
    }
}

fn word(step: &Step) -> &'static str {
    match step {
        Step::Load(_) => "load",
        Step::Initiate { .. } => "initiate",
        Step::Terminate { .. } => "terminate",
        Step::Restart(_) => "restart",
        Step::Unload(_) => "unload",
        Step::Guard(_) => "guard",
    }
}

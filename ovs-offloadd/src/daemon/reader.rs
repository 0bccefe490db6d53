//! Threads that ask the kernel what notifications do not tell.
//!
//! A request about a device waits in the kernel for the device's lock, which a change of eswitch mode, a reload or a
//! firmware that does not answer can hold for many seconds. The daemon's loop must not wait there: it hands questions to
//! these threads and hears the answers.

use std::time::Duration;

use netlink_wire::devlink::{self, Eswitch, Handle, HealthReporter, Info, Instance, Port, Resource};
use netlink_wire::ethtool::{self, Feature, FeatureBit, FeatureBits};
use netlink_wire::genl::FamilyId;
use netlink_wire::link::{self, Link};
use netlink_wire::{Ifindex, Malformed, Message};
use tokio::sync::mpsc;

use crate::inventory::{Device, Sriov};
use crate::io::netlink::{Asker, Protocol};
use crate::io::sysfs;

/// Rows of one answer: beyond any table there is.
const ROWS_MAX: usize = 1 << 20;
/// Longest wait for an answer of which a part has come, or which the kernel need not wait for.
const LIMIT: Duration = Duration::from_secs(10);
/// More devices at once are asked for by a dump.
const SINGLE_MAX: usize = 16;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// All links.
    Links,
    /// The features of all devices.
    Features,
    /// The features of these devices.
    FeaturesOf(Vec<Ifindex>),
    /// All devlink instances.
    Instances,
    /// All devlink ports.
    Ports,
    /// All health reporters.
    Health,
    /// What all instances say of themselves.
    Infos,
    /// An instance's eswitch, driver and virtual functions.
    Nic(Handle),
    /// An instance's resources.
    Resources(Handle),
}

impl Question {
    /// Whether answering takes the lock of links; the others take those of devlink instances.
    pub(crate) fn is_of_links(&self) -> bool {
        matches!(self, Self::Links | Self::Features | Self::FeaturesOf(_))
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) enum Told {
    Links(Vec<Link>),
    Features(Vec<(Ifindex, Feature)>),
    FeaturesOf(Vec<(Ifindex, Feature)>),
    Instances(Vec<Instance>),
    Ports(Vec<Port>),
    Health(Vec<HealthReporter>),
    Infos(Vec<Info>),
    /// None for an instance without eswitch.
    Nic(Handle, Option<Eswitch>, Device),
    /// Empty for an instance without any.
    Resources(Handle, Vec<Resource>),
    /// The instance is gone.
    Gone,
    /// There is no answer, for this reason.
    Failed(Question, String),
}

/// Starts a thread that answers one question after the other.
///
/// # Errors
/// That of the thread that cannot be had.
pub(crate) fn start(name: &str, told: mpsc::Sender<Told>) -> std::io::Result<mpsc::Sender<Question>> {
    // The owner has at most one question waiting.
    let (ask, mut asked) = mpsc::channel::<Question>(1);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        let mut reader = Reader::default();
        while let Some(question) = asked.blocking_recv() {
            let answer = runtime.block_on(reader.answer(&question));
            let answer = answer.unwrap_or_else(|why| Told::Failed(question, why));
            if told.blocking_send(answer).is_err() {
                return;
            }
        }
    })?;
    Ok(ask)
}

/// Sockets and numbers that were found, for as long as they are good.
#[derive(Debug, Default)]
struct Reader {
    route: Option<Asker>,
    generic: Option<Asker>,
    devlink: Option<FamilyId>,
    ethtool: Option<(FamilyId, Option<FeatureBit>)>,
}

fn event<T>(
    pick: impl Fn(devlink::Event) -> Option<T>,
) -> impl Fn(&Message<'_>) -> Result<Option<T>, Malformed> {
    move |message| Ok(pick(devlink::Report::decode(message)?.event))
}

/// What an instance that is no such thing, or is gone, answers.
fn is_absent(why: &str) -> bool {
    why.starts_with("EOPNOTSUPP") || why.starts_with("ENODEV")
}

impl Reader {
    async fn answer(&mut self, question: &Question) -> Result<Told, String> {
        let answer = match question {
            Question::Links => self.links().await,
            Question::Features => self.features().await.map(Told::Features),
            Question::FeaturesOf(devices) if devices.len() > SINGLE_MAX => {
                self.features().await.map(Told::FeaturesOf)
            }
            Question::FeaturesOf(devices) => self.features_of(devices).await,
            _ => self.devlink(question).await,
        };
        if answer.is_err() {
            // What is still to come on these sockets belongs to no question any more.
            *self = Self::default();
        }
        answer
    }

    fn generic(&mut self) -> Result<&mut Asker, String> {
        if self.generic.is_none() {
            self.generic = Some(Asker::open(Protocol::Generic, LIMIT)?);
        }
        self.generic.as_mut().ok_or_else(String::new)
    }

    async fn links(&mut self) -> Result<Told, String> {
        if self.route.is_none() {
            self.route = Some(Asker::open(Protocol::Route, LIMIT)?);
        }
        let Some(route) = &mut self.route else { return Err(String::new()) };
        let links = route.ask(ROWS_MAX, link::dump, |message| Link::decode(message).map(Some)).await?;
        Ok(Told::Links(links))
    }

    async fn ethtool(&mut self) -> Result<(FamilyId, Option<FeatureBit>), String> {
        if let Some(known) = self.ethtool {
            return Ok(known);
        }
        let generic = self.generic()?;
        let family = generic.family(ethtool::FAMILY).await?;
        let names = generic.ask(
            ROWS_MAX,
            |seq| ethtool::get_feature_names(family, seq),
            |message| FeatureBit::find(message, ethtool::HW_TC_OFFLOAD),
        );
        let found = (family, names.await?.into_iter().next());
        self.ethtool = Some(found);
        Ok(found)
    }

    async fn features(&mut self) -> Result<Vec<(Ifindex, Feature)>, String> {
        let (family, bit) = self.ethtool().await?;
        let dump = |seq| ethtool::dump_feature_bits(family, seq);
        self.generic()?.ask(ROWS_MAX, dump, |message| feature_in(message, bit)).await
    }

    async fn features_of(&mut self, devices: &[Ifindex]) -> Result<Told, String> {
        let (family, bit) = self.ethtool().await?;
        let mut found = Vec::new();
        for device in devices {
            let request = |seq| ethtool::get_feature_bits(family, *device, seq);
            match self.generic()?.ask(ROWS_MAX, request, |message| feature_in(message, bit)).await {
                Ok(features) => found.extend(features),
                Err(why) if is_absent(&why) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(Told::FeaturesOf(found))
    }

    async fn devlink(&mut self, question: &Question) -> Result<Told, String> {
        let family = match self.devlink {
            Some(family) => family,
            None => self.generic()?.family(devlink::FAMILY).await?,
        };
        self.devlink = Some(family);
        let generic = self.generic()?;
        Ok(match question {
            Question::Instances => Told::Instances({
                let pick = event(|event| match event {
                    devlink::Event::Instance(instance) => Some(instance),
                    _ => None,
                });
                generic.ask(ROWS_MAX, |seq| devlink::dump_instances(family, seq), pick).await?
            }),
            Question::Ports => Told::Ports({
                let pick = event(|event| match event {
                    devlink::Event::Port(port) => Some(port),
                    _ => None,
                });
                generic.ask(ROWS_MAX, |seq| devlink::dump_ports(family, seq), pick).await?
            }),
            Question::Health => Told::Health({
                let pick = event(|event| match event {
                    devlink::Event::Health(reporter) => Some(reporter),
                    _ => None,
                });
                generic.ask(ROWS_MAX, |seq| devlink::dump_health(family, seq), pick).await?
            }),
            Question::Infos => Told::Infos({
                let pick = event(|event| match event {
                    devlink::Event::Info(info) => Some(info),
                    _ => None,
                });
                generic.ask(ROWS_MAX, |seq| devlink::dump_info(family, seq), pick).await?
            }),
            Question::Nic(handle) => nic(generic, family, handle).await?,
            Question::Resources(handle) => resources(generic, family, handle).await?,
            Question::Links | Question::Features | Question::FeaturesOf(_) => Told::Gone,
        })
    }
}

fn feature_in(
    message: &Message<'_>,
    bit: Option<FeatureBit>,
) -> Result<Option<(Ifindex, Feature)>, Malformed> {
    let features = FeatureBits::decode(message)?;
    // A kernel that does not know the feature has no device that has it.
    let state = |features: FeatureBits| {
        (features.ifindex, bit.map_or(Feature::Unsupported, |bit| features.feature(bit)))
    };
    Ok(features.map(state))
}

async fn nic(generic: &mut Asker, family: FamilyId, handle: &Handle) -> Result<Told, String> {
    let pick = event(|event| match event {
        devlink::Event::Eswitch(eswitch) => Some(eswitch),
        _ => None,
    });
    // A handle that the kernel gave fits in a request; one that did not would be an empty one, which is refused.
    let request = |seq| devlink::get_eswitch(family, handle, seq).unwrap_or_default();
    let eswitch = match generic.ask(ROWS_MAX, request, pick).await {
        Ok(found) => found.into_iter().next(),
        Err(why) if is_absent(&why) => None,
        Err(why) => return Err(why),
    };
    let driver = sysfs::driver_of(&handle.bus, &handle.device);
    let sriov = sysfs::sriov_of(&handle.bus, &handle.device);
    let sriov = sriov.map(|(vfs, vfs_max, functions)| Sriov { vfs, vfs_max, functions });
    Ok(Told::Nic(handle.clone(), eswitch, Device { driver, sriov }))
}

async fn resources(generic: &mut Asker, family: FamilyId, handle: &Handle) -> Result<Told, String> {
    let pick = event(|event| match event {
        devlink::Event::Resources(resources) => Some(resources.resources),
        _ => None,
    });
    let request = |seq| devlink::dump_resources(family, handle, seq).unwrap_or_default();
    match generic.ask(ROWS_MAX, request, pick).await {
        Ok(found) => Ok(Told::Resources(handle.clone(), found.into_iter().flatten().collect())),
        Err(why) if is_absent(&why) => Ok(Told::Resources(handle.clone(), Vec::new())),
        Err(why) => Err(why),
    }
}

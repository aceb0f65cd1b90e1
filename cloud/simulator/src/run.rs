//! A whole simulation: enrols, lets all devices live, looks at them, and ends.

use crate::chance::{self, Nature};
use crate::device::Device;
use crate::figures::{Figures, Report, Snapshot};
use crate::identities::{self, Identities};
use crate::library::Library;
use crate::options::Options;
use crate::{Error, descriptors};
use flotilla_protocol::Digest;
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the simulation is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Looks between two steps that are told.
const TELL: u32 = 5;
/// How long devices have to say good-bye.
const FAREWELL: Duration = Duration::from_secs(10);

/// How far a simulation is.
#[derive(Debug)]
pub enum Step<'a> {
    /// Devices enrol.
    Enrolled {
        /// Those that are enrolled.
        done: usize,
        /// All.
        of: u32,
    },
    /// Devices live.
    Lives(&'a Snapshot),
}

/// What all devices share.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) natures: Vec<Nature>,
    pub(crate) figures: Figures,
    pub(crate) library: Library,
    pub(crate) ca: CertificateDer<'static>,
    /// Turns to open a connection.
    pub(crate) turns: Arc<Semaphore>,
    /// Devices that have said that they run the release that is waited for.
    pub(crate) told: AtomicU32,
    /// The devices on which the probe of a release fails.
    unlucky: Mutex<HashMap<Digest, Arc<Vec<bool>>>>,
}

impl World {
    /// Whether the probe of a release fails on a device.
    pub(crate) fn probe_fails(&self, device: u32, release: Digest) -> bool {
        let faults = &self.options.faults;
        if faults.failing_probes.get() == 0.0 || !faults.strikes(&release) {
            return false;
        }
        let mut unlucky = self.unlucky.lock().unwrap_or_else(PoisonError::into_inner);
        let of_release = unlucky.entry(release).or_insert_with(|| {
            let (seed, share, devices) = (self.options.seed, faults.failing_probes, self.options.devices);
            Arc::new(chance::chosen(seed, &format!("probe {release}"), share, devices))
        });
        of_release[device as usize]
    }

    /// Whether every device that does not lie runs the release that is waited for, and has said so.
    fn is_released(&self) -> bool {
        let honest = self.natures.iter().filter(|nature| !nature.lies).count();
        self.options.until.is_some() && self.told.load(Ordering::Relaxed) as usize == honest
    }
}

/// Runs a simulation until it ends by itself or is stopped. `tell` hears how far it is, about once a second.
pub async fn run(
    options: Options,
    stop: CancellationToken,
    mut tell: impl FnMut(Step<'_>),
) -> Result<Report, Error> {
    options.check()?;
    descriptors::provide(options.devices)?;
    let began = Instant::now();
    let (mut enrolled, of) = (0, options.devices);
    let mut enrolling = |done| {
        enrolled += 1;
        tell(Step::Enrolled { done, of });
    };
    let establishing = identities::establish(&options, &mut enrolling);
    // One that is cut off here has told the control plane no half of anything: its claim is used, and no more.
    let Some(identities) = stop.run_until_cancelled(establishing).await else { return Err(Error::Stopped) };
    let identities = identities?;
    let enrol_s = began.elapsed().as_secs_f64();

    let world = Arc::new(World {
        natures: chance::natures(&options),
        figures: Figures::new(options.devices),
        library: Library::default(),
        ca: identities.ca.clone(),
        turns: Arc::new(Semaphore::new(options.connecting as usize)),
        told: AtomicU32::new(0),
        unlucky: Mutex::default(),
        options,
    });
    let tasks = begin(&world, &identities, &stop)?;
    let ended = look(&world, &stop, &mut tell).await;
    let report = Report {
        end: world.figures.snapshot(),
        ended,
        enrolled,
        enrol_s,
        connect: world.figures.connect(),
        traffic: world.figures.traffic(),
    };
    stop.cancel();
    if tokio::time::timeout(FAREWELL, tasks.wait()).await.is_err() {
        tracing::warn!("some devices did not say good-bye in time");
    }
    Ok(report)
}

fn begin(
    world: &Arc<World>,
    identities: &Identities,
    stop: &CancellationToken,
) -> Result<TaskTracker, Error> {
    let devices = identities.devices.iter().enumerate().map(|(index, identity)| {
        Device::new(Arc::clone(world), index as u32, Arc::clone(identity), identities.trust.clone())
    });
    let devices = devices.collect::<Result<Vec<_>, _>>()?;
    let tasks = TaskTracker::new();
    world.figures.begin();
    for device in devices {
        tasks.spawn(device.live(stop.child_token()));
    }
    tasks.close();
    Ok(tasks)
}

/// Looks until there is a reason to end, and gives it.
async fn look(world: &World, stop: &CancellationToken, tell: &mut impl FnMut(Step<'_>)) -> &'static str {
    let began = Instant::now();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return "stopped",
            _ = looks.tick() => {}
        }
        if world.is_released() {
            return "released";
        }
        if world.options.lasts.is_some_and(|lasts| began.elapsed() >= lasts) {
            return "time";
        }
        if count % TELL == 0 {
            tell(Step::Lives(&world.figures.snapshot()));
        }
        count += 1;
    }
}

//! Thousands of devices, each with its own sequence of releases and misfortunes, and one that is killed at every single
//! operation.

use super::check::Seen;
use super::device::{Device, Kills};
use super::disk::Down;
use super::releases;
use flotilla_protocol::ModelName;
use rand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

const SEEDS: u64 = 2_000;
const ROOMY: u64 = 4 << 20;
/// Things that happen until a device must have come to rest.
const PATIENCE: u32 = 3_000;

/// How many devices; `FLOTILLA_FAULT_SEEDS` takes more, and `FLOTILLA_FAULT_SEED` one of them alone.
fn seeds() -> u64 {
    std::env::var("FLOTILLA_FAULT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

/// What came of all of it. A brick, a wrong version or a lost record ends the test where it is found.
#[derive(Default)]
struct Sum {
    kills: u64,
    kills_at_stake: u64,
    acknowledged: u64,
    patched: u64,
    unpatched: u64,
}

impl Sum {
    /// Of so many devices, or series of them, spread over the cores.
    fn of_all(count: u64, one: impl Fn(u64) -> Self + Sync) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let one = &one;
        let work = |first| {
            move || {
                let numbers = (first..count).step_by(workers as usize);
                numbers.fold(Self::default(), |sum, number| sum.plus(&one(number)))
            }
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..workers).map(|first| scope.spawn(work(first))).collect();
            running.into_iter().fold(Self::default(), |sum, worker| {
                sum.plus(&worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            })
        })
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            kills: self.kills + other.kills,
            kills_at_stake: self.kills_at_stake + other.kills_at_stake,
            acknowledged: self.acknowledged + other.acknowledged,
            patched: self.patched + other.patched,
            unpatched: self.unpatched + other.unpatched,
        }
    }

    fn print(&self) {
        println!("{} kills, 0 bricked, 0 wrong version, 0 acknowledged records lost", self.kills);
        println!("{} files made from patches, {} fetched because that failed", self.patched, self.unpatched);
    }
}

impl From<&Device> for Sum {
    fn from(device: &Device) -> Self {
        let Seen { kills, kills_at_stake, acknowledged, patched, unpatched, .. } = device.seen;
        Self { kills, kills_at_stake, acknowledged, patched, unpatched }
    }
}

impl Device {
    /// The world is kind from now on; the device comes to rest.
    fn settle(&mut self) {
        self.kills.left = 0;
        self.disk.kill_after(u64::MAX / 2);
        self.disk.fail(0);
        self.disk.resize(ROOMY);
        (self.link.trouble, self.online) = (0, true);
        // What was meant for the device and lost is said again at the next hello, and what could not be read or
        // written is tried again at the next start.
        self.disk.kill();
        self.guarded(|_| ());
        self.rest();
    }

    fn rest(&mut self) {
        for _ in 0..PATIENCE {
            if !self.turn() {
                return;
            }
        }
        let phases: Vec<_> = self.run.models.values().map(|managed| managed.update.report()).collect();
        panic!("{}: does not come to rest: {phases:?}", self.label);
    }

    /// The fleet wants another release of a model, or none.
    fn want(&mut self, model: &ModelName, index: Option<usize>) {
        let attempt = self.cloud.version() as u32;
        self.cloud.want(model.clone(), index.map(|index| releases::all().of(model)[index].wanted(attempt)));
        let document = self.cloud.document();
        self.send_down(document);
    }

    fn want_something(&mut self) {
        let model = if self.rng.random_ratio(1, 3) { releases::large() } else { releases::small() };
        let count = releases::all().of(&model).len();
        // Mostly another one, sometimes none, sometimes the same one again as a newer attempt.
        let index = (!self.rng.random_ratio(1, 8)).then(|| self.rng.random_range(0..count));
        self.want(&model, index);
    }

    /// Something happens from outside.
    fn misfortune(&mut self) {
        match self.rng.random_range(0..8) {
            0 => self.guarded(Device::disconnect),
            1 => self.online = !self.online,
            2 => self.cloud.crash(),
            3 => {
                let document = self.cloud.some_document(&mut self.rng);
                self.send_down(document);
            }
            4 => {
                // Something else fills the disk, or goes away again.
                if self.rng.random() {
                    self.disk.resize(ROOMY);
                } else {
                    self.disk.fill(self.rng.random_range(0..300_000));
                }
            }
            _ => self.guarded(Device::sample),
        }
    }
}

fn one(seed: u64) -> Device {
    let trouble = [0, 12, 5][seed as usize % 3];
    let mut device = Device::new(seed, ROOMY, 0, format!("seed {seed}"));
    device.start();
    // Mostly there is something to lose.
    if !device.rng.random_ratio(1, 8) {
        device.want(&releases::small(), Some(0));
        if device.rng.random_ratio(1, 3) {
            device.want(&releases::large(), Some(0));
        }
        device.rest();
    }
    device.link.trouble = trouble;
    device.disk.fail([0, 0, 60, 25][seed as usize / 3 % 4]);
    device.kills = Kills { within: [40, 120, 400][seed as usize / 12 % 3], left: 10 };
    device.arm();
    for _ in 0..device.rng.random_range(1..4) {
        device.want_something();
        for _ in 0..device.rng.random_range(0..120) {
            if device.rng.random_ratio(1, 12) {
                device.misfortune();
            }
            device.turn();
        }
    }
    device.settle();
    device.check_converged(false);
    // Whatever came before, a good release always gets out.
    let model = if device.rng.random_ratio(1, 4) { releases::large() } else { releases::small() };
    device.want(&model, Some(1));
    device.rest();
    device.check_converged(false);
    let serving = device.run.models[&model].serving.map(|(_, release)| release);
    assert_eq!(serving, Some(releases::all().of(&model)[1].digest), "{}: {model}", device.label);
    device
}

#[test]
fn a_device_that_is_killed_anywhere_keeps_a_release_that_works_and_every_record_it_promised() {
    if let Some(seed) = std::env::var("FLOTILLA_FAULT_SEED").ok().and_then(|text| text.parse().ok()) {
        return Sum::from(&one(seed)).print();
    }
    let seeds = seeds();
    let sum = Sum::of_all(seeds, |seed| match catch_unwind(AssertUnwindSafe(|| one(seed))) {
        Ok(device) => Sum::from(&device),
        Err(panic) => {
            println!("seed {seed} failed");
            resume_unwind(panic);
        }
    });
    sum.print();
    assert!(sum.kills > 5 * seeds, "only {} kills: the simulation does not test what it says", sum.kills);
    assert!(sum.kills_at_stake > seeds, "only {} kills in the middle of an update", sum.kills_at_stake);
    assert!(sum.acknowledged > seeds, "only {} records got through", sum.acknowledged);
    assert!(sum.patched > seeds / 2, "only {} files were made from patches", sum.patched);
    assert!(sum.unpatched > seeds / 80, "only {} patches failed", sum.unpatched);
}

/// From a confirmed release to another one, or to none, with one kill at a chosen operation or effect. Returns how many
/// there are.
fn update(to: Option<usize>, kill: Option<(u64, Down)>) -> (Device, u64) {
    let model = releases::small();
    let mut device = Device::new(7, ROOMY, 0, format!("to {to:?}, {kill:?}"));
    device.start();
    device.want(&model, Some(0));
    device.rest();
    device.check_converged(true);
    let before = device.disk.operations();
    if let Some((after, down)) = kill {
        device.down = Some(down);
        device.disk.kill_after(after);
    }
    device.want(&model, to);
    device.rest();
    device.check_converged(true);
    if to == Some(1) && kill.is_none() {
        assert!(device.seen.patched > 0, "{}: the model file comes as a patch", device.label);
    }
    let operations = device.disk.operations() - before;
    (device, operations)
}

#[test]
fn one_kill_at_any_single_operation_of_an_update_is_healed_by_the_restart() {
    // To a release of each nature, and to none.
    let releases = releases::all().of(&releases::small());
    let natures = (1..releases.len()).filter(|index| releases[*index].nature != releases[index - 1].nature);
    let targets: Vec<Option<usize>> = [Some(1), None].into_iter().chain(natures.map(Some)).collect();
    let sum = Sum::of_all(targets.len() as u64, |number| {
        let to = targets[number as usize];
        let (calm, operations) = update(to, None);
        assert!(operations > 20, "an update to {to:?} has {operations} operations only");
        let mut sum = Sum::default();
        for after in 1..=operations {
            for down in [Down::Process, Down::Power] {
                let (device, _) = update(to, Some((after, down)));
                // A release that takes the device down itself is given up after so many times, whoever did it.
                assert!(device.seen.kills >= calm.seen.kills.max(1), "{}", device.label);
                sum = sum.plus(&Sum::from(&device));
            }
        }
        sum
    });
    sum.print();
}

//! SIGKILLs of the real agent at random moments of real updates, records under way included.
//!
//! After each one the device must answer with its confirmed release or with the one on trial, leave nothing running
//! behind, and get where it was told to go. `FLOTILLA_KILLS` says how many, `FLOTILLA_KILL_SEED` which.

use crate::cloud::{Cloud, PATIENCE, State};
use crate::device::Device;
use crate::releases::{LABELS, Plan, SLOW, letters};
use crate::updates::{confirmed, report, want};
use flotilla_device::update::{Step, UpdateJournal};
use flotilla_protocol::message::{DesiredModel, Phase};
use flotilla_protocol::{Digest, ErrorCode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A moment that does not come within this time is not waited for: the kill comes anyway.
const MOMENT: Duration = Duration::from_secs(5);

/// When the next kill comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the release was wanted, or the agent started.
    After(Duration),
    /// When the update's journal says this.
    Journal(Option<Step>),
    /// When so many chunks were asked for.
    Chunks(usize),
    /// When records have just come, before or after their acknowledgement is on its way.
    Records,
}

struct Storm {
    rng: StdRng,
    cloud: Cloud,
    device: Device,
    /// Releases that may answer: the confirmed one, and a good one that is wanted.
    confirmed: (DesiredModel, usize),
    wanted: Option<(DesiredModel, usize)>,
    counter: u64,
    attempt: u32,
    kills: u32,
    bricked: u32,
    wrong: u32,
    left_behind: u32,
    moments: BTreeSet<&'static str>,
}

/// Names the seed of a run that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FLOTILLA_KILL_SEED={} repeats these kills", self.0);
        }
    }
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_brick_nothing_and_lose_nothing() {
    let kills: u32 = number("FLOTILLA_KILLS").unwrap_or(30);
    let seed = Seed(number("FLOTILLA_KILL_SEED").unwrap_or_else(rand::random));
    println!("{kills} kills, FLOTILLA_KILL_SEED={}", seed.0);
    let mut storm = Storm::settled(seed.0).await;
    while storm.kills < kills {
        storm.update(kills).await;
    }
    let lost = storm.lost_records().await;
    println!("kills came {}", storm.moments.iter().copied().collect::<Vec<_>>().join(", "));
    println!(
        "{} kills, {} bricked, {} wrong version, {lost} acknowledged records lost",
        storm.kills, storm.bricked, storm.wrong
    );
    assert_eq!((storm.bricked, storm.wrong, lost), (0, 0, 0));
    assert_eq!(storm.left_behind, 0, "probes outlived their agent");
}

impl Storm {
    async fn settled(seed: u64) -> Self {
        let mut cloud = Cloud::start().await;
        let first = Plan::good(0).publish(&cloud);
        want(&mut cloud, &first);
        let device = Device::started(&cloud).await;
        confirmed(&cloud, first.release).await;
        Self {
            rng: StdRng::seed_from_u64(seed),
            cloud,
            device,
            confirmed: (first, 0),
            wanted: None,
            counter: 20,
            attempt: 0,
            kills: 0,
            bricked: 0,
            wrong: 0,
            left_behind: 0,
            moments: BTreeSet::new(),
        }
    }

    /// One update with some kills in it, to its end.
    async fn update(&mut self, most: u32) {
        let label = self.rng.random_range(0..LABELS.len());
        let bad = self.rng.random_bool(0.15);
        let counter = self.counter;
        self.counter += 1;
        let plan = Plan {
            golden_label: if bad { (label + 1) % LABELS.len() } else { label },
            ballast_chunks: self.rng.random_range(0..8),
            salt: self.rng.random(),
            toil: if self.rng.random_bool(0.3) { SLOW } else { 0 },
            ..Plan::changed(label, move |manifest| manifest.counter = counter)
        };
        let next = plan.publish(&self.cloud);
        self.cloud.settings.probation_s = u32::from(self.rng.random_bool(0.4));
        // Records that are not acknowledged stay; they are sent again and again while kills come.
        let deaf = self.rng.random_bool(0.5);
        self.cloud.state().deaf = deaf;
        self.cloud.state().asked.clear();
        self.wanted = (!bad).then(|| (next.clone(), label));
        want(&mut self.cloud, &next);

        let mut interrupted = 0;
        for _ in 0..self.rng.random_range(1..=3) {
            if self.kills >= most {
                break;
            }
            let moment = self.moment();
            self.wait_for(moment, next.release).await;
            // A restart of its own may be killed as well: then nobody gets an answer in between.
            let again = self.rng.random_bool(0.15) && self.kills + 1 < most;
            self.kill().await;
            interrupted += 1;
            if again {
                self.device.spawn();
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..150))).await;
                self.kill().await;
                interrupted += 1;
            }
            self.cloud.state().reported = None;
            let allowed = self.allowed();
            self.device.start().await;
            self.check_answer(&allowed).await;
        }
        self.cloud.state().deaf = false;
        self.converge(next, label, bad, interrupted).await;
    }

    fn moment(&mut self) -> Moment {
        let (name, moment) = match self.rng.random_range(0..7) {
            0 | 1 => ("after a while", Moment::After(Duration::from_millis(self.rng.random_range(0..600)))),
            2 => ("while downloading", Moment::Chunks(self.rng.random_range(1..8))),
            3 => ("while filling the slot", Moment::Journal(Some(Step::Filling))),
            4 => ("while probing", Moment::Journal(Some(Step::Staged))),
            5 => ("on probation", Moment::Journal(Some(Step::Trial))),
            _ if self.rng.random_bool(0.5) => ("when it was confirmed", Moment::Journal(None)),
            _ => ("with records under way", Moment::Records),
        };
        self.moments.insert(name);
        moment
    }

    async fn wait_for(&mut self, moment: Moment, release: Digest) {
        let deadline = Instant::now() + MOMENT;
        let records = self.cloud.state().records.len();
        let journal = self.device.path("models/letters/journal");
        let read = || std::fs::read(&journal).ok().and_then(|bytes| UpdateJournal::from_bytes(&bytes).ok());
        let after = match moment {
            Moment::After(time) => time,
            Moment::Records => Duration::from_millis(self.rng.random_range(0..10)),
            _ => Duration::from_millis(self.rng.random_range(0..60)),
        };
        while Instant::now() < deadline {
            let come = match moment {
                Moment::After(_) => true,
                Moment::Chunks(n) => self.cloud.state().asked.values().map(Vec::len).sum::<usize>() >= n,
                Moment::Records => self.cloud.state().records.len() > records,
                Moment::Journal(Some(step)) => read()
                    .and_then(|j| j.candidate)
                    .is_some_and(|candidate| candidate.release == release && candidate.step == step),
                Moment::Journal(None) => {
                    read().and_then(|j| j.confirmed).is_some_and(|confirmed| confirmed.release == release)
                }
            };
            if come {
                break;
            }
            // Whatever the update comes to, the moment will not come after it.
            let ended = |state: &State| {
                report(state).is_some_and(|r| {
                    r.confirmed == Some(release) || r.failure.is_some_and(|f| f.release == release)
                })
            };
            if ended(&self.cloud.state()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(after).await;
    }

    async fn kill(&mut self) {
        self.device.kill().await;
        self.kills += 1;
        let deadline = Instant::now() + PATIENCE;
        while !self.device.probes().is_empty() {
            if Instant::now() > deadline {
                self.left_behind += 1;
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What may answer after the restart: the release that the disk says is confirmed, and the wanted one if it is a
    /// good one.
    fn allowed(&self) -> Vec<(Digest, &'static str)> {
        let bytes = std::fs::read(self.device.path("models/letters/journal")).unwrap();
        let journal = UpdateJournal::from_bytes(&bytes).expect("a kill tears no journal");
        let known = [Some(&self.confirmed), self.wanted.as_ref()];
        let known: Vec<_> =
            known.into_iter().flatten().map(|(m, label)| (m.release, LABELS[*label])).collect();
        let confirmed = journal.confirmed.expect("a device always has a confirmed release").release;
        assert!(known.iter().any(|(release, _)| *release == confirmed), "an unknown release is confirmed");
        let wanted = self.wanted.as_ref().map(|(wanted, _)| wanted.release);
        known.into_iter().filter(|(release, _)| *release == confirmed || Some(*release) == wanted).collect()
    }

    async fn check_answer(&mut self, allowed: &[(Digest, &'static str)]) {
        let started = Instant::now();
        loop {
            if let Some((release, label)) = self.device.answer().await {
                let right = allowed.iter().any(|(r, l)| r.to_string() == release && *l == label);
                if !right {
                    eprintln!("kill {}: {release} answered {label}, allowed: {allowed:?}", self.kills);
                    self.wrong += 1;
                }
                return;
            }
            if started.elapsed() > PATIENCE {
                eprintln!("kill {}: no answer\n{}", self.kills, self.device.log());
                self.bricked += 1;
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The device gets where it was told to go. A release during whose probe or probation the device went down again
    /// and again is rightly blamed for it: then another attempt is made, without kills.
    async fn converge(&mut self, next: DesiredModel, label: usize, bad: bool, interrupted: u32) {
        self.attempt += 1;
        let mut next = DesiredModel { attempt: self.attempt, ..next };
        if !bad && interrupted >= 3 {
            want(&mut self.cloud, &next);
        }
        let ended = |state: &State| {
            let report = report(state)?;
            let through = report.phase == Phase::Confirmed && report.confirmed == Some(next.release);
            let failed = report
                .failure
                .as_ref()
                .filter(|f| f.release == next.release && report.phase == Phase::Failed);
            (through || failed.is_some()).then(|| failed.map(|f| (f.code, f.detail.clone())))
        };
        let failed = self.cloud.until("the end of an update", ended).await;
        match failed {
            None if bad => self.wrong += 1,
            None => self.confirmed = (next, label),
            Some((ErrorCode::ProbeMismatch, _)) if bad => {}
            Some((code, _)) if blamed(code) && interrupted >= 2 => {
                self.attempt += 1;
                next.attempt = self.attempt;
                if !bad {
                    want(&mut self.cloud, &next);
                    confirmed(&self.cloud, next.release).await;
                    self.confirmed = (next, label);
                }
            }
            Some((code, detail)) => panic!("a good release failed: {detail} [{code}]\n{}", self.device.log()),
        }
        self.wanted = None;
        let (release, label) = (self.confirmed.0.release, LABELS[self.confirmed.1]);
        self.check_answer(&[(release, label)]).await;
    }

    /// Waits until the cloud has everything, and counts what it does not have: numbers that never came although later
    /// ones did, numbers that came with two contents, and whole outboxes.
    async fn lost_records(&mut self) -> u64 {
        self.cloud.state().deaf = false;
        let empty = async |d: &Device| (d.status().await["records_waiting"] == 0).then_some(());
        self.device.until("an empty outbox", empty).await;
        let state = self.cloud.state();
        let epochs: BTreeSet<_> = state.hellos.iter().map(|hello| hello.epoch).collect();
        let mut lost = state.conflicts + epochs.len() as u64 - 1;
        if lost > 0 {
            eprintln!("{} numbers with two contents, {} outboxes", state.conflicts, epochs.len());
        }
        let mut streams: BTreeSet<_> =
            state.kept.keys().map(|(epoch, stream, _)| (*epoch, *stream)).collect();
        while let Some((epoch, stream)) = streams.pop_first() {
            let all = state.kept.range((epoch, stream, 0)..=(epoch, stream, u64::MAX));
            let seqs: Vec<u64> = all.map(|((_, _, seq), _)| *seq).collect();
            let last = seqs.last().copied().unwrap_or(0);
            let missing = last - seqs.len() as u64;
            if missing > 0 {
                eprintln!("{missing} of {last} records of stream {} never came: {seqs:?}", stream.as_str());
            }
            lost += missing;
        }
        println!(
            "{} records kept, {} came more than once",
            state.kept.len(),
            state.records.len() - state.kept.len()
        );
        lost
    }
}

/// A device that goes down during these blames the release.
fn blamed(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::ProbationFailed | ErrorCode::ProbeCrashed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_no_probe_behind() {
    let mut cloud = Cloud::start().await;
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let mut device = Device::started(&cloud).await;
    confirmed(&cloud, first.release).await;
    let slow = Plan { toil: SLOW, ..Plan::good(1) }.publish(&cloud);
    want(&mut cloud, &slow);
    let probe = device.until("a probe", async |d| d.probes().first().copied()).await;
    device.kill().await;
    device.until("the probe's end", async |d| (!d.probes().contains(&probe)).then_some(())).await;
    device.start().await;
    confirmed(&cloud, slow.release).await;
    assert_eq!(device.label().await, "b");
    assert_eq!(cloud.models[&letters()].release, slow.release);
}

//! The control plane dies at any commit of a rollout, or its disk is full there: real records, broker and devices, and a
//! death that leaves what was committed and nothing else.

use crate::rollouts::both;
use crate::support::{Credentials, Installation, model, soon};
use async_trait::async_trait;
use flotilla_fleet::{Rollout, RolloutRequest, RolloutState};
use flotilla_identity::audit;
use flotilla_protocol::RolloutId;
use flotilla_storage::{Batch, Commit, Error, Key, Range, Record, Records, Result, SledRecords, Watch};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Commits that a full disk refuses before there is room again.
const REFUSED: u64 = 4;

/// What happens at a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blow {
    /// The process dies before it.
    Before,
    /// The process dies after it, and nobody hears that it was made.
    After,
    /// The disk is full for a while.
    Full,
}

/// Records of a process that may die.
struct Mortal {
    inner: SledRecords,
    /// Commits until the blow; none is to come at `u64::MAX`.
    left: AtomicU64,
    blow: Mutex<Blow>,
    refused: AtomicU64,
    dead: AtomicBool,
    died: Notify,
}

impl Mortal {
    fn open(folder: &Path) -> Arc<Self> {
        Arc::new(Self {
            inner: SledRecords::open(&folder.join("records")).unwrap(),
            left: AtomicU64::new(u64::MAX),
            blow: Mutex::new(Blow::Before),
            refused: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            died: Notify::new(),
        })
    }

    fn arm(&self, commits: u64, blow: Blow) {
        *self.blow.lock().unwrap() = blow;
        self.left.store(commits, Ordering::SeqCst);
    }

    /// Whether the blow has come.
    fn disarm(&self) -> bool {
        self.left.swap(u64::MAX, Ordering::SeqCst) == 0
    }

    fn gone() -> Error {
        let source = Arc::new(std::io::Error::other("the process is dead"));
        Error::Io { action: "commit to", path: "records".into(), source }
    }

    fn die(&self) -> Error {
        self.dead.store(true, Ordering::SeqCst);
        self.died.notify_one();
        Self::gone()
    }
}

#[async_trait]
impl Records for Mortal {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        self.inner.get_many(keys).await
    }

    async fn range(&self, range: &Range) -> Result<Vec<(Key, Record)>> {
        self.inner.range(range).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(Self::gone());
        }
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            (left != u64::MAX).then(|| left.saturating_sub(1))
        });
        let blow = *self.blow.lock().unwrap();
        match (before, blow) {
            (Ok(1), Blow::Before) => Err(self.die()),
            (Ok(1), Blow::After) => {
                self.inner.commit(batch).await?;
                Err(self.die())
            }
            (Ok(0 | 1), Blow::Full) if self.refused.fetch_add(1, Ordering::SeqCst) < REFUSED => {
                Err(Error::DiskFull { action: "commit to", path: "records".into(), source: None })
            }
            _ => self.inner.commit(batch).await,
        }
    }

    fn watch(&self, range: Range) -> Watch {
        self.inner.watch(range)
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// A control plane whose devices do at once what they are told, and come back whenever it does.
struct Plane {
    folder: tempfile::TempDir,
    records: Arc<Mortal>,
    installation: Installation,
    deaths: u32,
}

impl Plane {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let records = Mortal::open(folder.path());
        let installation =
            Installation::open_with(folder.path(), ([127, 0, 0, 1], 0).into(), records.clone())
                .await
                .unwrap();
        Self { folder, records, installation, deaths: 0 }
    }

    /// Everything of the dead process goes, and another one starts in the same place.
    async fn again(self) -> Self {
        let Self { folder, records, installation, deaths } = self;
        let address = installation.fleet.mqtt_addr();
        installation.fleet.shutdown().await;
        drop(installation);
        records.close().await.unwrap();
        drop(records);
        let records = Mortal::open(folder.path());
        let installation = Installation::open_with(folder.path(), address, records.clone()).await.unwrap();
        Self { folder, records, installation, deaths: deaths + 1 }
    }

    /// Nothing strikes any more; whether something did. A commit that nobody waits for, such as one that follows a
    /// rollout's end, may have been the deadly one.
    async fn spared(self) -> (Self, bool) {
        if !self.records.disarm() {
            return (self, false);
        }
        if *self.records.blow.lock().unwrap() == Blow::Full {
            return (self, true);
        }
        while !self.records.dead.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        (self.again().await, true)
    }

    async fn rollouts(&self) -> Vec<Rollout> {
        self.installation.fleet.rollouts(None, 100).await.unwrap()
    }

    /// Waits until the rollout is over, or the process has died.
    async fn over(&self, id: &RolloutId) -> Option<Rollout> {
        let mut changes = self.installation.fleet.watch();
        soon(async {
            loop {
                let (rollout, _) = both(&self.installation, id).await;
                if !rollout.is_active() {
                    return Some(rollout);
                }
                tokio::select! {
                    () = self.records.died.notified() => return None,
                    _ = changes.recv() => {}
                }
            }
        })
        .await
    }
}

async fn live(credentials: Credentials, address: std::net::SocketAddr, stop: CancellationToken) {
    let (mut counter, mut accepted) = (0, 0);
    let life = async {
        loop {
            counter += 1;
            if let Ok(mut device) = credentials.connect(address).await {
                let _ended = device.obey(counter, &mut accepted).await;
            }
            tokio::task::yield_now().await;
        }
    };
    stop.run_until_cancelled(life).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_ends_well_at_whichever_commit_the_control_plane_dies_or_its_disk_is_full() {
    let every = std::env::var("FLOTILLA_KILL_EVERY_COMMIT").is_ok();
    let mut plane = Plane::new().await;
    let stop = CancellationToken::new();
    let address = plane.installation.fleet.mqtt_addr();
    for name in ["gate-1", "gate-2", "gate-3"] {
        let credentials = plane.installation.enrol(name).await;
        tokio::spawn(live(credentials, address, stop.clone()));
    }
    for name in ["gate-1", "gate-2", "gate-3"] {
        plane.installation.until(name, |view| view.connected).await;
    }
    let (mut blows, mut at, mut reached) = (0, 1, true);
    while reached {
        reached = false;
        for blow in [Blow::Before, Blow::After, Blow::Full] {
            blows += 1;
            let release = plane.installation.release("digits", blows as f32).await;
            plane.records.arm(at, blow);
            let request =
                RolloutRequest { release: Some(release.digest), ..RolloutRequest::newest(model("digits")) };
            let started =
                plane.installation.fleet.start_rollout(&plane.installation.admin, request.clone()).await;
            if plane.records.dead.load(Ordering::SeqCst) {
                plane = plane.again().await;
                reached = true;
            }
            let mut found: Vec<Rollout> = plane
                .rollouts()
                .await
                .into_iter()
                .filter(|rollout| rollout.wanted.release == release.digest)
                .collect();
            let rollout = match started {
                // What was acknowledged is there.
                Ok(started) => found.into_iter().find(|rollout| rollout.id == started.id).unwrap(),
                Err(_) if !found.is_empty() => found.remove(0),
                Err(_) => {
                    let struck;
                    (plane, struck) = plane.spared().await;
                    reached |= struck;
                    plane.installation.fleet.start_rollout(&plane.installation.admin, request).await.unwrap()
                }
            };
            let ended = loop {
                match plane.over(&rollout.id).await {
                    Some(ended) => break ended,
                    None => {
                        plane = plane.again().await;
                        reached = true;
                    }
                }
            };
            let struck;
            (plane, struck) = plane.spared().await;
            reached |= struck;
            assert_eq!(ended.state, RolloutState::Succeeded, "{blow:?} at {at}: {ended:?}");
            let (_, devices) = both(&plane.installation, &rollout.id).await;
            assert!(devices.iter().all(|device| device.status.as_str() == "confirmed"), "{devices:?}");
            let trail = audit::list(&*plane.installation.records, audit::Order::NewestFirst, None, 500)
                .await
                .unwrap();
            let subject = format!("rollout/{}", rollout.id);
            let created =
                trail.iter().filter(|entry| entry.action == "rollout:create" && entry.subject == subject);
            assert_eq!(created.count(), 1, "{blow:?} at {at}");
            let told = trail.iter().filter(|entry| {
                entry.subject.starts_with(&subject) && entry.detail["status"]["status"] == "sent"
            });
            assert_eq!(told.count(), 3, "each was told once: {blow:?} at {at}");
        }
        at += if every { 1 } else { 4 };
    }
    println!("{blows} blows, {} deaths, the last commit {at}", plane.deaths);
    assert!(plane.deaths >= 6, "{}", plane.deaths);
    stop.cancel();
    plane.installation.close().await;
}

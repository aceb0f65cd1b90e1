//! Clocks that jump, under an agent in this process.

use crate::cloud::Cloud;
use crate::device::Device;
use crate::releases::Plan;
use crate::updates::{confirmed, report, want};
use flotilla_agent::clock::wall_ms;
use flotilla_agent::config::Config;
use flotilla_agent::daemon::{self, Options};
use flotilla_agent::folder::Folder;
use flotilla_protocol::ErrorCode;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;

/// What the device's clock says; 0 for the right time.
static CLOCK: AtomicU64 = AtomicU64::new(0);

fn clock() -> u64 {
    match CLOCK.load(Ordering::SeqCst) {
        0 => wall_ms(),
        wrong => wrong,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_either_way_lets_nothing_in_and_is_got_over() {
    let mut cloud = Cloud::start().await;
    cloud.issued_at_ms = wall_ms();
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let root = tempfile::tempdir().unwrap();
    let device = Device::at(&cloud, root.path());
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(daemon::run(
        Options {
            folder: Folder::open(root.path()).unwrap(),
            config: Config::default(),
            exe: PathBuf::from(env!("CARGO_BIN_EXE_flotilla-agent")),
            prefix: Vec::new(),
            launched: None,
            wall: clock,
        },
        shutdown.clone(),
    ));
    confirmed(&cloud, first.release).await;

    // Back to 1970: what is expired stays out, what is not comes in, and the server is still believed.
    CLOCK.store(1_000, Ordering::SeqCst);
    let hellos = cloud.state().hellos.len();
    cloud.stop().await;
    cloud.resume().await;
    cloud.until("a new connection", |s| (s.hellos.len() > hellos).then_some(())).await;
    let expired = Plan::changed(2, |m| m.expires_at_ms = Some(1_600_000_000_000)).publish(&cloud);
    want(&mut cloud, &expired);
    let failure = cloud.until("a refusal", |s| report(s)?.failure.filter(|f| f.release == expired.release));
    assert_eq!(failure.await.code, ErrorCode::Expired);
    assert_eq!(device.label().await, "a");
    let second = Plan::changed(1, |m| m.expires_at_ms = Some(wall_ms() + YEAR_MS)).publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");

    // Sixty years ahead: the release has expired by this clock alone, and comes when the clock is right again.
    CLOCK.store(wall_ms() + 60 * YEAR_MS, Ordering::SeqCst);
    let third = Plan::changed(2, |m| m.expires_at_ms = Some(wall_ms() + YEAR_MS)).publish(&cloud);
    want(&mut cloud, &third);
    let tried =
        |s: &crate::cloud::State| s.asked.get(&third.release).filter(|asked| asked.len() >= 2).map(drop);
    cloud.until("a second try", tried).await;
    assert_eq!(device.label().await, "b");
    CLOCK.store(0, Ordering::SeqCst);
    confirmed(&cloud, third.release).await;
    assert_eq!(device.label().await, "c");

    // So far ahead that the server's certificate has expired: no connection, but answers; and back.
    CLOCK.store(wall_ms() + 3_000 * YEAR_MS, Ordering::SeqCst);
    cloud.stop().await;
    cloud.resume().await;
    let refused = async |d: &Device| (d.status().await["connection_problem"]["code"] == "tls").then_some(());
    device.until("the refusal of the server", refused).await;
    assert_eq!(device.label().await, "c");
    CLOCK.store(0, Ordering::SeqCst);
    let hellos = cloud.state().hellos.len();
    cloud.until("a connection", |s| (s.hellos.len() > hellos).then_some(())).await;

    shutdown.cancel();
    agent.await.unwrap().unwrap();
}

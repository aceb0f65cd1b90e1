//! Lines of a device's log over real connections: taken for an open command only, within its bound, resumed, and kept.

use crate::support::{Device, Installation, device};
use flotilla_fleet::Order;
use flotilla_protocol::message::{LogLevel, LogOffer, LogQuery, ReplyBody, Upload};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, limits};

const QUERY: LogQuery = LogQuery { from_ms: 0, to_ms: u64::MAX, max_bytes: 200_000, level: LogLevel::Info };

fn lines() -> Vec<u8> {
    b"1970-01-01T00:00:01Z  INFO a: b\n".repeat(5_000)
}

fn offer(lines: &[u8], command: u64) -> Upload {
    let (digest, total) = (Digest::of(lines), lines.len() as u64);
    let log = Some(LogOffer { command, left_out: 3 });
    Upload { id: 4, digest, offset: 0, total, data: vec![], example: None, log }
}

fn piece(lines: &[u8], from: usize, to: usize) -> Upload {
    Upload { offset: from as u64, data: lines[from..to].to_vec(), log: None, ..offer(lines, 0) }
}

async fn ask(device: &mut Device, upload: &Upload) -> Result<u64, ErrorCode> {
    device.send(Up::Upload, upload).await;
    let reply = device.reply().await;
    assert_eq!(reply.id, upload.id);
    match reply.body {
        ReplyBody::Stored { bytes } => Ok(bytes),
        ReplyBody::Error { code, .. } => Err(code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_an_open_command_asked_for_is_taken_and_a_broken_upload_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&credentials, 1).await;
    gate.desired().await;
    let (lines, id) = (lines(), device("gate-7"));
    let (half, all) = (limits::CHUNK, lines.len());
    assert_eq!(ask(&mut gate, &offer(&lines, 1)).await, Err(ErrorCode::NotFound), "nobody asked");

    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let wrong = Order::LogPull(LogQuery { max_bytes: 0, ..QUERY });
    assert_eq!(fleet.command(admin, &id, &wrong, None).await.unwrap_err().code(), ErrorCode::InvalidInput);
    let command = fleet.command(admin, &id, &Order::LogPull(QUERY), None).await.unwrap();
    gate.desired().await;
    let long = vec![b'x'; 200_001];
    assert_eq!(ask(&mut gate, &offer(&long, command)).await, Err(ErrorCode::TooLarge));
    assert_eq!(ask(&mut gate, &offer(&lines, command + 1)).await, Err(ErrorCode::NotFound));
    assert_eq!(ask(&mut gate, &offer(&lines, command)).await, Ok(0));
    assert_eq!(ask(&mut gate, &piece(&lines, 0, half)).await, Ok(half as u64));
    assert_eq!(ask(&mut gate, &piece(&lines, 0, half)).await, Ok(half as u64), "twice is once");
    assert_eq!(fleet.log(&id, command).await.unwrap_err().code(), ErrorCode::NotFound, "not whole yet");
    drop(gate);

    // Another connection goes on from there; what is not what was offered begins anew.
    let mut gate = installation.connect(&credentials, 2).await;
    assert_eq!(ask(&mut gate, &offer(&lines, command)).await, Ok(half as u64));
    let forged = Upload { data: vec![0; all - half], ..piece(&lines, half, all) };
    assert_eq!(ask(&mut gate, &forged).await, Ok(0));
    assert_eq!(ask(&mut gate, &piece(&lines, 0, half)).await, Ok(half as u64));
    assert_eq!(ask(&mut gate, &piece(&lines, half, all)).await, Ok(all as u64));
    assert_eq!(fleet.log(&id, command).await.unwrap(), lines);
    assert_eq!(ask(&mut gate, &offer(&lines, command)).await, Ok(all as u64), "here already");
    let (asked, _) = fleet.commands(&id).await.unwrap().remove(0);
    let log = asked.log.unwrap();
    assert_eq!((log.bytes, log.left_out, log.digest), (all as u64, 3, Digest::of(&lines)));

    // It outlives the control plane's restart.
    drop(gate);
    installation.close().await;
    let installation = Installation::open(folder.path()).await;
    assert_eq!(installation.fleet.log(&id, command).await.unwrap(), lines);
    installation.close().await;
}

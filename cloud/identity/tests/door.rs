//! The door of an installation as its users meet it: tokens, login links, sessions, the audit trail.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_identity::audit::{self, AUDIT_DETAIL, Order};
use flotilla_identity::{
    ADMIN_TOKEN_FILE, Actor, ActorKind, Identity, LOGIN_CODE_TTL_MS, Permission, SESSION_TTL_MS, TokenState,
    authorize,
};
use flotilla_protocol::{DeviceId, ErrorCode};
use flotilla_storage::{Batch, Expect, Key, Range, Records, SledRecords, Table};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const NOW: u64 = 1_790_000_000_000;

async fn records(dir: &TempDir) -> Arc<dyn Records> {
    Arc::new(SledRecords::open(&dir.path().join("records")).unwrap())
}

fn token(dir: &Path) -> String {
    fs::read_to_string(dir.join(ADMIN_TOKEN_FILE)).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn the_first_start_makes_a_token_that_its_owner_alone_can_read() {
    let dir = TempDir::new().unwrap();
    let identity = Identity::open(records(&dir).await, dir.path(), NOW).await.unwrap();
    assert_eq!(identity.token_state(), TokenState::Created);
    let mode = fs::metadata(identity.token_file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let token = token(dir.path());
    assert_eq!(token.len(), 68, "256 bits as hex behind a prefix");
    assert_eq!(identity.authenticate(&token).unwrap().kind, ActorKind::Administrator);
    assert_eq!(identity.project().as_str(), "default");
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_told_where_the_right_one_is() {
    let dir = TempDir::new().unwrap();
    let identity = Identity::open(records(&dir).await, dir.path(), NOW).await.unwrap();
    let right = token(dir.path());
    let mut last = right.clone();
    last.pop();
    for wrong in ["", "x", &last, &format!("{right} "), &right.to_uppercase(), &"a".repeat(100_000)] {
        let error = identity.authenticate(wrong).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unauthenticated);
        assert!(error.to_string().contains(identity.token_file().to_str().unwrap()));
    }
}

#[tokio::test]
async fn a_restart_keeps_the_token_and_the_sessions() {
    let dir = TempDir::new().unwrap();
    let records = records(&dir).await;
    let identity = Identity::open(records.clone(), dir.path(), NOW).await.unwrap();
    let session = identity.login(identity.issue_login_code(NOW).expose(), NOW).await.unwrap();
    drop(identity);

    let identity = Identity::open(records, dir.path(), NOW + 1).await.unwrap();
    assert_eq!(identity.token_state(), TokenState::Unchanged);
    identity.authenticate(&token(dir.path())).unwrap();
    identity.authenticate_session(session.cookie.expose(), NOW + 1).await.unwrap();
}

#[tokio::test]
async fn a_removed_token_file_gives_a_new_token_and_ends_the_old_one_with_its_sessions() {
    let dir = TempDir::new().unwrap();
    let records = records(&dir).await;
    let identity = Identity::open(records.clone(), dir.path(), NOW).await.unwrap();
    let old = token(dir.path());
    let session = identity.login(identity.issue_login_code(NOW).expose(), NOW).await.unwrap();
    fs::remove_file(dir.path().join(ADMIN_TOKEN_FILE)).unwrap();

    let identity = Identity::open(records, dir.path(), NOW).await.unwrap();
    assert_eq!(identity.token_state(), TokenState::Replaced);
    let error = identity.authenticate(&old).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
    let error = identity.authenticate_session(session.cookie.expose(), NOW).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
    identity.authenticate(&token(dir.path())).unwrap();
}

#[tokio::test]
async fn a_token_that_others_could_read_is_replaced() {
    let dir = TempDir::new().unwrap();
    let records = records(&dir).await;
    Identity::open(records.clone(), dir.path(), NOW).await.unwrap();
    let exposed = token(dir.path());
    let file = dir.path().join(ADMIN_TOKEN_FILE);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();

    let identity = Identity::open(records, dir.path(), NOW).await.unwrap();
    assert_eq!(identity.token_state(), TokenState::ReplacedExposed);
    identity.authenticate(&exposed).unwrap_err();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_damaged_token_file_is_refused_with_what_to_do() {
    let dir = TempDir::new().unwrap();
    let records = records(&dir).await;
    Identity::open(records.clone(), dir.path(), NOW).await.unwrap();
    for damaged in [&b"flt-abc\n"[..], b"\xff\xfe", b"", &[b'a'; 5000]] {
        fs::write(dir.path().join(ADMIN_TOKEN_FILE), damaged).unwrap();
        let error = Identity::open(records.clone(), dir.path(), NOW).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidInput);
        assert!(error.to_string().contains("remove it and restart"), "{error}");
    }
}

#[tokio::test]
async fn a_login_link_works_once_and_not_for_long() {
    let dir = TempDir::new().unwrap();
    let identity = Identity::open(records(&dir).await, dir.path(), NOW).await.unwrap();

    let code = identity.issue_login_code(NOW);
    identity.login(code.expose(), NOW).await.unwrap();
    assert_eq!(identity.login(code.expose(), NOW).await.unwrap_err().code(), ErrorCode::Unauthenticated);

    let late = identity.issue_login_code(NOW);
    let error = identity.login(late.expose(), NOW + LOGIN_CODE_TTL_MS).await.unwrap_err();
    assert!(error.to_string().contains("flotilla login"), "{error}");
    identity.login("flc-0", NOW).await.unwrap_err();
}

#[tokio::test]
async fn open_login_links_are_bounded() {
    let dir = TempDir::new().unwrap();
    let identity = Identity::open(records(&dir).await, dir.path(), NOW).await.unwrap();
    let first = identity.issue_login_code(NOW);
    let last = (0..100).map(|_| identity.issue_login_code(NOW)).last().unwrap();
    identity.login(first.expose(), NOW).await.unwrap_err();
    identity.login(last.expose(), NOW).await.unwrap();
}

#[tokio::test]
async fn a_session_ends_by_time_or_by_logout_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let records = records(&dir).await;
    let identity = Identity::open(records.clone(), dir.path(), NOW).await.unwrap();
    let first = identity.login(identity.issue_login_code(NOW).expose(), NOW).await.unwrap();
    let second = identity.login(identity.issue_login_code(NOW).expose(), NOW).await.unwrap();
    let cookie = first.cookie.expose();
    assert_eq!(first.expires_at_ms, NOW + SESSION_TTL_MS);

    assert_eq!(identity.authenticate_session(cookie, NOW).await.unwrap(), Actor::administrator());
    identity.authenticate_session(cookie, NOW + SESSION_TTL_MS).await.unwrap_err();
    identity.logout(cookie, NOW).await.unwrap();
    identity.logout(cookie, NOW).await.unwrap();
    identity.authenticate_session(cookie, NOW).await.unwrap_err();
    identity.authenticate_session(second.cookie.expose(), NOW).await.unwrap();

    let later = NOW + SESSION_TTL_MS;
    identity.login(identity.issue_login_code(later).expose(), later).await.unwrap();
    let kept = records.range(&Range::table(Table::new("sessions"))).await.unwrap();
    assert_eq!(kept.len(), 1, "the expired session is removed when the next one begins");
}

#[tokio::test]
async fn no_secret_is_stored_or_shown() {
    let dir = TempDir::new().unwrap();
    let records = records(&dir).await;
    let identity = Identity::open(records.clone(), dir.path(), NOW).await.unwrap();
    let code = identity.issue_login_code(NOW);
    let session = identity.login(code.expose(), NOW).await.unwrap();
    let shown = format!("{identity:?} {code:?} {session:?}");
    let mut stored = String::new();
    for table in ["credentials", "sessions", "audit"].map(Table::new) {
        for (key, record) in records.range(&Range::table(table)).await.unwrap() {
            stored += &format!("{key} {}", String::from_utf8_lossy(&record.value));
        }
    }
    assert!(stored.contains("administrator"));
    for secret in [token(dir.path()), code.expose().to_owned(), session.cookie.expose().to_owned()] {
        let digits = &secret[4..];
        assert!(!shown.contains(digits) && !stored.contains(digits));
    }
}

#[test]
fn permissions_have_stable_unique_names_and_devices_have_none() {
    let names: BTreeSet<_> = Permission::ALL.iter().map(|p| p.as_str()).collect();
    assert_eq!(names.len(), Permission::ALL.len());
    for stable in ["dataset:import", "dataset:read", "job:read", "job:cancel", "train:create", "model:read"] {
        assert!(names.contains(stable));
    }
    let device = Actor::device(&DeviceId::new("camera-1").unwrap());
    for &permission in Permission::ALL {
        authorize(&Actor::administrator(), permission).unwrap();
        let error = authorize(&device, permission).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PermissionDenied);
        assert!(error.to_string().contains(permission.as_str()));
    }
}

#[tokio::test]
async fn an_audit_record_exists_exactly_when_its_change_does() {
    let dir = TempDir::new().unwrap();
    let records = records(&dir).await;
    let key = Key::new(Table::new("things"), "a");
    for attempt in 0..2 {
        let mut batch = Batch::new();
        batch.put_if(key.clone(), "x", Expect::Absent);
        let actor = Actor::administrator();
        audit::record(&mut batch, &actor, "thing:make", "thing/a", json!({ "attempt": attempt }), NOW)
            .unwrap();
        let committed = records.commit(batch).await;
        assert_eq!(committed.is_ok(), attempt == 0, "the second batch is refused as a whole");
    }
    let trail = audit::list(&*records, Order::OldestFirst, None, 10).await.unwrap();
    assert_eq!(trail.len(), 1);
    assert_eq!((trail[0].action.as_str(), trail[0].subject.as_str()), ("thing:make", "thing/a"));
    assert_eq!((trail[0].at_ms, &trail[0].detail), (NOW, &json!({ "attempt": 0 })));
}

#[tokio::test]
async fn the_trail_pages_in_order_both_ways() {
    let dir = TempDir::new().unwrap();
    let records = records(&dir).await;
    let mut made = Vec::new();
    for i in 0..7_u64 {
        let mut batch = Batch::new();
        let actor = Actor::system();
        let at = NOW + i / 3;
        made.push(audit::record(&mut batch, &actor, "a:b", &format!("s/{i}"), json!(i), at).unwrap());
        records.commit(batch).await.unwrap();
    }
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = audit::list(&*records, order, after, 3).await.unwrap();
            let Some(last) = page.last() else { break };
            assert!(page.len() <= 3);
            after = Some(last.id.to_string().parse().unwrap());
            seen.extend(page.iter().map(|r| r.id));
        }
        if order == Order::NewestFirst {
            seen.reverse();
        }
        assert_eq!(seen, made);
    }
}

#[test]
fn an_audit_record_has_bounds() {
    let mut batch = Batch::new();
    let huge = json!("x".repeat(AUDIT_DETAIL));
    let error = audit::record(&mut batch, &Actor::system(), "a:b", "s", huge, NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert!(batch.is_empty());
}

//! The control plane itself: health, identity, the overview and its stream, the audit trail.

use super::super::api::{AuditView, Health, LoginView, Overview, ServerView, WhoAmI};
use super::super::openapi;
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::{compress, datasets, fleet, hard, jobs, releases, rollouts, shadow};
use crate::app::App;
use flotilla_identity::{Permission, audit, now_ms};
use flotilla_storage::Batch;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The overview is sent at most this often.
const QUIET: Duration = Duration::from_millis(250);
/// Looking at it takes at most one part in so many and one of the time.
const REST: u32 = 4;
/// The overview is looked at this often even when nobody said that it changed.
const IDLE: Duration = Duration::from_secs(5);

/// `GET /api/v1/health`
pub(crate) async fn health(_call: Call) -> Handled {
    Answer::json(&Health { status: "ok".into(), version: env!("CARGO_PKG_VERSION").into() })
}

/// `GET /api/v1/openapi.json`
pub(crate) async fn openapi(_call: Call) -> Handled {
    Answer::json(&openapi::document())
}

/// `GET /api/v1/whoami`
pub(crate) async fn whoami(call: Call) -> Handled {
    let actor = call.actor()?;
    Answer::json(&WhoAmI { actor: actor.id.to_string(), kind: format!("{:?}", actor.kind).to_lowercase() })
}

/// `POST /api/v1/login-codes`
pub(crate) async fn login_code(call: Call) -> Handled {
    let mut batch = Batch::new();
    let action = Permission::ServerLogin.as_str();
    audit::record(&mut batch, call.actor()?, action, "server", json!({}), now_ms())?;
    call.app.records.commit(batch).await?;
    Answer::json(&LoginView { url: call.app.login_url() })
}

/// `GET /api/v1/overview`
pub(crate) async fn overview(call: Call) -> Handled {
    Answer::json(&whole(&call.app).await?)
}

async fn whole(app: &App) -> Result<Overview, Problem> {
    let (census, drifted) = fleet::census(app).await?;
    Ok(Overview {
        server: ServerView {
            version: env!("CARGO_PKG_VERSION").into(),
            project: app.identity.project().to_string(),
            started_at_ms: app.started_at_ms,
            bytes_over_mqtt: app.fleet.traffic().sent,
        },
        datasets: datasets::views(app).await?,
        jobs: jobs::views(app).await?,
        compression: compress::views(app).await?,
        releases: releases::views(app).await?,
        fleet: census,
        drifted,
        rollouts: rollouts::rollout_views(app).await?,
        hard_examples: hard::waiting(app).await?,
        shadows: shadow::views(app).await?,
    })
}

/// `GET /api/v1/events`: the overview now, and again whenever it differs.
pub(crate) async fn events(call: Call) -> Handled {
    let (to, from) = mpsc::channel(1);
    tokio::spawn(watch(call.app, to));
    Ok(Answer::Events(from))
}

/// Sends the overview until the client or the control plane goes.
async fn watch(app: Arc<App>, to: mpsc::Sender<(&'static str, Value)>) {
    let mut changes = app.changes();
    let mut last = Value::Null;
    loop {
        changes.mark_unchanged();
        let began = Instant::now();
        match whole(&app).await.map(|overview| json!(overview)) {
            Ok(value) if value == last => {}
            Ok(value) => {
                last = value.clone();
                if to.send(("overview", value)).await.is_err() {
                    return;
                }
            }
            Err(problem) => tracing::warn!(%problem, "the overview cannot be read"),
        }
        // A large fleet is not read all the time because a tab is open.
        tokio::time::sleep(QUIET.max(began.elapsed() * REST)).await;
        tokio::select! {
            () = app.stopping() => return,
            () = to.closed() => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep(IDLE) => {}
        }
    }
}

/// `GET /api/v1/audit`
pub(crate) async fn audit(call: Call) -> Handled {
    let trail = audit::list(&*call.app.records, audit::Order::NewestFirst, None, audit::AUDIT_PAGE).await?;
    let view = |r: audit::AuditRecord| AuditView {
        at_ms: r.at_ms,
        actor: r.actor.id.to_string(),
        action: r.action,
        subject: r.subject,
        detail: r.detail,
    };
    Answer::json(&trail.into_iter().map(view).collect::<Vec<_>>())
}

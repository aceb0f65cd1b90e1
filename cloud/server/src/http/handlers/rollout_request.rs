//! A rollout as it is asked for over HTTP, in the fleet's words.

use super::super::api::RolloutRequest;
use super::super::problem::Problem;
use crate::app::App;
use flotilla_fleet::{
    Failures, OnStop, Pace, Policy, Ramp, Retry, ShadowRequest, Tolerance, WaveSpec, Window,
};
use flotilla_protocol::{Digest, ErrorCode};

/// What is asked for. Bounds are the fleet's business.
pub(super) async fn wanted(
    app: &App,
    request: RolloutRequest,
) -> Result<flotilla_fleet::RolloutRequest, Problem> {
    let release: Digest = request.release.parse().map_err(|e| invalid("release", &e))?;
    let release = app.registry.find_release(&release).await?;
    let devices = request
        .devices
        .as_ref()
        .map(|ids| ids.iter().map(|id| id.parse().map_err(|e| invalid("devices", &e))).collect())
        .transpose()?;
    let waves = request
        .waves
        .as_ref()
        .map(|waves| waves.iter().map(|wave| wave_spec(wave).ok_or_else(|| bad_wave(wave))).collect())
        .transpose()?;
    Ok(flotilla_fleet::RolloutRequest {
        release: Some(release.digest),
        devices,
        group: request
            .group
            .as_ref()
            .map(|name| name.parse().map_err(|e| invalid("group", &e)))
            .transpose()?,
        waves,
        tolerance: tolerance(&request)?,
        policy: policy(&request)?,
        deadline_s: request.deadline_s,
        soak_s: request.soak_s,
        max_soak_s: request.max_soak_s,
        shadow: shadow(&request)?,
        follows: request.follows,
        draft: request.draft,
        needs_approval: request.needs_approval,
        starts_at_ms: request.starts_at_ms,
        ..flotilla_fleet::RolloutRequest::newest(release.model)
    })
}

fn invalid(what: &str, why: &dyn std::fmt::Display) -> Problem {
    Problem::new(ErrorCode::InvalidInput, format!("{what}: {why}"))
}

/// `5` or `10%`.
fn wave_spec(text: &str) -> Option<WaveSpec> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|n| (1..=100).contains(n)).map(WaveSpec::Percent),
        None => text.parse().ok().filter(|n| *n > 0).map(WaveSpec::Devices),
    }
}

fn bad_wave(wave: &str) -> Problem {
    let detail =
        format!("a wave is a number of devices, such as 5, or a share of all, such as 10%: not {wave:?}");
    Problem::new(ErrorCode::InvalidInput, detail)
}

fn shadow(request: &RolloutRequest) -> Result<Option<ShadowRequest>, Problem> {
    let Some(asked) = &request.shadow else { return Ok(None) };
    let devices = wave_spec(&asked.devices).ok_or_else(|| bad_wave(&asked.devices))?;
    Ok(Some(ShadowRequest {
        devices,
        soak_s: asked.soak_s,
        max_soak_s: asked.max_soak_s,
        share_percent: asked.share_percent,
        differing_percent: asked.differing_percent,
    }))
}

fn tolerance(request: &RolloutRequest) -> Result<Option<Tolerance>, Problem> {
    let after = request.min_decided.unwrap_or(0);
    let Some(text) = &request.max_failures else {
        return match request.min_decided {
            None => Ok(None),
            Some(_) => Err(invalid("min_decided", &"say how many failures are tolerated, too: max_failures")),
        };
    };
    let failures = match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|n| *n <= 100).map(Failures::Percent),
        None => text.parse().ok().map(Failures::Devices),
    };
    let failures = failures.ok_or_else(|| {
        invalid(
            "max_failures",
            &format!("a number of devices, such as 3, or a share, such as 5%: not {text:?}"),
        )
    })?;
    Ok(Some(Tolerance { failures, after }))
}

fn policy(request: &RolloutRequest) -> Result<Policy, Problem> {
    let usual = Retry::default();
    let code = |text: &String| match ErrorCode::from_text(text) {
        ErrorCode::Unknown => Err(invalid("retry_codes", &format!("there is no code {text:?}"))),
        code => Ok(code),
    };
    let retry = Retry {
        tries: request.tries.unwrap_or(usual.tries),
        wait_ms: request.retry_wait_s.map_or(usual.wait_ms, |wait| wait.saturating_mul(1000)),
        codes: request.retry_codes.iter().map(code).collect::<Result<_, _>>()?,
    };
    if retry.tries < 2 && (request.retry_wait_s.is_some() || !retry.codes.is_empty()) {
        return Err(invalid("tries", &"a device is told once only: ask for 2 tries or more"));
    }
    let window = match (&request.window, &request.window_zone) {
        (Some(text), zone) => {
            let mut window: Window = text.parse()?;
            window.zone = zone.clone().unwrap_or(window.zone);
            Some(window)
        }
        (None, Some(_)) => return Err(invalid("window_zone", &"a time zone is of a window: name one")),
        (None, None) => None,
    };
    let on_stop = match request.on_stop.as_deref() {
        None | Some("go_back") => OnStop::GoBack,
        Some("hold") => OnStop::Hold,
        Some(other) => return Err(invalid("on_stop", &format!("go_back or hold, not {other:?}"))),
    };
    let ramp = request.ramp.as_ref().map(|ramp| Ramp {
        factor: ramp.factor,
        every: ramp.every,
        max_per_minute: ramp.max_per_minute,
    });
    Ok(Policy {
        pace: Pace { per_minute: request.per_minute, ramp, concurrency: request.concurrency },
        retry,
        window,
        on_stop,
        approve_waves: request.approve_waves,
        priority: request.priority,
    })
}

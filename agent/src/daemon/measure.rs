//! The command `measure`: a model is fetched into a place of its own, run in the process that probes candidates, and
//! reported. Nothing of it ever serves, and nothing of it stays.

use super::{Daemon, News};
use crate::battery::{self, SUPPLIES};
use crate::fetch::Stopped;
use crate::folder::MEASURE;
use crate::intake::{Desk, Subject, blocking};
use crate::memory::Holder;
use crate::probe::{self, ProbeLimits};
use flotilla_device::Fault;
use flotilla_device::command::Event;
use flotilla_device::download::Download;
use flotilla_device::measure::{Doing, may_begin};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::{CommandState, Measured, Measurement, Phase, SlotName};
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// There is one place; the machinery that brings releases in asks for a slot.
const PLACE: SlotName = SlotName::A;

/// The measurement under way.
pub(super) struct Measuring {
    command: u64,
    cancel: CancellationToken,
}

impl Daemon {
    /// What was left half done by the process before is begun anew by its command, if that is still wanted.
    pub(super) fn forget_measurement(&self) {
        if let Err(error) = self.options.folder.disk().remove(MEASURE.as_ref()) {
            tracing::warn!(%error, "what was measured stays behind");
        }
    }

    pub(super) fn begin_measurement(&mut self, command: u64, wanted: Measurement) {
        if let Err(fault) = may_begin(&self.doing()) {
            self.end_command(command, CommandState::Failed { code: fault.code, detail: fault.detail });
            return;
        }
        let cancel = CancellationToken::new();
        self.measuring = Some(Measuring { command, cancel: cancel.clone() });
        let (exe, prefix) = (self.options.exe.clone(), self.options.prefix.clone());
        let desk = self.desk_of(Subject::Measurement { exe, prefix });
        tokio::spawn(async move {
            let result = match measure(&desk, wanted, &cancel).await {
                Ok(figures) => Ok(figures),
                Err(Stopped::Fault(fault)) => Err(fault),
                Err(Stopped::Cancelled) => {
                    Err(Fault::transient(ErrorCode::Cancelled, "the measurement is not wanted any more"))
                }
            };
            desk.shares.set(Holder::Measurement, 0);
            let place = desk.slot(PLACE);
            if let Err(fault) = blocking(move || place.clear()).await {
                tracing::warn!(%fault, "what was measured stays behind");
            }
            // Nobody listens any more only when the agent stops.
            let _ = desk.news.send(News::Measured(command, result)).await;
        });
    }

    fn doing(&self) -> Doing {
        let rests = |phase: Phase| matches!(phase, Phase::Idle | Phase::Confirmed | Phase::Failed);
        let models = self.models.values().all(|managed| rests(managed.update.phase()));
        Doing {
            measuring: self.measuring.is_some(),
            updating: !models || !self.upgrade_rests(),
            hot: self.heat.is_hot(),
            battery_percent: battery::left_percent(Path::new(SUPPLIES)),
        }
    }

    /// The measurement has ended, and its place is clear.
    pub(super) fn on_measured(&mut self, command: u64, result: Result<Measured, Fault>) {
        self.measuring = None;
        match result {
            Ok(figures) => {
                if self.commands.is_running(command) {
                    self.command(Event::Measured { id: command, figures });
                }
            }
            Err(fault) => {
                self.end_command(command, CommandState::Failed { code: fault.code, detail: fault.detail });
            }
        }
    }

    /// Ends a measurement that nobody waits for any more.
    pub(super) fn drop_measurement(&mut self) {
        if let Some(measuring) = &self.measuring
            && !self.commands.is_running(measuring.command)
        {
            measuring.cancel.cancel();
        }
    }
}

async fn measure(desk: &Desk, wanted: Measurement, cancel: &CancellationToken) -> Result<Measured, Stopped> {
    let (place, manifest) = (desk.slot(PLACE), wanted.manifest);
    // Checked as a release is: who signed it, for whom, above the floor, and whether it fits.
    desk.facts(cancel, &place, manifest, wanted.envelope_bytes).await?;
    let target = place.clone();
    let (part, mut download) = blocking(move || {
        let part = target.manifest(manifest)?;
        let mut download = Download::files(&part.files);
        target.resume(&part, &mut download)?;
        Ok((part, download))
    })
    .await?;
    let room = desk.fetcher.rooms().promise(&place, &part, |promised| desk.board_beside(promised))?;
    let mut put = |chunk: &_| place.write(&part, chunk);
    desk.fetcher.run(&mut download, &mut put, cancel, &mut |_| ()).await?;
    let (target, whole) = (place.clone(), part.clone());
    blocking(move || target.finish(&whole)).await?;
    drop(room);
    let Subject::Measurement { exe, prefix } = &desk.subject else {
        return Err(Fault::lasting(ErrorCode::Internal, "it is no measurement").into());
    };
    let run = async {
        // One child at a time: two would falsify each other's latency.
        let turn = desk.probes.acquire().await;
        let _turn = turn.map_err(|e| Fault::transient(ErrorCode::Cancelled, e.to_string()))?;
        let memory_bytes = desk.memory_for(&Holder::Measurement, &part)?;
        desk.shares.set(Holder::Measurement, memory_bytes);
        let timeout = Duration::from_secs(desk.config.probe_timeout_s);
        let bounds = ProbeLimits { memory_bytes, timeout, latency_us: 0 };
        let measured = probe::measure(exe, prefix, place.path(), &desk.config.board, bounds).await;
        measured.map_err(|error| Fault::lasting(error.code(), error.to_string()))
    };
    // The child does not outlive the future that is dropped here.
    Ok(cancel.run_until_cancelled(run).await.ok_or(Stopped::Cancelled)??)
}

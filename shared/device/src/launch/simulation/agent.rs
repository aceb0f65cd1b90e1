//! The agent of the virtual device: its update machine, and the journals around it.

use super::*;

impl Device {
    /// The agent's first steps.
    pub(super) fn agent_boot(&mut self) -> Result<(), Died> {
        let Some(agent) = &self.agent else { return Ok(()) };
        if agent.leaves {
            let journal = agent.launch.clone();
            // The shell waits until it can be written.
            while !self.store_launch(&journal)? {}
            return Err(Died::Switch);
        }
        // Who is started first while the launcher's journal is behind finds the same again.
        if *agent.update.journal() == agent.stored || self.write_update(&agent.update.journal().clone())? {
            self.tidy()?;
        }
        self.agent_step(update::Event::Started { crashed: false })?;
        match self.desired.clone() {
            Some(desired) => self.agent_step(update::Event::Desired(desired)),
            None => Ok(()),
        }
    }

    /// Whether the disk is behind what the agent knows.
    pub(super) fn is_untidy(&self, agent: &Agent) -> bool {
        agent.behind
            || agent.stored != *agent.update.journal()
            || handover::forget(&agent.launch, agent.place, &agent.stored).is_some()
    }

    pub(super) fn belief(&self) -> LaunchJournal {
        self.agent.as_ref().map_or_else(|| self.launch(), |agent| agent.launch.clone())
    }

    pub(super) fn store_launch(&mut self, next: &LaunchJournal) -> Result<bool, Died> {
        let stored = self.write_launch(next)?;
        if let Some(agent) = self.agent.as_mut().filter(|_| stored) {
            (agent.launch, agent.behind) = (next.clone(), false);
        }
        Ok(stored)
    }

    pub(super) fn tidy(&mut self) -> Result<(), Died> {
        let Some(agent) = &self.agent else { return Ok(()) };
        if agent.stored != *agent.update.journal() {
            let journal = agent.update.journal().clone();
            self.write_update(&journal)?;
        }
        let Some(agent) = &self.agent else { return Ok(()) };
        if agent.behind && agent.stored == *agent.update.journal() {
            self.store_launch(&agent.launch.clone())?;
        }
        let Some(agent) = &self.agent else { return Ok(()) };
        if let Some(journal) = handover::forget(&self.belief(), agent.place, &agent.stored) {
            self.store_launch(&journal)?;
        }
        Ok(())
    }

    pub(super) fn write_update(&mut self, journal: &UpdateJournal) -> Result<bool, Died> {
        if self.disk_is_full() {
            return Ok(false);
        }
        let (kept, died) = self.strike();
        if kept {
            self.update = journal.to_bytes();
        }
        if let Some(died) = died {
            return Err(died);
        }
        if let Some(agent) = &mut self.agent {
            agent.stored = journal.clone();
        }
        Ok(true)
    }

    pub(super) fn agent_step(&mut self, event: update::Event) -> Result<(), Died> {
        let ctx = Context {
            now_ms: self.now_ms,
            trusted_now_ms: 1,
            floor: 0,
            probation_ms: PROBATION,
            probation_error_per_mille: 50,
            memory_bytes: 1_000,
            temperature_c: 90,
            random: self.rng.random(),
        };
        let Some(agent) = &mut self.agent else { return Ok(()) };
        let event = match event {
            update::Event::Desired(_) => update::Event::Desired(self.desired.clone().flatten()),
            other => other,
        };
        let (next, effects) = agent.update.step(event.clone(), &ctx);
        let place = agent.place;
        if let Some(update::Effect::PersistJournal(journal)) = effects.first() {
            let confirmed = journal.confirmed.as_ref().map(|confirmed| confirmed.release);
            let launch = confirmed.and_then(|release| handover::confirm(&self.belief(), place, release));
            let told = match launch {
                Some(launch) => self.store_launch(&launch)?,
                None => true,
            };
            if !told || !self.write_update(journal)? {
                let due_ms = self.now_ms + RETRY;
                if let Some(agent) = &mut self.agent {
                    agent.retries.push((due_ms, event));
                }
                return Ok(());
            }
        }
        if let Some(agent) = &mut self.agent {
            agent.update = next;
        }
        for effect in effects {
            self.perform_update(effect)?;
        }
        self.tidy()
    }

    pub(super) fn perform_update(&mut self, effect: update::Effect) -> Result<(), Died> {
        use update::Effect as Of;
        let Some(place) = self.agent.as_ref().map(|agent| agent.place) else { return Ok(()) };
        match effect {
            // Done before the step counted.
            Of::PersistJournal(_) => Ok(()),
            Of::FetchRelease { ticket, slot, release, .. } => {
                let refused = match handover::refill(&self.belief(), place, slot) {
                    Ok(Some(journal)) if !self.store_launch(&journal)? => {
                        Some(Fault::transient(ErrorCode::StorageIo, "full"))
                    }
                    Ok(_) => None,
                    Err(fault) => Some(fault),
                };
                if let Some(fault) = refused {
                    let result = Err(fault);
                    return self.agent_step(update::Event::EnvelopeFetched { ticket, result });
                }
                assert_ne!(place.slot(), Some(slot), "{}: the slot that runs is written to", self.label);
                let named = self.belief().confirmed.is_some_and(|confirmed| confirmed.slot == slot);
                assert!(!named, "{}: the confirmed slot is written to", self.label);
                let index = index_of(release);
                if self.slot(slot).is_none_or(|(there, _)| there != index) {
                    *self.slot(slot) = Some((index, false));
                }
                self.open(effect)
            }
            Of::FetchFiles { .. } | Of::VerifyFiles { .. } | Of::Probe { .. } => self.open(effect),
            Of::Activate { ticket, slot, release } => {
                let trial = self.agent.as_ref().is_some_and(|agent| {
                    let candidate = agent.update.journal().candidate.as_ref();
                    candidate.is_some_and(|c| c.release == release && c.step == update::Step::Trial)
                });
                let terms = trial.then_some(TERMS);
                let launch = self.belief();
                let up_ms = self.now_ms - self.agent.as_ref().map_or(0, |agent| agent.since_ms);
                match handover::activate(&launch, place, binary(slot, release), terms, up_ms) {
                    Handover::Here => {
                        let effect = Of::Activate { ticket, slot, release };
                        self.open(effect)
                    }
                    Handover::Refused(fault) => {
                        if trial && !fault.transient {
                            self.failures.push(fault.code);
                        }
                        self.agent_step(update::Event::LoadFailed { ticket, fault })
                    }
                    Handover::Switch(journal) if self.store_launch(&journal)? => Err(Died::Switch),
                    Handover::Switch(_) => {
                        let fault = Fault::transient(ErrorCode::StorageIo, "full");
                        self.agent_step(update::Event::LoadFailed { ticket, fault })
                    }
                }
            }
            Of::Deactivate => {
                let (journal, exit) = handover::deactivate(&self.belief(), place);
                // The shell waits until it can be written.
                while !self.store_launch(&journal)? {}
                if exit { Err(Died::Switch) } else { Ok(()) }
            }
            Of::Cancel => {
                let agent = self.agent.as_mut().unwrap();
                agent.open.retain(|e| matches!(e, Of::Activate { .. }));
                Ok(())
            }
            Of::ScheduleTick { at_ms } => {
                self.agent.as_mut().unwrap().tick_ms = Some(at_ms);
                Ok(())
            }
            Of::ClearSlot { .. } => panic!("{}: an agent is never removed", self.label),
            Of::Report | Of::EmitEvent(_) => Ok(()),
        }
    }

    pub(super) fn open(&mut self, effect: update::Effect) -> Result<(), Died> {
        let (_, died) = self.strike();
        self.agent.as_mut().unwrap().open.push(effect);
        died.map_or(Ok(()), Err)
    }

    pub(super) fn answer(&mut self, nature_here: Nature, effect: update::Effect) -> update::Event {
        use update::Effect as Of;
        use update::Event as To;
        match effect {
            Of::FetchRelease { ticket, .. } => {
                let facts = ReleaseFacts {
                    counter: 1,
                    expires_at_ms: None,
                    total_bytes: 1,
                    promise: update::Promise::default(),
                };
                To::EnvelopeFetched { ticket, result: Ok(facts) }
            }
            Of::FetchFiles { ticket, .. } => To::FilesComplete { ticket, result: Ok(()) },
            Of::VerifyFiles { ticket, slot, release } => {
                *self.slot(slot) = Some((index_of(release), true));
                To::FilesVerified { ticket, result: Ok(()) }
            }
            Of::Probe { ticket, release, .. } => {
                let fails = nature(index_of(release)) == Nature::FailsSelfTest;
                let fault = || Fault::lasting(ErrorCode::ProbeMismatch, "self-test");
                let (p50_ms, p95_ms) = (1.0, 1.0);
                let report =
                    ProbeReport { vectors: 1, max_abs_error: 0.0, p50_ms, p95_ms, peak_rss_bytes: 1 };
                To::ProbeDone { ticket, result: if fails { Err(fault()) } else { Ok(report) } }
            }
            // Here: the shell waits until the agent is healthy.
            Of::Activate { ticket, .. } if nature_here == Nature::Unhealthy => {
                let fault = Fault::lasting(ErrorCode::AgentUnhealthy, "no session");
                To::LoadFailed { ticket, fault }
            }
            Of::Activate { ticket, .. } => To::SwitchDone { ticket },
            other => panic!("{}: {other:?} has no answer", self.label),
        }
    }
}

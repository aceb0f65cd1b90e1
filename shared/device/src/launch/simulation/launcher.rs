//! The launcher of the virtual device, and what happens next on it.

use super::*;

impl Device {
    pub(super) fn boot(&mut self) {
        self.agent = None;
        (self.launcher, self.launcher_tick) = (Launcher::default(), None);
        self.launcher_event(Event::Started(self.launch()));
    }

    pub(super) fn launcher_event(&mut self, event: Event) {
        let (next, effects) = self.launcher.step(event, self.now_ms, self.rng.random());
        self.launcher = next;
        let mut answer = None;
        for effect in effects {
            match self.perform_launch(effect) {
                Ok(Some(Event::NotPersisted)) => return self.launcher_event(Event::NotPersisted),
                Ok(event) => answer = event.or(answer),
                Err(died) => return self.bury(died),
            }
        }
        if let Some(event) = answer {
            self.launcher_event(event);
        }
    }

    pub(super) fn bury(&mut self, died: Died) {
        self.killed += u32::from(!matches!(died, Died::Switch));
        match died {
            Died::Switch => {
                self.agent = None;
                self.launcher_event(Event::Exited(Exit::Code(EXIT_SWITCH.into()), self.launch()));
            }
            // A launcher that dies takes its agent with it: the agent's standard input ends.
            Died::Device => self.boot(),
            Died::Agent => {
                if self.agent.take().is_some() {
                    self.launcher_event(Event::Exited(Exit::Signal(9), self.launch()));
                } else {
                    self.boot();
                }
            }
        }
    }

    pub(super) fn perform_launch(&mut self, effect: Effect) -> Result<Option<Event>, Died> {
        match effect {
            Effect::Persist(journal) => {
                self.write_launch(&journal).map(|stored| (!stored).then_some(Event::NotPersisted))
            }
            Effect::Run(place, binary) => {
                assert!(self.agent.is_none(), "{}: two agents", self.label);
                let (_, died) = self.strike();
                if let Some(died) = died {
                    return Err(died);
                }
                Ok(self.run(place, binary))
            }
            Effect::Ask => {
                let agent = self.agent.as_mut().unwrap();
                agent.asked_to_stop = true;
                Ok(None)
            }
            Effect::Kill => {
                self.agent = None;
                Ok(Some(Event::Exited(Exit::Signal(9), self.launch())))
            }
            Effect::ScheduleTick(at_ms) => {
                self.launcher_tick = Some(at_ms);
                Ok(None)
            }
            Effect::Log(_) => Ok(None),
            Effect::Finish => panic!("{}: nobody stopped it", self.label),
        }
    }

    pub(super) fn run(&mut self, place: Place, binary: Option<Binary>) -> Option<Event> {
        let index = match &binary {
            None => 0,
            Some(binary) => {
                let index = index_of(binary.release);
                assert_eq!(self.content(binary.slot), Some((index, true)), "{}: not whole", self.label);
                index
            }
        };
        let trial = self.launch().candidate.filter(|trial| Some(&trial.binary) == binary.as_ref());
        if let Some(trial) = trial {
            self.trial_starts += 1;
            assert!(trial.starts >= 1 && self.trial_starts <= TRIAL_STARTS, "{}: too many", self.label);
        } else if binary.is_some() && nature(index) == Nature::CrashesOnceConfirmed {
            return Some(Event::Exited(Exit::Signal(11), self.launch()));
        }
        match nature(index) {
            Nature::NoProgram => {
                return Some(Event::NotRunning { unusable: true, detail: "no program".into() });
            }
            Nature::CrashesAtStart => return Some(Event::Exited(Exit::Code(101), self.launch())),
            Nature::EndsWithSwitch => {
                return Some(Event::Exited(Exit::Code(EXIT_SWITCH.into()), self.launch()));
            }
            _ => {}
        }
        let stored = self.update();
        let adopted = handover::adopt(&self.launch(), place, stored.clone());
        self.agent = Some(Agent {
            place,
            nature: nature(index),
            update: Update::of_agent(adopted.update),
            open: Vec::new(),
            tick_ms: None,
            since_ms: self.now_ms,
            leaves: adopted.leaves,
            behind: adopted.launch != self.launch(),
            launch: adopted.launch,
            stored,
            retries: Vec::new(),
            booted: false,
            asked_to_stop: false,
        });
        Some(Event::Running)
    }

    /// Whatever comes next. False if nothing does.
    pub(super) fn turn(&mut self) -> bool {
        let result = match &mut self.agent {
            Some(agent) if agent.nature != Nature::Hangs && agent.asked_to_stop => {
                self.agent = None;
                self.launcher_event(Event::Exited(Exit::Code(0), self.launch()));
                Ok(())
            }
            Some(agent) if agent.nature != Nature::Hangs && !agent.booted => {
                agent.booted = true;
                self.agent_boot()
            }
            Some(agent) if agent.nature != Nature::Hangs && !agent.open.is_empty() => {
                let at = self.rng.random_range(0..agent.open.len());
                let (effect, nature) = (agent.open.remove(at), agent.nature);
                let event = self.answer(nature, effect);
                self.agent_step(event)
            }
            _ => return self.time_passes(),
        };
        if let Err(died) = result {
            self.bury(died);
        }
        true
    }

    /// What happens next by itself.
    pub(super) fn due(&self) -> Option<(u64, Due)> {
        let alive = self.agent.as_ref().filter(|agent| agent.nature != Nature::Hangs && agent.booted);
        let of_agent = alive.map(|agent| {
            let settles = handover::settle(&agent.launch, agent.place).map(|_| agent.since_ms + SETTLED_MS);
            let crashes = agent.nature == Nature::CrashesOnceConfirmed && !agent.update.in_probation();
            [
                agent.tick_ms.map(|at| (at, Due::Tick)),
                agent.retries.first().map(|(at, _)| (*at, Due::Retry)),
                self.is_untidy(agent).then_some((self.now_ms + RETRY, Due::Tidy)),
                settles.map(|at| (at, Due::Settle)),
                crashes.then_some((self.now_ms, Due::Crash)),
            ]
        });
        let all = of_agent.into_iter().flatten().chain([self.launcher_tick.map(|at| (at, Due::Launcher))]);
        all.flatten().min_by_key(|(at, _)| *at)
    }

    pub(super) fn time_passes(&mut self) -> bool {
        let Some((at, due)) = self.due() else { return false };
        self.now_ms = self.now_ms.max(at);
        let crash = |device: &mut Self| {
            device.agent = None;
            device.launcher_event(Event::Exited(Exit::Signal(11), device.launch()));
            Ok(())
        };
        let done = match (due, &mut self.agent) {
            (Due::Tick, Some(agent)) => {
                agent.tick_ms = None;
                if agent.nature == Nature::CrashesOnProbation && agent.update.in_probation() {
                    crash(self)
                } else {
                    self.agent_step(update::Event::Tick { health: Health::default() })
                }
            }
            (Due::Retry, Some(agent)) => {
                let (_, event) = agent.retries.remove(0);
                self.agent_step(event)
            }
            (Due::Tidy, Some(_)) => self.tidy(),
            (Due::Settle, Some(agent)) => match handover::settle(&agent.launch, agent.place) {
                Some(journal) => self.store_launch(&journal).map(drop),
                None => Ok(()),
            },
            (Due::Crash, Some(_)) => crash(self),
            (Due::Launcher, _) | (_, None) => {
                self.launcher_tick = None;
                self.launcher_event(Event::Tick(self.launch()));
                Ok(())
            }
        };
        if let Err(died) = done {
            self.bury(died);
        }
        true
    }
}

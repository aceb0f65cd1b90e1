#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const LIFE: Life = Life { begins_ms: 1_000 * DAY, ends_ms: 1_090 * DAY };
const NEWER: Life = Life { begins_ms: 1_060 * DAY, ends_ms: 1_150 * DAY };

fn at(ms: u64, day: u64) -> Now {
    Now { ms, calendar_ms: day * DAY }
}

fn run(machine: &mut Renewal, event: Event, now: Now) -> Vec<Effect> {
    let (next, effects) = machine.step(event, now, 0);
    *machine = next;
    effects.into_iter().filter(|effect| !matches!(effect, Effect::ScheduleTick { .. })).collect()
}

#[test]
fn a_new_certificate_is_due_at_two_thirds_of_the_life_and_devices_are_spread() {
    assert_eq!(LIFE.due_ms(0), 1_060 * DAY);
    let latest = (0..10_000).map(|n| LIFE.due_ms(n * 65_537)).max().unwrap();
    assert!(latest > 1_067 * DAY && latest < 1_068 * DAY, "{latest}");
    let mut machine = Renewal::new(LIFE, None, 0);
    assert_eq!(run(&mut machine, Event::Heard(Pair::Present), at(0, 1_059)), []);
    assert_eq!(run(&mut machine, Event::Tick, at(HOUR, 1_060)), [Effect::Ask(Road::Link)]);
    assert_eq!(
        Life { begins_ms: 5, ends_ms: 0 }.due_ms(7),
        5,
        "a certificate that makes no sense is due at once"
    );
}

#[test]
fn the_present_pair_is_given_up_only_after_the_cloud_has_answered_to_the_next() {
    let mut machine = Renewal::new(LIFE, None, 0);
    let now = at(0, 1_061);
    assert_eq!(run(&mut machine, Event::Heard(Pair::Present), now), [Effect::Ask(Road::Link)]);
    assert_eq!(machine.pair(), Pair::Present);
    assert_eq!(run(&mut machine, Event::Stored(NEWER), now), [Effect::Reconnect]);
    assert_eq!((machine.pair(), machine.present()), (Pair::Next, LIFE));
    assert_eq!(run(&mut machine, Event::Heard(Pair::Next), now), [Effect::Adopt]);
    assert_eq!(run(&mut machine, Event::NotAdopted, now), [], "a full disk");
    assert_eq!((machine.pair(), machine.present()), (Pair::Next, LIFE));
    assert_eq!(run(&mut machine, Event::Tick, at(DISK_MS, 1_061)), [Effect::Adopt]);
    assert_eq!(run(&mut machine, Event::Adopted, now), []);
    assert_eq!((machine.pair(), machine.present()), (Pair::Present, NEWER));
    assert_eq!(machine.state(), "settled");
}

#[test]
fn a_next_pair_that_does_not_work_while_the_present_one_does_is_thrown_away() {
    let now = at(0, 1_061);
    let mut machine = Renewal::new(LIFE, Some(NEWER), 0);
    for strike in 1..=STRIKES {
        assert_eq!(machine.pair(), Pair::Next);
        run(&mut machine, Event::Lost { pair: Pair::Next, expired: false }, now);
        assert_eq!(machine.pair(), Pair::Present, "back to what works");
        let heard = run(&mut machine, Event::Heard(Pair::Present), now);
        if strike < STRIKES {
            assert_eq!(heard, []);
            assert_eq!(run(&mut machine, Event::Tick, at(TRY_AGAIN_MS, 1_061)), [Effect::Reconnect]);
        } else {
            assert_eq!(heard, [Effect::Discard]);
        }
    }
    assert_eq!((machine.pair(), machine.state()), (Pair::Present, "waiting"));
    assert_eq!(run(&mut machine, Event::Tick, at(HOUR, 1_061)), [Effect::Ask(Road::Link)]);
}

#[test]
fn a_network_that_is_down_for_both_pairs_is_held_against_neither() {
    let now = at(0, 1_061);
    let mut machine = Renewal::new(LIFE, Some(NEWER), 0);
    for _ in 0..100 {
        let pair = machine.pair();
        assert_eq!(run(&mut machine, Event::Lost { pair, expired: false }, now), []);
    }
    let mut other = machine.clone();
    run(&mut other, Event::Lost { pair: Pair::Next, expired: false }, now);
    assert_eq!(run(&mut other, Event::Heard(Pair::Present), now), [], "kept");
    assert_eq!(run(&mut machine, Event::Heard(Pair::Next), now), [Effect::Adopt]);
}

#[test]
fn after_the_end_the_road_is_https_again_and_again_until_somebody_approves() {
    let mut machine = Renewal::new(LIFE, None, 0);
    assert_eq!(run(&mut machine, Event::Tick, at(0, 1_100)), [Effect::Ask(Road::Https)]);
    let mut ms = 0;
    for _ in 0..20 {
        run(&mut machine, Event::NotYet, at(ms, 1_100));
        assert_eq!(run(&mut machine, Event::Tick, at(ms, 1_100)), [], "not at once");
        ms += APPROVAL.cap_ms;
        assert_eq!(run(&mut machine, Event::Tick, at(ms, 1_100)), [Effect::Ask(Road::Https)]);
    }
    let newer = Life { begins_ms: 1_100 * DAY, ends_ms: 1_190 * DAY };
    assert_eq!(run(&mut machine, Event::Stored(newer), at(ms, 1_100)), [Effect::Reconnect]);
    assert_eq!(run(&mut machine, Event::Heard(Pair::Next), at(ms, 1_100)), [Effect::Adopt]);
    run(&mut machine, Event::Adopted, at(ms, 1_100));
    assert!(!machine.is_expired(at(ms, 1_100)));
}

#[test]
fn a_server_that_calls_the_certificate_ended_is_believed_against_a_clock_in_1970() {
    let mut machine = Renewal::new(LIFE, None, 0);
    assert_eq!(run(&mut machine, Event::Tick, at(0, 0)), []);
    let lost = Event::Lost { pair: Pair::Present, expired: true };
    assert_eq!(run(&mut machine, lost, at(0, 0)), [Effect::Ask(Road::Https)]);
}

#[test]
fn a_next_pair_that_the_cloud_forgot_is_asked_for_anew_when_the_present_one_has_ended() {
    let now = at(0, 1_100);
    let mut machine = Renewal::new(LIFE, Some(NEWER), 0);
    let mut asked = Vec::new();
    for _ in 0..2 * STRIKES_ALONE {
        let pair = machine.pair();
        asked.extend(run(&mut machine, Event::Lost { pair, expired: false }, now));
    }
    assert_eq!(asked, [Effect::Ask(Road::Https)]);
}

#[test]
fn an_answer_that_never_comes_is_asked_for_again() {
    let mut machine = Renewal::new(LIFE, None, 0);
    run(&mut machine, Event::Heard(Pair::Present), at(0, 1_061));
    assert_eq!(run(&mut machine, Event::Tick, at(ANSWER_MS, 1_061)), []);
    assert_eq!(run(&mut machine, Event::Tick, at(2 * ANSWER_MS, 1_061)), [Effect::Ask(Road::Link)]);
    assert_eq!(run(&mut machine, Event::Lost { pair: Pair::Present, expired: false }, at(0, 1_061)), []);
    let again = run(&mut machine, Event::Heard(Pair::Present), at(HOUR, 1_061));
    assert_eq!(again, [Effect::Ask(Road::Link)], "the question went down with the connection");
}

/// A device with its disk, a cloud that keeps the rules of rotation, and everything between them failing.
struct World {
    random: StdRng,
    machine: Renewal,
    ms: u64,
    calendar_ms: u64,
    /// On the disk: certificate ids.
    present: u64,
    next: Option<u64>,
    /// The key for which a certificate is asked; a key and its certificate have one id here.
    asked: Option<u64>,
    lives: BTreeMap<u64, Life>,
    /// In the cloud: ids that are accepted, and whether a hello was said with them.
    accepted: Vec<(u64, bool)>,
    link: Option<(Pair, u64)>,
    answer: Option<u64>,
    calm: bool,
    adopted: u32,
    kills: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            machine: Renewal::new(LIFE, None, seed),
            ms: 0,
            calendar_ms: 1_059 * DAY,
            present: 0,
            next: None,
            asked: None,
            lives: BTreeMap::from([(0, LIFE)]),
            accepted: vec![(0, true)],
            link: None,
            answer: None,
            calm: false,
            adopted: 0,
            kills: 0,
        }
    }

    fn luck(&mut self, percent: u32) -> bool {
        self.calm || self.random.random_range(0..100) < percent
    }

    fn id(&self, pair: Pair) -> u64 {
        match pair {
            Pair::Present => self.present,
            Pair::Next => self.next.expect("the next pair is used only where there is one"),
        }
    }

    /// SIGKILL, or a power cut: what is on the disk is what there is.
    fn kill(&mut self) {
        let next = self.next.map(|id| self.lives[&id]);
        self.machine = Renewal::new(self.lives[&self.present], next, 7);
        (self.link, self.answer, self.ms) = (None, None, 0);
        self.kills += 1;
        self.event(Event::Tick);
    }

    fn event(&mut self, event: Event) {
        let now = Now { ms: self.ms, calendar_ms: self.calendar_ms };
        let (machine, effects) = self.machine.step(event, now, self.random.random());
        self.machine = machine;
        for effect in effects {
            if !self.luck(97) {
                return self.kill();
            }
            match effect {
                Effect::Ask(road) => self.ask(road),
                Effect::Reconnect => self.link = None,
                Effect::Adopt => {
                    if !self.luck(90) {
                        self.event(Event::NotAdopted);
                        continue;
                    }
                    // One write makes the next pair the present one; what is left of it goes with another.
                    self.present = self.next.unwrap();
                    self.check();
                    if !self.luck(90) {
                        return self.kill();
                    }
                    self.next = None;
                    self.link = self.link.map(|(_, id)| (Pair::Present, id));
                    self.adopted += 1;
                    self.event(Event::Adopted);
                }
                Effect::Discard => (self.next, self.asked) = (None, None),
                Effect::ScheduleTick { .. } => {}
            }
        }
    }

    fn ask(&mut self, road: Road) {
        let known = |id: &u64| self.accepted.iter().any(|(known, _)| known == id);
        let proof = [self.next, Some(self.present)].into_iter().flatten().any(|id| known(&id));
        assert!(proof, "the cloud knows no key of the device");
        assert!(road == Road::Https || self.link.is_some());
        if !self.luck(70) {
            return;
        }
        let id = self.asked.unwrap_or(self.lives.len() as u64);
        self.asked = Some(id);
        let life = Life { begins_ms: self.calendar_ms, ends_ms: self.calendar_ms + 90 * DAY };
        self.lives.insert(id, life);
        // A later certificate takes the place of one over the same key; beyond the bound the oldest unused one goes.
        self.accepted.retain(|(known, _)| *known != id);
        if self.accepted.len() == 4 {
            let oldest = self.accepted.iter().position(|(_, seen)| !seen).unwrap();
            self.accepted.remove(oldest);
        }
        self.accepted.push((id, false));
        self.answer = Some(id);
    }

    fn connect(&mut self) {
        let pair = self.machine.pair();
        let id = self.id(pair);
        let ended = self.calendar_ms >= self.lives[&id].ends_ms;
        let known = self.accepted.iter().any(|(known, _)| *known == id);
        if ended || !known || !self.luck(70) {
            let expired = ended && self.luck(50);
            return self.event(Event::Lost { pair, expired });
        }
        self.link = Some((pair, id));
        if self.luck(90) {
            // The first hello of a new one retires the others; the old one's does not take the new one away.
            let first = self.accepted.contains(&(id, false));
            self.accepted.retain(|(known, seen)| *known == id || (!seen && !first));
            self.accepted.iter_mut().filter(|(known, _)| *known == id).for_each(|known| known.1 = true);
            if self.luck(90) {
                self.event(Event::Heard(pair));
            }
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..6) {
            0 | 1 => {
                let far =
                    if self.calm { HOUR } else { [HOUR, 5 * DAY, 40 * DAY][self.random.random_range(0..3)] };
                let passed = self.random.random_range(0..far);
                (self.ms, self.calendar_ms) = (self.ms + passed, self.calendar_ms + passed);
                self.event(Event::Tick);
            }
            2 if self.link.is_none() => self.connect(),
            3 if !self.luck(60) => {
                if let Some((pair, _)) = self.link.take() {
                    self.event(Event::Lost { pair, expired: false });
                }
            }
            4 => match self.answer.take() {
                Some(id) if self.luck(80) && self.machine.has_asked() => {
                    (self.next, self.asked) = (Some(id), None);
                    self.check();
                    if !self.luck(95) {
                        return self.kill();
                    }
                    self.event(Event::Stored(self.lives[&id]));
                }
                Some(_) => self.event(Event::NotYet),
                None => {}
            },
            5 if !self.luck(90) => self.kill(),
            _ => {}
        }
        self.check();
    }

    /// Whatever happens, the cloud accepts one of the pairs that lie on the disk.
    fn check(&self) {
        let known = |id: u64| self.accepted.iter().any(|(known, _)| *known == id);
        let works = known(self.present) || self.next.is_some_and(known);
        assert!(works, "{} {:?} of {:?}", self.present, self.next, self.accepted);
    }
}

#[test]
fn whatever_fails_the_device_keeps_a_pair_that_the_cloud_accepts_and_gets_a_newer_one() {
    let seeds = std::env::var("FLOTILLA_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let (mut adopted, mut kills) = (0, 0);
    for seed in 0..seeds {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
        kills += world.kills;
        adopted += world.adopted;
        // Now nothing fails any more: the device gets a certificate that is valid, and is connected with it.
        world.calm = true;
        let done = (0..20_000).any(|_| {
            world.step();
            let fresh = world.calendar_ms < world.machine.present().ends_ms;
            fresh && world.machine.state() == "settled" && world.link.is_some()
        });
        assert!(done, "seed {seed}: {:?}", world.machine);
    }
    println!("{seeds} seeds, {kills} kills, {adopted} rotations, 0 devices locked out");
    assert!(adopted > seeds as u32, "{adopted}");
}

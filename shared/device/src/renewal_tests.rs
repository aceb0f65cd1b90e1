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
        run(&mut machine, Event::Lost { pair: Pair::Next, loss: Loss::Refused }, now);
        assert_eq!(machine.pair(), Pair::Present, "back to what works");
        let heard = run(&mut machine, Event::Heard(Pair::Present), now);
        if strike < STRIKES {
            assert_eq!(heard, []);
            let again = at(TRY_AGAIN_MS << (strike - 1), 1_061);
            assert_eq!(run(&mut machine, Event::Tick, again), [Effect::Reconnect]);
        } else {
            assert_eq!(heard, [Effect::Discard]);
        }
    }
    assert_eq!((machine.pair(), machine.state()), (Pair::Present, "waiting"));
    assert_eq!(run(&mut machine, Event::Tick, at(HOUR, 1_061)), [Effect::Ask(Road::Link)]);
}

#[test]
fn a_network_that_is_down_is_held_against_no_pair() {
    let now = at(0, 1_061);
    let mut machine = Renewal::new(LIFE, Some(NEWER), 0);
    let mut pauses = Vec::new();
    for _ in 0..100 {
        // The present pair happens to get through each time, and still the next one is kept.
        assert_eq!(run(&mut machine, Event::Lost { pair: Pair::Next, loss: Loss::Network }, now), []);
        assert_eq!(machine.pair(), Pair::Present);
        let (next, effects) = machine.step(Event::Heard(Pair::Present), now, 0);
        machine = next;
        let [Effect::ScheduleTick { at_ms }] = effects[..] else { panic!("{effects:?}") };
        pauses.push(at_ms);
        assert_eq!(run(&mut machine, Event::Tick, at(at_ms, 1_061)), [Effect::Reconnect]);
    }
    assert_eq!((pauses[0], pauses[99]), (TRY_AGAIN_MS, TRY_AGAIN_MAX_MS), "it is not cut off all the time");
    assert_eq!(run(&mut machine, Event::Heard(Pair::Next), now), [Effect::Adopt]);
}

#[test]
fn an_approved_certificate_waits_out_a_broker_that_is_away_for_days() {
    let mut machine = Renewal::new(LIFE, None, 0);
    assert_eq!(run(&mut machine, Event::Tick, at(0, 1_100)), [Effect::Ask(Road::Https)]);
    let newer = Life { begins_ms: 1_100 * DAY, ends_ms: 1_190 * DAY };
    assert_eq!(run(&mut machine, Event::Stored(newer), at(0, 1_100)), [Effect::Reconnect]);
    for minute in 0..3 * 24 * 60 {
        let now = Now { ms: minute * 60_000, calendar_ms: 1_100 * DAY + minute * 60_000 };
        let pair = machine.pair();
        // Now and then the ended one gets as far as being told so.
        let loss = if pair == Pair::Present && minute % 5 == 0 { Loss::Ended } else { Loss::Network };
        assert_eq!(run(&mut machine, Event::Lost { pair, loss }, now), [], "nothing is asked for again");
    }
    if machine.pair() == Pair::Present {
        run(&mut machine, Event::Lost { pair: Pair::Present, loss: Loss::Network }, at(0, 1_103));
    }
    assert_eq!(machine.pair(), Pair::Next);
    assert_eq!(run(&mut machine, Event::Heard(Pair::Next), at(0, 1_103)), [Effect::Adopt]);
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
    let lost = Event::Lost { pair: Pair::Present, loss: Loss::Ended };
    assert_eq!(run(&mut machine, lost, at(0, 0)), [Effect::Ask(Road::Https)]);
}

#[test]
fn a_next_pair_that_the_cloud_refuses_is_asked_for_anew_when_the_present_one_has_ended_and_still_tried() {
    let now = at(0, 1_100);
    let mut machine = Renewal::new(LIFE, Some(NEWER), 0);
    let mut asked = Vec::new();
    let mut tried = Vec::new();
    for _ in 0..4 * STRIKES {
        let pair = machine.pair();
        tried.push(pair);
        let loss = if pair == Pair::Next { Loss::Refused } else { Loss::Ended };
        asked.extend(run(&mut machine, Event::Lost { pair, loss }, now));
    }
    assert_eq!(asked, [Effect::Ask(Road::Https)]);
    assert_eq!(tried.iter().filter(|pair| **pair == Pair::Next).count() as u32, 2 * STRIKES, "by turns");
    assert_eq!(machine.state(), "asked_over_https");
    let mut forgiven = machine.clone();
    assert_eq!(run(&mut forgiven, Event::Heard(Pair::Next), now), [Effect::Adopt], "it was good after all");
    let newer = Life { begins_ms: 1_100 * DAY, ends_ms: 1_190 * DAY };
    assert_eq!(run(&mut machine, Event::Stored(newer), now), [Effect::Reconnect]);
    assert_eq!(machine.pair(), Pair::Next);
}

#[test]
fn an_answer_that_never_comes_is_asked_for_again() {
    let mut machine = Renewal::new(LIFE, None, 0);
    run(&mut machine, Event::Heard(Pair::Present), at(0, 1_061));
    assert_eq!(run(&mut machine, Event::Tick, at(ANSWER_MS, 1_061)), []);
    assert_eq!(run(&mut machine, Event::Tick, at(2 * ANSWER_MS, 1_061)), [Effect::Ask(Road::Link)]);
    assert_eq!(run(&mut machine, Event::Lost { pair: Pair::Present, loss: Loss::Network }, at(0, 1_061)), []);
    let again = run(&mut machine, Event::Heard(Pair::Present), at(HOUR, 1_061));
    assert_eq!(again, [Effect::Ask(Road::Link)], "the question went down with the connection");
}

/// A certificate in the cloud.
#[derive(Clone, Copy)]
struct Accepted {
    id: u64,
    key: u64,
    /// Whether a hello was said with it.
    seen: bool,
}

/// What a person has to decide.
struct Question {
    key: u64,
    approved: bool,
}

/// A device with its disk, a cloud that keeps the rules of rotation and renewal, and everything between them failing.
struct World {
    random: StdRng,
    machine: Renewal,
    ms: u64,
    calendar_ms: u64,
    /// On the disk: certificate ids.
    present: u64,
    next: Option<u64>,
    /// The key for which a certificate is asked.
    asked: Option<u64>,
    /// The key and the life of a certificate.
    certificates: BTreeMap<u64, (u64, Life)>,
    keys: u64,
    /// In the cloud: what it accepts, and what waits for a person.
    accepted: Vec<Accepted>,
    question: Option<Question>,
    link: Option<(Pair, u64)>,
    /// Answers under way, with the number of the question; `None` for one without a certificate.
    answers: Vec<(u64, Option<u64>)>,
    questions: u64,
    calm: bool,
    adopted: u32,
    kills: u32,
    late: u32,
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
            certificates: BTreeMap::from([(0, (0, LIFE))]),
            keys: 1,
            accepted: vec![Accepted { id: 0, key: 0, seen: true }],
            question: None,
            link: None,
            answers: Vec::new(),
            questions: 0,
            calm: false,
            adopted: 0,
            kills: 0,
            late: 0,
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

    fn life(&self, id: u64) -> Life {
        self.certificates[&id].1
    }

    fn is_accepted(&self, id: u64) -> bool {
        self.accepted.iter().any(|known| known.id == id)
    }

    /// SIGKILL, or a power cut: what is on the disk is what there is.
    fn kill(&mut self) {
        // The key of a question is tidied up where its certificate has come.
        self.asked = self.asked.filter(|asked| self.next.is_none_or(|id| self.certificates[&id].0 != *asked));
        let next = self.next.map(|id| self.life(id));
        self.machine = Renewal::new(self.life(self.present), next, 7);
        (self.link, self.ms) = (None, 0);
        self.answers.clear();
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
                Effect::Discard => {
                    assert!(!self.next.is_some_and(|id| self.is_accepted(id)), "a good pair is thrown away");
                    (self.next, self.asked) = (None, None);
                }
                Effect::ScheduleTick { .. } => {}
            }
        }
    }

    fn ask(&mut self, road: Road) {
        let known = |id: u64| {
            let key = self.certificates[&id].0;
            self.accepted.iter().any(|known| known.key == key)
        };
        assert!(known(self.present) || self.next.is_some_and(known), "the cloud knows no key of the device");
        assert!(road == Road::Https || self.link.is_some());
        if road == Road::Https {
            let good = |id: u64| self.is_accepted(id) && self.calendar_ms < self.life(id).ends_ms;
            assert!(!self.next.is_some_and(good), "a person is asked again for what the device has");
        }
        self.questions += 1;
        if self.asked.is_none() {
            self.asked = Some(self.keys);
            self.keys += 1;
        }
        let key = self.asked.unwrap();
        if !self.luck(70) {
            return;
        }
        if road == Road::Https {
            if self.question.as_ref().is_none_or(|question| question.key != key) {
                self.question = Some(Question { key, approved: false });
            }
            if !self.question.as_ref().is_some_and(|question| question.approved) {
                return self.answers.push((self.questions, None));
            }
        }
        let id = self.certificates.len() as u64;
        let life = Life { begins_ms: self.calendar_ms, ends_ms: self.calendar_ms + 90 * DAY };
        self.certificates.insert(id, (key, life));
        // A later certificate takes the place of an unused one over the same key; beyond the bound the oldest unused one
        // goes.
        self.accepted.retain(|known| known.seen || known.key != key);
        if self.accepted.len() == 4 {
            let oldest = self.accepted.iter().position(|known| !known.seen).unwrap();
            self.accepted.remove(oldest);
        }
        self.accepted.push(Accepted { id, key, seen: false });
        self.answers.push((self.questions, Some(id)));
    }

    fn connect(&mut self) {
        let pair = self.machine.pair();
        let id = self.id(pair);
        let ended = self.calendar_ms >= self.life(id).ends_ms;
        let through = self.luck(50);
        if !through || ended || !self.is_accepted(id) {
            let loss = match (through, ended) {
                (false, _) => Loss::Network,
                (true, true) => Loss::Ended,
                (true, false) => Loss::Refused,
            };
            return self.event(Event::Lost { pair, loss });
        }
        self.link = Some((pair, id));
        if self.luck(90) {
            // The first hello of a new one retires the others; the old one's does not take the new one away.
            let first = self.accepted.iter().any(|known| known.id == id && !known.seen);
            self.accepted.retain(|known| known.id == id || (!known.seen && !first));
            self.accepted.iter_mut().filter(|known| known.id == id).for_each(|known| known.seen = true);
            if first {
                self.question = None;
            }
            if self.luck(90) {
                self.event(Event::Heard(pair));
            }
        }
    }

    /// An answer of HTTPS may be later than the device's patience, and than the answer to the next question.
    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.answers.len());
        let (question, certificate) = self.answers.swap_remove(at);
        if question != self.questions || !self.machine.has_asked() {
            self.late += 1;
            return;
        }
        match certificate {
            Some(id) if self.luck(80) => {
                (self.next, self.asked) = (Some(id), None);
                self.check();
                if !self.luck(95) {
                    return self.kill();
                }
                self.event(Event::Stored(self.life(id)));
            }
            _ => self.event(Event::NotYet),
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..7) {
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
                    self.event(Event::Lost { pair, loss: Loss::Network });
                }
            }
            4 => self.answer(),
            5 if !self.luck(90) => self.kill(),
            6 if self.luck(30) => {
                if let Some(question) = &mut self.question {
                    question.approved = true;
                }
            }
            _ => {}
        }
        self.check();
    }

    /// Whatever happens, the cloud accepts one of the pairs that lie on the disk.
    fn check(&self) {
        let works = self.is_accepted(self.present) || self.next.is_some_and(|id| self.is_accepted(id));
        assert!(works, "{} {:?}", self.present, self.next);
    }
}

#[test]
fn whatever_fails_the_device_keeps_a_pair_that_the_cloud_accepts_and_gets_a_newer_one() {
    let seeds = std::env::var("FLOTILLA_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let (mut adopted, mut kills, mut late) = (0, 0, 0);
    for seed in 0..seeds {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
        kills += world.kills;
        adopted += world.adopted;
        late += world.late;
        // Now nothing fails any more: the device gets a certificate that is valid, and is connected with it.
        world.calm = true;
        let done = (0..20_000).any(|_| {
            world.step();
            let fresh = world.calendar_ms < world.machine.present().ends_ms;
            fresh && world.machine.state() == "settled" && world.link.is_some()
        });
        assert!(done, "seed {seed}: {:?}", world.machine);
    }
    println!("{seeds} seeds, {kills} kills, {adopted} rotations, {late} late answers, 0 devices locked out");
    assert!(adopted > seeds as u32 && late > seeds as u32, "{adopted} {late}");
}

#[test]
fn an_operator_gets_a_new_certificate_long_before_it_is_due_and_one_is_enough() {
    let now = at(0, 1_001);
    let mut machine = Renewal::new(LIFE, None, 0);
    assert_eq!(run(&mut machine, Event::Tick, now), []);
    assert_eq!(run(&mut machine, Event::Wanted, now), [], "not without a connection");
    assert_eq!(run(&mut machine, Event::Heard(Pair::Present), now), [Effect::Ask(Road::Link)]);
    assert_eq!(run(&mut machine, Event::Wanted, now), [], "it is on its way");
    assert_eq!(run(&mut machine, Event::Stored(NEWER), now), [Effect::Reconnect]);
    assert_eq!(run(&mut machine, Event::Wanted, now), []);
    assert_eq!(run(&mut machine, Event::Heard(Pair::Next), now), [Effect::Adopt]);
    run(&mut machine, Event::Adopted, now);
    assert_eq!((machine.state(), machine.present()), ("settled", NEWER));
}

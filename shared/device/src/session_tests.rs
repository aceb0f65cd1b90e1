//! What the cloud sees of a device's connection.

use super::*;

struct Desk {
    session: Session,
    now_ms: u64,
}

impl Desk {
    fn new(counter: u64) -> Self {
        Self { session: Session::new(counter), now_ms: 0 }
    }

    fn give(&mut self, event: Event) -> Vec<Effect> {
        let (next, effects) = self.session.step(event, self.now_ms, 0);
        self.session = next;
        effects
    }

    /// Lets time pass to the tick asked for last.
    fn pass(&mut self) -> Vec<Effect> {
        self.now_ms = self.session.due_ms().unwrap_or(self.now_ms).max(self.now_ms);
        self.give(Event::Tick)
    }

    fn connect(&mut self) -> Vec<Effect> {
        let effects = self.pass();
        assert!(effects.contains(&Effect::Connect), "{effects:?}");
        assert!(self.give(Event::Connected).contains(&Effect::Subscribe));
        self.give(Event::Subscribed)
    }
}

#[test]
fn a_hello_is_counted_before_it_is_sent_and_the_report_follows() {
    let mut desk = Desk::new(41);
    let effects = desk.connect();
    assert_eq!(
        effects[..3],
        [Effect::SaveCounter(42), Effect::SendHello { counter: 42 }, Effect::SendReported { version: 1 }]
    );
}

#[test]
fn lost_connections_are_tried_again_ever_later_until_a_desired_document_comes() {
    let mut desk = Desk::new(0);
    let mut waits = Vec::new();
    for _ in 0..4 {
        desk.connect();
        desk.give(Event::Lost);
        waits.push(desk.session.due_ms().map(|due| due - desk.now_ms));
    }
    assert_eq!(waits, [Some(500), Some(1_000), Some(2_000), Some(4_000)]);
    desk.connect();
    desk.give(Event::DesiredSeen);
    desk.give(Event::Lost);
    assert_eq!(desk.session.due_ms().map(|due| due - desk.now_ms), Some(500));
}

#[test]
fn a_broker_that_does_not_answer_is_given_up() {
    let mut desk = Desk::new(0);
    desk.pass();
    let effects = desk.pass();
    assert_eq!(desk.now_ms, SETUP_MS);
    assert_eq!(effects[0], Effect::Close);
    assert!(desk.pass().contains(&Effect::Connect));
}

#[test]
fn a_desired_document_that_does_not_come_is_asked_for_and_then_greeted_for() {
    let mut desk = Desk::new(0);
    desk.connect();
    let mut seen = Vec::new();
    while desk.now_ms < 3 * DESIRED_MS {
        seen.extend(desk.pass());
    }
    seen.retain(|effect| !matches!(effect, Effect::ScheduleTick { .. } | Effect::SendReported { .. }));
    assert_eq!(
        seen,
        [
            Effect::Ask(RequestBody::Desired),
            Effect::Ask(RequestBody::Desired),
            Effect::SaveCounter(2),
            Effect::SendHello { counter: 2 },
        ]
    );
}

#[test]
fn many_changes_make_few_reports_and_the_last_one_is_sent() {
    let mut desk = Desk::new(0);
    desk.connect();
    desk.give(Event::DesiredSeen);
    let mut reports = 0;
    for _ in 0..100 {
        desk.now_ms += 10;
        reports += desk.give(Event::ReportChanged).iter().filter(|e| is_report(e)).count();
    }
    assert!(reports <= 2, "{reports} reports in a second");
    desk.give(Event::ReportChanged);
    assert!(desk.pass().iter().any(is_report));
    assert_eq!(desk.session.due_ms(), Some(desk.now_ms + REPORT_REPEAT_MS));
}

fn stored(counter: u64, version: u64) -> Event {
    Event::ReportStored(ReportStored { counter, version })
}

/// Versions of the reports that are sent in the next hours.
fn reports(desk: &mut Desk, hours: u64) -> Vec<u64> {
    let (mut versions, end) = (Vec::new(), desk.now_ms + hours * 3_600_000);
    while desk.session.due_ms().is_some_and(|due| due <= end) {
        versions.extend(desk.pass().iter().filter_map(|effect| match effect {
            Effect::SendReported { version } => Some(*version),
            _ => None,
        }));
    }
    desk.now_ms = end;
    versions
}

#[test]
fn a_report_is_repeated_until_the_cloud_has_it_and_not_after_that() {
    let mut desk = Desk::new(41);
    desk.connect();
    desk.give(Event::DesiredSeen);
    assert_eq!(reports(&mut desk, 1), [2, 3, 4, 5, 6, 7], "an older cloud, or a lost report");
    for other in [stored(42, 6), stored(41, 7), stored(42, 8)] {
        desk.give(other);
        assert!(!desk.session.report_is_stored(), "{other:?} is another report");
    }
    desk.give(stored(42, 7));
    assert!(desk.session.report_is_stored());
    assert_eq!(reports(&mut desk, 24), [], "there is nothing new to say");

    desk.give(Event::ReportChanged);
    assert!(!desk.session.report_is_stored());
    assert_eq!(reports(&mut desk, 1), [9, 10, 11, 12, 13, 14], "nobody has said that this one came");
    desk.give(stored(42, 14));
    desk.give(Event::Lost);
    desk.connect();
    desk.give(Event::DesiredSeen);
    desk.give(stored(42, 14));
    assert_eq!(reports(&mut desk, 1).len(), 6, "what was said of the connection before does not count");
}

fn is_report(effect: &Effect) -> bool {
    matches!(effect, Effect::SendReported { .. })
}

#[test]
fn nothing_is_sent_without_a_connection() {
    let mut desk = Desk::new(0);
    desk.connect();
    desk.give(Event::Lost);
    for event in [Event::ReportChanged, Event::DesiredSeen, Event::Subscribed, Event::Connected, Event::Lost]
    {
        let effects = desk.give(event);
        assert!(effects.iter().all(|e| matches!(e, Effect::ScheduleTick { .. })), "{event:?}: {effects:?}");
    }
}

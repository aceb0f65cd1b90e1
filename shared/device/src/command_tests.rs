use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn ping(id: u64, deadline_ms: Option<u64>) -> Command {
    Command { id, kind: CommandKind::Ping, deadline_ms }
}

fn code(report: &CommandReport) -> Option<ErrorCode> {
    match &report.state {
        CommandState::Done => None,
        CommandState::Failed { code, .. } => Some(*code),
    }
}

fn end(id: u64) -> Event {
    Event::Ended { id, state: CommandState::Done, diagnosis: None }
}

#[test]
fn what_is_late_or_unknown_is_reported_and_never_begun() {
    let unknown = Command { id: 2, kind: CommandKind::Unknown, deadline_ms: None };
    let level = CommandKind::LogLevel { level: LogLevel::Unknown };
    let level = Command { id: 3, kind: level, deadline_ms: Some(500) };
    let query = LogQuery { from_ms: 0, to_ms: 1, max_bytes: 1, level: LogLevel::Unknown };
    let pull = Command { id: 4, kind: CommandKind::LogPull(query), deadline_ms: None };
    let open = vec![ping(1, Some(100)), unknown, level, pull];
    let (commands, effects) = Commands::default().step(Event::Wanted(open), 100);
    assert_eq!(effects, [Effect::Keep]);
    let codes: Vec<_> = commands.reports().iter().map(code).collect();
    let unsupported = ErrorCode::Unsupported;
    assert_eq!(codes, [ErrorCode::Expired, unsupported, unsupported, unsupported].map(Some));
}

#[test]
fn a_running_command_expires_at_its_deadline_and_its_late_end_changes_nothing() {
    let open = vec![ping(1, Some(100))];
    let (commands, effects) = Commands::default().step(Event::Wanted(open.clone()), 99);
    assert_eq!(effects, [Effect::Begin(open[0].clone())]);
    assert_eq!(commands.due_ms(), Some(100));
    let (commands, effects) = commands.step(Event::Tick, 100);
    assert_eq!((effects, commands.due_ms()), (vec![Effect::Keep], None));
    let (after, effects) = commands.step(end(1), 101);
    assert!(effects.is_empty() && after == commands);
    assert_eq!(after.reports().iter().map(code).collect::<Vec<_>>(), [Some(ErrorCode::Expired)]);
}

#[test]
fn what_the_cloud_takes_back_is_forgotten() {
    let (commands, _) = Commands::default().step(Event::Wanted(vec![ping(1, None), ping(2, None)]), 0);
    let (commands, _) = commands.step(end(1), 0);
    let (commands, effects) = commands.step(Event::Wanted(vec![]), 0);
    assert_eq!((commands, effects), (Commands::default(), vec![Effect::Keep]));
}

#[derive(Clone, Debug)]
enum Step {
    Ask(Option<u64>),
    TakeBack,
    End,
    Wait(u64),
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        proptest::option::of(0_u64..300).prop_map(Step::Ask),
        Just(Step::TakeBack),
        Just(Step::End),
        (1_u64..60).prop_map(Step::Wait),
        Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    /// An agent that is killed at any moment has only what it kept; documents come again and again.
    #[test]
    fn every_command_ends_once_and_none_begins_after_its_end_or_deadline(steps in steps()) {
        let (mut machine, mut disk) = (Commands::default(), Vec::new());
        let (mut open, mut now, mut id) = (Vec::<Command>::new(), 0, 0);
        let mut said: BTreeMap<u64, CommandReport> = BTreeMap::new();
        let mut running: Vec<u64> = Vec::new();
        for step in steps {
            let event = match step {
                Step::Ask(deadline_ms) => {
                    id += 1;
                    open.push(ping(id, deadline_ms));
                    Event::Wanted(open.clone())
                }
                Step::TakeBack => {
                    open.retain(|command| !said.contains_key(&command.id));
                    Event::Wanted(open.clone())
                }
                Step::End => match running.pop() {
                    Some(id) => end(id),
                    None => Event::Tick,
                },
                Step::Wait(ms) => {
                    now += ms;
                    Event::Tick
                }
                Step::Kill => {
                    machine = Commands::new(disk.clone());
                    running.clear();
                    Event::Wanted(open.clone())
                }
            };
            let (next, effects) = machine.step(event, now);
            machine = next;
            for effect in effects {
                match effect {
                    Effect::Keep => disk = machine.reports().to_vec(),
                    Effect::Begin(command) => {
                        prop_assert!(!said.contains_key(&command.id), "begun after its end");
                        prop_assert!(command.deadline_ms.is_none_or(|at| now < at));
                        running.push(command.id);
                    }
                }
            }
            prop_assert_eq!(&disk[..], machine.reports(), "what is said is kept");
            prop_assert!(disk.len() <= open.len());
            for report in &disk {
                let before = said.entry(report.id).or_insert_with(|| report.clone());
                prop_assert_eq!(&*before, report, "an end is the end");
            }
            for command in &open {
                let ended = said.contains_key(&command.id);
                prop_assert!(ended != machine.is_running(command.id), "either ended or running");
            }
        }
    }
}

//! A device over its life: what ran on it and when, and the end of its service.

use crate::support::{Installation, device, model};
use flotilla_fleet::{
    ClaimRequest, ConcernReason, DeviceState, GroupSpec, Order, Query, RanOutcome, RolloutRequest, Stage,
};
use flotilla_identity::audit;
use flotilla_protocol::message::{HardExamples, Phase, Settings};
use flotilla_protocol::{ErrorCode, GroupName};

async fn roll_out(installation: &Installation, name: &str) -> flotilla_protocol::RolloutId {
    let devices = Some(vec![device(name)]);
    let request = RolloutRequest { devices, ..RolloutRequest::newest(model("digits")) };
    installation.fleet.start_rollout(&installation.admin, request).await.unwrap().id
}

async fn found(installation: &Installation, query: Query) -> Vec<String> {
    let page = installation.fleet.find(&query).await.unwrap();
    assert_eq!(page.total, page.devices.len());
    page.devices.iter().map(|device| device.id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_when_is_on_record_with_the_rollout_that_brought_it() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let first = installation.release("digits", 1.0).await;
    let mut gate = installation.device("gate-7").await;
    assert!(installation.fleet.runs(&device("gate-7")).await.unwrap().is_empty());
    let brought = roll_out(&installation, "gate-7").await;
    let desired = gate.desired_release("digits", Some(first.digest)).await;
    gate.confirm(&desired, "digits").await;
    let runs = |view: &flotilla_fleet::DeviceView, phase| view.models.iter().any(|one| one.phase == phase);
    installation.until("gate-7", |view| runs(view, Phase::Confirmed)).await;

    // The next one fails.
    let second = installation.release("digits", 2.0).await;
    let failing = roll_out(&installation, "gate-7").await;
    let desired = gate.desired_release("digits", Some(second.digest)).await;
    gate.fail(&desired, "digits", ErrorCode::ProbeTooSlow).await;
    installation.until("gate-7", |view| runs(view, Phase::Failed)).await;
    installation.close().await;

    // It is there after a restart, newest first. The failed one took the first with it: the report said so.
    let installation = Installation::open(folder.path()).await;
    let runs = installation.fleet.runs(&device("gate-7")).await.unwrap();
    let said: Vec<_> = runs.iter().map(|ran| (ran.outcome, ran.release, ran.rollout.as_ref())).collect();
    let wanted = [
        (RanOutcome::Removed, first.digest, None),
        (RanOutcome::Failed, second.digest, Some(&failing)),
        (RanOutcome::Confirmed, first.digest, Some(&brought)),
    ];
    assert_eq!(said, wanted);
    assert_eq!((runs[1].code, runs[0].code), (Some(ErrorCode::ProbeTooSlow), None));
    assert!(runs.iter().all(|ran| ran.at_ms >= runs[2].at_ms && ran.model == model("digits")));
    let unknown = installation.fleet.runs(&device("x")).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decommissioned_device_is_out_of_everything_and_its_history_stays() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin, id) = (&installation.fleet, &installation.admin, device("gate-7"));
    let release = installation.release("digits", 1.0).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&credentials, 1).await;
    let mut other = installation.device("gate-8").await;
    other.desired().await;
    roll_out(&installation, "gate-7").await;
    let desired = gate.desired_release("digits", Some(release.digest)).await;
    gate.confirm(&desired, "digits").await;
    installation.until("gate-7", |view| view.models.iter().any(|one| one.release.is_some())).await;
    let [kept, free]: [GroupName; 2] = ["kept", "free"].map(|name| name.parse().unwrap());
    for (group, members) in [(&kept, vec![id.clone(), device("gate-8")]), (&free, vec![device("gate-8")])] {
        fleet.create_group(admin, group, GroupSpec::Static(members)).await.unwrap();
    }
    let policy = HardExamples { daily_bytes: 1_000_000, audit_per_million: 1, ..HardExamples::default() };
    let given = fleet.consent(admin, Some(vec![id.clone()]), &model("digits"), &policy).await.unwrap();
    assert!(matches!(given[0].outcome, Ok(true)));
    let ping = fleet.command(admin, &id, &Order::Ping, None).await.unwrap();

    let done =
        fleet.decommission(admin, vec![id.clone(), device("nobody")], "worn out".into()).await.unwrap();
    assert!(matches!(done[0].outcome, Ok(true)));
    assert_eq!(done[1].outcome.as_ref().unwrap_err().code(), ErrorCode::NotFound);
    gate.closed().await;
    assert!(installation.try_connect(&credentials).await.is_err(), "for good");
    let view = installation.until("gate-7", |view| !view.connected).await;
    assert!(matches!(&view.state, DeviceState::Decommissioned { reason, .. } if reason == "worn out"));
    assert_eq!(view.standing, "decommissioned");
    let [digits] = view.models.as_slice() else { panic!("{:?}", view.models) };
    assert_eq!((&digits.wanted, digits.release.as_ref().unwrap().digest), (&None, release.digest));
    assert_eq!(fleet.consents(&id).await.unwrap(), Default::default());
    let commands = fleet.commands(&id).await.unwrap();
    assert_eq!(
        commands.iter().map(|(asked, stage)| (asked.id, *stage)).collect::<Vec<_>>(),
        [(ping, Stage::Failed)]
    );
    let (group, members) = fleet.group(&kept, &Query::default()).await.unwrap();
    assert_eq!((group.kept, members.devices), (1, vec![device("gate-8")]));
    assert_eq!(fleet.group(&free, &Query::default()).await.unwrap().0.kept, 1);
    assert_eq!(fleet.runs(&id).await.unwrap().len(), 1, "its history is readable");

    // Nothing is asked of it any more, and nobody gets its id.
    assert_eq!(fleet.command(admin, &id, &Order::Ping, None).await.unwrap_err().code(), ErrorCode::Revoked);
    let again = fleet.decommission(admin, vec![id.clone()], "again".into()).await.unwrap();
    assert!(matches!(again[0].outcome, Ok(false)), "once is enough");
    fleet.revoke(admin, &id, "too late").await.unwrap();
    let view = fleet.device(&id).await.unwrap();
    assert!(matches!(view.state, DeviceState::Decommissioned { reason, .. } if reason == "worn out"));

    // Search shows it to those who ask for it.
    assert_eq!(found(&installation, Query::default()).await, ["gate-8"]);
    assert_eq!(
        found(&installation, Query { search: Some("gate-7".into()), ..Query::default() }).await,
        [""; 0]
    );
    let all = Query { all_states: true, ..Query::default() };
    assert_eq!(found(&installation, all).await, ["gate-7", "gate-8"]);
    let filter = Some("state == 'decommissioned'".to_owned());
    assert_eq!(found(&installation, Query { filter, ..Query::default() }).await, ["gate-7"]);
    let trail = audit::list(&*installation.records, audit::Order::NewestFirst, None, 500).await.unwrap();
    let of_it: Vec<_> = trail.iter().filter(|one| one.action == "device:decommission").collect();
    let [record] = of_it.as_slice() else { panic!("one record of one change: {of_it:?}") };
    assert_eq!(record.detail["dropped"]["groups"], serde_json::json!(["kept"]));

    // The summary counts it apart.
    let summary = fleet.summary().await.unwrap();
    assert_eq!((summary.devices, summary.decommissioned, summary.online), (1, 1, 1));
    assert!(summary.messages > 0 && summary.traffic.received > 0);
    drop(other);
    installation.until("gate-8", |view| !view.connected).await;
    let summary = fleet.summary().await.unwrap();
    let worst: Vec<_> = summary.worst.iter().map(|one| (one.device.clone(), one.reason)).collect();
    assert_eq!(worst, [(device("gate-8"), ConcernReason::Offline)]);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_for_approval_is_seen_and_gets_nothing_until_somebody_has_looked_at_it() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let request = ClaimRequest { approval: true, ..ClaimRequest::plain(2, 60_000, "localhost:1".into()) };
    let (_, code) = installation.fleet.create_claim(&installation.admin, request).await.unwrap();
    let good = installation.enrol_with(&code, "gate-7").await;
    let strange = installation.enrol_with(&code, "gate-8").await;
    let mut gate = installation.connect(&good, 1).await;
    assert!(gate.desired().await.models.is_empty());

    // Nothing is asked of it.
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let to = |name: &str| {
        let devices = Some(vec![device(name)]);
        RolloutRequest { devices, ..RolloutRequest::newest(model("digits")) }
    };
    let refused = fleet.start_rollout(admin, to("gate-7")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::WrongState);
    assert!(refused.to_string().contains("flotilla device approve gate-7"), "{refused}");
    let all = RolloutRequest::newest(model("digits"));
    assert_eq!(fleet.start_rollout(admin, all).await.unwrap_err().code(), ErrorCode::InvalidInput);
    let order = Order::Ping;
    assert_eq!(
        fleet.command(admin, &device("gate-7"), &order, None).await.unwrap_err().code(),
        ErrorCode::WrongState
    );
    let set = |settings: &Settings| Ok(Settings { probation_s: 1, ..settings.clone() });
    assert_eq!(
        fleet.configure(admin, &device("gate-7"), set).await.unwrap_err().code(),
        ErrorCode::WrongState
    );
    let waiting = Query { filter: Some("state == 'waiting'".into()), ..Query::default() };
    assert_eq!(found(&installation, waiting.clone()).await, ["gate-7", "gate-8"]);
    let summary = fleet.summary().await.unwrap();
    assert_eq!(
        (summary.states.get("waiting"), summary.online),
        (Some(&2), 0),
        "it is not one of the fleet yet"
    );

    // It waits over a restart.
    drop(gate);
    installation.close().await;
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let mut gate = installation.connect(&good, 2).await;
    gate.desired().await;
    assert_eq!(found(&installation, waiting.clone()).await.len(), 2);

    // Taken in, it is one of the fleet at once.
    let admit = |name: &str, reject: Option<&str>| {
        let (name, reject) = (Some(vec![device(name)]), reject.map(str::to_owned));
        async move { fleet.admit(admin, name, reject).await.unwrap().remove(0).outcome }
    };
    assert!(admit("gate-7", None).await.unwrap());
    assert!(!admit("gate-7", None).await.unwrap(), "twice is once");
    fleet.start_rollout(admin, to("gate-7")).await.unwrap();
    gate.desired_release("digits", Some(release.digest)).await;

    // Shut out, it is so for good.
    let mut other = installation.connect(&strange, 1).await;
    assert!(admit("gate-8", Some("nobody knows it")).await.unwrap());
    other.closed().await;
    assert!(installation.try_connect(&strange).await.is_err());
    assert_eq!(admit("gate-8", None).await.unwrap_err().code(), ErrorCode::Revoked);
    assert_eq!(admit("gate-7", Some("a mistake")).await.unwrap_err().code(), ErrorCode::WrongState);
    assert!(found(&installation, waiting).await.is_empty());
    let trail = audit::list(&*installation.records, audit::Order::NewestFirst, None, 500).await.unwrap();
    let count = |action: &str| trail.iter().filter(|entry| entry.action == action).count();
    assert_eq!((count("device:admit"), count("device:refuse")), (1, 1));
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_serial_number_is_registered_gets_its_line_and_nobody_else_gets_the_number() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let tills: GroupName = "tills".parse().unwrap();
    let list = b"serial,name,group,labels,attribute.site\nPF-1,Till 1,tills,canary,berlin\nPF-2,,,,\n";
    let missing = fleet.register(admin, list).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound, "its group is not there: {missing}");
    assert!(fleet.registrations().await.unwrap().is_empty(), "nothing of it is registered");
    fleet.create_group(admin, &tills, GroupSpec::Static(Vec::new())).await.unwrap();
    let done = fleet.register(admin, list).await.unwrap();
    assert_eq!((done.new, done.unchanged), (2, 0));
    let again = fleet.register(admin, list).await.unwrap();
    assert_eq!((again.new, again.unchanged), (0, 2), "whoever was cut off gives the list again");
    let used = fleet.delete_group(admin, &tills).await.unwrap_err();
    assert!(used.code() == ErrorCode::WrongState && used.to_string().contains("PF-1"), "{used}");

    let claim = ClaimRequest { registered: true, ..ClaimRequest::plain(9, 60_000, "localhost:1".into()) };
    let (_, code) = fleet.create_claim(admin, claim).await.unwrap();
    let unknown = installation.try_enrol(&code, "gate-1", Some("PF-9")).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::PermissionDenied);
    assert_eq!(
        installation.try_enrol(&code, "gate-1", None).await.unwrap_err().code(),
        ErrorCode::PermissionDenied
    );
    let first = installation.try_enrol(&code, "gate-1", Some("PF-1")).await.unwrap();
    let view = fleet.device(&device("gate-1")).await.unwrap();
    assert_eq!((view.tags.name.as_deref(), view.serial.unwrap().as_str()), (Some("Till 1"), "PF-1"));
    assert_eq!(view.tags.attributes["site"], "berlin");
    let in_group =
        Query { filter: Some("'tills' in groups && 'canary' in labels".into()), ..Query::default() };
    assert_eq!(found(&installation, in_group).await, ["gate-1"]);
    drop(first);

    // The number is taken, until its device is shut out.
    let copy = installation.try_enrol(&code, "gate-2", Some("PF-1")).await.unwrap_err();
    assert_eq!(copy.code(), ErrorCode::AlreadyExists);
    assert!(copy.to_string().contains("gate-1"), "{copy}");
    assert_eq!(fleet.register(admin, b"serial,name\nPF-1,Other\n").await.unwrap().enrolled, 1);
    let holder = || async { fleet.registrations().await.unwrap().remove(0).device };
    assert_eq!(holder().await, Some(device("gate-1")));
    fleet.revoke(admin, &device("gate-1"), "stolen").await.unwrap();
    assert_eq!(holder().await, None, "the number is free again");
    installation.try_enrol(&code, "gate-2", Some("PF-1")).await.unwrap();
    assert_eq!(fleet.device(&device("gate-2")).await.unwrap().tags.name.as_deref(), Some("Till 1"));
    let serial = "PF-2".parse().unwrap();
    fleet.unregister(admin, &serial).await.unwrap();
    assert_eq!(fleet.unregister(admin, &serial).await.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(fleet.registrations().await.unwrap().len(), 1);
    installation.close().await;
}

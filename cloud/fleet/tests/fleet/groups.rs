//! Devices that are found, written on and grouped, as an operator does it on a running fleet.

use crate::support::{Installation, device, model, soon};
use flotilla_fleet::{ClaimRequest, GroupSpec, Query, RolloutRequest, Selection, TagChange, Tags};
use flotilla_identity::audit;
use flotilla_protocol::enrol::EnrolRequest;
use flotilla_protocol::message::BoardFacts;
use flotilla_protocol::{DeviceId, ErrorCode, GroupName};

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn label(add: &[&str]) -> TagChange {
    TagChange { add: add.iter().map(|label| (*label).to_owned()).collect(), ..TagChange::default() }
}

fn site(site: &str) -> TagChange {
    TagChange { set: [("site".to_owned(), Some(site.to_owned()))].into(), ..TagChange::default() }
}

fn filter(text: &str) -> Query {
    Query { filter: Some(text.to_owned()), ..Query::default() }
}

impl Installation {
    async fn found(&self, text: &str) -> Vec<String> {
        let page = self.fleet.find(&filter(text)).await.unwrap();
        assert_eq!(page.total, page.devices.len());
        page.devices.iter().map(|device| device.id.to_string()).collect()
    }

    async fn tag(&self, ids: &[&str], change: TagChange) {
        let on = Selection::Devices(ids.iter().map(|id| device(id)).collect());
        let done = self.fleet.tag(&self.admin, on, change).await.unwrap();
        assert!(done.iter().all(|one| one.outcome.is_ok()), "{done:?}");
    }

    async fn trail(&self) -> Vec<(String, String, String)> {
        let all = audit::list(&*self.records, audit::Order::NewestFirst, None, 100).await.unwrap();
        all.into_iter().map(|one| (one.action, one.subject, one.detail.to_string())).collect()
    }

    async fn members(&self, name: &str) -> Vec<String> {
        let (_, page) = self.fleet.group(&group(name), &Query::default()).await.unwrap();
        page.devices.iter().map(ToString::to_string).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_write_on_devices_is_found_at_once_kept_over_a_restart_and_in_the_trail() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Installation::open(folder.path()).await;
    for name in ["gate-1", "gate-2", "gate-3"] {
        cloud.enrol(name).await;
    }
    cloud.tag(&["gate-1", "gate-2"], label(&["canary"])).await;
    cloud.tag(&["gate-2"], site("berlin")).await;
    assert_eq!(cloud.found(r#""canary" in labels"#).await, ["gate-1", "gate-2"]);
    assert_eq!(cloud.found(r#"attributes.site == "berlin" && !online"#).await, ["gate-2"]);
    let trail = cloud.trail().await;
    let (action, subject, detail) = &trail[0];
    assert_eq!((action.as_str(), subject.as_str()), ("device:tag", "device/gate-2"));
    assert!(detail.contains("berlin"), "{detail}");

    // Many at once, by an expression; what is not possible on one is named and holds up nobody.
    let on = Selection::Matching(filter(r#""canary" in labels"#));
    let done = cloud.fleet.tag(&cloud.admin, on, site("paris")).await.unwrap();
    assert_eq!(done.iter().filter(|one| matches!(one.outcome, Ok(true))).count(), 2);
    let words = |search: &str| Query { search: Some(search.to_owned()), ..Query::default() };
    let narrow = Query { limit: Some(1), ..words("GATE") };
    let on = Selection::Matching(Query { filter: Some(r#""canary" in labels"#.into()), ..narrow });
    let done = cloud.fleet.tag(&cloud.admin, on, label(&["door"])).await.unwrap();
    assert_eq!(done.len(), 2, "an order is for all that match, on whichever page");
    let done =
        cloud.fleet.tag(&cloud.admin, Selection::Matching(words("gate-2 canary")), label(&["wall"])).await;
    let done: Vec<_> = done.unwrap().iter().map(|one| one.device.to_string()).collect();
    assert_eq!(done, ["gate-2"]);
    let on = Selection::Devices(vec![device("gate-3"), device("nobody")]);
    let done = cloud.fleet.tag(&cloud.admin, on, site("rome")).await.unwrap();
    assert_eq!(done[1].outcome.as_ref().unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(cloud.found(r#"has(attributes.site)"#).await, ["gate-1", "gate-2", "gate-3"]);
    let bad = cloud.fleet.tag(&cloud.admin, Selection::Devices(vec![device("gate-3")]), label(&["No Label"]));
    assert_eq!(bad.await.unwrap_err().code(), ErrorCode::InvalidInput);
    cloud.close().await;

    let cloud = Installation::open(folder.path()).await;
    assert_eq!(cloud.found(r#"attributes.site == "paris""#).await, ["gate-1", "gate-2"]);
    assert_eq!(
        cloud.fleet.device(&device("gate-1")).await.unwrap().tags.labels,
        ["canary".to_owned(), "door".to_owned()].into()
    );
    cloud.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn search_sees_who_is_connected_and_who_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Installation::open(folder.path()).await;
    cloud.enrol("gate-2").await;
    let gate = cloud.device("gate-1").await;
    cloud.until("gate-1", |view| view.connected).await;
    assert_eq!(cloud.found("online && seen_s < 60").await, ["gate-1"]);
    let sorted = Query { sort: Some("-online".into()), ..Query::default() };
    assert_eq!(cloud.fleet.find(&sorted).await.unwrap().devices[0].id, device("gate-2"));
    drop(gate);
    cloud.until("gate-1", |view| !view.connected).await;
    assert!(cloud.found("online").await.is_empty());
    cloud.fleet.revoke(&cloud.admin, &device("gate-2"), "lost").await.unwrap();
    assert_eq!(cloud.found(r#"state == "revoked""#).await, ["gate-2"]);
    cloud.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_group_keeps_its_members_and_a_dynamic_one_takes_late_comers() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Installation::open(folder.path()).await;
    for name in ["gate-1", "gate-2", "gate-3"] {
        cloud.enrol(name).await;
    }
    let (fleet, admin) = (&cloud.fleet, &cloud.admin);
    let lab = GroupSpec::Static(vec![device("gate-1"), device("gate-2")]);
    assert_eq!(fleet.create_group(admin, &group("lab"), lab.clone()).await.unwrap().kept, 2);
    let again = fleet.create_group(admin, &group("lab"), lab).await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::AlreadyExists);
    let preview = fleet.preview_group(r#""canary" in labels"#, &Query::default()).await.unwrap();
    assert_eq!((preview.total, preview.devices.len()), (0, 0));
    let canaries = GroupSpec::Dynamic(r#""canary" in labels"#.into());
    fleet.create_group(admin, &group("canaries"), canaries).await.unwrap();
    assert!(cloud.members("canaries").await.is_empty());

    cloud.tag(&["gate-2", "gate-3"], label(&["canary"])).await;
    assert_eq!(cloud.members("canaries").await, ["gate-2", "gate-3"]);
    assert_eq!(cloud.found(r#""canaries" in groups && "lab" in groups"#).await, ["gate-2"]);
    let of = async |id: &str| {
        let all = fleet.groups_of(&device(id)).await.unwrap();
        all.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of("gate-1").await, ["lab"]);
    assert_eq!(of("gate-2").await, ["canaries", "lab"]);
    assert_eq!(fleet.groups_of(&device("nobody")).await.unwrap_err().code(), ErrorCode::NotFound);
    fleet.add_to_group(admin, &group("lab"), vec![device("gate-3"), device("gate-2")]).await.unwrap();
    fleet.remove_from_group(admin, &group("lab"), vec![device("gate-1")]).await.unwrap();
    assert_eq!(cloud.members("lab").await, ["gate-2", "gate-3"]);
    fleet.revoke(admin, &device("gate-3"), "lost").await.unwrap();
    assert_eq!(cloud.members("lab").await, ["gate-2"], "one that may not connect is not spoken of");
    assert_eq!(cloud.members("canaries").await, ["gate-2"]);
    let totals: Vec<_> = fleet
        .groups()
        .await
        .unwrap()
        .into_iter()
        .map(|(group, total)| (group.name.to_string(), total))
        .collect();
    assert_eq!(totals, [("canaries".to_owned(), 1), ("lab".to_owned(), 1)]);

    let missing = fleet.add_to_group(admin, &group("lab"), vec![device("nobody")]).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound);
    let by_hand = fleet.add_to_group(admin, &group("canaries"), vec![device("gate-1")]).await.unwrap_err();
    assert_eq!(by_hand.code(), ErrorCode::WrongState);
    let own = GroupSpec::Dynamic(r#""lab" in groups"#.into());
    assert_eq!(
        fleet.create_group(admin, &group("own"), own).await.unwrap_err().code(),
        ErrorCode::InvalidInput
    );
    let unknown = fleet.find(&filter(r#""nobody" in groups"#)).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);

    fleet.delete_group(admin, &group("lab")).await.unwrap();
    assert_eq!(fleet.group(&group("lab"), &Query::default()).await.unwrap_err().code(), ErrorCode::NotFound);
    let trail = cloud.trail().await;
    let of = |action: &str| trail.iter().filter(|(known, ..)| known == action).count();
    assert_eq!((of("group:create"), of("group:delete")), (2, 1));
    assert!(of("group:change") >= 3);
    cloud.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_enrol_with_a_claim_get_its_labels_attributes_and_group() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Installation::open(folder.path()).await;
    let (fleet, admin) = (&cloud.fleet, &cloud.admin);
    let tags = Tags {
        name: None,
        labels: ["shop".to_owned()].into(),
        attributes: [("site".to_owned(), "berlin".to_owned())].into(),
    };
    let request = ClaimRequest {
        group: Some(group("shops")),
        tags,
        ..ClaimRequest::plain(2, 60_000, "localhost:1".into())
    };
    let missing = fleet.create_claim(admin, request.clone()).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound);
    fleet.create_group(admin, &group("shops"), GroupSpec::Static(vec![])).await.unwrap();
    let (_, code) = fleet.create_claim(admin, request).await.unwrap();
    for name in ["till-1", "till-2"] {
        let in_use = fleet.delete_group(admin, &group("shops")).await.unwrap_err();
        assert_eq!(in_use.code(), ErrorCode::WrongState, "{in_use}");
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let request = EnrolRequest {
            secret: code.secret.clone(),
            csr_pem: csr.pem().unwrap(),
            device: Some(DeviceId::new(name).unwrap()),
            board: BoardFacts::default(),
            serial: None,
        };
        fleet.enrol(request).await.unwrap();
    }
    assert_eq!(cloud.members("shops").await, ["till-1", "till-2"]);
    assert_eq!(cloud.found(r#""shop" in labels && attributes.site == "berlin""#).await, ["till-1", "till-2"]);
    fleet.delete_group(admin, &group("shops")).await.unwrap();
    cloud.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rollout_takes_a_device_in_quarantine_until_it_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Installation::open(folder.path()).await;
    for name in ["gate-1", "gate-2"] {
        cloud.enrol(name).await;
    }
    cloud.release("digits", 1.0).await;
    let (fleet, admin) = (&cloud.fleet, &cloud.admin);
    fleet.create_group(admin, &group("all"), GroupSpec::Dynamic("true".into())).await.unwrap();
    let put = |reason: Option<&str>| {
        fleet.quarantine(admin, Selection::Devices(vec![device("gate-1")]), reason.map(str::to_owned))
    };
    assert!(matches!(put(Some("it fails again and again")).await.unwrap()[0].outcome, Ok(true)));
    assert!(matches!(put(Some("again")).await.unwrap()[0].outcome, Ok(false)));
    assert_eq!(cloud.found(r#"state == "quarantined""#).await, ["gate-1"]);
    assert_eq!(cloud.members("all").await, ["gate-1", "gate-2"], "it stays in its groups");
    let everybody = RolloutRequest::newest(model("digits"));
    let to_group = RolloutRequest { group: Some(group("all")), ..everybody.clone() };
    let named = RolloutRequest { devices: Some(vec![device("gate-1")]), ..everybody.clone() };
    let planned = async |request: RolloutRequest| {
        fleet.preflight(request).await.map(|plan| plan.waves.iter().map(|wave| wave.devices).sum::<u32>())
    };
    assert_eq!(planned(everybody).await.unwrap(), 1);
    assert_eq!(planned(to_group.clone()).await.unwrap(), 1);
    let refused = planned(named.clone()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::WrongState, "{refused}");
    put(None).await.unwrap();
    assert_eq!((planned(to_group).await.unwrap(), planned(named).await.unwrap()), (2, 1));
    let trail = cloud.trail().await;
    let (action, _, detail) = &trail[1];
    assert_eq!(trail[0].0, "device:release");
    assert!(action == "device:quarantine" && detail.contains("again and again"), "{trail:?}");
    cloud.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_to_a_group_reaches_its_devices_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Installation::open(folder.path()).await;
    for name in ["gate-1", "gate-2", "gate-3"] {
        cloud.enrol(name).await;
    }
    let release = cloud.release("digits", 1.0).await;
    let (fleet, admin) = (&cloud.fleet, &cloud.admin);
    let canaries = GroupSpec::Dynamic(r#""canary" in labels"#.into());
    fleet.create_group(admin, &group("canaries"), canaries).await.unwrap();
    let request = RolloutRequest {
        release: Some(release.digest),
        group: Some(group("canaries")),
        ..RolloutRequest::newest(model("digits"))
    };
    let empty = fleet.start_rollout(admin, request.clone()).await.unwrap_err();
    assert!(empty.to_string().contains("canaries"), "{empty}");
    cloud.tag(&["gate-1", "gate-3"], label(&["canary"])).await;
    let both = RolloutRequest { devices: Some(vec![device("gate-2")]), ..request.clone() };
    assert_eq!(fleet.start_rollout(admin, both).await.unwrap_err().code(), ErrorCode::InvalidInput);
    let plan = fleet.preflight(request.clone()).await.unwrap();
    assert_eq!(plan.waves.iter().map(|wave| wave.devices).sum::<u32>(), 2);
    let rollout = soon(fleet.start_rollout(admin, request)).await.unwrap();
    let devices = fleet.rollout_devices(&rollout.id).await.unwrap();
    let mut reached: Vec<_> = devices.iter().map(|one| one.device.to_string()).collect();
    reached.sort();
    assert_eq!(reached, ["gate-1", "gate-3"]);
    cloud.close().await;
}

//! The ROUTES table: the one place with the method, path, permission and handler of every route.

use super::handlers::{
    boards, card, commands, compress, console, datasets, diagnosis, experiments, fleet, groups, hard,
    imports, jobs, lifetime, models, registrations, releases, rollouts, server, settings, shadow, summary,
    telemetry, trust, twin,
};
use super::service::{Call, Handling, percent_decode};
use flotilla_identity::Permission;
use http::Method;
use std::collections::BTreeMap;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody: nothing behind it is secret.
    Public,
    /// Everybody, over HTTPS only: the request itself carries a secret.
    PublicTls,
    /// Actors with this permission.
    Needs(Permission),
}

/// One route.
pub struct Route {
    /// Method.
    pub method: Method,
    /// Path; `{name}` stands for one segment, `{name*}` at the end for the rest.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// One line for the API description.
    pub summary: &'static str,
    /// Name of the schema of the request body, if it is JSON.
    pub request: Option<&'static str>,
    /// Name of the schema of the answer, if it is JSON; `[Name]` for an array of them.
    pub answer: Option<&'static str>,
    /// What it does.
    pub handler: fn(Call) -> Handling,
}

impl Route {
    /// The path's values, if `path` is of this route.
    pub fn matches(&self, path: &str) -> Option<BTreeMap<&'static str, String>> {
        let mut values = BTreeMap::new();
        let mut rest = path.strip_prefix('/')?;
        let mut pattern = self.path.strip_prefix('/')?;
        loop {
            let (segment, pattern_rest) =
                pattern.split_once('/').map_or((pattern, None), |(a, b)| (a, Some(b)));
            if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix("*}")) {
                values.insert(name, percent_decode(rest).ok()?);
                return Some(values);
            }
            let (value, value_rest) = rest.split_once('/').map_or((rest, None), |(a, b)| (a, Some(b)));
            match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                Some(name) if !value.is_empty() => {
                    values.insert(name, percent_decode(value).ok()?);
                }
                None if value == segment => {}
                _ => return None,
            }
            match (pattern_rest, value_rest) {
                (None, None) => return Some(values),
                (Some(next_pattern), Some(next)) => {
                    pattern = next_pattern;
                    rest = next;
                }
                _ => return None,
            }
        }
    }
}

macro_rules! routes {
    ($($method:ident $path:literal $access:expr, $request:expr => $answer:expr, $handler:path, $summary:literal;)+) => {
        /// Every route.
        pub static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            access: $access,
            summary: $summary,
            request: $request,
            answer: $answer,
            handler: |call| Box::pin($handler(call)),
        },)+];
    };
}

use Access::{Needs, Public, PublicTls};
use Permission as P;

const NONE: Option<&str> = None;

routes! {
    GET "/" Public, NONE => NONE, console::index, "The console";
    GET "/console/{file*}" Public, NONE => NONE, console::file, "Files of the console";
    GET "/login" Public, NONE => NONE, console::login, "Exchanges a one-time code for a session cookie";
    GET "/api/v1/health" Public, NONE => Some("Health"), server::health, "Whether the control plane is up";
    GET "/api/v1/openapi.json" Public, NONE => NONE, server::openapi, "This description";
    POST "/api/v1/enrol" PublicTls, NONE => NONE, fleet::enrol, "Makes a box a device of the fleet (device protocol)";
    POST "/api/v1/renew/challenge" PublicTls, NONE => NONE, fleet::challenge, "What a device signs to renew its certificate (device protocol)";
    POST "/api/v1/renew" PublicTls, NONE => NONE, fleet::renew, "A new certificate for a device whose old one has ended, after an approval (device protocol)";

    GET "/api/v1/whoami" Needs(P::ServerRead), NONE => Some("WhoAmI"), server::whoami, "Who the token or session belongs to";
    POST "/api/v1/login-codes" Needs(P::ServerLogin), NONE => Some("LoginView"), server::login_code, "A one-time address that opens the console";
    GET "/api/v1/overview" Needs(P::ServerRead), NONE => Some("Overview"), server::overview, "Everything the console shows";
    GET "/api/v1/events" Needs(P::ServerRead), NONE => NONE, server::events, "The overview again at every change, as server-sent events";
    GET "/api/v1/audit" Needs(P::AuditRead), NONE => Some("[AuditView]"), server::audit, "The audit trail, newest first";

    GET "/api/v1/datasets" Needs(P::DatasetRead), NONE => Some("[DatasetView]"), datasets::list, "Datasets";
    GET "/api/v1/datasets/{name}" Needs(P::DatasetRead), NONE => Some("DatasetView"), datasets::show, "One dataset";
    GET "/api/v1/datasets/{name}/import" Needs(P::DatasetRead), NONE => Some("ImportProgressView"), datasets::import_progress, "How far the import into a dataset is that runs now";
    POST "/api/v1/datasets/{name}/import" Needs(P::DatasetImport), NONE => Some("ImportView"), datasets::import, "Imports the body (zip, csv, csv.gz) as a new version; query: format, label, seed, file";
    POST "/api/v1/datasets/{name}/import-bundled" Needs(P::DatasetImport), NONE => Some("ImportView"), datasets::import_bundled, "Imports the bundled optical digits as a new version";
    GET "/api/v1/datasets/{name}/versions/{version}/samples" Needs(P::DatasetRead), NONE => Some("[SampleView]"), datasets::samples, "Samples of a version; query: split";
    GET "/api/v1/datasets/{name}/versions/{version}/samples/{digest}" Needs(P::DatasetRead), NONE => NONE, datasets::sample, "The bytes of a sample";
    GET "/api/v1/datasets/{name}/versions/{version}/unlabelled" Needs(P::DatasetRead), NONE => Some("[UnlabelledView]"), datasets::unlabelled, "Samples of a version that nobody has labelled";

    GET "/api/v1/hard-examples" Needs(P::ExampleRead), NONE => Some("HardExamplePage"), hard::list, "Hard examples that devices sent, by digest; query: state, model, after";
    GET "/api/v1/hard-examples/{digest}" Needs(P::ExampleRead), NONE => Some("HardExampleView"), hard::show, "One hard example";
    GET "/api/v1/hard-examples/{digest}/picture" Needs(P::ExampleRead), NONE => NONE, hard::picture, "The picture of a hard example that is in quarantine";
    POST "/api/v1/hard-examples/accept" Needs(P::ExampleReview), Some("HardDecision") => Some("HardDecisionView"), hard::accept, "Makes hard examples unlabelled samples of a dataset, in a new version";
    POST "/api/v1/hard-examples/reject" Needs(P::ExampleReview), Some("HardDecision") => Some("HardDecisionView"), hard::reject, "Deletes the pictures of hard examples";
    GET "/api/v1/hard-consents" Needs(P::DeviceRead), NONE => Some("[HardConsentView]"), hard::consents, "Devices that may keep and send inputs; query: model";
    POST "/api/v1/hard-consents" Needs(P::DeviceControl), Some("HardConsentRequest") => Some("HardConsentAnswer"), hard::consent, "Lets devices keep and send inputs of a model, or takes that back";

    GET "/api/v1/jobs" Needs(P::JobRead), NONE => Some("[JobView]"), jobs::list, "Jobs, oldest first";
    POST "/api/v1/jobs/train" Needs(P::TrainCreate), Some("TrainRequest") => Some("JobView"), jobs::train, "Queues a training job";
    POST "/api/v1/samples" Needs(P::CompressCreate), NONE => Some("SampleSetView"), compress::samples, "Keeps the body (a file, or a zip of files) as samples without labels, for compressions; query: file";
    POST "/api/v1/jobs/compress" Needs(P::CompressCreate), Some("CompressRequest") => Some("JobView"), compress::start, "Queues a compression job";
    GET "/api/v1/jobs/{id}" Needs(P::JobRead), NONE => Some("JobView"), jobs::show, "One job";
    GET "/api/v1/jobs/{id}/log" Needs(P::JobRead), NONE => NONE, jobs::log, "The log of a job's newest attempt";
    POST "/api/v1/jobs/{id}/cancel" Needs(P::JobCancel), NONE => Some("JobView"), jobs::cancel, "Cancels a job";

    POST "/api/v1/uploads" Needs(P::ModelImport), NONE => Some("UploadView"), imports::upload, "Keeps a model or sample file (the body) for an hour, to be looked at and imported; name says what it is called";
    DELETE "/api/v1/uploads/{id}" Needs(P::ModelImport), NONE => Some("Json"), imports::forget, "Deletes an uploaded file";
    POST "/api/v1/uploads/{id}/inspect" Needs(P::ModelImport), Some("ReadOptions") => Some("Json"), imports::inspect, "What an uploaded model is and costs, with a pipeline to confirm; nothing is registered";
    POST "/api/v1/models/{model}/import" Needs(P::ModelImport), Some("ModelImportRequest") => Some("JobView"), imports::import, "Queues the import of an uploaded model as a new version";
    GET "/api/v1/models" Needs(P::ModelRead), NONE => Some("[ModelVersionView]"), models::list, "Model versions, oldest first";
    GET "/api/v1/models/{model}/versions/{version}/onnx" Needs(P::ModelRead), NONE => NONE, models::onnx, "The plain ONNX file";
    GET "/api/v1/models/{model}/versions/{version}/pipeline" Needs(P::ModelRead), NONE => Some("Json"), models::pipeline, "What stands before and after a version's network";
    GET "/api/v1/models/{model}/versions/{version}/report" Needs(P::ModelRead), NONE => Some("Json"), models::report, "What training or compression said";
    PATCH "/api/v1/models/{model}/versions/{version}" Needs(P::ModelImport), Some("LicenceRequest") => Some("ModelVersionView"), models::set_licence, "Says under which licence a version comes";
    GET "/api/v1/models/{model}/versions/{version}/pareto.svg" Needs(P::ModelRead), NONE => NONE, compress::plot, "The candidates of a compression by size and loss, as a picture";
    GET "/api/v1/models/{model}/versions/{version}/card" Needs(P::ModelRead), NONE => Some("Json"), card::json, "A version's model card: figures with intervals, data, lineage, licence, signatures; the version may be `latest`; query: page (the same in words, tables and pictures, too)";
    GET "/api/v1/models/{model}/versions/{version}/card.md" Needs(P::ModelRead), NONE => NONE, card::markdown, "A version's model card as Markdown, headed by metadata as Hugging Face's tools read it";
    GET "/api/v1/models/{model}/versions/{version}/card.html" Needs(P::ModelRead), NONE => NONE, card::html, "A version's model card as one HTML file that needs no other";
    POST "/api/v1/models/{model}/versions/{version}/evaluate" Needs(P::ModelRead), Some("EvaluateRequest") => Some("EvaluationView"), models::evaluate, "Runs a split through the runtime";

    GET "/api/v1/releases" Needs(P::ReleaseRead), NONE => Some("[ReleaseView]"), releases::list, "Releases, oldest first";
    POST "/api/v1/releases" Needs(P::ReleaseCreate), Some("ReleaseRequest") => Some("ReleaseView"), releases::create, "Signs a model version";
    POST "/api/v1/agent-releases" Needs(P::ReleaseCreate), NONE => Some("ReleaseView"), releases::create_agent, "Signs an agent: the body is a zip of binaries, each named by its architecture; query: version";
    GET "/api/v1/releases/{digest}/bundle" Needs(P::ReleaseRead), NONE => NONE, releases::export, "A release with its files, as a zip";
    POST "/api/v1/releases/draft" Needs(P::ReleaseCreate), Some("ReleaseRequest") => NONE, releases::draft, "A release for offline keys to sign, as a zip; nothing is recorded";
    POST "/api/v1/bundles" Needs(P::ModelImport), NONE => Some("ReleaseView"), releases::import, "Imports a bundle that the project's keys signed";

    POST "/api/v1/claims" Needs(P::DeviceClaim), Some("ClaimRequest") => Some("ClaimView"), fleet::claim, "A claim code with which devices enrol";
    GET "/api/v1/devices" Needs(P::DeviceRead), NONE => Some("[DeviceView]"), fleet::devices, "Devices: all, or those that a query finds; query: filter (CEL), search, sort, limit, after, all_states (those that have been decommissioned, too), skip (that many of the devices from there on). The header X-Total-Count says how many match, Link where the next page is";
    POST "/api/v1/device-tags" Needs(P::DeviceControl), Some("TagRequest") => Some("TagAnswer"), groups::tag, "Writes names, labels and attributes on devices";
    POST "/api/v1/device-quarantine" Needs(P::DeviceControl), Some("QuarantineRequest") => Some("TagAnswer"), groups::quarantine, "Keeps rollouts away from devices for a reason, or without one lets them in again";
    GET "/api/v1/registrations" Needs(P::DeviceRead), NONE => Some("[RegistrationView]"), registrations::list, "Registered serial numbers: devices that are expected, and those that have come";
    POST "/api/v1/registrations" Needs(P::DeviceClaim), NONE => Some("RegisteredView"), registrations::register, "Registers the serial numbers in the body: comma-separated values with the columns serial, name, group, labels and attribute.KEY";
    DELETE "/api/v1/registrations/{serial}" Needs(P::DeviceClaim), NONE => Some("[RegistrationView]"), registrations::unregister, "Forgets a registered serial number";
    POST "/api/v1/device-admission" Needs(P::DeviceApprove), Some("AdmissionRequest") => Some("TagAnswer"), lifetime::admit, "Takes devices that wait for approval into the fleet, or for a reason shuts them out for good";
    POST "/api/v1/device-decommission" Needs(P::DeviceControl), Some("DecommissionRequest") => Some("TagAnswer"), lifetime::decommission, "Takes devices out of service, for good: they never connect again, and nothing is asked of them any more";
    GET "/api/v1/fleet" Needs(P::DeviceRead), NONE => Some("FleetSummaryView"), summary::fleet, "The whole fleet: devices by state, what they run, rollouts under way, and the devices that need somebody's eye";
    GET "/api/v1/devices/{id}/history" Needs(P::DeviceRead), NONE => Some("[RanView]"), lifetime::history, "What ran on a device and when, newest first";
    GET "/api/v1/devices/{id}" Needs(P::DeviceRead), NONE => Some("DeviceView"), fleet::device, "One device";
    GET "/api/v1/devices/{id}/twin" Needs(P::DeviceRead), NONE => Some("TwinView"), twin::show, "What a device should be, what it says it is, and where the two differ";
    GET "/api/v1/devices/{id}/telemetry" Needs(P::DeviceRead), NONE => Some("DeviceTelemetryView"), telemetry::device, "The recent past of a device: samples and events";
    GET "/api/v1/models/{model}/telemetry" Needs(P::DeviceRead), NONE => Some("[ReleaseTelemetryView]"), telemetry::model, "What all devices say of a model, by release: latency, answers, confidence, drift";
    POST "/api/v1/devices/{id}/revoke" Needs(P::DeviceControl), NONE => Some("DeviceView"), fleet::revoke, "Shuts a device out at once";
    POST "/api/v1/devices/{id}/diagnose" Needs(P::DeviceControl), NONE => Some("DiagnosisView"), diagnosis::diagnose, "Tells a device to examine itself";
    POST "/api/v1/devices/{id}/commands" Needs(P::DeviceControl), Some("CommandRequest") => Some("CommandView"), commands::ask, "Gives a device a command: done once, and given up at its deadline";
    POST "/api/v1/devices/{id}/measure" Needs(P::DeviceControl), Some("MeasureRequest") => Some("CommandView"), boards::measure, "Asks a device to run a model version once and report what that takes; nothing is activated";
    GET "/api/v1/boards" Needs(P::DeviceRead), NONE => Some("[BoardView]"), boards::list, "Boards, and how well times on them are predicted";
    GET "/api/v1/boards/{name}" Needs(P::DeviceRead), NONE => Some("BoardDetailView"), boards::show, "A board: profile, what operators cost there, what devices say of that";
    GET "/api/v1/boards/{name}/prediction" Needs(P::DeviceRead), NONE => Some("PredictionView"), boards::predict, "How long a model version takes on a board; query: model, version";
    POST "/api/v1/boards/{name}/table" Needs(P::DeviceControl), NONE => Some("BoardView"), boards::keep, "Keeps what operators cost on a board, as `flotilla board measure` writes it (TOML)";
    GET "/api/v1/devices/{id}/commands" Needs(P::DeviceRead), NONE => Some("[CommandView]"), commands::list, "The last commands of a device and what became of each, newest first";
    GET "/api/v1/devices/{id}/commands/{number}/log" Needs(P::DeviceRead), NONE => NONE, commands::log, "The lines of its log that a device sent for a command, as text";
    GET "/api/v1/devices/{id}/diagnosis" Needs(P::DeviceRead), NONE => Some("DiagnosisView"), diagnosis::diagnosis, "What a device found when it last examined itself";
    POST "/api/v1/devices/{id}/renewal/approve" Needs(P::DeviceApprove), Some("ApproveRequest") => Some("DeviceView"), fleet::approve, "Lets a device have the new certificate that it asks for";
    POST "/api/v1/devices/{id}/renewal/reject" Needs(P::DeviceApprove), Some("RejectRequest") => Some("DeviceView"), fleet::reject, "Refuses a device the new certificate that it asks for";
    GET "/api/v1/devices/{id}/settings" Needs(P::DeviceRead), NONE => Some("Json"), settings::show, "How a device behaves";
    PATCH "/api/v1/devices/{id}/settings" Needs(P::DeviceControl), Some("Json") => Some("Json"), settings::change, "Changes how a device behaves (RFC 7396): null brings a setting back to its default";
    POST "/api/v1/devices/{id}/evaluations" Needs(P::DeviceControl), Some("DeviceEvaluation") => Some("DeviceView"), fleet::record_evaluation, "Records accuracy counted on a device's own endpoint";

    GET "/api/v1/groups" Needs(P::DeviceRead), NONE => Some("[GroupView]"), groups::list, "Groups of devices, by name";
    POST "/api/v1/groups" Needs(P::DeviceControl), Some("GroupRequest") => Some("GroupView"), groups::create, "Makes a group: of devices that are named, or of whoever matches an expression";
    POST "/api/v1/groups/preview" Needs(P::DeviceRead), Some("GroupPreview") => Some("DeviceIdPage"), groups::preview, "Who would be in a group with this expression; changes nothing";
    GET "/api/v1/groups/{name}" Needs(P::DeviceRead), NONE => Some("GroupView"), groups::show, "One group and a page of its devices; query: limit, after";
    DELETE "/api/v1/groups/{name}" Needs(P::DeviceControl), NONE => Some("GroupView"), groups::delete, "Deletes a group that nothing uses; its devices stay";
    POST "/api/v1/groups/{name}/devices" Needs(P::DeviceControl), Some("GroupChange") => Some("GroupView"), groups::change, "Takes devices into a static group, or out of it";

    GET "/api/v1/trust" Needs(P::ReleaseRead), NONE => Some("TrustView"), trust::show, "The trust file in force";
    POST "/api/v1/trust" Needs(P::TrustPublish), NONE => Some("TrustView"), trust::publish, "Takes a signed envelope (CBOR) as the next trust file";

    GET "/api/v1/models/{model}/shadow" Needs(P::RolloutRead), NONE => Some("ShadowView"), shadow::show, "How the release that runs beside a model's confirmed one compares";
    POST "/api/v1/models/{model}/shadow" Needs(P::RolloutCreate), Some("ShadowRequest") => Some("ShadowView"), shadow::start, "Lets a release run beside the confirmed one; applications never get its answers";
    POST "/api/v1/models/{model}/shadow/stop" Needs(P::RolloutControl), Some("ShadowStop") => Some("ShadowView"), shadow::stop, "Ends the release that runs beside a model's confirmed one";

    GET "/api/v1/experiments" Needs(P::RolloutRead), NONE => Some("[ExperimentView]"), experiments::list, "Experiments, oldest first";
    POST "/api/v1/experiments" Needs(P::RolloutCreate), Some("ExperimentRequest") => Some("ExperimentView"), experiments::create, "Tries two releases of a model on two halves of some devices, and compares them";
    GET "/api/v1/experiments/{id}" Needs(P::RolloutRead), NONE => Some("ExperimentView"), experiments::show, "One experiment, with what its halves say of each other";
    POST "/api/v1/experiments/{id}/stop" Needs(P::RolloutControl), Some("ExperimentStop") => Some("ExperimentView"), experiments::stop, "Ends an experiment; devices keep what they have, or both halves go back";
    POST "/api/v1/experiments/{id}/promote" Needs(P::RolloutControl), Some("ExperimentPromotion") => Some("ExperimentView"), experiments::promote, "Rolls one of its releases out to the devices of the other half, or to all";

    GET "/api/v1/rollouts" Needs(P::RolloutRead), NONE => Some("[RolloutView]"), rollouts::rollouts, "Rollouts, oldest first";
    POST "/api/v1/rollouts" Needs(P::RolloutCreate), Some("RolloutRequest") => Some("RolloutView"), rollouts::roll_out, "Starts a rollout: one device and then the rest, or the waves that are asked for, watched or not";
    POST "/api/v1/rollouts/plan" Needs(P::RolloutRead), Some("RolloutRequest") => Some("RolloutPlanView"), rollouts::plan, "What a rollout would do, and which devices cannot take the release; changes nothing";
    GET "/api/v1/rollouts/{id}" Needs(P::RolloutRead), NONE => Some("RolloutView"), rollouts::rollout, "One rollout; query: brief (without devices and telemetry)";
    GET "/api/v1/rollouts/{id}/devices" Needs(P::RolloutRead), NONE => Some("RolloutDevicePage"), rollouts::devices, "The devices of a rollout in its order; query: state, from, limit";
    POST "/api/v1/rollouts/{id}/start" Needs(P::RolloutControl), NONE => Some("RolloutView"), rollouts::start, "Starts a draft";
    POST "/api/v1/rollouts/{id}/approve" Needs(P::RolloutApprove), NONE => Some("RolloutView"), rollouts::approve, "Lets a rollout begin that waits for an approval";
    POST "/api/v1/rollouts/{id}/reject" Needs(P::RolloutApprove), NONE => Some("RolloutView"), rollouts::reject, "Refuses a rollout that waits for an approval";
    POST "/api/v1/rollouts/{id}/skip" Needs(P::RolloutControl), Some("RolloutDeviceRequest") => Some("RolloutView"), rollouts::skip, "Leaves a device out";
    POST "/api/v1/rollouts/{id}/retry" Needs(P::RolloutControl), Some("RolloutDeviceRequest") => Some("RolloutView"), rollouts::retry, "Tells devices again that have failed; one that has stopped and held goes on";
    POST "/api/v1/rollouts/{id}/pause" Needs(P::RolloutControl), NONE => Some("RolloutView"), rollouts::pause, "Touches no further device until the rollout is resumed";
    POST "/api/v1/rollouts/{id}/resume" Needs(P::RolloutControl), NONE => Some("RolloutView"), rollouts::resume, "Goes on; what the rollout asks is answered with yes";
    POST "/api/v1/rollouts/{id}/rollback" Needs(P::RolloutControl), NONE => Some("RolloutView"), rollouts::roll_back, "Stops a rollout and sends every device that it touched back; one that has ended, too";
    POST "/api/v1/rollouts/{id}/finish" Needs(P::RolloutControl), NONE => Some("RolloutView"), rollouts::finish, "Takes no late comers in any more; the rollout ends once all its devices have";
    POST "/api/v1/rollouts/{id}/abort" Needs(P::RolloutControl), NONE => Some("RolloutView"), rollouts::abort, "Stops a rollout; devices keep what they confirmed";
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn route(path: &str) -> &'static Route {
        ROUTES.iter().find(|r| r.path == path).unwrap()
    }

    #[test]
    fn paths_match_whole_segments_only() {
        let job = route("/api/v1/jobs/{id}");
        assert_eq!(job.matches("/api/v1/jobs/job-1").unwrap()["id"], "job-1");
        assert_eq!(job.matches("/api/v1/jobs/a%20b").unwrap()["id"], "a b");
        for other in
            ["/api/v1/jobs", "/api/v1/jobs/", "/api/v1/jobs/1/log", "api/v1/jobs/1", "/api/v1/jobs/%zz"]
        {
            assert!(job.matches(other).is_none(), "{other}");
        }
        assert_eq!(route("/console/{file*}").matches("/console/views/a.js").unwrap()["file"], "views/a.js");
        assert!(route("/").matches("/").is_some());
    }

    #[test]
    fn no_two_routes_are_the_same() {
        let shape = |r: &Route| {
            let path: Vec<_> = r.path.split('/').map(|s| if s.starts_with('{') { "{}" } else { s }).collect();
            format!("{} {}", r.method, path.join("/"))
        };
        let mut shapes: Vec<_> = ROUTES.iter().map(shape).collect();
        shapes.sort();
        let all = shapes.len();
        shapes.dedup();
        assert_eq!(shapes.len(), all);
    }
}

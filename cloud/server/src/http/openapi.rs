//! The OpenAPI 3.1 description, made from the ROUTES table.

use super::api;
use super::problem::Problem;
use super::routes::{Access, ROUTES, Route};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

/// The schemas of every body; the paths come from the table.
#[derive(OpenApi)]
#[openapi(components(schemas(
    Problem,
    api::Health,
    api::AuditView,
    api::DatasetView,
    api::HardPolicy,
    api::HardConsentAnswer,
    api::HardConsentRequest,
    api::HardConsentView,
    api::HardExampleView,
    api::HardExamplePage,
    api::HardDecision,
    api::HardDecisionView,
    api::UnlabelledView,
    api::ImportProgressView,
    api::ImportView,
    api::SampleView,
    api::TrainRequest,
    api::CompressRequest,
    api::SampleSetView,
    api::JobView,
    api::ModelVersionView,
    api::UploadView,
    api::ReadOptions,
    api::ModelImportRequest,
    api::EvaluateRequest,
    api::EvaluationView,
    api::LicenceRequest,
    api::ReleaseRequest,
    api::ReleaseView,
    api::ClaimRequest,
    api::ClaimView,
    api::DeviceView,
    api::DeviceModelView,
    api::DeviceEvaluation,
    api::TwinView,
    api::TwinModelView,
    api::TwinDifference,
    api::DeviceTelemetryView,
    api::ReleaseTelemetryView,
    api::BoardView,
    api::BoardDetailView,
    api::CorrectionView,
    api::PredictionView,
    api::MeasureRequest,
    api::MeasuredView,
    api::CommandRequest,
    api::CommandView,
    api::DiagnosisView,
    api::DiagnosisAnswer,
    api::FindingView,
    api::ApproveRequest,
    api::RejectRequest,
    api::OrderFailure,
    api::TagRequest,
    api::QuarantineRequest,
    api::TagAnswer,
    api::AdmissionRequest,
    api::RegisteredView,
    api::RegistrationView,
    api::DecommissionRequest,
    api::RanView,
    api::FleetSummaryView,
    api::BoardCount,
    api::ModelCounts,
    api::ReleaseCounts,
    api::ConcernView,
    api::GroupRequest,
    api::GroupView,
    api::GroupChange,
    api::GroupPreview,
    api::DeviceIdPage,
    api::ShadowRequest,
    api::ShadowStop,
    api::ShadowView,
    api::ShadowDeviceView,
    api::ShadowFiguresView,
    api::DisagreementView,
    api::TrustView,
    api::ExperimentRequest,
    api::ExperimentMetric,
    api::ExperimentStop,
    api::ExperimentPromotion,
    api::ExperimentView,
    api::HalfView,
    api::RolloutRequest,
    api::RolloutView,
    api::RolloutDevicePage,
    api::RolloutDeviceRequest,
    api::RampView,
    api::ShadowStageRequest,
    api::ShadowStageView,
    api::WaveCounts,
    api::WatchView,
    api::GateFindingView,
    api::EvidenceView,
    api::RolloutPlanView,
    api::ObstacleView,
    api::Overview,
    api::FleetView,
    api::LoginView,
    api::WhoAmI,
)))]
struct Schemas;

/// The whole description.
pub fn document() -> Value {
    let mut document = serde_json::to_value(Schemas::openapi()).unwrap_or_default();
    document["info"] = json!({
        "title": "Flotilla",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "The control plane's API. Errors are application/problem+json with a stable code.",
        "license": { "name": "Apache-2.0" },
    });
    document["components"]["securitySchemes"] = json!({ "token": { "type": "http", "scheme": "bearer" }, "session": { "type": "apiKey", "in": "cookie", "name": super::service::COOKIE } });
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path.replace("*}", "}")).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(route);
    }
    document["paths"] = Value::Object(paths);
    document
}

fn operation(route: &Route) -> Value {
    let parameters: Vec<_> = route
        .path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let name = name.trim_end_matches('*');
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
        })
        .collect();
    let content = match route.answer {
        Some(name) => json!({ "application/json": { "schema": schema(name) } }),
        None => json!({ "*/*": {} }),
    };
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "2XX": { "description": "Done", "content": content },
            "default": {
                "description": "Refused or failed",
                "content": { "application/problem+json": { "schema": schema("Problem") } },
            },
        },
    });
    match route.access {
        Access::Needs(permission) => {
            operation["security"] = json!([{ "token": [] }, { "session": [] }]);
            operation["x-permission"] = json!(permission.as_str());
        }
        Access::Public => operation["security"] = json!([]),
        Access::PublicTls => {
            operation["security"] = json!([]);
            operation["x-https-only"] = json!(true);
        }
    }
    if let Some(name) = route.request {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema(name) } } });
    }
    operation
}

fn schema(name: &str) -> Value {
    match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(item) => json!({ "type": "array", "items": schema(item) }),
        None if name == "Json" => json!({ "type": "object" }),
        None => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    /// Every `$ref` below `value`.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                    found.push(name.to_owned());
                }
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_every_reference_resolves() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        for route in ROUTES {
            let path = route.path.replace("*}", "}");
            let operation = &document["paths"][&path][route.method.as_str().to_lowercase()];
            assert_eq!(operation["summary"], route.summary, "{} {path}", route.method);
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}

//! Model cards.

use super::super::api::Json;
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use crate::card;
use flotilla_card::Card;
use flotilla_protocol::{ErrorCode, ModelName};
use http::{StatusCode, header};

/// What stands for the newest version in the address of a card.
const LATEST: &str = "latest";

async fn asked(call: &Call) -> Result<Card, Problem> {
    let model: ModelName = call.param("model")?;
    let version = match call.path.get("version").map(String::as_str) {
        Some(LATEST) => call.app.registry.latest_version(&model).await?,
        _ => call.app.registry.version(&model, call.param("version")?).await?,
    };
    card::of(&call.app, &version).await
}

/// `GET /api/v1/models/{model}/versions/{version}/card`
pub(crate) async fn json(call: Call) -> Handled {
    let page = call.query("page")?.unwrap_or(false);
    let card = asked(&call).await?;
    let mut answer: Json = serde_json::to_value(&card).map_err(|e| Problem::new(ErrorCode::Internal, e))?;
    if let (true, Some(fields)) = (page, answer.as_object_mut()) {
        let page = serde_json::to_value(card.page()).map_err(|e| Problem::new(ErrorCode::Internal, e))?;
        fields.insert("page".to_owned(), page);
    }
    Answer::json(&answer)
}

/// `GET /api/v1/models/{model}/versions/{version}/card.md`
pub(crate) async fn markdown(call: Call) -> Handled {
    let text = asked(&call).await?.markdown();
    Answer::bytes(StatusCode::OK, "text/markdown; charset=utf-8", text.into())
}

/// `GET /api/v1/models/{model}/versions/{version}/card.html`
pub(crate) async fn html(call: Call) -> Handled {
    let text = asked(&call).await?.html();
    let answer = Answer::bytes(StatusCode::OK, "text/html; charset=utf-8", text.into())?;
    // The file's style stands in it; it has no scripts and asks for nothing.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    answer.with(header::CONTENT_SECURITY_POLICY, policy)
}

//! `flotilla model card` and `flotilla model licence`.

use super::args::{CardFormat, ModelCard};
use super::client::Client;
use super::commands::{Done, Out, client, encode, write_new};
use super::exit::Failure;
use crate::http::api::{LicenceRequest, ModelVersionView};
use flotilla_protocol::ErrorCode;
use serde_json::json;
use std::io::Write;

pub(super) fn run(command: ModelCard, out: &Out) -> Done {
    let ModelCard { model, version, format, file, target } = command;
    let usual = if out.json && file.is_none() { CardFormat::Json } else { CardFormat::Md };
    let form = match format.unwrap_or(usual) {
        CardFormat::Md => ".md",
        CardFormat::Html => ".html",
        CardFormat::Json => "",
    };
    let version = version.map_or_else(|| "latest".to_owned(), |version| version.to_string());
    let path = format!("/api/v1/models/{}/versions/{version}/card{form}", encode(&model));
    let card = || -> Result<Vec<u8>, Failure> { Ok(client(&target)?.get_bytes(&path)?) };
    let Some(file) = file else {
        let printed = card()?;
        return std::io::stdout().write_all(&printed).map_err(|e| Failure::new(ErrorCode::StorageIo, e));
    };
    let mut bytes = 0;
    write_new(&file, || {
        let card = card()?;
        bytes = card.len();
        Ok(card)
    })?;
    out.show(&json!({ "file": file, "bytes": bytes }), |_| {
        println!("{} holds the card of {model}: {bytes} bytes", file.display());
    })
}

/// `flotilla model licence`
pub(super) fn say_licence(
    client: &Client,
    model: &str,
    version: u32,
    licence: Option<String>,
    out: &Out,
) -> Done {
    let path = format!("/api/v1/models/{}/versions/{version}", encode(model));
    let changed: ModelVersionView = client.patch(&path, &LicenceRequest { licence })?;
    out.show(&changed, |changed| {
        let licence = changed.licence.as_deref().unwrap_or("no licence stated");
        println!("{} v{}: {licence}", changed.model, changed.version);
    })
}

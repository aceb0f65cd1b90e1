//! Looks into a recording: only what decodes completely becomes a sample.

use crate::dataset::SoundFacts;
use flotilla_runtime::sound::Decoder;

/// Extensions of recordings that are read. Others are not: devices without their decoders could not check a release by
/// them.
pub(super) const EXTENSIONS: [&str; 2] = ["wav", "wave"];
/// Extensions of recordings that are known and not read.
pub(super) const OTHER_EXTENSIONS: [&str; 9] =
    ["flac", "ogg", "oga", "opus", "mp3", "m4a", "aac", "aif", "aiff"];

/// Decodes a recording, within the bounds of devices, to see that it is one. The error says why it is none.
pub(crate) fn check(bytes: &[u8]) -> Result<SoundFacts, String> {
    let failed = |error: flotilla_runtime::Error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    if bytes.len() < 12 || !bytes.starts_with(b"RIFF") {
        return Err("it is no wav file".into());
    }
    let decoder = Decoder::new(bytes).map_err(failed)?;
    let rate = decoder.rate();
    let samples = decoder.mono(None).map_err(failed)?.len() as u64;
    let milliseconds = u32::try_from(samples * 1_000 / u64::from(rate)).unwrap_or(u32::MAX);
    Ok(SoundFacts { min_ms: milliseconds, max_ms: milliseconds, min_rate: rate, max_rate: rate })
}

//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz decoders` from the root; `tests/run --full` does it for a minute.
#![no_main]

#[path = "../../../shared/device/tests/decoders/every.rs"]
mod every;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| every::decode_everything(bytes));

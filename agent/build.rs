//! Hands the build time to the program: the earliest moment that a device can ever be at.
//! `SOURCE_DATE_EPOCH` (seconds since 1970) fixes it for reproducible builds.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=build.rs");
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u64>().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    println!("cargo:rustc-env=FLOTILLA_BUILD_SECONDS={}", fixed.unwrap_or_else(now));
}

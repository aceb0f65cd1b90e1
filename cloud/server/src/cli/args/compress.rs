//! `flotilla compress` as types.

use super::Target;
use crate::work::Method;
use clap::Args;
use std::path::PathBuf;

/// `flotilla compress`
#[derive(Debug, Args)]
pub struct Compress {
    /// The model.
    pub model: String,
    /// The version; the newest that is not compressed by default.
    #[arg(long)]
    pub version: Option<u32>,
    /// What makes it smaller: `weights` in smaller forms work for any model, the others train smaller networks of what was
    /// trained here.
    #[arg(long, value_enum, default_value_t)]
    pub method: Method,
    /// What may be lost at most, in the unit of the metric: 0.01 of accuracy is one sample in a hundred.
    #[arg(long, default_value_t = crate::http::api::default_max_drop(), help_heading = "Budget")]
    pub max_drop: f64,
    /// Largest acceptable file: `100KB`, `64KiB`, `1.5MB` or a number of bytes.
    #[arg(long, value_parser = size, help_heading = "Budget")]
    pub max_size: Option<u64>,
    /// Longest acceptable median time of one prediction: `50ms`, `1.5s`, or a number of milliseconds. Measured by the
    /// control plane, or predicted for the board.
    #[arg(long, value_parser = milliseconds, help_heading = "Budget")]
    pub max_latency: Option<f64>,
    /// Most memory that one prediction may take, as a size.
    #[arg(long, value_parser = size, help_heading = "Budget")]
    pub max_memory: Option<u64>,
    /// The board that it is for: what its profile leaves a model bounds file and memory, and times are predicted for it.
    #[arg(long, help_heading = "Budget")]
    pub board: Option<String>,
    /// A device that measures the model before the search and the one that was found after it; in between times are
    /// predicted for it. What takes longer than --max-latency there is refused.
    #[arg(long, value_name = "DEVICE", help_heading = "Budget")]
    pub measure_on: Option<String>,
    /// The dataset that it is judged by, `NAME` or `NAME@VERSION`; the one that the model was trained on by default.
    #[arg(long, help_heading = "Samples")]
    pub dataset: Option<String>,
    /// Sample files without labels, or folders of them, to calibrate on; where there is no dataset, every other of them
    /// is measured on.
    #[arg(long, num_args = 1.., help_heading = "Samples")]
    pub samples: Vec<PathBuf>,
    /// Whether layers may go to 4 bits: `standard` stays with operators of the ONNX standard, `contrib` uses MatMulNBits.
    #[arg(long, value_parser = ["never", "standard", "contrib"], default_value = "never", help_heading = "Recipe")]
    pub four_bit: String,
    /// A weight that stays a float, by its name in the report; may be given several times.
    #[arg(long, value_name = "LAYER", help_heading = "Recipe")]
    pub keep_float: Vec<String>,
    /// A recipe to replay: a file with one, or with a report that has one.
    #[arg(long, value_name = "FILE", help_heading = "Recipe")]
    pub recipe: Option<PathBuf>,
    /// Settings of how smaller networks learn, as a JSON object: shares, epochs, cut_epochs, rounded_epochs, seed, …
    #[arg(long, value_name = "JSON", help_heading = "Recipe")]
    pub shrink: Option<String>,
    /// Return at once instead of following the job.
    #[arg(long)]
    pub detach: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// Bytes out of a size as people write it.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" | "bytes" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("{unit:?} is none of B, KB, MB, GB, KiB, MiB, GiB")),
    };
    let bytes = positive(number)? * factor;
    // Beyond this a number of bytes is no longer exact, and no file is as large.
    if bytes < 1.0 || bytes > (1_u64 << 53) as f64 {
        Err("it is no size of a file".into())
    } else {
        Ok(bytes as u64)
    }
}

/// Milliseconds out of a time as people write it.
fn milliseconds(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "ms" => 1.0,
        "us" | "µs" => 1e-3,
        "s" => 1e3,
        _ => return Err(format!("{unit:?} is none of us, ms, s")),
    };
    Ok(positive(number)? * factor)
}

/// A number and what stands behind it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn positive(number: &str) -> Result<f64, String> {
    let value: f64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err("it must be more than 0".into()) }
}

#[cfg(test)]
mod tests {
    use super::{milliseconds, size};

    #[test]
    fn sizes_and_times_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("100KB", 100_000),
            ("100 kb", 100_000),
            ("64KiB", 65_536),
            ("1.5MB", 1_500_000),
            ("2MiB", 2_097_152),
            ("4096", 4096),
            ("12b", 12),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KB", "-1", "0", "1.2.3KB", "5 parsecs", "1e3", "0.1", "99999999GB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(milliseconds("50ms"), Ok(50.0));
        assert_eq!(milliseconds("1.5s"), Ok(1500.0));
        assert_eq!(milliseconds("250us"), Ok(0.25));
        assert_eq!(milliseconds("3"), Ok(3.0));
        assert!(
            milliseconds("0ms").is_err() && milliseconds("5 min").is_err() && milliseconds("fast").is_err()
        );
    }
}

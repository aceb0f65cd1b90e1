//! Pipelines as files that people edit: JSON where the name ends so, else TOML with what has to be confirmed on top.

use super::commands::{Done, write_new};
use super::exit::Failure;
use super::read_file;
use flotilla_import::Point;
use flotilla_protocol::{ErrorCode, Pipeline, limits};
use std::io::Read;
use std::path::Path;

/// Columns of a comment.
const WIDTH: usize = 100;

/// Writes a pipeline into a new file.
pub(super) fn write(path: &Path, pipeline: &Pipeline, points: &[Point]) -> Done {
    write_new(path, || {
        if is_json(path) {
            return serde_json::to_vec_pretty(pipeline).map_err(|e| Failure::new(ErrorCode::Internal, e));
        }
        let text = toml::to_string(pipeline).map_err(|e| Failure::new(ErrorCode::Internal, e))?;
        Ok((heading(points) + &text).into_bytes())
    })
}

/// What has to be confirmed, as comments.
fn heading(points: &[Point]) -> String {
    let mut text = String::new();
    if !points.is_empty() {
        text += "# What follows was guessed. These points have to be as the model was trained with:\n";
    }
    for point in points {
        let mut line = format!("# - {}:", point.field);
        for word in point.text.split_whitespace() {
            if line.len() + word.len() >= WIDTH {
                text += &line;
                text.push('\n');
                line = "#  ".to_owned();
            }
            line.push(' ');
            line += word;
        }
        text += &line;
        text.push('\n');
    }
    if !points.is_empty() {
        text.push('\n');
    }
    text
}

/// Reads a pipeline that somebody has written.
pub(super) fn read(path: &Path) -> Result<Pipeline, Failure> {
    let invalid = |problem: String| {
        let detail = format!("{} is no pipeline: {problem}", path.display());
        Failure::new(ErrorCode::InvalidInput, detail)
    };
    let mut text = String::new();
    read_file(path)?
        .take(limits::ENVELOPE as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|e| invalid(e.to_string()))?;
    if text.len() > limits::ENVELOPE {
        return Err(invalid(format!("it has more than {} bytes", limits::ENVELOPE)));
    }
    let pipeline: Pipeline = if is_json(path) || text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?
    } else {
        toml::from_str(&text).map_err(|e| invalid(e.to_string()))?
    };
    pipeline.check().map_err(|e| invalid(e.to_string()))?;
    Ok(pipeline)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json"))
}

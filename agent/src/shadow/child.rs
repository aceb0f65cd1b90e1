//! The child's side: loads the release in a slot, and answers inputs until there are no more.

use super::{HEAD, Said, parse};
use crate::probe::{FILES_FOLDER, ProbeFailure, manifest, refused};
use flotilla_protocol::manifest::ENGINE_TRACT;
use flotilla_protocol::{ErrorCode, codec};
use flotilla_runtime::{Bundle, Error, Input, Model, Stream, tensor};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Behind everything else that wants the CPU, but not without any: a shadow that never gets to answer compares nothing.
const NICE: i32 = 10;

/// What the parent tells its child. The bounds on its memory and life are set from outside.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ShadowArgs {
    /// The slot with the release.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Name of this device's board profile.
    #[arg(long, default_value = "")]
    pub(crate) board: String,
}

/// Answers inputs from standard input until it ends. To be called first in a process that does nothing else.
pub(crate) fn shadow_main(args: &ShadowArgs) -> ExitCode {
    stand_back();
    let mut out = io::stdout().lock();
    let mut model = match load(&args.dir, &args.board) {
        Ok(model) => model,
        Err(ProbeFailure { code, detail }) => {
            // A parent that does not listen any more has given up on this child.
            let _ = say(&mut out, &Said::Refused { code, detail });
            return ExitCode::FAILURE;
        }
    };
    let ready = Said::Ready { inputs: model.inputs().to_vec() };
    match say(&mut out, &ready).and_then(|()| answer_all(&mut model, &mut io::stdin().lock(), &mut out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Lets everything else on the device go first. What the system does not let it give up it keeps.
fn stand_back() {
    let _ = rustix::process::setpriority_process(None, NICE);
    // The first to go when memory runs out (proc(5)).
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

fn load(slot: &Path, board: &str) -> Result<Model, ProbeFailure> {
    let bundle = Bundle::open(slot.join(FILES_FOLDER), manifest(slot)?).map_err(refused)?;
    let model = Model::from_bundle(&bundle, board, ENGINE_TRACT).map_err(refused)?;
    if model.is_stateful() {
        let detail = "it keeps states from one input to the next, and a shadow does not see every input of a stream: what \
                      it would say could not be compared. Roll it out to a few devices instead";
        return Err(ProbeFailure { code: ErrorCode::Unsupported, detail: detail.to_owned() });
    }
    Ok(model)
}

fn answer_all(model: &mut Model, inputs: &mut impl Read, out: &mut impl Write) -> io::Result<()> {
    let mut head = [0; HEAD];
    loop {
        match inputs.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let (kind, length) = parse(head).ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; length];
        inputs.read_exact(&mut bytes)?;
        let started = Instant::now();
        let answer = match kind {
            b'e' => model.predict(Input::Encoded(&bytes)),
            b'r' => model.predict(Input::Raw(&bytes)),
            _ => match tensor::from_bytes(model.inputs(), &bytes) {
                Some(tensors) => model.run(Stream::ALONE, tensors).map(|(_, prediction)| prediction),
                None => Err(Error::Interface("other tensors than it takes came for it".to_owned())),
            },
        };
        let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let said = match answer {
            Ok(prediction) => Said::Answer { prediction: prediction.shortened(), latency_us },
            Err(error) => Said::None { detail: flotilla_device::fault::cut(error.detail()) },
        };
        say(out, &said)?;
    }
}

fn say(out: &mut impl Write, said: &Said) -> io::Result<()> {
    let bytes = codec::encode(said);
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&bytes)?;
    out.flush()
}

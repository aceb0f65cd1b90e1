//! What a child says on its standard output: frames of a length (big-endian u32) and JSON.

use crate::bounds::FRAME;
use crate::error::JobFailure;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// One thing a child says. Unknown ones, of a newer child, are a fault: parent and child are one program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Frame {
    /// How far it is.
    Progress { done: u64, total: Option<u64>, stage: String },
    /// Values at one step.
    Metric { step: u64, values: BTreeMap<String, f64> },
    /// A line for the log.
    Log { line: String },
    /// The last frame of a child that has done its work.
    Done { result: Value },
    /// The last frame of a child that cannot.
    Failed(JobFailure),
}

/// Why there is no further frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoFrame {
    /// The child has closed its output between frames.
    #[error("the output has ended")]
    End,
    /// Something else than frames.
    #[error("its output is not made of frames ({0})")]
    Garbage(String),
    /// Reading failed.
    #[error("its output cannot be read")]
    Io(#[from] io::Error),
}

/// Encodes a frame.
pub(crate) fn encode(frame: &Frame) -> io::Result<Vec<u8>> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, frame)?;
    let len = out.len() - 4;
    if len > FRAME {
        return Err(io::Error::other(format!("a frame of {len} bytes, {FRAME} are possible")));
    }
    out[..4].copy_from_slice(&(len as u32).to_be_bytes());
    Ok(out)
}

/// Reads frames. Safe to cancel: what has been read of a frame is kept.
#[derive(Debug)]
pub(crate) struct Frames<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> Result<Frame, NoFrame> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            // At most one frame and one read are in memory.
            self.buffer.reserve(8 * 1024);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(match self.buffer.len() {
                    0 => NoFrame::End,
                    left => NoFrame::Garbage(format!("it ends {left} bytes into a frame")),
                });
            }
        }
    }

    fn take(&mut self) -> Result<Option<Frame>, NoFrame> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*head) as usize;
        if len > FRAME {
            return Err(NoFrame::Garbage(format!("a length of {len}, {FRAME} is possible")));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let frame = serde_json::from_slice(body).map_err(|e| NoFrame::Garbage(e.to_string()))?;
        self.buffer.drain(..4 + len);
        Ok(Some(frame))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::ErrorCode;
    use proptest::prelude::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Reads all frames from bytes that are there at once: such reading never waits.
    fn read(bytes: &[u8]) -> (Vec<Frame>, NoFrame) {
        let mut frames = Frames::new(bytes);
        let mut all = Vec::new();
        loop {
            let next = pin!(frames.next()).poll(&mut Context::from_waker(Waker::noop()));
            match next {
                Poll::Ready(Ok(frame)) => all.push(frame),
                Poll::Ready(Err(end)) => return (all, end),
                Poll::Pending => panic!("a slice is never pending"),
            }
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let sent = [
            Frame::Progress { done: 1, total: Some(2), stage: "epoch".into() },
            Frame::Metric { step: 1, values: [("loss".to_owned(), 0.1)].into() },
            Frame::Log { line: "x\ny".into() },
            Frame::Failed(JobFailure::new(ErrorCode::Cancelled, "stopped")),
            Frame::Done { result: serde_json::json!({ "accuracy": 0.99 }) },
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(|frame| encode(frame).unwrap()).collect();
        let (received, end) = read(&bytes);
        assert_eq!(received, sent);
        assert!(matches!(end, NoFrame::End));
    }

    #[test]
    fn a_frame_over_the_bound_is_neither_sent_nor_read() {
        encode(&Frame::Log { line: "x".repeat(FRAME) }).unwrap_err();
        assert!(matches!(read(&(FRAME as u32 + 1).to_be_bytes()).1, NoFrame::Garbage(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (frames, _) = read(&bytes);
            prop_assert!(frames.len() <= bytes.len());
        }
    }
}

//! `multipart/x-mixed-replace`, as cameras send Motion-JPEG over HTTP: decoded piece by piece, without I/O.
//!
//! The framing is that of RFC 2046, section 5.1; the type is Netscape's "server push". What cameras make of it is
//! taken as it comes: a boundary that is announced with its dashes, lines that end without a carriage return, parts
//! with and without Content-Length. Memory is bounded by the largest part and [`PIECE`].

use flotilla_protocol::ErrorCode;
use std::fmt;

/// Longest boundary in bytes (RFC 2046 allows 70; cameras are not that strict).
pub const BOUNDARY: usize = 200;
/// Bytes of one part's header lines at most.
pub const HEAD: usize = 8 * 1024;
/// Bytes between two parts, or before the first, at most.
pub const GAP: usize = 64 * 1024;
/// So many bytes are looked at in one go.
pub const PIECE: usize = 16 * 1024;

/// Why a stream cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// Another type of content.
    #[error("the content is {0:?}, not multipart/x-mixed-replace with a boundary")]
    Type(String),
    /// No delimiter where one must be.
    #[error("no boundary within {GAP} bytes")]
    NoBoundary,
    /// The header lines of a part do not end.
    #[error("the header of a part is over {HEAD} bytes")]
    Head,
    /// A header line that says nothing usable.
    #[error("a part has the length {0:?}")]
    Length(String),
    /// A part over the bound.
    #[error("a part is over the bound of {max} bytes")]
    TooLarge {
        /// The bound.
        max: usize,
    },
}

impl MultipartError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            MultipartError::Type(_) => ErrorCode::Unsupported,
            MultipartError::TooLarge { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::Malformed,
        }
    }
}

/// One part.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// Its Content-Type in lower case, without parameters; empty if it says none.
    pub content_type: String,
    /// Its content.
    pub body: Vec<u8>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({:?}, {} bytes)", self.content_type, self.body.len())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Before a delimiter; so many bytes were no part of one.
    Gap(usize),
    Head,
    Body {
        content_type: String,
        length: Option<usize>,
    },
    Ended,
}

/// A decoder in the middle of a stream.
#[derive(Clone, Debug)]
pub struct Multipart {
    /// Two dashes and the boundary without the dashes that it starts with.
    delimiter: Vec<u8>,
    max: usize,
    buffer: Vec<u8>,
    /// No delimiter starts before this position of the buffer.
    searched: usize,
    state: State,
}

impl Multipart {
    /// A decoder for a stream with this Content-Type, whose parts have `max` bytes at most.
    pub fn new(content_type: &str, max: usize) -> Result<Self, MultipartError> {
        let wrong = || MultipartError::Type(content_type.chars().take(BOUNDARY).collect());
        let mut parameters = content_type.split(';');
        let kind = parameters.next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("multipart/x-mixed-replace") {
            return Err(wrong());
        }
        let boundary = parameters.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
        });
        let token = boundary.unwrap_or_default().trim_start_matches('-');
        if token.is_empty()
            || token.len() > BOUNDARY
            || !token.bytes().all(|byte| (b' '..0x7f).contains(&byte))
        {
            return Err(wrong());
        }
        let delimiter = [b"--", token.as_bytes()].concat();
        Ok(Self { delimiter, max, buffer: Vec::new(), searched: 0, state: State::Gap(0) })
    }

    /// Takes what came and gives the parts that are whole now, in their order. After an error nothing more can be read.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Part>, MultipartError> {
        let mut parts = Vec::new();
        for piece in bytes.chunks(PIECE) {
            self.buffer.extend_from_slice(piece);
            while self.advance(&mut parts)? {}
        }
        Ok(parts)
    }

    /// Whether the closing delimiter came.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Bytes that wait for the rest of their part.
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Goes on by one state; false where more bytes are needed.
    fn advance(&mut self, parts: &mut Vec<Part>) -> Result<bool, MultipartError> {
        match &mut self.state {
            State::Ended => {
                self.buffer.clear();
                Ok(false)
            }
            State::Gap(_) => self.gap(),
            State::Head => self.head(),
            State::Body { content_type, length } => {
                let (content_type, length) = (std::mem::take(content_type), *length);
                match self.body(length)? {
                    Some(body) => {
                        parts.push(Part { content_type, body });
                        self.become_(State::Gap(0));
                        Ok(true)
                    }
                    None => {
                        self.state = State::Body { content_type, length };
                        Ok(false)
                    }
                }
            }
        }
    }

    fn become_(&mut self, state: State) {
        self.state = state;
        self.searched = 0;
    }

    /// Position of the next delimiter.
    fn find(&mut self) -> Option<usize> {
        let length = self.delimiter.len();
        let from = self.searched.min(self.buffer.len());
        let found = self.buffer[from..].windows(length).position(|window| window == self.delimiter);
        if found.is_none() {
            self.searched = (self.buffer.len() + 1).saturating_sub(length).max(from);
        }
        found.map(|at| from + at)
    }

    fn gap(&mut self) -> Result<bool, MultipartError> {
        let State::Gap(skipped) = self.state else { return Ok(false) };
        let Some(at) = self.find() else {
            let skipped = skipped + self.searched;
            self.buffer.drain(..self.searched);
            self.become_(State::Gap(skipped));
            return if skipped > GAP { Err(MultipartError::NoBoundary) } else { Ok(false) };
        };
        let after = at + self.delimiter.len();
        let rest = &self.buffer[after..];
        if rest.starts_with(b"--") {
            self.become_(State::Ended);
            return Ok(true);
        }
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                self.buffer.drain(..after + end + 1);
                self.become_(State::Head);
                Ok(true)
            }
            None if rest.len() > GAP => Err(MultipartError::NoBoundary),
            None => {
                self.searched = at;
                Ok(false)
            }
        }
    }

    fn head(&mut self) -> Result<bool, MultipartError> {
        let mut start = 0;
        let mut end = None;
        for (at, _) in self.buffer.iter().take(HEAD).enumerate().filter(|(_, byte)| **byte == b'\n') {
            if matches!(&self.buffer[start..at], b"" | b"\r") {
                end = Some((start, at + 1));
                break;
            }
            start = at + 1;
        }
        let Some((lines, end)) = end else {
            return if self.buffer.len() > HEAD { Err(MultipartError::Head) } else { Ok(false) };
        };
        let text = String::from_utf8_lossy(&self.buffer[..lines]).into_owned();
        self.buffer.drain(..end);
        let value = |wanted: &str| {
            let of = |line: &str| {
                let (name, value) = line.split_once(':')?;
                name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
            };
            text.lines().find_map(of)
        };
        let length = value("content-length").map(|text| {
            let length =
                text.parse::<u64>().map_err(|_| MultipartError::Length(text.chars().take(40).collect()))?;
            let length = usize::try_from(length).ok().filter(|length| *length <= self.max);
            length.ok_or(MultipartError::TooLarge { max: self.max })
        });
        let content_type = value("content-type").unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let length = length.transpose()?;
        self.become_(State::Body { content_type, length });
        Ok(true)
    }

    /// The body, if it is whole.
    fn body(&mut self, length: Option<usize>) -> Result<Option<Vec<u8>>, MultipartError> {
        if let Some(length) = length {
            if self.buffer.len() < length {
                return Ok(None);
            }
            let rest = self.buffer.split_off(length);
            return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
        }
        while let Some(at) = self.find() {
            let line = self.buffer[..at].iter().rposition(|byte| *byte != b'-').map_or(0, |last| last + 1);
            if line == 0 || self.buffer[line - 1] == b'\n' {
                let rest = self.buffer.split_off(line);
                let mut body = std::mem::replace(&mut self.buffer, rest);
                for end in [b'\n', b'\r'] {
                    if body.last() == Some(&end) {
                        body.pop();
                    }
                }
                return if body.len() > self.max {
                    Err(MultipartError::TooLarge { max: self.max })
                } else {
                    Ok(Some(body))
                };
            }
            // The picture itself holds these bytes.
            self.searched = at + 1;
        }
        // What is over it may be the beginning of a delimiter.
        let beyond = self.max + self.delimiter.len() + 2;
        if self.buffer.len() > beyond { Err(MultipartError::TooLarge { max: self.max }) } else { Ok(None) }
    }
}

#[cfg(test)]
#[path = "multipart_tests.rs"]
mod tests;

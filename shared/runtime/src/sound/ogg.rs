//! The OGG container and the setup of Vorbis in it, read so far that the decoder can be trusted with the rest: it takes
//! as much memory as code books say, and a few bits can say terabytes.

use super::decode::Broken;

/// Values of all vectors of all code books of one recording at most: what encoders write has a tenth of it.
const BOOK_VALUES: u64 = 1 << 20;
/// Bytes of one packet at most.
const PACKET: usize = 1 << 20;

/// The packets of the first stream of a file, one after the other.
pub(super) struct Ogg<'a> {
    rest: &'a [u8],
    stream: Option<u32>,
    /// What is left of the page at hand: lengths of its segments, and its bytes.
    segments: &'a [u8],
    body: &'a [u8],
    /// Where the last page ended, in samples.
    end: u64,
}

impl<'a> Ogg<'a> {
    pub(super) fn new(file: &'a [u8]) -> Self {
        Self { rest: file, stream: None, segments: &[], body: &[], end: 0 }
    }

    /// Samples up to the end of the last page that was read.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The next packet that is not empty.
    pub(super) fn packet(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let mut packet = Vec::new();
        loop {
            let Some((length, segments)) = self.segments.split_first() else {
                if !self.page()? {
                    return Ok((!packet.is_empty()).then_some(packet));
                }
                continue;
            };
            let (bytes, body) = self.body.split_at(usize::from(*length).min(self.body.len()));
            (self.segments, self.body) = (segments, body);
            packet.extend_from_slice(bytes);
            if packet.len() > PACKET {
                return Err(Broken::new(format!("it has a packet of more than {PACKET} bytes")));
            }
            // A segment that is not full is a packet's last.
            if *length < u8::MAX && !packet.is_empty() {
                return Ok(Some(packet));
            }
        }
    }

    /// Goes to the next page of the stream; false at the end.
    fn page(&mut self) -> Result<bool, Broken> {
        loop {
            if self.rest.is_empty() {
                return Ok(false);
            }
            let short = || Broken::new("it is cut short within a page");
            let (header, rest) = self.rest.split_at_checked(27).ok_or_else(short)?;
            if !header.starts_with(b"OggS") {
                return Err(Broken::new("a page does not start where it should"));
            }
            let (segments, rest) = rest.split_at_checked(header[26].into()).ok_or_else(short)?;
            let length = segments.iter().map(|length| usize::from(*length)).sum();
            let (body, rest) = rest.split_at_checked(length).ok_or_else(short)?;
            self.rest = rest;
            let field =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let stream = field(14);
            if *self.stream.get_or_insert(stream) != stream {
                continue;
            }
            let end = u64::from(field(6)) | u64::from(field(10)) << 32;
            // All ones: no packet ends on this page.
            if end != u64::MAX {
                self.end = end;
            }
            (self.segments, self.body) = (segments, body);
            return Ok(true);
        }
    }
}

/// What a Vorbis stream says of itself.
pub(super) struct Vorbis {
    pub(super) rate: u32,
    pub(super) channels: usize,
    /// Identification and setup, as the decoder takes them.
    pub(super) headers: Vec<u8>,
}

impl Vorbis {
    /// Reads the three headers that stand before the sound, and checks what the decoder would believe.
    pub(super) fn open(ogg: &mut Ogg<'_>) -> Result<Self, Broken> {
        let mut header = |kind: u8, name: &str| {
            let packet = ogg.packet()?.ok_or_else(|| Broken::new(format!("it ends before its {name}")))?;
            if packet[0] != kind || packet.get(1..7) != Some(b"vorbis".as_slice()) {
                return Err(Broken::new(format!(
                    "its {name} is not that of Vorbis, which alone can be read"
                )));
            }
            Ok(packet)
        };
        let mut headers = header(1, "identification")?;
        header(3, "comment")?;
        let setup = header(5, "setup")?;
        let [_, _, _, _, _, _, _, _, _, _, _, channels, a, b, c, d, ..] = *headers else {
            return Err(Broken::new("its identification is too short"));
        };
        check_books(&setup[7..])?;
        headers.extend_from_slice(&setup);
        Ok(Self { rate: u32::from_le_bytes([a, b, c, d]), channels: channels.into(), headers })
    }
}

/// Adds up what the code books take in memory.
fn check_books(setup: &[u8]) -> Result<(), Broken> {
    let mut bits = Bits { bytes: setup, at: 0 };
    let mut values = 0;
    for _ in 0..=bits.read(8)? {
        values += book(&mut bits)?;
        if values > BOOK_VALUES {
            return Err(Broken::new("its code books are too large"));
        }
    }
    Ok(())
}

/// Reads over one code book; says how many values it takes.
fn book(bits: &mut Bits<'_>) -> Result<u64, Broken> {
    if bits.read(24)? != 0x56_43_42 {
        return Err(Broken::new("a code book does not start where it should"));
    }
    let (dimensions, entries) = (bits.read(16)?, bits.read(24)?);
    let ordered = bits.read(1)? == 1;
    if ordered {
        bits.read(5)?;
        let mut entry = 0;
        while entry < entries {
            entry += bits.read(u64::BITS - (entries - entry).leading_zeros())?;
        }
    } else if bits.read(1)? == 1 {
        for _ in 0..entries {
            if bits.read(1)? == 1 {
                bits.read(5)?;
            }
        }
    } else {
        bits.skip(entries * 5)?;
    }
    let values = match bits.read(4)? {
        0 => return Ok(entries),
        1 | 2 if dimensions == 0 => return Err(Broken::new("a code book has vectors of no values")),
        1 if dimensions == 1 => entries,
        // The greatest number whose power fits into the entries: 4,096 at most.
        1 => (1..=entries)
            .take_while(|base| base.checked_pow(dimensions as u32).is_some_and(|power| power <= entries))
            .last()
            .unwrap_or(0),
        2 => entries * dimensions,
        kind => return Err(Broken::new(format!("a code book is of kind {kind}"))),
    };
    bits.skip(64)?;
    let width = bits.read(4)? + 1;
    bits.skip(1 + values * width)?;
    Ok(entries * dimensions.max(1))
}

/// Bits of a Vorbis header, the lowest of a byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Bits<'_> {
    fn read(&mut self, count: u32) -> Result<u64, Broken> {
        let end = self.at + u64::from(count);
        let bit = |at: u64| {
            let byte = self.bytes.get((at / 8) as usize)?;
            Some(u64::from(byte >> (at % 8) & 1))
        };
        let mut value = 0;
        for (place, at) in (self.at..end).enumerate() {
            value |= bit(at).ok_or_else(Self::short)? << place;
        }
        self.at = end;
        Ok(value)
    }

    fn skip(&mut self, count: u64) -> Result<(), Broken> {
        self.at += count;
        if self.at > self.bytes.len() as u64 * 8 { Err(Self::short()) } else { Ok(()) }
    }

    fn short() -> Broken {
        Broken::new("its setup is cut short")
    }
}

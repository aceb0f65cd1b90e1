//! WAV files: integers of 8, 16, 24 and 32 bits, floats of 32 and 64.

use super::decode::Broken;
use flotilla_protocol::limits;

/// A WAV file whose header has been read and checked.
pub(super) struct Wav<'a> {
    pub(super) rate: u32,
    pub(super) channels: usize,
    kind: Kind,
    data: &'a [u8],
}

/// How a sample is written.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Unsigned8,
    Signed16,
    Signed24,
    Signed32,
    Float32,
    Float64,
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Kind::Unsigned8 => 1,
            Kind::Signed16 => 2,
            Kind::Signed24 => 3,
            Kind::Signed32 | Kind::Float32 => 4,
            Kind::Float64 => 8,
        }
    }

    /// The sample in `bytes`, of which there are as many as the kind has; integers become -1 to 1.
    fn sample(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Kind::Unsigned8, [a]) => (f32::from(*a) - 128.0) / 128.0,
            (Kind::Signed16, [a, b]) => f32::from(i16::from_le_bytes([*a, *b])) / 32_768.0,
            (Kind::Signed24, [a, b, c]) => (i32::from_le_bytes([0, *a, *b, *c]) >> 8) as f32 / 8_388_608.0,
            (Kind::Signed32, [a, b, c, d]) => i32::from_le_bytes([*a, *b, *c, *d]) as f32 / 2_147_483_648.0,
            (Kind::Float32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
            (Kind::Float64, bytes) => bytes.try_into().map_or(0.0, |bytes| f64::from_le_bytes(bytes) as f32),
            _ => 0.0,
        }
    }
}

/// Format tags.
const INTEGER: u16 = 1;
const FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xFFFE;

/// What a writer that does not know the length puts in its place: the samples go on to the end.
const UNKNOWN_LENGTH: u32 = u32::MAX;

/// Chunks before the samples at most.
const CHUNKS: usize = 1024;

/// Whether the file says that it is a WAV file.
pub(super) fn is_wav(file: &[u8]) -> bool {
    file.len() >= 12 && file.starts_with(b"RIFF") && &file[8..12] == b"WAVE"
}

impl<'a> Wav<'a> {
    /// Reads the header of a file of which [`is_wav`] is true.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, Broken> {
        let mut rest = &file[12..];
        let mut format = None;
        for _ in 0..CHUNKS {
            let Some((header, body)) = rest.split_at_checked(8) else {
                break;
            };
            let length = le32(&header[4..]);
            match &header[..4] {
                b"fmt " => format = Some(Format::parse(take(body, length, "fmt ")?)?),
                b"data" => {
                    let format = format.ok_or_else(|| Broken::new("its samples come before their format"))?;
                    let data = if length == UNKNOWN_LENGTH { body } else { take(body, length, "data")? };
                    return format.with(data);
                }
                _ => {}
            }
            // Chunks start at even places.
            let next = (length as usize).saturating_add(length as usize % 2);
            rest = body.get(next..).unwrap_or_default();
        }
        Err(Broken::new("it has no samples: there is no data chunk"))
    }

    /// The mean of all channels, `most` samples at most.
    pub(super) fn mono(&self, most: usize) -> Vec<f32> {
        let (bytes, channels) = (self.kind.bytes(), self.channels);
        let sample = |bytes| self.kind.sample(bytes);
        let frames = self.data.chunks_exact(bytes * channels).take(most);
        if channels == 1 {
            return frames.map(sample).collect();
        }
        frames.map(|frame| frame.chunks_exact(bytes).map(sample).sum::<f32>() / channels as f32).collect()
    }
}

/// What the format chunk says.
struct Format {
    rate: u32,
    channels: u16,
    kind: Kind,
}

impl Format {
    fn parse(chunk: &[u8]) -> Result<Self, Broken> {
        if chunk.len() < 16 {
            return Err(Broken::new(format!("its format chunk has {} bytes; 16 are needed", chunk.len())));
        }
        let field = |at: usize| u16::from_le_bytes([chunk[at], chunk[at + 1]]);
        let (channels, rate, block, bits) = (field(2), le32(&chunk[4..]), field(12), field(14));
        let tag = match field(0) {
            EXTENSIBLE if chunk.len() >= 40 => field(24),
            EXTENSIBLE => return Err(Broken::new("its extensible format chunk is cut short")),
            tag => tag,
        };
        let kind = match (tag, bits) {
            (INTEGER, 8) => Kind::Unsigned8,
            (INTEGER, 16) => Kind::Signed16,
            (INTEGER, 24) => Kind::Signed24,
            (INTEGER, 32) => Kind::Signed32,
            (FLOAT, 32) => Kind::Float32,
            (FLOAT, 64) => Kind::Float64,
            _ => {
                return Err(Broken::new(format!(
                    "its samples are of format {tag} with {bits} bits; integers of 8, 16, 24 and 32 bits (format 1) and \
                     floats of 32 and 64 (format 3) can be read: convert it"
                )));
            }
        };
        if channels == 0 || usize::from(channels) > limits::SOUND_CHANNELS {
            return Err(Broken::new(format!(
                "it has {channels} channels; 1 to {} are possible",
                limits::SOUND_CHANNELS
            )));
        }
        if usize::from(block) != kind.bytes() * usize::from(channels) {
            return Err(Broken::new(format!(
                "its header says {block} bytes for {channels} samples of {} bytes",
                kind.bytes()
            )));
        }
        Ok(Self { rate, channels, kind })
    }

    fn with(self, data: &[u8]) -> Result<Wav<'_>, Broken> {
        Ok(Wav { rate: self.rate, channels: self.channels.into(), kind: self.kind, data })
    }
}

/// Samples of one channel as a file: floats of 32 bits, nothing of them lost.
pub(crate) fn to_wav(rate: u32, samples: &[f32]) -> Vec<u8> {
    const BYTES: u32 = size_of::<f32>() as u32;
    let length = samples.len() as u32 * BYTES;
    let mut file = Vec::with_capacity(44 + length as usize);
    file.extend(b"RIFF");
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    for field in [FLOAT, 1] {
        file.extend(field.to_le_bytes());
    }
    for field in [rate, rate * BYTES] {
        file.extend(field.to_le_bytes());
    }
    for field in [BYTES as u16, BYTES as u16 * 8] {
        file.extend(field.to_le_bytes());
    }
    file.extend(b"data");
    file.extend(length.to_le_bytes());
    samples.iter().for_each(|sample| file.extend(sample.to_le_bytes()));
    file
}

fn take<'a>(body: &'a [u8], length: u32, chunk: &str) -> Result<&'a [u8], Broken> {
    body.get(..length as usize).ok_or_else(|| {
        Broken::new(format!(
            "its {chunk} chunk should have {length} bytes, but {} are there: it is cut short",
            body.len()
        ))
    })
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

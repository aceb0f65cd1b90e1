//! FLAC, OGG Vorbis and MP3, packet by packet, so that what unpacks to more than the bound is given up on the way.

use super::decode::Broken;
use crate::error::no_panic;
use crate::{Error, Result};
use flotilla_protocol::limits;
use symphonia::core::audio::{SampleBuffer, SignalSpec};
use symphonia::core::codecs::{Decoder, DecoderOptions};
use symphonia::core::errors::Error as Trouble;
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;
use symphonia::core::probe::Hint;

/// A packed recording, opened.
pub(super) struct Packed {
    name: &'static str,
    reader: Box<dyn FormatReader>,
    decoder: Box<dyn Decoder>,
    track: u32,
    spec: SignalSpec,
}

impl Packed {
    /// Reads the headers of a file.
    pub(super) fn open(file: &[u8]) -> Result<Self> {
        let name = name(file).ok_or(Error::SoundFormat)?;
        let opened = no_panic(|| open(file, name));
        opened.unwrap_or_else(|panicked| Err(Broken::new(panicked.to_string()))).map_err(|e| e.of(name))
    }

    pub(super) fn format(&self) -> &'static str {
        self.name
    }

    pub(super) fn rate(&self) -> u32 {
        self.spec.rate
    }

    pub(super) fn channels(&self) -> usize {
        self.spec.channels.count()
    }

    /// The mean of all channels, `most` samples at most.
    pub(super) fn mono(mut self, most: usize) -> Result<Vec<f32>> {
        let decoded = no_panic(|| self.decode(most));
        decoded.unwrap_or_else(|panicked| Err(Broken::new(panicked.to_string()))).map_err(|e| e.of(self.name))
    }

    fn decode(&mut self, most: usize) -> Result<Vec<f32>, Broken> {
        let channels = self.channels();
        let mut mono = Vec::new();
        let mut buffer: Option<SampleBuffer<f32>> = None;
        while mono.len() < most {
            let packet = match self.reader.next_packet() {
                Ok(packet) if packet.track_id() == self.track => packet,
                Ok(_) => continue,
                Err(Trouble::IoError(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(trouble) => return Err(Broken::new(trouble.to_string())),
            };
            let decoded = self.decoder.decode(&packet).map_err(|e| Broken::new(e.to_string()))?;
            if *decoded.spec() != self.spec {
                return Err(Broken::new("its rate or its channels change on the way"));
            }
            let room = decoded.capacity();
            let buffer = match &mut buffer {
                Some(buffer) if buffer.capacity() >= room * channels => buffer,
                small => small.insert(SampleBuffer::new(room as u64, self.spec)),
            };
            buffer.copy_interleaved_ref(decoded);
            let frames = buffer.samples().chunks_exact(channels).take(most - mono.len());
            mono.extend(frames.map(|frame| frame.iter().sum::<f32>() / channels as f32));
        }
        Ok(mono)
    }
}

/// What kind of file it is, by how it starts.
fn name(file: &[u8]) -> Option<&'static str> {
    match file {
        [b'f', b'L', b'a', b'C', ..] => Some("FLAC"),
        [b'O', b'g', b'g', b'S', ..] => Some("OGG"),
        [b'I', b'D', b'3', ..] => Some("MP3"),
        // The sync word of a frame of layer III.
        [0xFF, second, ..] if second & 0xE6 == 0xE2 => Some("MP3"),
        _ => None,
    }
}

fn open(file: &[u8], name: &'static str) -> Result<Packed, Broken> {
    let broken = |trouble: Trouble| Broken::new(trouble.to_string());
    let stream = MediaSourceStream::new(Box::new(std::io::Cursor::new(file.to_vec())), Default::default());
    let options = FormatOptions { enable_gapless: true, ..FormatOptions::default() };
    let probed = symphonia::default::get_probe()
        .format(&Hint::new(), stream, &options, &MetadataOptions::default())
        .map_err(broken)?;
    let track = probed.format.default_track().ok_or_else(|| Broken::new("it has no track"))?;
    let (id, parameters) = (track.id, &track.codec_params);
    let (Some(rate), Some(channels)) = (parameters.sample_rate, parameters.channels) else {
        return Err(Broken::new("its header says no rate or no channels"));
    };
    if channels.count() == 0 || channels.count() > limits::SOUND_CHANNELS {
        return Err(Broken::new(format!(
            "it has {} channels; 1 to {} are possible",
            channels.count(),
            limits::SOUND_CHANNELS
        )));
    }
    let decoder =
        symphonia::default::get_codecs().make(parameters, &DecoderOptions::default()).map_err(broken)?;
    Ok(Packed { name, decoder, track: id, spec: SignalSpec::new(rate, channels), reader: probed.format })
}

//! FLAC, OGG Vorbis and MP3, packet by packet, so that what unpacks to more than the bound is given up on the way.
//!
//! Tags and pictures in the files are cut away before the decoders see them: nobody here needs them, and their lengths
//! may be lies.

use super::decode::Broken;
use super::ogg::{Ogg, Vorbis};
use crate::error::no_panic;
use crate::{Error, Result};
use flotilla_protocol::limits;
use std::io::{Cursor, ErrorKind};
use symphonia::core::audio::{SampleBuffer, SignalSpec};
use symphonia::core::codecs::{CODEC_TYPE_VORBIS, CodecParameters, Decoder, DecoderOptions};
use symphonia::core::errors::Error as Trouble;
use symphonia::core::formats::{FormatOptions, FormatReader, Packet};
use symphonia::core::io::MediaSourceStream;
use symphonia::default::codecs::{FlacDecoder, MpaDecoder, VorbisDecoder};
use symphonia::default::formats::{FlacReader, MpaReader};

/// A packed recording, opened.
pub(super) struct Packed<'a> {
    name: &'static str,
    packets: Packets<'a>,
    decoder: Box<dyn Decoder>,
    rate: u32,
    channels: usize,
}

enum Packets<'a> {
    Reader(Box<dyn FormatReader>),
    Ogg(Ogg<'a>),
}

impl<'a> Packed<'a> {
    /// Reads the headers of a file.
    pub(super) fn open(file: &'a [u8]) -> Result<Self> {
        let name = name(file).ok_or(Error::SoundFormat)?;
        let opened = no_panic(|| open(file, name));
        opened.unwrap_or_else(|panicked| Err(Broken::new(panicked.to_string()))).map_err(|e| e.of(name))
    }

    pub(super) fn format(&self) -> &'static str {
        self.name
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    /// The mean of all channels, `most` samples at most.
    pub(super) fn mono(mut self, most: usize) -> Result<Vec<f32>> {
        let name = self.name;
        let decoded = no_panic(|| self.decode(most));
        decoded.unwrap_or_else(|panicked| Err(Broken::new(panicked.to_string()))).map_err(|e| e.of(name))
    }

    fn decode(&mut self, most: usize) -> Result<Vec<f32>, Broken> {
        let mut mono = Vec::new();
        let mut buffer: Option<(SampleBuffer<f32>, SignalSpec)> = None;
        while mono.len() < most {
            let Some(packet) = self.packets.next()? else { break };
            let decoded = self.decoder.decode(&packet).map_err(Broken::of_trouble)?;
            let (spec, room) = (*decoded.spec(), decoded.capacity());
            if spec.rate != self.rate || spec.channels.count() != self.channels {
                return Err(Broken::new("its rate or its channels are not those of its header"));
            }
            let (buffer, _) = match &mut buffer {
                Some(kept) if kept.1 == spec && kept.0.capacity() >= room * self.channels => kept,
                small => small.insert((SampleBuffer::new(room as u64, spec), spec)),
            };
            buffer.copy_interleaved_ref(decoded);
            let frames = buffer.samples().chunks_exact(self.channels).take(most - mono.len());
            mono.extend(frames.map(|frame| frame.iter().sum::<f32>() / self.channels as f32));
        }
        if let Packets::Ogg(ogg) = &self.packets
            && mono.len() < most
        {
            // The last block is whole, the recording need not be.
            mono.truncate(usize::try_from(ogg.end()).unwrap_or(usize::MAX));
        }
        Ok(mono)
    }
}

impl Packets<'_> {
    fn next(&mut self) -> Result<Option<Packet>, Broken> {
        match self {
            Packets::Ogg(ogg) => {
                let packet = ogg.packet()?;
                Ok(packet.map(|bytes| Packet::new_from_boxed_slice(0, 0, 0, bytes.into_boxed_slice())))
            }
            Packets::Reader(reader) => match reader.next_packet() {
                Ok(packet) => Ok(Some(packet)),
                Err(Trouble::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof => Ok(None),
                Err(trouble) => Err(Broken::of_trouble(trouble)),
            },
        }
    }
}

impl Broken {
    fn of_trouble(trouble: Trouble) -> Self {
        Broken::new(trouble.to_string())
    }
}

const FLAC: &str = "FLAC";
const OGG: &str = "OGG";
const MP3: &str = "MP3";

/// What kind of file it is, by how it starts.
fn name(file: &[u8]) -> Option<&'static str> {
    match file {
        [b'f', b'L', b'a', b'C', ..] => Some(FLAC),
        [b'O', b'g', b'g', b'S', ..] => Some(OGG),
        [b'I', b'D', b'3', ..] => Some(MP3),
        // The sync word of a frame of layer III.
        [0xFF, second, ..] if second & 0xE6 == 0xE2 => Some(MP3),
        _ => None,
    }
}

fn open<'a>(file: &'a [u8], name: &'static str) -> Result<Packed<'a>, Broken> {
    let options = DecoderOptions::default();
    let stream = |bytes: Vec<u8>| MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let formats = FormatOptions { enable_gapless: true, ..FormatOptions::default() };
    let (packets, decoder, rate, channels): (_, Box<dyn Decoder>, _, _) = match name {
        OGG => {
            let mut ogg = Ogg::new(file);
            let Vorbis { rate, channels, headers } = Vorbis::open(&mut ogg)?;
            check(channels)?;
            let mut parameters = CodecParameters::new();
            parameters.for_codec(CODEC_TYPE_VORBIS).with_extra_data(headers.into_boxed_slice());
            let decoder = VorbisDecoder::try_new(&parameters, &options).map_err(Broken::of_trouble)?;
            (Packets::Ogg(ogg), Box::new(decoder), Some(rate), Some(channels))
        }
        FLAC => {
            let reader =
                FlacReader::try_new(stream(bare_flac(file)?), &formats).map_err(Broken::of_trouble)?;
            let parameters = parameters(&reader)?;
            let decoder = FlacDecoder::try_new(&parameters, &options).map_err(Broken::of_trouble)?;
            let channels = parameters.channels.map(|channels| channels.count());
            (Packets::Reader(Box::new(reader)), Box::new(decoder), parameters.sample_rate, channels)
        }
        _ => {
            let reader = MpaReader::try_new(stream(bare_mp3(file)?), &formats).map_err(Broken::of_trouble)?;
            let parameters = parameters(&reader)?;
            let decoder = MpaDecoder::try_new(&parameters, &options).map_err(Broken::of_trouble)?;
            let channels = parameters.channels.map(|channels| channels.count());
            (Packets::Reader(Box::new(reader)), Box::new(decoder), parameters.sample_rate, channels)
        }
    };
    let (Some(rate), Some(channels)) = (rate, channels) else {
        return Err(Broken::new("its header says no rate or no channels"));
    };
    check(channels)?;
    Ok(Packed { name, packets, decoder, rate, channels })
}

fn check(channels: usize) -> Result<(), Broken> {
    let most = limits::SOUND_CHANNELS;
    if (1..=most).contains(&channels) {
        return Ok(());
    }
    Err(Broken::new(format!("it has {channels} channels; 1 to {most} are possible")))
}

fn parameters(reader: &dyn FormatReader) -> Result<CodecParameters, Broken> {
    let track = reader.default_track().ok_or_else(|| Broken::new("it has no track"))?;
    Ok(track.codec_params.clone())
}

/// A FLAC file with no other block before its sound than the one that describes it.
fn bare_flac(file: &[u8]) -> Result<Vec<u8>, Broken> {
    let short = || Broken::new("its header is cut short");
    let mut rest = &file[4..];
    let mut bare = b"fLaC".to_vec();
    for index in 0.. {
        let ([kind, a, b, c], after) = rest.split_first_chunk().ok_or_else(short)?;
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (block, after) = after.split_at_checked(length).ok_or_else(short)?;
        rest = after;
        if index == 0 {
            // Type 0, and the mark of the last block.
            if kind & 0x7F != 0 {
                return Err(Broken::new("its first block does not describe it"));
            }
            bare.extend([0x80, *a, *b, *c]);
            bare.extend_from_slice(block);
        }
        if kind & 0x80 != 0 {
            break;
        }
    }
    bare.extend_from_slice(rest);
    Ok(bare)
}

/// An MP3 file without the tags before its sound.
fn bare_mp3(file: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut rest = file;
    while let [b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] = *rest {
        // Seven bits a byte, the ten of the header, and the ten of a footer.
        let length = [a, b, c, d].iter().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
        let footer = if flags & 0x10 != 0 { 10 } else { 0 };
        rest =
            rest.get(10 + length + footer..).ok_or_else(|| Broken::new("its tag is longer than the file"))?;
    }
    Ok(rest.to_vec())
}

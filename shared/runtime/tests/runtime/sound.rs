//! Recordings as people send them: every kind of WAV, other rates, several channels, files that lie.

use crate::support::{data, recording, signal, wav, wav16};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::pipeline::sound::{Clip, Features, Gain, Place, SoundInput};
use flotilla_runtime::sound::{Decoder, Frontend};
use proptest::prelude::*;
use std::f64::consts::TAU;
use std::io::Read;

fn waveform(rate: u32, samples: u32) -> SoundInput {
    SoundInput::plain(rate, samples, Features::Waveform)
}

fn tensor(input: &SoundInput, file: &[u8]) -> Vec<f32> {
    Frontend::new(input).unwrap().tensor(file).unwrap()
}

#[test]
fn every_kind_of_wav_gives_the_same_samples() {
    let samples = [0.0_f64, 0.5, -0.5, 0.25, -1.0, 0.75];
    let bytes = |one: &dyn Fn(f64) -> Vec<u8>| -> Vec<u8> { samples.iter().flat_map(|s| one(*s)).collect() };
    let kinds: [(u16, u16, Vec<u8>); 6] = [
        (1, 8, bytes(&|s| vec![(s * 128.0 + 128.0) as u8])),
        (1, 16, bytes(&|s| ((s * 32_768.0) as i16).to_le_bytes().to_vec())),
        (1, 24, bytes(&|s| ((s * 8_388_608.0) as i32).to_le_bytes()[..3].to_vec())),
        (1, 32, bytes(&|s| ((s * 2_147_483_648.0) as i32).to_le_bytes().to_vec())),
        (3, 32, bytes(&|s| (s as f32).to_le_bytes().to_vec())),
        (3, 64, bytes(&|s| s.to_le_bytes().to_vec())),
    ];
    let input = waveform(8000, 6);
    for (format, bits, data) in kinds {
        let file = wav(format, 1, 8000, bits, &data);
        assert_eq!(tensor(&input, &file), samples.map(|s| s as f32), "{format} {bits}");
        // The same as an extensible format, after a chunk of another kind and odd length.
        let mut extensible = file[..12].to_vec();
        extensible.extend(b"LIST\x03\0\0\0abc\0fmt \x28\0\0\0\xfe\xff");
        extensible.extend(&file[22..36]);
        extensible.extend([22, 0, bits as u8, 0, 4, 0, 0, 0, format as u8, 0]);
        extensible.extend(b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
        extensible.extend(&file[36..]);
        assert_eq!(tensor(&input, &extensible), samples.map(|s| s as f32), "{format} {bits} extensible");
    }
}

#[test]
fn channels_are_mixed_and_clips_are_cut_or_filled() {
    let data: Vec<u8> = [(8_i16, 0_i16), (16, 32), (-8, -24), (0, 4)]
        .iter()
        .flat_map(|(l, r)| [l.to_le_bytes(), r.to_le_bytes()].concat())
        .collect();
    let file = wav(1, 2, 8000, 16, &data);
    let scaled = |values: &[f32]| values.iter().map(|value| value / 32_768.0).collect::<Vec<_>>();
    let clip = |samples: u32, place: Place| {
        let input = SoundInput { clip: Clip { samples, place }, ..waveform(8000, 1) };
        let from_file = tensor(&input, &file);
        let mono = scaled(&[4.0, 24.0, -16.0, 2.0]);
        assert_eq!(Frontend::new(&input).unwrap().tensor_of_samples(&mono).unwrap(), from_file);
        from_file
    };
    assert_eq!(clip(4, Place::Start), scaled(&[4.0, 24.0, -16.0, 2.0]));
    assert_eq!(clip(2, Place::Start), scaled(&[4.0, 24.0]));
    assert_eq!(clip(2, Place::Centre), scaled(&[24.0, -16.0]));
    assert_eq!(clip(6, Place::Start), scaled(&[4.0, 24.0, -16.0, 2.0, 0.0, 0.0]));
    assert_eq!(clip(6, Place::Centre), scaled(&[0.0, 4.0, 24.0, -16.0, 2.0, 0.0]));

    let gain = |gain| tensor(&SoundInput { gain, ..waveform(8000, 4) }, &file);
    assert_eq!(gain(Gain::Peak), [4.0 / 24.0, 1.0, -16.0 / 24.0, 2.0 / 24.0]);
    let negative = wav16(&[-100, 50, 0], 8000);
    let gain = |gain, file: &[u8]| tensor(&SoundInput { gain, ..waveform(8000, 3) }, file);
    assert_eq!(gain(Gain::Peak, &negative), [-1.0, 0.5, 0.0]);
    assert_eq!(gain(Gain::Maximum, &negative), [-2.0, 1.0, 0.0]);
    assert_eq!(gain(Gain::Maximum, &wav16(&[0, 0, 0], 8000)), [0.0; 3]);
}

/// The largest error of a sine at another rate, away from its ends, where the recording is silent on one side.
fn error_of_sine(hertz: f64, from: u32, to: u32) -> f64 {
    let sine = |index: usize, rate: u32| (TAU * hertz * index as f64 / f64::from(rate)).sin();
    let data: Vec<u8> =
        (0..from as usize).flat_map(|i| ((0.5 * sine(i, from)) as f32).to_le_bytes()).collect();
    let got = tensor(&waveform(to, to), &wav(3, 1, from, 32, &data));
    let edge = to as usize / 10;
    (edge..to as usize - edge).map(|i| (f64::from(got[i]) - 0.5 * sine(i, to)).abs()).fold(0.0, f64::max)
}

#[test]
fn another_rate_keeps_what_fits_and_drops_what_does_not() {
    for (from, to) in [(44_100, 16_000), (8000, 16_000), (48_000, 16_000), (16_000, 44_100), (22_051, 16_000)]
    {
        let lower = f64::from(from.min(to)) / 2.0;
        for part in [0.01, 0.1, 0.5, 0.85] {
            let error = error_of_sine(part * lower, from, to);
            println!("{from} -> {to}, {part} of Nyquist: {error:.2e}");
            // Half of full scale: -80 dB of it.
            assert!(error < 5e-5, "{from} -> {to}, {part} of Nyquist: {error}");
        }
    }
    // What the lower rate cannot hold does not fold back.
    let data: Vec<u8> = (0..48_000)
        .flat_map(|i| ((TAU * 8100.0 * f64::from(i) / 48_000.0).sin() as f32).to_le_bytes())
        .collect();
    let got = tensor(&waveform(16_000, 16_000), &wav(3, 1, 48_000, 32, &data));
    let loudest = got[1600..14_400].iter().fold(0.0, |most: f32, s| most.max(s.abs()));
    assert!(loudest < 1e-4, "{loudest}");
}

#[test]
fn a_clip_of_another_rate_is_the_same_wherever_the_recording_ends() {
    let long = signal(30_000, 44_100);
    let start = waveform(16_000, 4000);
    // Only as much as is needed is decoded: what comes later changes nothing.
    assert_eq!(tensor(&start, &wav16(&long, 44_100)), tensor(&start, &wav16(&long[..20_000], 44_100)));
    let all = tensor(&waveform(16_000, 10_885), &wav16(&long, 44_100));
    let centre = SoundInput { clip: Clip { samples: 4000, place: Place::Centre }, ..start };
    assert_eq!(tensor(&centre, &wav16(&long, 44_100)), all[3442..7442]);
    // Shorter ones end in silence.
    let short = tensor(&centre, &wav16(&long[..441], 44_100));
    assert!(short[..1900].iter().chain(&short[2100..]).all(|s| *s == 0.0));
    assert!(short[1930..2070].iter().any(|s| s.abs() > 0.1));
}

#[test]
fn spoken_digits_are_all_read() {
    let Some(path) = data("sound/fsdd-recordings.zip") else { return };
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut frontend = Frontend::new(&SoundInput::mlperf_keywords()).unwrap();
    let mut read = 0;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        if !name.ends_with(".wav") {
            continue;
        }
        let mut file = Vec::new();
        entry.read_to_end(&mut file).unwrap();
        assert_eq!(Decoder::new(&file).unwrap().rate(), 8000);
        if read % 20 == 0 {
            let tensor = frontend.tensor(&file).unwrap();
            assert!(tensor.len() == 490 && tensor.iter().any(|v| v.abs() > 1.0), "{name}");
        }
        assert!(Decoder::new(&file).unwrap().mono(None).unwrap().len() > 1000);
        read += 1;
    }
    assert_eq!(read, 3000);
}

#[test]
fn files_that_lie_are_refused_with_what_is_wrong() {
    let good = wav16(&signal(100, 8000), 8000);
    let mut frontend = Frontend::new(&waveform(8000, 100)).unwrap();
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let mut extensible = patched(20, &[0xfe, 0xff]);
    extensible.truncate(60);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "no recording of a known kind"),
        (b"RIFF".to_vec(), "no recording of a known kind"),
        (b"RIFX\0\0\0\0WAVE".to_vec(), "no recording of a known kind"),
        (good[..12].to_vec(), "no data chunk"),
        (good[..40].to_vec(), "no data chunk"),
        (good[..44].to_vec(), "should have 200 bytes, but 0 are there"),
        (good[..100].to_vec(), "should have 200 bytes, but 56 are there"),
        (patched(4 + 36, &[0, 0, 0, 0]), "no samples"),
        (patched(40, &[255, 255, 255, 127]), "should have 2147483647 bytes"),
        (patched(22, &[0, 0]), "0 channels"),
        (patched(22, &[255, 255]), "65535 channels"),
        (patched(24, &[0, 0, 0, 0]), "0 samples a second"),
        (patched(24, &[255, 255, 255, 255]), "4294967295 samples a second"),
        (patched(32, &[0, 0]), "0 bytes for 1 samples"),
        (patched(32, &[7, 0]), "7 bytes for 1 samples"),
        (patched(34, &[0, 0]), "with 0 bits"),
        (patched(34, &[12, 0]), "with 12 bits"),
        (patched(20, &[6, 0]), "format 6"),
        (extensible, "cut short"),
        (patched(16, &[255, 255, 255, 255]), "fmt  chunk should have"),
        (patched(16, &[4, 0, 0, 0]), "format chunk has 4 bytes"),
        (patched(12, b"data"), "before their format"),
        (wav(3, 1, 8000, 32, &f32::NAN.to_le_bytes()), "sample 0 is NaN"),
        (wav(3, 1, 8000, 64, &1e300_f64.to_le_bytes()), "sample 0 is inf"),
        (
            wav(3, 2, 8000, 32, &[f32::INFINITY.to_le_bytes(), f32::NEG_INFINITY.to_le_bytes()].concat()),
            "NaN",
        ),
    ];
    for (file, problem) in cases {
        let error = frontend.tensor(&file).unwrap_err();
        assert_eq!(error.code(), ErrorCode::SampleInvalid, "{}", error.detail());
        assert!(error.detail().contains(problem), "{problem}: {}", error.detail());
        assert!(error.is_bad_input());
    }
    // A writer that did not know the length: the samples go on to the end.
    assert_eq!(frontend.tensor(&patched(40, &[255; 4])).unwrap(), frontend.tensor(&good).unwrap());
    // The length in the first header is often wrong, and nobody needs it.
    assert_eq!(frontend.tensor(&patched(4, &[0; 4])).unwrap(), frontend.tensor(&good).unwrap());
    // Loud beyond what floats can square.
    let loud = wav(3, 1, 16_000, 32, &[4e9_f32.to_le_bytes(); 16_000].concat());
    let mel = SoundInput { gain: Gain::None, ..SoundInput::mlperf_toy_car() };
    let tensor = Frontend::new(&mel).unwrap().tensor(&loud).unwrap();
    assert!(tensor.iter().all(|value| value.is_finite()));
}

#[test]
fn recordings_over_the_bounds_are_too_large() {
    let mut whole =
        Frontend::new(&SoundInput { clip: Clip { samples: 100, place: Place::Centre }, ..waveform(8000, 1) })
            .unwrap();
    let mut start = Frontend::new(&waveform(8000, 100)).unwrap();
    let long = wav(1, 1, 8000, 8, &vec![128; 8 * 1024 * 1024 + 1]);
    let error = whole.tensor(&long).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge, "{}", error.detail());
    // The start of a long recording can be had.
    assert_eq!(start.tensor(&long).unwrap(), [0.0; 100]);
    let error = start.tensor(&wav(1, 1, 8000, 8, &vec![128; 16 * 1024 * 1024])).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge, "{}", error.detail());

    let bomb = recording("silence.flac");
    assert!(bomb.len() < 40_000);
    if cfg!(feature = "media") {
        let error = whole.tensor(&bomb).unwrap_err();
        assert_eq!(error.code(), ErrorCode::TooLarge, "{}", error.detail());
        assert_eq!(start.tensor(&bomb).unwrap(), [0.0; 100]);
    }
}

/// Tags, pictures and code books that claim more than the file has, or than any memory has.
#[test]
#[cfg(feature = "media")]
fn packed_files_that_lie_take_no_memory() {
    let mut frontend = Frontend::new(&waveform(16_000, 4000)).unwrap();
    let whole = frontend.tensor(&recording("chirp.flac")).unwrap();

    // A FLAC file's tags may say anything within their block, and the block may not be longer than the file.
    let flac = recording("chirp.flac");
    let mut lying = flac.clone();
    lying[46..50].fill(0xFF);
    assert_eq!(frontend.tensor(&lying).unwrap(), whole);
    lying[43..46].fill(0xFF);
    assert!(frontend.tensor(&lying).unwrap_err().detail().contains("cut short"));

    // So with MP3, of which the tag is before the first frame.
    let mp3 = recording("chirp.mp3");
    let whole = frontend.tensor(&mp3).unwrap();
    let tagged = [b"ID3\x04\0\0\0\0\0\x0aTIT2\x7f\x7f\x7f\x7f\0\0".as_slice(), &mp3].concat();
    assert_eq!(frontend.tensor(&tagged).unwrap(), whole);
    let lying = [b"ID3\x04\0\0\x7f\x7f\x7f\x7f".as_slice(), &mp3].concat();
    assert!(frontend.tensor(&lying).unwrap_err().detail().contains("longer than the file"));

    // The first code book: vectors of 65,535 values, 16 million of them, all of one length.
    let mut ogg = recording("chirp.ogg");
    let books = ogg.windows(7).position(|bytes| bytes == b"\x05vorbis").unwrap() + 8;
    assert_eq!(&ogg[books..books + 3], b"BCV");
    ogg[books + 3..books + 13].copy_from_slice(&[255, 255, 255, 255, 255, 0xC1, 255, 255, 0x3F, 0]);
    let error = frontend.tensor(&ogg).unwrap_err();
    assert_eq!(error.code(), ErrorCode::SampleInvalid);
    assert!(error.detail().contains("code books are too large"), "{}", error.detail());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(debug_assertions) { 400 } else { 4000 }, ..ProptestConfig::default() })]

    #[test]
    fn mutated_recordings_give_a_tensor_or_a_typed_error(
        which in 0..5_usize,
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        head in any::<bool>(),
    ) {
        let mut file = match which {
            0 => wav16(&signal(200, 8000), 8000),
            1 => wav(3, 2, 96_000, 32, &[0.5_f32.to_le_bytes(); 100].concat()),
            2 => recording("chirp.flac"),
            3 => recording("chirp.ogg"),
            _ => recording("chirp.mp3"),
        };
        if cut.index(4) == 0 {
            file.truncate(cut.index(file.len()));
        }
        let reach = if head { file.len().min(64) } else { file.len() };
        for (at, value) in changes {
            if reach > 0 {
                file[at.index(reach)] = value;
            }
        }
        let input = SoundInput { clip: Clip { samples: 16_000, place: Place::Centre }, ..SoundInput::mlperf_keywords() };
        match Frontend::new(&input).unwrap().tensor(&file) {
            Ok(tensor) => prop_assert!(tensor.len() == 490 && tensor.iter().all(|v| v.is_finite())),
            Err(error) => prop_assert!(
                matches!(error.code(), ErrorCode::SampleInvalid | ErrorCode::TooLarge),
                "{}", error.detail()
            ),
        }
    }
}

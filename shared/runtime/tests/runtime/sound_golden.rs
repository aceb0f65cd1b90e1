//! Front ends of sound against the libraries that define them; `tests/golden/sound.py` made the values.

use crate::support::{data, floats, npz, recording, signal, unzip, wav16};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::sound::{
    CosineTransform, Decibel, Features, Mel, MelFeatures, MelNorm, MelScale, MelSlope, Mfcc, MicroFrontend,
    Padding, Place, Range, Reference, Scale, SoundInput, SoundLayout, Spectrum, WindowKind,
};
use flotilla_protocol::pipeline::{Activation, Classification, Input as Takes, Output};
use flotilla_runtime::sound::Frontend;
use flotilla_runtime::{Input, Model};
use std::path::Path;

fn golden(name: &str) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.f32"));
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The largest difference of the tensor of a made signal from the golden values.
#[track_caller]
fn agree(name: &str, input: &SoundInput, tensor: &[f32], tolerance: f32) {
    let expected = golden(name);
    assert_eq!(tensor.len(), expected.len(), "{name}");
    let worst = tensor.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{name}: {worst}");
    assert!(worst <= tolerance, "{name} differs by {worst}: {input:?}");
}

fn tensor(input: &SoundInput, samples: &[i16]) -> Vec<f32> {
    let mut frontend = Frontend::new(input).unwrap();
    let tensor = frontend.tensor(&wav16(samples, input.rate)).unwrap();
    assert_eq!(tensor.len(), frontend.shape().iter().product::<usize>());
    tensor
}

/// The defaults of librosa.
fn librosa() -> MelFeatures {
    let spectrum = Spectrum {
        window: WindowKind::Hann,
        length: 512,
        hop: 256,
        fft: 512,
        place: Place::Centre,
        padding: Padding::Zeros,
        power: 2,
    };
    let mel = Mel {
        bands: 40,
        low: 0.0,
        high: 8000.0,
        scale: MelScale::Slaney,
        slope: MelSlope::Hertz,
        norm: MelNorm::Slaney,
    };
    let decibel = Decibel { reference: Reference::Energy(1.0), floor: 1e-10, top: Some(80.0) };
    MelFeatures { spectrum, mel, scale: Scale::Decibel(decibel) }
}

fn second(features: Features) -> SoundInput {
    SoundInput::plain(16_000, 16_000, features)
}

#[test]
fn log_mel_is_that_of_librosa() {
    let signal = signal(16_000, 16_000);
    let mut features = librosa();
    features.spectrum = Spectrum { length: 400, hop: 160, ..features.spectrum };
    features.mel.low = 20.0;
    let input = second(Features::Mel(features));
    agree("librosa_db", &input, &tensor(&input, &signal), 1e-3);

    let mut features = librosa();
    features.spectrum = Spectrum {
        window: WindowKind::Hamming,
        length: 1024,
        hop: 400,
        fft: 1024,
        padding: Padding::None,
        power: 1,
        ..features.spectrum
    };
    features.mel = Mel { bands: 64, scale: MelScale::Htk, norm: MelNorm::None, ..features.mel };
    features.scale = Scale::Ln { offset: 1e-3 };
    let input = second(Features::Mel(features));
    agree("librosa_htk", &input, &tensor(&input, &signal), 1e-4);

    let mut features = librosa();
    features.spectrum = Spectrum {
        window: WindowKind::HannSymmetric,
        length: 501,
        hop: 200,
        fft: 600,
        padding: Padding::Reflect,
        ..features.spectrum
    };
    features.mel = Mel { bands: 32, low: 100.0, high: 7000.0, ..features.mel };
    features.scale = Scale::Decibel(Decibel { reference: Reference::Loudest, floor: 1e-8, top: Some(40.0) });
    let input = second(Features::Mel(features));
    agree("librosa_loudest", &input, &tensor(&input, &signal), 1e-3);
}

#[test]
fn cepstral_coefficients_are_those_of_librosa() {
    let mfcc =
        Mfcc { mel: librosa(), coefficients: 13, transform: CosineTransform::Orthonormal, lifter: 22.0 };
    let input = second(Features::Mfcc(mfcc));
    agree("librosa_mfcc", &input, &tensor(&input, &signal(16_000, 16_000)), 1e-2);
}

#[test]
fn keywords_get_the_coefficients_of_tf_signal() {
    let input = SoundInput::mlperf_keywords();
    agree("keywords", &input, &tensor(&input, &signal(16_000, 16_000)), 2e-3);
}

#[test]
fn machine_noise_gets_the_rows_of_mlperf() {
    let input = SoundInput::mlperf_toy_car();
    let mut frontend = Frontend::new(&input).unwrap();
    assert_eq!(frontend.shape(), [196, 640]);
    let tensor = frontend.tensor(&wav16(&signal(160_000, 16_000), 16_000)).unwrap();
    let rows: Vec<f32> = tensor.chunks(640).step_by(20).flatten().copied().collect();
    agree("toy_car", &input, &rows, 1e-3);
}

#[test]
fn the_micro_front_end_gives_the_integers_of_tensorflow() {
    let signal_of_second = signal(16_000, 16_000);
    let input = SoundInput::micro_speech(320);
    agree("micro", &input, &tensor(&input, &signal_of_second), 0.0);
    let Features::Micro(speech) = input.features else { unreachable!() };
    let every_second = |input: &SoundInput, bands: usize| -> Vec<f32> {
        tensor(input, &signal_of_second).chunks(bands).step_by(2).flatten().copied().collect()
    };

    let plain = MicroFrontend { length: 400, hop: 160, bands: 32, gain: None, ..speech };
    let input = second(Features::Micro(plain));
    agree("micro_plain", &input, &every_second(&input, 32), 0.0);

    let quiet: Vec<i16> = signal_of_second.iter().map(|sample| sample.div_euclid(64)).collect();
    let (low, high) = (60.0, 3800.0);
    let linear =
        MicroFrontend { length: 1024, hop: 640, bands: 24, low, high, gain: None, log_shift: None, ..speech };
    let input = second(Features::Micro(linear));
    agree("micro_linear", &input, &tensor(&input, &quiet), 0.0);

    let short = MicroFrontend {
        length: 32,
        hop: 32,
        bands: 6,
        low: 500.0,
        high: 3000.0,
        smoothing_bits: 8,
        even_smoothing: 0.1,
        odd_smoothing: 0.3,
        min_signal: 0.2,
        gain: speech.gain.map(|mut gain| {
            (gain.strength, gain.offset, gain.bits) = (0.5, 10.0, 19);
            gain
        }),
        log_shift: Some(4),
    };
    let input = SoundInput::plain(8000, 8000, Features::Micro(short));
    agree("micro_short", &input, &tensor(&input, &signal(8000, 8000)), 0.0);

    // Another build of the same divides by 25.6, and rounds otherwise now and then.
    let mut input = SoundInput::micro_speech(160);
    input.std = vec![25.6];
    let (got, expected) = (every_second(&input, 40), golden("micro_library"));
    assert_eq!(got.len(), expected.len());
    let same = got.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() < 1e-4).count();
    assert!(same * 100 >= expected.len() * 99, "{same} of {} are the same", expected.len());
}

const KEYWORDS: [&str; 12] =
    ["Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown"];

#[test]
fn recorded_words_become_the_published_tensors_and_are_understood() {
    let (Some(onnx), Some(archive), Some(recorded)) = (
        data("models/mlperf-tiny/kws_dscnn_float.onnx"),
        data("models/sample-inputs.zip"),
        data("models/golden/kws_dscnn_float.npz"),
    ) else {
        return;
    };
    let mut frontend = Frontend::new(&SoundInput::mlperf_keywords()).unwrap();
    let labels = KEYWORDS.map(str::to_owned).to_vec();
    let pipeline = Pipeline::new(
        Takes::Sound(SoundInput::mlperf_keywords()),
        Output::Classification(Classification::new(labels, Activation::None)),
    );
    let mut model = Model::load(&pipeline, &std::fs::read(onnx).unwrap()).unwrap();
    let recorded = floats(npz(recorded, "input"));
    let words = [("yes", "Yes"), ("no", "No"), ("noise", "Unknown"), ("silence", "Silence")];
    for ((name, expected), recorded) in words.into_iter().zip(recorded) {
        let file = unzip(&archive, &format!("sample-inputs/{name}_1000ms.wav"));
        let tensor = frontend.tensor(&file).unwrap();
        let worst = tensor.iter().zip(&recorded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 5e-3, "{name}: {worst}");
        let prediction = model.predict(Input::Unsaid(&file)).unwrap();
        assert_eq!(prediction.headline().unwrap().label, expected, "{prediction:?}");
    }
}

#[test]
fn a_machines_recorded_frames_are_put_beside_each_other_as_mlperf_does() {
    let (Some(archive), Some(recorded)) =
        (data("models/sample-inputs.zip"), data("models/golden/ad_autoencoder_float.npz"))
    else {
        return;
    };
    // The recording holds the bands of 200 frames: here a waveform of as many samples, cut into the same rows.
    let bands = unzip(&archive, "sample-inputs/toycar_normal_id_01_00000000_hist_librosa.bin");
    let bands: Vec<f32> = bands.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(bands.len(), 200 * 128);
    let input = SoundInput {
        rows: Some(flotilla_protocol::pipeline::sound::Rows { frames: 640, hop: 128 }),
        layout: SoundLayout::Flat,
        ..SoundInput::plain(16_000, 25_600, Features::Waveform)
    };
    let tensor = Frontend::new(&input).unwrap().tensor_of_samples(&bands).unwrap();
    let recorded = floats(npz(recorded, "input"));
    assert_eq!(recorded.len(), 49);
    for (row, recorded) in tensor.chunks(640).step_by(4).zip(&recorded) {
        assert_eq!(row, recorded);
    }
}

#[test]
fn layouts_ranges_rows_and_normalisation_order_the_same_values() {
    let samples = signal(16_000, 16_000);
    let base = second(Features::Mel(librosa()));
    let all = tensor(&base, &samples);
    let (bands, frames) = (40, all.len() / 40);
    let shape = |input: &SoundInput| Frontend::new(input).unwrap().shape();
    for (layout, expected) in [
        (SoundLayout::TimeBinsOne, vec![1, frames, bands, 1]),
        (SoundLayout::OneTimeBins, vec![1, 1, frames, bands]),
        (SoundLayout::TimeBins, vec![1, frames, bands]),
        (SoundLayout::Flat, vec![1, frames * bands]),
    ] {
        let input = SoundInput { layout, ..base.clone() };
        assert_eq!(shape(&input), expected);
        assert_eq!(tensor(&input, &samples), all);
    }
    for (layout, expected) in [
        (SoundLayout::OneBinsTime, vec![1, 1, bands, frames]),
        (SoundLayout::BinsTime, vec![1, bands, frames]),
    ] {
        let input = SoundInput { layout, ..base.clone() };
        assert_eq!(shape(&input), expected);
        let turned = tensor(&input, &samples);
        assert!((0..all.len()).all(|i| all[i] == turned[(i % bands) * frames + i / bands]));
    }

    let range = Some(Range { first: 3, frames: 10 });
    let rows = Some(flotilla_protocol::pipeline::sound::Rows { frames: 4, hop: 3 });
    let mean: Vec<f32> = (0..bands).map(|band| band as f32).collect();
    let input = SoundInput { range, rows, mean, std: vec![2.0], ..base };
    assert_eq!(shape(&input), [3, 4, bands, 1]);
    let cut = tensor(&input, &samples);
    for (i, value) in cut.iter().enumerate() {
        let (row, frame, band) = (i / (4 * bands), i / bands % 4, i % bands);
        let raw = all[(3 + 3 * row + frame) * bands + band];
        assert_eq!(*value, (raw - band as f32) / 2.0);
    }
}

#[test]
fn packed_recordings_sound_like_the_signal_they_were_made_from() {
    let signal: Vec<f32> = signal(4000, 16_000).iter().map(|sample| f32::from(*sample) / 32_768.0).collect();
    let loudness =
        |samples: &[f32]| (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt();
    // A lossy codec differs by noise, by 0.2215 in what libsndfile decodes of the OGG; MP3 puts silence before and behind.
    for (name, tolerance, lead) in
        [("chirp.flac", 1e-4, 0), ("chirp.ogg", 0.222, 0), ("chirp.mp3", 0.3, 1200)]
    {
        let file = recording(name);
        let decoder = flotilla_runtime::sound::Decoder::new(&file);
        if cfg!(not(feature = "media")) {
            let error = decoder.err().unwrap();
            assert_eq!(error.code(), flotilla_protocol::ErrorCode::SampleInvalid, "{}", error.detail());
            continue;
        }
        let decoder = decoder.unwrap();
        assert_eq!((decoder.rate(), decoder.channels()), (16_000, 2), "{name}");
        let mono = decoder.mono(None).unwrap();
        assert!((signal.len()..signal.len() + 2400).contains(&mono.len()), "{name}: {}", mono.len());
        let error = (0..=lead)
            .filter(|lead| mono.len() >= signal.len() + lead)
            .map(|lead| {
                let difference: Vec<f32> = signal.iter().zip(&mono[lead..]).map(|(a, b)| a - b).collect();
                loudness(&difference) / loudness(&signal)
            })
            .fold(f32::INFINITY, f32::min);
        println!("{name}: {error}");
        assert!(error < tolerance, "{name}: {error}");
    }
}

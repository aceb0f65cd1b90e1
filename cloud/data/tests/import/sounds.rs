//! Recordings in class folders.

use crate::support::{House, png, request, wav};
use flotilla_data::{Format, Kind};
use flotilla_protocol::{ErrorCode, Truth};

fn folders(house: &House) {
    for n in 0..20 {
        let class = if n % 2 == 0 { "hum" } else { "whistle" };
        house.file(&format!("set/{class}/{n}.wav"), wav(8_000, 4_000 + 80 * n, 200.0 + 10.0 * n as f32));
    }
}

#[tokio::test]
async fn recordings_are_imported_with_their_length_and_rate() {
    let house = House::new();
    folders(&house);
    let report = house.import(request("noises", &house.path("set"))).await.unwrap();
    let version = &report.version;
    assert_eq!((version.kind, version.source.format), (Kind::SoundClassification, Format::SoundFolders));
    assert_eq!(version.classes, ["hum", "whistle"]);
    let facts = version.sounds.unwrap();
    assert_eq!((facts.min_ms, facts.max_ms, facts.min_rate, facts.max_rate), (500, 690, 8_000, 8_000));
    let samples = house.datasets.samples(version, None).await.unwrap();
    assert!(samples.iter().all(|sample| matches!(sample.truth, Truth::Class(0 | 1))));
    assert!(house.datasets.sample_bytes(&samples[0]).await.unwrap().starts_with(b"RIFF"));
}

#[tokio::test]
async fn recordings_with_absurd_headers_are_listed_and_the_rest_is_imported() {
    let house = House::new();
    folders(&house);
    let good = wav(8_000, 800, 440.0);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    house.file("set/hum/endless.wav", with(40, &u32::MAX.wrapping_sub(7).to_le_bytes()));
    house.file("set/hum/crowd.wav", with(22, &9_999_u16.to_le_bytes()));
    house.file("set/hum/fast.wav", with(24, &u32::MAX.to_le_bytes()));
    house.file("set/hum/still.wav", with(24, &0_u32.to_le_bytes()));
    house.file("set/hum/empty.wav", []);
    house.file("set/hum/silent.wav", with(40, &0_u32.to_le_bytes()));
    house.file("set/hum/picture.wav", png(1));
    house.file("set/hum/packed.flac", b"fLaC");
    house.file("set/notes.txt", b"hello");
    house.file("set/whistle/same.wav", wav(8_000, 4_000, 200.0));
    let report = house.import(request("noises", &house.path("set"))).await.unwrap();
    assert_eq!((report.imported, report.skipped_total), (20, 10), "{:?}", report.skipped);
    let reason = |file: &str| report.skipped.iter().find(|s| s.file == file).unwrap().reason.clone();
    for (file, why) in [
        ("hum/endless.wav", "cut short"),
        ("hum/crowd.wav", "channels"),
        ("hum/fast.wav", "samples a second"),
        ("hum/still.wav", "samples a second"),
        ("hum/silent.wav", "no samples"),
        ("hum/picture.wav", "no wav file"),
        ("hum/packed.flac", "only wav"),
        ("notes.txt", "not a recording"),
        ("whistle/same.wav", "the same recording was given the label \"hum\""),
    ] {
        assert!(reason(file).contains(why), "{file}: {}", reason(file));
    }
}

#[tokio::test]
async fn a_dataset_keeps_its_kind() {
    let house = House::new();
    folders(&house);
    house.import(request("noises", &house.path("set"))).await.unwrap();
    let table = house.file("t.csv", crate::TABLE);
    let mut table = request("noises", &table);
    table.options.label_column = Some("Bought".into());
    let error = house.import(table).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidInput);
    assert!(error.to_string().contains("sound_classification"), "{error}");
}

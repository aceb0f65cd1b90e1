//! Every bound that both sides rely on, in one place. Sizes are bytes unless the name says otherwise.

/// One KiB.
pub const KIB: usize = 1024;
/// One MiB.
pub const MIB: usize = 1024 * 1024;

/// Largest MQTT payload either side sends or accepts.
pub const MQTT_PAYLOAD: usize = 288 * KIB;
/// Data bytes in one `chunk` message, and the size at which files are cut for their chunk digests.
pub const CHUNK: usize = 128 * KIB;
/// Chunks that one `fetch` may ask for: the largest window in flight to one device.
pub const FETCH_WINDOW: usize = 16;
/// Model bytes in flight to all devices together.
pub const TRANSFER_IN_FLIGHT: usize = 128 * MIB;

/// Largest signed document (release, desired, trust) as an encoded envelope.
pub const ENVELOPE: usize = 256 * KIB;
/// Signatures in one envelope.
pub const SIGNATURES: usize = 16;
/// Keys in one key set of a trust file.
pub const TRUST_KEYS: usize = 16;
/// Slowest download limit that may be set, in bytes a second.
pub const DOWNLOAD_RATE_MIN: u64 = KIB as u64;
/// Highest drift threshold that may be set, in thousandths: beyond it an event would never come.
pub const DRIFT_THRESHOLD_MILLI: u32 = 5_000;
/// Spans of quiet hours in one desired document.
pub const QUIET_HOURS: usize = 16;
/// Models in one desired document.
pub const DESIRED_MODELS: usize = 64;
/// Shadows in one desired document.
pub const DESIRED_SHADOWS: usize = 8;
/// Pairs of labels that two releases disagree on, in one record.
pub const DISAGREEMENTS: usize = 8;
/// Open commands in one desired document.
pub const DESIRED_COMMANDS: usize = 64;

/// Largest file of a release.
pub const RELEASE_FILE: u64 = 512 * MIB as u64;
/// Files in one release.
pub const RELEASE_FILES: usize = 64;
/// Patches of one file of a release.
pub const FILE_PATCHES: usize = 8;
/// Largest encoded baseline of a release.
pub const BASELINE: usize = 16 * KIB;
/// Labels of a classifier.
pub const LABELS: usize = 4096;
/// Length of one label or file name in a release.
pub const LABEL: usize = 256;
/// Inputs or outputs of one network.
pub const MODEL_PORTS: usize = 64;
/// Values in one tensor of a network.
pub const TENSOR_VALUES: usize = 1 << 28;
/// Priors of one cell of a detector.
pub const PRIORS: usize = 64;

/// Records in one telemetry publish.
pub const TELEMETRY_BATCH: usize = 512;
/// One encoded telemetry or event record.
pub const TELEMETRY_RECORD: usize = 4 * KIB;
/// Bytes a device keeps while the cloud is away; beyond it the oldest telemetry is dropped and declared.
pub const OUTBOX: usize = 16 * MIB;
/// Events kept within the outbox; they have their own share because telemetry may not push them out.
pub const OUTBOX_EVENTS: usize = 2 * MIB;

/// Models of one device of which hard examples may be kept.
pub const HARD_MODELS: usize = 16;
/// Largest input that is kept as a hard example.
pub const HARD_EXAMPLE: usize = 4 * MIB;
/// Largest budget of one model and day for hard examples.
pub const HARD_DAILY_BYTES: u64 = 1024 * MIB as u64;

/// Most bytes of a device's log that one command may ask for.
pub const LOG_PULL: usize = MIB;
/// Fewest.
pub const LOG_PULL_MIN: usize = KIB;

/// Findings in one diagnosis: with the bound on their texts it fits into one record of the control plane.
pub const DIAGNOSIS_FINDINGS: usize = 24;
/// One text of a finding.
pub const DIAGNOSIS_TEXT: usize = 240;

/// Free text in a message (a reason, a detail).
pub const TEXT: usize = 1024;
/// Length of an id's text.
pub const ID: usize = 64;
/// Largest claim code text.
pub const CLAIM: usize = 1024;
/// Largest enrolment request or answer (JSON).
pub const ENROL_BODY: usize = 64 * KIB;
/// Largest certificate signing request.
pub const CSR: usize = 8 * KIB;
/// Largest certificate with its intermediates (PEM).
pub const CERTIFICATE: usize = 32 * KIB;

/// Largest board profile.
pub const BOARD_PROFILE: usize = 64 * KIB;
/// Largest encoded input of one prediction.
pub const PREDICT_INPUT: usize = 16 * MIB;
/// Largest image a pipeline decodes, in pixels.
pub const IMAGE_PIXELS: u64 = 40_000_000;
/// Highest rate of a recording, in samples a second.
pub const SOUND_RATE: u32 = 384_000;
/// Lowest.
pub const SOUND_RATE_MIN: u32 = 100;
/// Samples of one clip at the model's rate.
pub const SOUND_SAMPLES: u32 = 4 * MIB as u32;
/// Samples of one channel that are decoded of one recording.
pub const SOUND_DECODED: usize = 8 * MIB;
/// Channels of a recording.
pub const SOUND_CHANNELS: usize = 32;
/// Points of a Fourier transform of sound.
pub const SOUND_FFT: u32 = 32_768;
/// Samples under the window of the micro front end: its integers hold no more.
pub const SOUND_MICRO_WINDOW: u32 = 8_192;
/// Bins of one frame of sound.
pub const SOUND_BINS: u32 = 1024;
/// Points of all Fourier transforms of one recording at most.
pub const SOUND_POINTS: usize = 1 << 28;
/// Values of one sound's features, and of its tensor.
pub const SOUND_VALUES: usize = 4 * MIB;
/// Columns of a table.
pub const TABLE_COLUMNS: usize = 1024;
/// Values that one category of a table may have.
pub const TABLE_CATEGORIES: usize = 4096;
/// Values of one row's tensor.
pub const TABLE_WIDTH: usize = 16 * KIB;
/// One cell of a table.
pub const TABLE_CELL: usize = KIB;
/// One row of a table as text.
pub const TABLE_ROW: usize = 256 * KIB;
/// Rows of one table.
pub const TABLE_ROWS: usize = MIB;
/// One table as text.
pub const TABLE: usize = 64 * MIB;
/// Cells of one table that is learnt from.
pub const TABLE_CELLS: usize = 4 * MIB;
/// Values of the tensors of all rows of one table.
pub const TABLE_VALUES: usize = 16 * MIB;
/// One record in the control plane's store; larger things are objects.
pub const RECORD: usize = 16 * KIB;

//! What is appended to the segments for one batch: enough to restore the marks and to fold the records.

use super::marks::Applied;
use bytes::Bytes;
use flotilla_protocol::codec::{self, DecodeError};
use flotilla_protocol::message::{Epoch, Record, RecordBody, Stream};
use flotilla_protocol::{DeviceId, limits};
use serde::{Deserialize, Serialize};

/// Largest frame: a full payload and what is put around it.
pub(super) const FRAME: usize = limits::MQTT_PAYLOAD + 4 * limits::KIB;

/// The new records of one batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Frame {
    pub(crate) device: DeviceId,
    /// When the batch came, in milliseconds since 1970, by the cloud's clock.
    pub(crate) at_ms: u64,
    pub(crate) epoch: Epoch,
    pub(crate) stream: Stream,
    /// Everything up to this number is durable with this frame.
    pub(crate) up_to: u64,
    pub(crate) dropped: u64,
    pub(crate) missing: u64,
    /// Records that were over their bound and are not kept.
    pub(crate) refused: u64,
    pub(crate) records: Vec<Record>,
}

impl Frame {
    /// A frame of what a batch brought, within bounds. A record over its bound is counted and left out: refusing it
    /// would keep the device sending it for ever.
    pub(super) fn of(device: DeviceId, epoch: Epoch, stream: Stream, applied: Applied, at_ms: u64) -> Self {
        let Applied { records, dropped, missing, up_to, .. } = applied;
        let all = records.len();
        let records: Vec<Record> = records
            .into_iter()
            .filter(|record| codec::encode(record).len() <= limits::TELEMETRY_RECORD)
            .map(finite)
            .collect();
        let refused = (all - records.len()) as u64;
        Self { device, at_ms, epoch, stream, up_to, dropped, missing, refused, records }
    }

    pub(super) fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, FRAME)
    }
}

/// Figures that are not numbers have no form in JSON, so a rollup that held one could not be read again.
fn finite(mut record: Record) -> Record {
    if let RecordBody::Sample(sample) = &mut record.body
        && !sample.cpu_percent.is_finite()
    {
        sample.cpu_percent = 0.0;
    }
    record
}

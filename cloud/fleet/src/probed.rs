//! What devices measured when they took up what they run, for whoever predicts how long models take.

use crate::error::Result;
use crate::fleet::Fleet;
use flotilla_protocol::Digest;
use flotilla_protocol::message::Phase;
use flotilla_storage::compound;

/// Devices that are read at once.
const PAGE: usize = 256;

/// What a device measured of the release that it has confirmed.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    /// The device's board.
    pub board: String,
    /// The release.
    pub release: Digest,
    /// The median of a prediction, in milliseconds.
    pub p50_ms: f64,
}

impl Fleet {
    /// What devices measured, of so many devices at most.
    pub async fn probed(&self, most: usize) -> Result<Vec<Probed>> {
        let store = &self.inner.store;
        let (mut probed, mut after, mut read) = (Vec::new(), None::<Vec<u8>>, 0);
        while read < most {
            let limit = PAGE.min(most - read);
            let devices = store.devices.list(after.as_deref(), limit).await?;
            read += devices.items.len();
            for device in
                devices.items.into_iter().map(|found| found.value).filter(|device| device.is_active())
            {
                let board = device.board.board.clone();
                let models = store.models.list_prefix(&compound([device.id.as_str()]), None, PAGE).await?;
                let confirmed = models.items.into_iter().filter_map(|found| {
                    let report = found.value.report;
                    let probe = report.probe.filter(|_| report.phase == Phase::Confirmed)?;
                    Some((report.confirmed?, probe.p50_ms))
                });
                probed.extend(confirmed.map(|(release, p50_ms)| Probed {
                    board: board.clone(),
                    release,
                    p50_ms,
                }));
            }
            after = devices.next;
            if after.is_none() {
                break;
            }
        }
        Ok(probed)
    }
}

//! The bytes of a segment: a header that names its first frame, then frames with chained checksums.
//!
//! Segment header: magic (8), first frame number (8), checksum of both (4), zeros (12).
//! Frame: magic (4), payload length (4), checksum (4), payload. All numbers little-endian. A checksum is
//! CRC-32 over length and payload, seeded with the one before it (the first with the segment header's).

/// Bytes of a segment header.
pub(super) const SEGMENT_HEADER: usize = 32;
/// Bytes in front of a payload.
pub(super) const HEADER: usize = 12;

const SEGMENT_MAGIC: &[u8; 8] = b"FLOTLOG1";
/// No zero bytes, so that a run of zeros is never a frame.
const FRAME_MAGIC: &[u8; 4] = b"FRM1";

/// The header of the segment that starts with frame `first`, and the checksum its first frame is chained to.
pub(crate) fn segment_header(first: u64) -> (Vec<u8>, u32) {
    let mut header = Vec::with_capacity(SEGMENT_HEADER);
    header.extend_from_slice(SEGMENT_MAGIC);
    header.extend_from_slice(&first.to_le_bytes());
    let checksum = crc32fast::hash(&header);
    header.extend_from_slice(&checksum.to_le_bytes());
    header.resize(SEGMENT_HEADER, 0);
    (header, checksum)
}

/// Appends a frame to `out` and returns its checksum.
pub(crate) fn encode(out: &mut Vec<u8>, chain: u32, payload: &[u8]) -> u32 {
    let len = (payload.len() as u32).to_le_bytes();
    let checksum = checksum(chain, len, payload);
    out.extend_from_slice(FRAME_MAGIC);
    out.extend_from_slice(&len);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(payload);
    checksum
}

/// The payload length and checksum a frame header announces; none where there is no frame.
pub(super) fn decode_header(header: [u8; HEADER]) -> Option<(u32, u32)> {
    let [m0, m1, m2, m3, l0, l1, l2, l3, c0, c1, c2, c3] = header;
    ([m0, m1, m2, m3] == *FRAME_MAGIC)
        .then(|| (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([c0, c1, c2, c3])))
}

/// The checksum of a frame behind `chain`.
pub(super) fn checksum(chain: u32, len: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(chain);
    hasher.update(&len);
    hasher.update(payload);
    hasher.finalize()
}

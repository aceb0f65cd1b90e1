//! Bodies of requests that are kept on the disk.

use super::problem::Problem;
use super::service::{BodyStream, broken_body};
use bytes::Bytes;
use flotilla_protocol::ErrorCode;
use futures::TryStreamExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;

/// Bytes of an upload between two looks at the room on the disk.
const CHECK_EVERY: u64 = 1 << 20;

/// An upload on disk. Its folder goes when it is dropped.
pub(crate) struct Spool {
    /// The folder.
    pub(crate) folder: PathBuf,
    /// The file in it.
    pub(crate) file: PathBuf,
}

impl Spool {
    /// Takes a body of at most `max` bytes that leaves the disk its reserve.
    pub(crate) async fn receive(
        spools: &Path,
        file_name: &str,
        body: &mut BodyStream,
        max: u64,
        advice: &str,
        reserve: u64,
    ) -> Result<Self, Problem> {
        // The name tells the format and stands in reports; it must not choose a place.
        let plain = Path::new(file_name).file_name().and_then(|n| n.to_str()).filter(|n| n.len() <= 200);
        let plain = plain.ok_or_else(|| {
            Problem::new(ErrorCode::InvalidInput, "query parameter file is not a file name")
        })?;
        let folder = spools.join(format!("upload-{:016x}", rand::random::<u64>()));
        let spool = Self { file: folder.join(plain), folder };
        let mut received = 0;
        let kept = spool.write(body, (max, advice), reserve, &mut received).await;
        if kept.is_err() {
            // A client reads the refusal once it has sent all, so the rest is taken and thrown away.
            while received <= max
                && let Ok(Some(piece)) = body.try_next().await
            {
                received += Bytes::len(&piece) as u64;
            }
        }
        kept.map(|()| spool)
    }

    async fn write(
        &self,
        body: &mut BodyStream,
        (max, advice): (u64, &str),
        reserve: u64,
        received: &mut u64,
    ) -> Result<(), Problem> {
        let failed = |e: std::io::Error| {
            let detail = format!("the upload cannot be kept in {}: {e}", self.folder.display());
            Problem::new(io_code(&e), detail + "; give the control plane's disk room and send it again")
        };
        tokio::fs::create_dir_all(&self.folder).await.map_err(failed)?;
        let mut file = tokio::fs::File::create(&self.file).await.map_err(failed)?;
        let mut checked = 0;
        while let Some(piece) = body.try_next().await.map_err(broken_body)? {
            *received += Bytes::len(&piece) as u64;
            if *received > max {
                return Err(too_large(max, advice));
            }
            if *received >= checked {
                // Records need their reserve more than an upload needs room.
                checked = *received + CHECK_EVERY;
                if flotilla_storage::free_bytes(&self.folder)? < reserve + CHECK_EVERY {
                    return Err(failed(std::io::ErrorKind::StorageFull.into()));
                }
            }
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)
    }
}

pub(crate) fn too_large(max: u64, advice: &str) -> Problem {
    Problem::new(ErrorCode::TooLarge, format!("the upload is over the bound of {max} bytes; {advice}"))
}

impl Drop for Spool {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn io_code(error: &std::io::Error) -> ErrorCode {
    match error.kind() {
        std::io::ErrorKind::StorageFull => ErrorCode::StorageFull,
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            ErrorCode::StorageReadOnly
        }
        _ => ErrorCode::StorageIo,
    }
}

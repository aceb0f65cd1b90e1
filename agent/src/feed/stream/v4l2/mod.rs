//! Cameras of Video4Linux (V4L2): frames through buffers that the driver shares with this process.
//!
//! Written after the kernel's documentation ("Video Capture Interface", "Streaming I/O (Memory Mapping)"). The layouts of
//! what is exchanged are held against the kernel's header by a test; on a real camera it has not been tried.

mod uapi;

use super::super::ready::readable;
use super::{FRAME, Frame, yuyv};
use crate::intake::blocking;
use flotilla_device::Fault;
use flotilla_protocol::ErrorCode;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;
use uapi::{Buffer, MJPG, Mapping, PixFormat, YUYV};

/// Buffers that are asked for: one is filled while another is read, and one is spare.
const BUFFERS: u32 = 4;

/// A camera that streams.
pub(super) struct Capture {
    node: AsyncFd<OwnedFd>,
    name: String,
    format: PixFormat,
    buffers: Vec<Mapping>,
}

impl Capture {
    /// Opens the node and lets the camera stream in the size nearest to this one.
    pub(super) async fn open(node: PathBuf, width: u32, height: u32) -> Result<Self, Fault> {
        let name = node.display().to_string();
        let (fd, format, buffers) = blocking(move || start(&node, width, height)).await?;
        let node = readable(fd).map_err(|error| fault(&name, "waiting", &error))?;
        Ok(Self { node, name, format, buffers })
    }

    /// The next frame. May be given up at any time.
    pub(super) async fn frame(&mut self) -> Result<Frame, Fault> {
        loop {
            let mut ready =
                self.node.readable().await.map_err(|error| fault(&self.name, "waiting", &error))?;
            let Ok(buffer) = ready.try_io(|node| uapi::dequeue(node.get_ref())) else { continue };
            let buffer = buffer.map_err(|error| fault(&self.name, "taking a frame", &error))?;
            let bytes = self.content(&buffer);
            let (index, used) = (buffer.index, buffer.bytes_used as usize);
            uapi::queue(self.node.get_ref(), index)
                .map_err(|error| fault(&self.name, "giving a buffer back", &error))?;
            // The driver marks frames that were damaged on the way.
            if buffer.is_damaged() {
                continue;
            }
            if used > FRAME {
                return Err(too_large(&self.name, &format!("{used} bytes"), ErrorCode::TooLarge));
            }
            if let Some(bytes) = bytes {
                return Ok(self.picture(bytes));
            }
        }
    }

    /// What the driver says that a buffer holds, within the buffer and the bound.
    fn content(&self, buffer: &Buffer) -> Option<Vec<u8>> {
        let used = buffer.bytes_used as usize;
        self.buffers
            .get(buffer.index as usize)?
            .bytes()
            .get(..used)
            .filter(|bytes| (1..=FRAME).contains(&bytes.len()))
            .map(<[u8]>::to_vec)
    }

    fn picture(&self, bytes: Vec<u8>) -> Frame {
        let PixFormat { width, height, bytes_per_line: stride, .. } = self.format;
        match self.format.pixel_format {
            YUYV => Frame::Yuyv(yuyv::Picture { bytes, width, height, stride }),
            _ => Frame::Jpeg(bytes),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // A camera that was pulled out does not hear it any more.
        let _ = uapi::stream_off(self.node.get_ref());
    }
}

/// Opens, agrees on a format, shares buffers and starts.
fn start(node: &Path, width: u32, height: u32) -> Result<(OwnedFd, PixFormat, Vec<Mapping>), Fault> {
    let name = node.display().to_string();
    let failed = |what: &'static str| {
        let name = name.clone();
        move |error: io::Error| fault(&name, what, &error)
    };
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(node);
    let file = file.map_err(failed("opening"))?;
    let is_device = file.metadata().is_ok_and(|meta| meta.file_type().is_char_device());
    let fd = OwnedFd::from(file);
    let what = if is_device { uapi::capabilities(&fd).ok() } else { None };
    let Some(capabilities) = what else {
        return Err(Fault::lasting(
            ErrorCode::Unsupported,
            format!("{name} is no V4L2 device; correct device in agent.toml"),
        ));
    };
    if !capabilities.captures_and_streams() {
        let detail = format!("{name} gives no frames by streaming; another node of the same camera may");
        return Err(Fault::lasting(ErrorCode::Unsupported, detail));
    }
    let formats = uapi::formats(&fd).map_err(failed("asking for its formats"))?;
    let Some(wanted) = choose(&formats) else {
        let known: Vec<String> = formats.iter().map(|format| uapi::four(*format)).collect();
        let detail = format!("{name} gives {} only; MJPG or YUYV is needed", known.join(", "));
        return Err(Fault::lasting(ErrorCode::Unsupported, detail));
    };
    let format = uapi::set_format(&fd, wanted, width, height).map_err(failed("setting the format"))?;
    if format.pixel_format != wanted || format.width == 0 || format.height == 0 {
        let detail = format!("{name} does not keep to the format {}", uapi::four(wanted));
        return Err(Fault::transient(ErrorCode::Unsupported, detail));
    }
    check_size(&name, format.pixel_format, format.width, format.height, format.bytes_per_line)?;
    let count = uapi::request_buffers(&fd, BUFFERS).map_err(failed("asking for buffers"))?;
    let mut buffers = Vec::new();
    for index in 0..count.min(BUFFERS) {
        buffers.push(uapi::map(&fd, index).map_err(failed("sharing a buffer"))?);
        uapi::queue(&fd, index).map_err(failed("giving a buffer"))?;
    }
    if buffers.is_empty() {
        return Err(Fault::transient(ErrorCode::Busy, format!("{name} has no buffers to give")));
    }
    uapi::stream_on(&fd).map_err(failed("starting"))?;
    Ok((fd, format, buffers))
}

/// Whether frames of this size can be taken. How large compressed ones are shows when they come.
fn check_size(name: &str, format: u32, width: u32, height: u32, stride: u32) -> Result<(), Fault> {
    let bytes = u64::from(stride).max(2 * u64::from(width)).saturating_mul(u64::from(height));
    if format != YUYV || bytes <= FRAME as u64 {
        return Ok(());
    }
    Err(too_large(
        name,
        &format!("{width} x {height} pixels in YUYV, {bytes} bytes each"),
        ErrorCode::Unsupported,
    ))
}

fn too_large(name: &str, what: &str, code: ErrorCode) -> Fault {
    let detail = format!(
        "{name} gives frames of {what}; {FRAME} are possible: ask for fewer pixels with width and height in agent.toml"
    );
    Fault::transient(code, detail)
}

/// The format that costs least to move, of those that can be read.
fn choose(formats: &[u32]) -> Option<u32> {
    [MJPG, YUYV].into_iter().find(|format| formats.contains(format))
}

fn fault(name: &str, what: &str, error: &io::Error) -> Fault {
    let (code, hint) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorCode::NotFound, "; is the camera plugged in?"),
        io::ErrorKind::PermissionDenied => {
            (ErrorCode::PermissionDenied, "; add the agent's user to the group video")
        }
        io::ErrorKind::ResourceBusy => (ErrorCode::Busy, "; another program uses the camera"),
        _ => (ErrorCode::Unsupported, ""),
    };
    Fault::transient(code, format!("{name}: {what}: {error}{hint}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_is_missing_or_no_camera_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Capture::open(folder.path().join("video9"), 640, 480).await.err().unwrap();
        assert!(missing.code == ErrorCode::NotFound && missing.detail.contains("plugged in"), "{missing}");
        std::fs::write(folder.path().join("file"), "x").unwrap();
        for node in [folder.path().join("file"), "/dev/null".into()] {
            let error = Capture::open(node, 640, 480).await.err().unwrap();
            assert!(
                error.code == ErrorCode::Unsupported && error.detail.contains("no V4L2 device"),
                "{error}"
            );
        }
    }

    #[test]
    fn frames_that_are_too_large_to_be_taken_are_refused_before_any_comes() {
        let yuyv = |width, height, stride| check_size("/dev/video0", YUYV, width, height, stride);
        yuyv(1_920, 1_080, 3_840).unwrap();
        yuyv(2_048, 2_048, 4_096).unwrap();
        for (width, height, stride) in
            [(3_840, 2_160, 7_680), (2_048, 2_049, 0), (640, 480, 1 << 20), (u32::MAX, u32::MAX, 1)]
        {
            let fault = yuyv(width, height, stride).unwrap_err();
            assert_eq!(fault.code, ErrorCode::Unsupported);
            assert!(fault.detail.contains("8388608 are possible: ask for fewer pixels"), "{fault}");
        }
        check_size("/dev/video0", MJPG, 3_840, 2_160, 0).unwrap();
    }

    #[test]
    fn compressed_frames_are_preferred_and_unknown_ones_refused() {
        assert_eq!(choose(&[YUYV, MJPG]), Some(MJPG));
        assert_eq!(choose(&[7, YUYV]), Some(YUYV));
        assert_eq!(choose(&[7]), None);
    }
}

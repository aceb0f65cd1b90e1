//! What is exchanged with the kernel, as `linux/videodev2.h` has it, and the calls with it. The only module that knows.
#![expect(unsafe_code, reason = "ioctl(2) and mmap(2): each call argues for itself")]

use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};

/// Motion-JPEG.
pub(super) const MJPG: u32 = u32::from_le_bytes(*b"MJPG");
/// Two pixels in four bytes.
pub(super) const YUYV: u32 = u32::from_le_bytes(*b"YUYV");

const CAPTURE: u32 = 1;
const MMAP: u32 = 1;
const FIELD_ANY: u32 = 0;
const CAP_VIDEO_CAPTURE: u32 = 0x1;
const CAP_STREAMING: u32 = 0x0400_0000;
const CAP_DEVICE_CAPS: u32 = 0x8000_0000;
const FLAG_ERROR: u32 = 0x40;
/// Formats that are asked for at most.
const FORMATS: u32 = 64;

const QUERYCAP: Opcode = opcode::read::<Capability>(b'V', 0);
const ENUM_FMT: Opcode = opcode::read_write::<FormatDescription>(b'V', 2);
const S_FMT: Opcode = opcode::read_write::<Format>(b'V', 5);
const REQBUFS: Opcode = opcode::read_write::<RequestBuffers>(b'V', 8);
const QUERYBUF: Opcode = opcode::read_write::<Buffer>(b'V', 9);
const QBUF: Opcode = opcode::read_write::<Buffer>(b'V', 15);
const DQBUF: Opcode = opcode::read_write::<Buffer>(b'V', 17);
const STREAMON: Opcode = opcode::write::<i32>(b'V', 18);
const STREAMOFF: Opcode = opcode::write::<i32>(b'V', 19);

/// `struct v4l2_capability`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Capability {
    driver: [u8; 16],
    card: [u8; 32],
    bus_info: [u8; 32],
    version: u32,
    capabilities: u32,
    device_caps: u32,
    reserved: [u32; 3],
}

impl Capability {
    pub(super) fn captures_and_streams(&self) -> bool {
        // What the whole device can is not what this node of it can.
        let of_node = self.capabilities & CAP_DEVICE_CAPS != 0;
        let caps = if of_node { self.device_caps } else { self.capabilities };
        caps & (CAP_VIDEO_CAPTURE | CAP_STREAMING) == CAP_VIDEO_CAPTURE | CAP_STREAMING
    }
}

/// `struct v4l2_fmtdesc`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FormatDescription {
    index: u32,
    kind: u32,
    flags: u32,
    description: [u8; 32],
    pixel_format: u32,
    mbus_code: u32,
    reserved: [u32; 3],
}

/// `struct v4l2_pix_format`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct PixFormat {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixel_format: u32,
    field: u32,
    pub(super) bytes_per_line: u32,
    size_image: u32,
    colorspace: u32,
    private: u32,
    flags: u32,
    encoding: u32,
    quantization: u32,
    transfer: u32,
}

/// `struct v4l2_format`: a union of 200 bytes that holds pointers in other uses, which decides its place.
#[repr(C)]
#[derive(Clone, Copy)]
struct Format {
    kind: u32,
    align: [usize; 0],
    pix: PixFormat,
    rest: [u8; 152],
}

/// `struct v4l2_requestbuffers`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RequestBuffers {
    count: u32,
    kind: u32,
    memory: u32,
    capabilities: u32,
    flags: u8,
    reserved: [u8; 3],
}

/// `struct v4l2_buffer`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    pub(super) index: u32,
    kind: u32,
    pub(super) bytes_used: u32,
    flags: u32,
    field: u32,
    timestamp: [isize; 2],
    timecode: [u32; 4],
    sequence: u32,
    memory: u32,
    /// A union of `u32` and pointers: the number stands in its first four bytes.
    offset: Offset,
    length: u32,
    reserved2: u32,
    request_fd: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Offset {
    align: [usize; 0],
    offset: u32,
}

impl Buffer {
    fn of(index: u32) -> Self {
        Self {
            index,
            kind: CAPTURE,
            bytes_used: 0,
            flags: 0,
            field: FIELD_ANY,
            timestamp: [0; 2],
            timecode: [0; 4],
            sequence: 0,
            memory: MMAP,
            offset: Offset { align: [], offset: 0 },
            length: 0,
            reserved2: 0,
            request_fd: 0,
        }
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.flags & FLAG_ERROR != 0
    }
}

/// One call with something that is read and written.
fn exchange<const OPCODE: Opcode, T>(fd: &OwnedFd, value: &mut T) -> io::Result<()> {
    // SAFETY: every use below passes the structure that the kernel's header gives for this code, whose size is in the
    // code; a test compares layouts and codes with the header. All of them are plain numbers, valid whatever is written.
    let call = unsafe { Updater::<'_, OPCODE, T>::new(value) };
    // SAFETY: as above; the descriptor is open.
    Ok(unsafe { ioctl(fd, call) }?)
}

pub(super) fn capabilities(fd: &OwnedFd) -> io::Result<Capability> {
    let mut capability = Capability {
        driver: [0; 16],
        card: [0; 32],
        bus_info: [0; 32],
        version: 0,
        capabilities: 0,
        device_caps: 0,
        reserved: [0; 3],
    };
    exchange::<QUERYCAP, _>(fd, &mut capability)?;
    Ok(capability)
}

/// The pixel formats that the camera gives.
pub(super) fn formats(fd: &OwnedFd) -> io::Result<Vec<u32>> {
    let mut formats = Vec::new();
    for index in 0..FORMATS {
        let mut description = FormatDescription {
            index,
            kind: CAPTURE,
            flags: 0,
            description: [0; 32],
            pixel_format: 0,
            mbus_code: 0,
            reserved: [0; 3],
        };
        match exchange::<ENUM_FMT, _>(fd, &mut description) {
            Ok(()) => formats.push(description.pixel_format),
            // So the list ends.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(formats)
}

/// Asks for a format; the driver says what it makes of it.
pub(super) fn set_format(fd: &OwnedFd, pixel_format: u32, width: u32, height: u32) -> io::Result<PixFormat> {
    let pix = PixFormat {
        width,
        height,
        pixel_format,
        field: FIELD_ANY,
        bytes_per_line: 0,
        size_image: 0,
        colorspace: 0,
        private: 0,
        flags: 0,
        encoding: 0,
        quantization: 0,
        transfer: 0,
    };
    let mut format = Format { kind: CAPTURE, align: [], pix, rest: [0; 152] };
    exchange::<S_FMT, _>(fd, &mut format)?;
    Ok(format.pix)
}

/// Asks for so many buffers; the driver says how many there are.
pub(super) fn request_buffers(fd: &OwnedFd, count: u32) -> io::Result<u32> {
    let mut request =
        RequestBuffers { count, kind: CAPTURE, memory: MMAP, capabilities: 0, flags: 0, reserved: [0; 3] };
    exchange::<REQBUFS, _>(fd, &mut request)?;
    Ok(request.count)
}

/// Lets the driver fill a buffer.
pub(super) fn queue(fd: &OwnedFd, index: u32) -> io::Result<()> {
    exchange::<QBUF, _>(fd, &mut Buffer::of(index))
}

/// A buffer that is filled; `WouldBlock` if none is.
pub(super) fn dequeue(fd: &OwnedFd) -> io::Result<Buffer> {
    let mut buffer = Buffer::of(0);
    exchange::<DQBUF, _>(fd, &mut buffer)?;
    Ok(buffer)
}

pub(super) fn stream_on(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: both codes take a pointer to the kind of buffers, an int.
    Ok(unsafe { ioctl(fd, Setter::<STREAMON, i32>::new(CAPTURE as i32)) }?)
}

pub(super) fn stream_off(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: both codes take a pointer to the kind of buffers, an int.
    Ok(unsafe { ioctl(fd, Setter::<STREAMOFF, i32>::new(CAPTURE as i32)) }?)
}

/// A buffer in this process's memory.
pub(super) struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: the memory is this process's as long as the value lives, whichever thread holds it.
unsafe impl Send for Mapping {}
// SAFETY: it is only read.
unsafe impl Sync for Mapping {}

/// Brings a buffer of the driver into this process's memory.
pub(super) fn map(fd: &OwnedFd, index: u32) -> io::Result<Mapping> {
    let mut buffer = Buffer::of(index);
    exchange::<QUERYBUF, _>(fd, &mut buffer)?;
    let (length, offset) = (buffer.length as usize, u64::from(buffer.offset.offset));
    // SAFETY: a new mapping at a place that the kernel chooses harms nothing that is there.
    let start = unsafe { mmap(null_mut(), length, ProtFlags::READ, MapFlags::SHARED, fd, offset) }?;
    let start = NonNull::new(start).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
    Ok(Mapping { start, length })
}

impl Mapping {
    /// What the driver has filled. To be read while the buffer is not queued.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this length and lives as long as the value. The driver writes only into buffers that
        // are queued, and this one was taken out before; bytes are valid whatever they are.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody can hold a reference into it any more.
        let _ = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}

/// The four letters of a format.
pub(super) fn four(format: u32) -> String {
    format
        .to_le_bytes()
        .map(|byte| char::from(if byte.is_ascii_graphic() { byte } else { b'?' }))
        .iter()
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};
    use std::process::Command;

    /// What the header has to say, by name.
    fn ours() -> Vec<(&'static str, u64)> {
        let size = |size: usize| size as u64;
        vec![
            ("VIDIOC_QUERYCAP", QUERYCAP.into()),
            ("VIDIOC_ENUM_FMT", ENUM_FMT.into()),
            ("VIDIOC_S_FMT", S_FMT.into()),
            ("VIDIOC_REQBUFS", REQBUFS.into()),
            ("VIDIOC_QUERYBUF", QUERYBUF.into()),
            ("VIDIOC_QBUF", QBUF.into()),
            ("VIDIOC_DQBUF", DQBUF.into()),
            ("VIDIOC_STREAMON", STREAMON.into()),
            ("VIDIOC_STREAMOFF", STREAMOFF.into()),
            ("V4L2_PIX_FMT_MJPEG", MJPG.into()),
            ("V4L2_PIX_FMT_YUYV", YUYV.into()),
            ("V4L2_BUF_TYPE_VIDEO_CAPTURE", CAPTURE.into()),
            ("V4L2_MEMORY_MMAP", MMAP.into()),
            ("V4L2_FIELD_ANY", FIELD_ANY.into()),
            ("V4L2_CAP_VIDEO_CAPTURE", CAP_VIDEO_CAPTURE.into()),
            ("V4L2_CAP_STREAMING", CAP_STREAMING.into()),
            ("V4L2_CAP_DEVICE_CAPS", CAP_DEVICE_CAPS.into()),
            ("V4L2_BUF_FLAG_ERROR", FLAG_ERROR.into()),
            ("sizeof(struct v4l2_capability)", size(size_of::<Capability>())),
            ("offsetof(struct v4l2_capability, device_caps)", size(offset_of!(Capability, device_caps))),
            ("sizeof(struct v4l2_fmtdesc)", size(size_of::<FormatDescription>())),
            ("offsetof(struct v4l2_fmtdesc, pixelformat)", size(offset_of!(FormatDescription, pixel_format))),
            ("sizeof(struct v4l2_pix_format)", size(size_of::<PixFormat>())),
            ("offsetof(struct v4l2_pix_format, bytesperline)", size(offset_of!(PixFormat, bytes_per_line))),
            ("sizeof(struct v4l2_format)", size(size_of::<Format>())),
            ("offsetof(struct v4l2_format, fmt)", size(offset_of!(Format, pix))),
            ("sizeof(struct v4l2_requestbuffers)", size(size_of::<RequestBuffers>())),
            ("sizeof(struct v4l2_buffer)", size(size_of::<Buffer>())),
            ("offsetof(struct v4l2_buffer, bytesused)", size(offset_of!(Buffer, bytes_used))),
            ("offsetof(struct v4l2_buffer, timestamp)", size(offset_of!(Buffer, timestamp))),
            ("offsetof(struct v4l2_buffer, timecode)", size(offset_of!(Buffer, timecode))),
            ("offsetof(struct v4l2_buffer, memory)", size(offset_of!(Buffer, memory))),
            ("offsetof(struct v4l2_buffer, m)", size(offset_of!(Buffer, offset))),
            ("offsetof(struct v4l2_buffer, length)", size(offset_of!(Buffer, length))),
        ]
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn layouts_and_codes_are_those_of_the_documentation() {
        let sizes = [
            size_of::<Capability>(),
            size_of::<FormatDescription>(),
            size_of::<PixFormat>(),
            size_of::<Format>(),
            size_of::<RequestBuffers>(),
            size_of::<Buffer>(),
        ];
        assert_eq!(sizes, [104, 64, 48, 208, 20, 88]);
        let codes = [QUERYCAP, ENUM_FMT, S_FMT, REQBUFS, QUERYBUF, QBUF, DQBUF, STREAMON, STREAMOFF];
        let known: [Opcode; 9] = [
            0x8068_5600,
            0xc040_5602,
            0xc0d0_5605,
            0xc014_5608,
            0xc058_5609,
            0xc058_560f,
            0xc058_5611,
            0x4004_5612,
            0x4004_5613,
        ];
        assert_eq!(codes, known);
        assert_eq!((four(MJPG).as_str(), four(YUYV).as_str()), ("MJPG", "YUYV"));
    }

    /// The kernel's own header, where this machine has it and a C compiler.
    #[test]
    fn layouts_and_codes_are_those_of_the_kernels_header() {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("header.c"), folder.path().join("header"));
        let mut text = String::from(
            "#include <stddef.h>\n#include <stdio.h>\n#include <linux/videodev2.h>\nint main(void) {\n",
        );
        for (name, _) in ours() {
            text.push_str(&format!("printf(\"%llu\\n\", (unsigned long long)({name}));\n"));
        }
        text.push_str("return 0; }\n");
        std::fs::write(&source, text).unwrap();
        let compiled = Command::new("cc").arg(&source).arg("-o").arg(&program).output();
        if !compiled.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: no C compiler with linux/videodev2.h: {compiled:?}");
            return;
        }
        let said = String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap();
        let theirs: Vec<u64> = said.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(theirs.len(), ours().len());
        for ((name, ours), theirs) in ours().into_iter().zip(theirs) {
            assert_eq!(ours, theirs, "{name}");
        }
    }
}

//! Huawei's Device Control Management Interface, `libdcmi.so`: a C library whose functions return 0 when all is well.
//!
//! The declarations are those of Huawei's public DCMI API reference. Every function but the first two is optional and
//! looked for when it is needed; what is missing or fails leaves its figure out.

use super::{UNITS, name};
use flotilla_protocol::message::{NpuHealth, NpuSample};
use libloading::Symbol;
use std::ffi::{c_int, c_uint};
use std::path::Path;

const CARDS: usize = 16;
const DEVICES_PER_CARD: c_int = 8;
/// Kinds of use: of the AI cores, and of all there is (`dcmi_get_device_utilization_rate`).
const USES: [c_int; 2] = [2, 13];
/// Room behind every structure: libraries of other versions know larger ones.
const SLACK: usize = 256;
/// `dcmi_get_device_memory_info_v3`: size and room left, in MB, are its first two fields.
const MEMORY: usize = 112 + SLACK;
/// `dcmi_get_device_chip_info`: three texts of 32 bytes, type, name and version, and the number of cores.
const CHIP: usize = 132 + SLACK;
const CHIP_TEXT: usize = 32;

type Init = unsafe extern "C" fn() -> c_int;
type CardList = unsafe extern "C" fn(*mut c_int, *mut c_int, c_int) -> c_int;
type DevicesOfCard = unsafe extern "C" fn(c_int, *mut c_int, *mut c_int, *mut c_int) -> c_int;
type OfInt = unsafe extern "C" fn(c_int, c_int, *mut c_int) -> c_int;
type OfUnsigned = unsafe extern "C" fn(c_int, c_int, *mut c_uint) -> c_int;
type OfKind = unsafe extern "C" fn(c_int, c_int, c_int, *mut c_uint) -> c_int;
type OfBytes = unsafe extern "C" fn(c_int, c_int, *mut u8) -> c_int;

/// The loaded library.
pub(super) struct Library(libloading::Library);

#[expect(
    unsafe_code,
    reason = "a C library; what is called stands in its reference, and what it fills has room to spare"
)]
impl Library {
    /// Loads the library and lets it set itself up.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: the owner of the device installed it as its driver's library; its constructors are trusted as far as
        // the driver is.
        let library = Self(unsafe { libloading::Library::new(path) }.map_err(|e| e.to_string())?);
        let code = {
            let init: Symbol<'_, Init> = library.symbol(b"dcmi_init\0").ok_or("it has no dcmi_init")?;
            // SAFETY: as declared in the reference.
            unsafe { init() }
        };
        if code == 0 { Ok(library) } else { Err(format!("dcmi_init answers {code}")) }
    }

    fn symbol<T>(&self, name: &[u8]) -> Option<Symbol<'_, T>> {
        // SAFETY: the types above are those of the reference.
        unsafe { self.0.get(name) }.ok()
    }

    /// All units, as far as they answer.
    pub(super) fn read(&self) -> Vec<NpuSample> {
        let units =
            self.cards().into_iter().flat_map(|card| self.devices(card).map(move |device| (card, device)));
        units.take(UNITS).filter_map(|(card, device)| self.unit(card, device)).collect()
    }

    fn cards(&self) -> Vec<c_int> {
        let Some(list) = self.symbol::<CardList>(b"dcmi_get_card_list\0") else { return Vec::new() };
        let (mut count, mut cards) = (0, [0; CARDS]);
        // SAFETY: the array has as many places as the library is told.
        let code = unsafe { list(&mut count, cards.as_mut_ptr(), CARDS as c_int) };
        let count = usize::try_from(count).unwrap_or(0).min(CARDS);
        if code == 0 { cards[..count].to_vec() } else { Vec::new() }
    }

    fn devices(&self, card: c_int) -> std::ops::Range<c_int> {
        let Some(devices) = self.symbol::<DevicesOfCard>(b"dcmi_get_device_id_in_card\0") else {
            return 0..1;
        };
        let (mut most, mut mcu, mut cpu) = (0, 0, 0);
        // SAFETY: three integers, as declared.
        let code = unsafe { devices(card, &mut most, &mut mcu, &mut cpu) };
        if code == 0 { 0..most.clamp(0, DEVICES_PER_CARD) } else { 0..1 }
    }

    fn unit(&self, card: c_int, device: c_int) -> Option<NpuSample> {
        let names = [b"dcmi_get_device_chip_info_v2\0".as_slice(), b"dcmi_get_device_chip_info\0"];
        let chip = names.iter().find_map(|name| self.bytes::<CHIP>(name, card, device))?;
        let memory = self.bytes::<MEMORY>(b"dcmi_get_device_memory_info_v3\0", card, device);
        let [total, free] = memory.map_or([None; 2], |bytes| [0, 8].map(|at| number(&bytes, at)));
        let used = USES
            .iter()
            .find_map(|kind| self.kind(b"dcmi_get_device_utilization_rate\0", card, device, *kind));
        let power = self
            .int(b"dcmi_get_device_power_info\0", card, device)
            .filter(|tenths| (0..100_000).contains(tenths));
        let celsius = self.int(b"dcmi_get_device_temperature\0", card, device);
        Some(NpuSample {
            chip: text(&chip[CHIP_TEXT..2 * CHIP_TEXT]),
            utilisation_percent: used.filter(|percent| *percent <= 100),
            memory_total_mb: total.filter(|mb| *mb < 1 << 24),
            memory_used_mb: total
                .zip(free)
                .and_then(|(total, free)| total.checked_sub(free))
                .filter(|mb| *mb < 1 << 24),
            temperature_c: celsius.filter(|celsius| (-60..=200).contains(celsius)),
            power_w: power.map(|tenths| tenths as f32 / 10.0),
            health: self.unsigned(b"dcmi_get_device_health\0", card, device).map(health),
        })
    }

    fn int(&self, name: &[u8], card: c_int, device: c_int) -> Option<i32> {
        let call = self.symbol::<OfInt>(name)?;
        let mut value = 0;
        // SAFETY: one integer, as declared.
        (unsafe { call(card, device, &mut value) } == 0).then_some(value)
    }

    fn unsigned(&self, name: &[u8], card: c_int, device: c_int) -> Option<u32> {
        let call = self.symbol::<OfUnsigned>(name)?;
        let mut value = 0;
        // SAFETY: one integer, as declared.
        (unsafe { call(card, device, &mut value) } == 0).then_some(value)
    }

    fn kind(&self, name: &[u8], card: c_int, device: c_int, kind: c_int) -> Option<u32> {
        let call = self.symbol::<OfKind>(name)?;
        let mut value = 0;
        // SAFETY: one integer, as declared.
        (unsafe { call(card, device, kind, &mut value) } == 0).then_some(value)
    }

    fn bytes<const N: usize>(&self, name: &[u8], card: c_int, device: c_int) -> Option<[u8; N]> {
        let call = self.symbol::<OfBytes>(name)?;
        // The structures hold 64-bit numbers, so the room for them begins where such a number may.
        #[repr(align(8))]
        struct Room<const N: usize>([u8; N]);
        let mut room = Room([0; N]);
        // SAFETY: the room is larger than any known version of the structure, and aligned for it.
        (unsafe { call(card, device, room.0.as_mut_ptr()) } == 0).then_some(room.0)
    }
}

fn health(code: u32) -> NpuHealth {
    match code {
        0 => NpuHealth::Ok,
        1 => NpuHealth::Warning,
        2 => NpuHealth::Alarm,
        3 => NpuHealth::Critical,
        _ => NpuHealth::Unknown,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map(u64::from_le_bytes)
}

/// A text up to its end.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    name(&String::from_utf8_lossy(&bytes[..end]))
}

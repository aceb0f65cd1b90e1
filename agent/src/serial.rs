//! The serial number of the board, as the board itself says it.

use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::limits;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Where it stands, the first first: in the device tree, or in the tables of the firmware, which root alone reads.
const SOURCES: [&str; 3] =
    ["proc/device-tree/serial-number", "sys/class/dmi/id/product_serial", "sys/class/dmi/id/board_serial"];
/// What makers leave in the place of a serial number, in lower case.
const PLACEHOLDERS: [&str; 13] = [
    "to be filled by o.e.m.",
    "default string",
    "system serial number",
    "base board serial number",
    "not specified",
    "not applicable",
    "not available",
    "n/a",
    "none",
    "unknown",
    "invalid",
    "empty",
    "123456789",
];

/// The serial number of the machine whose file system starts at `root`; none if it says none of use.
pub(crate) fn of_machine(root: &Path) -> Option<BoardSerial> {
    SOURCES.iter().find_map(|source| {
        let mut bytes = Vec::new();
        let file = File::open(root.join(source)).ok()?;
        file.take(2 * limits::ID as u64).read_to_end(&mut bytes).ok()?;
        genuine(&bytes)
    })
}

/// What of a source is a serial number. A text of the device tree ends with a zero.
fn genuine(bytes: &[u8]) -> Option<BoardSerial> {
    let text = std::str::from_utf8(bytes).ok()?.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let says_nothing = text.chars().all(|c| matches!(c, '0' | '.' | '-' | 'x' | 'X'));
    if says_nothing || PLACEHOLDERS.contains(&text.to_lowercase().as_str()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use std::fs;

    fn machine(files: &[(&str, &[u8])]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        of_machine(root.path()).map(|serial| serial.to_string())
    }

    #[test]
    fn a_board_is_asked_by_its_device_tree_first_and_then_by_its_firmware() {
        let (tree, product, board) = (SOURCES[0], SOURCES[1], SOURCES[2]);
        assert_eq!(machine(&[(tree, b"10000000a3b4c5d6\0")]).unwrap(), "10000000a3b4c5d6");
        assert_eq!(machine(&[(product, b"PF2041-7\n")]).unwrap(), "PF2041-7");
        assert_eq!(machine(&[(tree, b"A\0"), (product, b"B\n")]).unwrap(), "A");
        assert_eq!(machine(&[(product, b"Default string\n"), (board, b"M80-1\n")]).unwrap(), "M80-1");
        assert_eq!(machine(&[]), None);
    }

    #[test]
    fn what_makers_leave_in_its_place_is_none() {
        let long = "x1".repeat(40);
        for text in [
            "To Be Filled By O.E.M.",
            "Default string",
            "0",
            "None",
            "00000000",
            "",
            "\0",
            "N/A",
            "two words",
            "\u{fc}",
            &long,
        ] {
            assert_eq!(machine(&[(SOURCES[1], text.as_bytes())]), None, "{text:?}");
        }
        assert_eq!(machine(&[(SOURCES[0], &[0xff, 0xfe])]), None);
    }
}

//! Which board this is: what the system says of its hardware, against the built-in profiles.

use crate::npu::{Npus, Sources};
use flotilla_protocol::board::{BUILT_IN, built_in};
use std::fs;
use std::path::Path;
use std::time::Duration;

const DEVICE_TREE: &str = "proc/device-tree/compatible";
/// A healthy NPU tells its name within this time.
const CHIPS: Duration = Duration::from_secs(3);
const DMI_PRODUCT: &str = "sys/class/dmi/id/product_name";

/// What gives a board away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    device_tree: Vec<String>,
    dmi_product: String,
}

impl Marks {
    fn read(root: &Path) -> Self {
        // A list of texts, each with a zero behind it (Devicetree Specification 0.4, section 2.3.1).
        let compatible = fs::read(root.join(DEVICE_TREE)).unwrap_or_default();
        let texts = compatible.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let product = fs::read_to_string(root.join(DMI_PRODUCT)).unwrap_or_default();
        Self {
            device_tree: texts.filter(|text| !text.is_empty()).map(Into::into).collect(),
            dmi_product: product.trim().to_owned(),
        }
    }
}

/// The name of the built-in profile of this machine, whose file system starts at `root`; none if nothing gives it away.
/// `chips` names its NPUs, and is asked only where nothing else helps: the same chip is on boards and on cards for any
/// host, so that the architecture must fit, too.
pub(crate) fn detect(root: &Path, arch: &str, chips: impl FnOnce() -> Vec<String>) -> Option<&'static str> {
    let marks = Marks::read(root);
    let all = || BUILT_IN.iter().filter_map(|(name, _)| Some((*name, built_in(name)?)));
    let board = all().find(|(_, profile)| {
        let detect = &profile.detect;
        detect.device_tree.iter().any(|entry| marks.device_tree.contains(entry))
            || detect.dmi_product.iter().any(|word| marks.dmi_product.contains(word.as_str()))
    });
    let by_chip = || {
        let chips = chips();
        all().find(|(_, profile)| {
            profile.hardware.arch == arch && profile.detect.npu_chips.iter().any(|chip| chips.contains(chip))
        })
    };
    board.or_else(by_chip).map(|(name, _)| name)
}

/// Names of the NPU chips of the machine whose file system starts at `root`.
pub(crate) fn chips(root: &Path) -> Vec<String> {
    let units = Npus::new(Sources::below(root)).first(CHIPS);
    units.into_iter().map(|unit| unit.chip).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &[u8])]) -> Option<&'static str> {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        detect(root.path(), "aarch64", Vec::new)
    }

    #[test]
    fn boards_that_nothing_else_gives_away_are_known_by_their_npu() {
        let root = tempfile::tempdir().unwrap();
        let with = |chip: &str| detect(root.path(), "aarch64", || vec![chip.to_owned()]);
        for (chip, board) in
            [("310", Some("atlas-200-dk")), ("310B4", Some("atlas-200i-dk-a2")), ("910B", None), ("", None)]
        {
            assert_eq!(with(chip), board, "{chip}");
        }
        let card = detect(root.path(), "x86_64", || vec!["310".to_owned()]);
        assert_eq!(card, None, "a card in another host");
        fs::create_dir_all(root.path().join("sys/class/dmi/id")).unwrap();
        fs::write(root.path().join(DMI_PRODUCT), "Atlas 500 (Model 3000)").unwrap();
        assert_eq!(detect(root.path(), "aarch64", || panic!("nobody needs to ask")), Some("atlas-500"));
        assert_eq!(chips(root.path()), Vec::<String>::new(), "no device node, no question");
    }

    #[test]
    fn boards_are_known_by_device_tree_or_product_name_and_nothing_else() {
        for (compatible, board) in [
            ("raspberrypi,5-model-b\0brcm,bcm2712\0", Some("raspberry-pi-5")),
            ("raspberrypi,4-model-b\0brcm,bcm2711\0", Some("raspberry-pi-4")),
            ("nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0", Some("jetson-orin-nano")),
            ("radxa,rock-5b\0rockchip,rk3588\0", Some("rk3588")),
            ("raspberrypi,3-model-b\0", None),
            ("raspberrypi,5-model-b-and-more\0", None),
            ("\0\0\u{fffd}", None),
            ("", None),
        ] {
            assert_eq!(machine(&[(DEVICE_TREE, compatible.as_bytes())]), board, "{compatible:?}");
        }
        assert_eq!(machine(&[(DMI_PRODUCT, b"Atlas 500 (Model 3000)\n")]), Some("atlas-500"));
        assert_eq!(machine(&[(DMI_PRODUCT, b"KVM Virtual Machine\n")]), None);
        assert_eq!(machine(&[]), None);
    }
}

//! Which board this is: what the system says of its hardware, against the built-in profiles.

use flotilla_protocol::board::{BUILT_IN, Detect, built_in};
use std::fs;
use std::path::Path;

const DEVICE_TREE: &str = "proc/device-tree/compatible";
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

    fn are_of(&self, detect: &Detect) -> bool {
        detect.device_tree.iter().any(|entry| self.device_tree.contains(entry))
            || detect.dmi_product.iter().any(|word| self.dmi_product.contains(word.as_str()))
    }
}

/// The name of the built-in profile of this machine, whose file system starts at `root`; none if nothing gives it away.
pub(crate) fn detect(root: &Path) -> Option<&'static str> {
    let marks = Marks::read(root);
    let of = |name: &&str| built_in(name).is_some_and(|profile| marks.are_of(&profile.detect));
    BUILT_IN.iter().map(|(name, _)| *name).find(of)
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
        detect(root.path())
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

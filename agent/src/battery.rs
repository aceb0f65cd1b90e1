//! What is left of the battery, where there is one.

use std::path::Path;

/// Where the system shows its supplies of power.
pub(crate) const SUPPLIES: &str = "/sys/class/power_supply";

/// What the emptiest battery that is being emptied has left, in percent; none on mains, or where the system does not say.
pub(crate) fn left_percent(supplies: &Path) -> Option<u8> {
    let of = |supply: std::fs::DirEntry| {
        let says = |name: &str| std::fs::read_to_string(supply.path().join(name)).ok();
        let empties = says("type")?.trim() == "Battery" && says("status")?.trim() == "Discharging";
        says("capacity")?.trim().parse().ok().filter(|_| empties)
    };
    std::fs::read_dir(supplies).ok()?.flatten().filter_map(of).min()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn only_a_battery_that_is_being_emptied_counts() {
        let root = tempfile::tempdir().unwrap();
        let supply = |name: &str, kind: &str, status: &str, capacity: &str| {
            let folder = root.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for (file, text) in [("type", kind), ("status", status), ("capacity", capacity)] {
                std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        };
        assert_eq!(left_percent(&root.path().join("none")), None);
        supply("AC", "Mains", "Discharging", "1");
        supply("BAT0", "Battery", "Charging", "5");
        assert_eq!(left_percent(root.path()), None);
        supply("BAT1", "Battery", "Discharging", "64");
        supply("BAT2", "Battery", "Discharging", "much");
        assert_eq!(left_percent(root.path()), Some(64));
        supply("BAT2", "Battery", "Discharging", "12");
        assert_eq!(left_percent(root.path()), Some(12));
    }
}

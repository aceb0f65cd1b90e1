//! What the operating system says about this process's memory.

/// The largest resident memory that this process ever had; none where the system does not say.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_kernels_text() {
        assert_eq!(parse_peak("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n"), Some(1234 * 1024));
        assert_eq!(parse_peak("Name:\tx\n"), None);
        assert_eq!(parse_peak("VmHWM:\t    many kB\n"), None);
    }
}

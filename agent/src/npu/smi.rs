//! The table of `npu-smi info`: two rows a chip. Columns are told apart by `|`, figures within by white space, since their
//! widths differ between versions.

use super::UNITS;
use flotilla_protocol::limits;
use flotilla_protocol::message::{NpuHealth, NpuSample};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Time for the program.
const PATIENCE: Duration = Duration::from_secs(3);
const OUTPUT: u64 = 256 * limits::KIB as u64;

/// Runs the program and reads its table; nothing if it fails, hangs or says something else.
pub(super) fn read(program: &Path) -> Vec<NpuSample> {
    run(program).map(|text| parse(&text)).unwrap_or_default()
}

fn run(program: &Path) -> Option<String> {
    let started = Instant::now();
    let mut child = Command::new(program)
        .arg("info")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // What it starts itself must end with it, and must not hold its output open.
        .process_group(0)
        .spawn()
        .ok()?;
    let output = child.stdout.take()?;
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        output.take(OUTPUT).read_to_end(&mut bytes).ok().map(|_| bytes)
    });
    while !reading.is_finished() && started.elapsed() < PATIENCE {
        // Another process is waited for, with a bound that reading alone does not have.
        thread::sleep(Duration::from_millis(10));
    }
    let in_time = reading.is_finished();
    // One that went on writing, or hangs, is of no use any more.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    let bytes = if in_time { reading.join().ok()?? } else { return None };
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The chips of a table.
fn parse(table: &str) -> Vec<NpuSample> {
    let rows: Vec<Vec<Vec<&str>>> = table
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(|cell| cell.split_whitespace().collect()).collect())
        .filter(|row: &Vec<Vec<&str>>| row.len() == 3)
        .collect();
    let mut units = Vec::new();
    let mut rows = rows.iter().peekable();
    while let Some(first) = rows.next() {
        // `NPU Name | Health | Power Temp Hugepages`, then `Chip Device | Bus-Id | AICore Memory`.
        let [[npu, name], [health], figures] = [&first[0][..], &first[1][..], &first[2][..]] else {
            continue;
        };
        if npu.parse::<u32>().is_err() {
            continue;
        }
        let Some(second) = rows.next_if(|row| row[0].iter().all(|cell| cell.parse::<u32>().is_ok())) else {
            continue;
        };
        let (used, total) = memory(&second[2]);
        units.push(NpuSample {
            chip: super::name(name),
            utilisation_percent: second[2]
                .first()
                .and_then(|cell| cell.parse().ok())
                .filter(|percent| *percent <= 100),
            memory_total_mb: total,
            memory_used_mb: used,
            temperature_c: figures.get(1).and_then(|cell| cell.parse().ok()),
            power_w: figures
                .first()
                .and_then(|cell| cell.parse().ok())
                .filter(|watts: &f32| watts.is_finite()),
            health: Some(self::health(health)),
        });
        if units.len() == UNITS {
            break;
        }
    }
    units
}

/// The first `used / total` behind the use of the cores, whatever the spaces.
fn memory(cells: &[&str]) -> (Option<u64>, Option<u64>) {
    let text = cells.get(1..).unwrap_or_default().join(" ").replace('/', " / ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "/");
    let number =
        |index: Option<usize>| index.and_then(|index| words.get(index)).and_then(|word| word.parse().ok());
    (number(at.and_then(|at| at.checked_sub(1))), number(at.map(|at| at + 1)))
}

fn health(word: &str) -> NpuHealth {
    match word {
        "OK" => NpuHealth::Ok,
        "Warning" => NpuHealth::Warning,
        "Alarm" => NpuHealth::Alarm,
        "Critical" => NpuHealth::Critical,
        _ => NpuHealth::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: &str = "\
+--------------------------------------------------------------------------------------------------------+
| npu-smi 23.0.rc3                                 Version: 23.0.rc3                                     |
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 0       310B4                 | Alarm           | 0.0          65                15    / 15            |
| 0       0                     | NA              | 0            3628 / 15609                            |
+===============================+=================+======================================================+
";
    const CARD: &str = "\
| npu-smi 21.0.2 Version: 21.0.2 |
| NPU     Name | Health | Power(W) Temp(C) |
| Chip    Device | Bus-Id | AICore(%) Memory-Usage(MB) |
| 1       310 | OK | 12.8 47 |
| 0       0 | 0000:03:00.0 | 73 2621/ 8192 |
| 1       310 | Warning | 12.8 48 |
| 1       1 | 0000:04:00.0 | 0 2621/8192 |
| NPU     Chip | Process id | Process name | Process memory(MB) |
| 0       0 | 4242 | python |
";

    #[test]
    fn an_edge_board_that_always_alarms_is_reported_as_it_says() {
        let unit = NpuSample {
            chip: "310B4".to_owned(),
            utilisation_percent: Some(0),
            memory_total_mb: Some(15_609),
            memory_used_mb: Some(3_628),
            temperature_c: Some(65),
            power_w: Some(0.0),
            health: Some(NpuHealth::Alarm),
        };
        assert_eq!(parse(EDGE), [unit]);
    }

    #[test]
    fn cards_of_an_older_version_without_huge_pages_are_read_too() {
        let units = parse(CARD);
        let said: Vec<_> = units
            .iter()
            .map(|u| (u.utilisation_percent, u.memory_used_mb, u.memory_total_mb, u.temperature_c))
            .collect();
        assert_eq!(
            said,
            [(Some(73), Some(2_621), Some(8_192), Some(47)), (Some(0), Some(2_621), Some(8_192), Some(48))]
        );
        assert_eq!(units[1].health, Some(NpuHealth::Warning));
    }

    #[test]
    fn rubbish_is_no_chip() {
        for text in [
            "",
            "|",
            "| a | b | c |",
            "| 0 310B4 | OK | 1 2 |",
            "| 0 | OK | 1 |\n| 0 0 | NA | 1 |",
            "\u{fffd}|||",
        ] {
            assert!(parse(text).is_empty(), "{text:?}");
        }
        let odd = parse("| 0 x | ?? | a b |\n| 0 0 | NA | c |");
        assert_eq!(odd.len(), 1);
        assert_eq!(
            (odd[0].health, odd[0].memory_total_mb, odd[0].power_w),
            (Some(NpuHealth::Unknown), None, None)
        );
    }
}

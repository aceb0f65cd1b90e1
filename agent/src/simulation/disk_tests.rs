//! What the virtual disk may do to its user, and what it may not.

use super::super::tree::{BLOCK, SECTOR};
use super::*;
use flotilla_protocol::ErrorCode;
use std::collections::BTreeSet;

const FILE: &str = "box/file";

fn disk(seed: u64) -> VirtualDisk {
    let disk = VirtualDisk::new(seed, 1 << 20);
    disk.make_folder(Path::new("box")).unwrap();
    disk
}

fn content(disk: &VirtualDisk, path: &str) -> Option<Vec<u8>> {
    disk.content(Path::new(path), 1 << 20).unwrap()
}

/// What is there after a cut of the power, over many disks to which the same was done.
fn outcomes(path: &str, done: impl Fn(&VirtualDisk)) -> BTreeSet<Option<Vec<u8>>> {
    (0..200)
        .map(|seed| {
            let disk = disk(seed);
            done(&disk);
            disk.restart(Down::Power);
            content(&disk, path)
        })
        .collect()
}

#[test]
fn what_was_brought_to_stable_storage_is_never_lost() {
    let found = outcomes(FILE, |disk| {
        disk.write_at(Path::new(FILE), 0, b"one").unwrap();
        disk.settle(Path::new(FILE), 3).unwrap();
        disk.sync_folder(Path::new("box")).unwrap();
    });
    assert_eq!(found, BTreeSet::from([Some(b"one".to_vec())]));
    let replaced = outcomes(FILE, |disk| disk.replace(Path::new(FILE), b"one").unwrap());
    assert_eq!(replaced, found);
}

#[test]
fn what_was_only_written_may_be_lost_torn_or_kept_and_survives_a_kill_of_the_process() {
    let before = vec![1; 3 * SECTOR];
    let found = outcomes(FILE, |disk| {
        disk.replace(Path::new(FILE), &before).unwrap();
        disk.write_at(Path::new(FILE), 0, &vec![2; 3 * SECTOR]).unwrap();
    });
    assert!(found.contains(&Some(before.clone())), "it may be lost");
    assert!(found.contains(&Some(vec![2; 3 * SECTOR])), "it may be kept");
    let middle = [vec![1; SECTOR], vec![2; SECTOR], vec![1; SECTOR]].concat();
    assert!(found.contains(&Some(middle)), "it may be torn");

    let disk = disk(1);
    disk.write_at(Path::new(FILE), 0, b"one").unwrap();
    disk.restart(Down::Process);
    assert_eq!(content(&disk, FILE).as_deref(), Some(b"one".as_slice()));
}

#[test]
fn a_name_is_as_safe_as_its_folder_and_changes_of_names_come_in_any_order() {
    let named = outcomes(FILE, |disk| {
        disk.write_at(Path::new(FILE), 0, b"one").unwrap();
        disk.settle(Path::new(FILE), 3).unwrap();
    });
    assert_eq!(named, BTreeSet::from([None, Some(b"one".to_vec())]), "a synced file may lose its name");

    let renamed = outcomes(FILE, |disk| {
        disk.replace(Path::new(FILE), b"old").unwrap();
        disk.replace(Path::new("box/new"), b"new").unwrap();
        disk.rename(Path::new("box/new"), Path::new(FILE)).unwrap();
    });
    assert_eq!(renamed, BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]));

    let both: BTreeSet<_> = (0..200)
        .map(|seed| {
            let disk = disk(seed);
            disk.create_folder(Path::new("box/first")).unwrap();
            disk.create_folder(Path::new("box/second")).unwrap();
            disk.restart(Down::Power);
            disk.folders(Path::new("box")).unwrap()
        })
        .collect();
    assert_eq!(both.len(), 4, "the second without the first, too: {both:?}");
}

#[test]
fn a_file_on_its_way_to_another_folder_may_be_in_both_or_in_none() {
    let found: BTreeSet<_> = (0..400)
        .map(|seed| {
            let disk = disk(seed);
            disk.make_folder(Path::new("other")).unwrap();
            disk.replace(Path::new(FILE), b"one").unwrap();
            disk.rename(Path::new(FILE), Path::new("other/file")).unwrap();
            disk.restart(Down::Power);
            (content(&disk, FILE).is_some(), content(&disk, "other/file").is_some())
        })
        .collect();
    assert_eq!(found.len(), 4);
}

#[test]
fn a_full_disk_takes_a_part_and_gives_room_back_for_what_is_removed() {
    let disk = VirtualDisk::new(1, 2 * BLOCK);
    let error = disk.write_at(Path::new("a"), 0, &vec![7; 3 * BLOCK as usize]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StorageFull);
    assert_eq!(content(&disk, "a"), Some(vec![7; 2 * BLOCK as usize]));
    assert_eq!(disk.free_bytes(), 0);
    disk.remove(Path::new("a")).unwrap();
    assert_eq!(disk.free_bytes(), 2 * BLOCK);
    disk.write_at(Path::new("a"), 5 * BLOCK, b"behind a hole").unwrap();
    assert_eq!(disk.size(Path::new("a")).unwrap(), Some(Size { bytes: 5 * BLOCK + 13, allocated: BLOCK }));
}

#[test]
fn faults_come_and_go_and_content_that_was_not_stored_is_read_back_until_the_power_goes() {
    let disk = disk(3);
    disk.replace(Path::new(FILE), b"old").unwrap();
    disk.write_at(Path::new(FILE), 0, b"new").unwrap();
    disk.fail(1);
    let failures = (0..3).map(|_| disk.settle(Path::new(FILE), 3).is_err()).collect::<Vec<_>>();
    assert_eq!(failures, [true, true, false], "at most {IN_A_ROW} in a row");
    disk.fail(0);
    disk.sync_folder(Path::new("box")).unwrap();
    assert_eq!(content(&disk, FILE).as_deref(), Some(b"new".as_slice()));
    disk.restart(Down::Power);
    assert_eq!(content(&disk, FILE).as_deref(), Some(b"old".as_slice()));
}

#[test]
fn after_the_kill_nothing_works_until_the_restart() {
    let disk = disk(4);
    disk.kill_after(2);
    disk.write_at(Path::new(FILE), 0, b"one").unwrap();
    assert!(disk.settle(Path::new(FILE), 3).is_err());
    assert!(disk.is_dead());
    assert!(disk.content(Path::new(FILE), 9).is_err());
    assert!(disk.write_at(Path::new(FILE), 0, b"two").is_err());
    assert_eq!(disk.calmly(|| content(&disk, FILE)).as_deref(), Some(b"one".as_slice()));
    disk.restart(Down::Process);
    assert_eq!(content(&disk, FILE).as_deref(), Some(b"one".as_slice()));
}

//! Prints how many durable commits a second this disk takes, one by one and a hundred at once, how long the
//! store takes to open, and how many durable objects a second it takes.
//!
//! `cargo run --release -p flotilla-storage --example durability [FOLDER]`

use bytes::Bytes;
use flotilla_storage::{Batch, Key, Objects, Records, SledRecords, Table};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const TABLE: Table = Table::new("bench");
const VALUE: usize = 300;

async fn commit(records: &SledRecords, number: u64) -> flotilla_storage::Result<()> {
    let mut batch = Batch::new();
    batch.put(Key::new(TABLE, number.to_be_bytes()), vec![7; VALUE]);
    records.commit(batch).await.map(drop)
}

async fn measure(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    const ALONE: u64 = 1000;
    const TASKS: u64 = 100;
    const EACH: u64 = 300;
    let records = Arc::new(SledRecords::open(folder)?);

    let start = Instant::now();
    for number in 0..ALONE {
        commit(&records, number).await?;
    }
    println!("one by one: {:.0} commits/s", ALONE as f64 / start.elapsed().as_secs_f64());

    let start = Instant::now();
    let tasks: Vec<tokio::task::JoinHandle<flotilla_storage::Result<()>>> = (0..TASKS)
        .map(|task| {
            let records = Arc::clone(&records);
            tokio::spawn(async move {
                for number in 0..EACH {
                    commit(&records, (task + 1) * 1_000_000 + number).await?;
                }
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    println!("{TASKS} at once: {:.0} commits/s", (TASKS * EACH) as f64 / start.elapsed().as_secs_f64());
    records.close().await?;

    let start = Instant::now();
    let records = SledRecords::open(folder)?;
    println!("opened after a clean close in {:.3} s", start.elapsed().as_secs_f64());
    records.close().await?;
    std::fs::remove_file(folder.join("CLEAN"))?;
    let start = Instant::now();
    SledRecords::open(folder)?;
    let count = ALONE + TASKS * EACH;
    println!("opened as after a crash in {:.3} s ({count} records)", start.elapsed().as_secs_f64());
    Ok(())
}

async fn measure_objects(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    const OBJECTS: u64 = 500;
    let objects = Objects::open(folder)?;
    let content = |number: u64| Bytes::from(number.to_be_bytes().repeat(100));

    let start = Instant::now();
    for number in 0..OBJECTS {
        objects.put(content(number)).await?;
    }
    println!("objects one by one: {:.0}/s", OBJECTS as f64 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    objects.put_many((OBJECTS..2 * OBJECTS).map(content).collect()).await?;
    println!("{OBJECTS} objects at once: {:.0}/s", OBJECTS as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("flotilla-durability-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        measure(&folder.join("records")).await?;
        measure_objects(&folder.join("objects")).await
    });
    std::fs::remove_dir_all(&folder)?;
    result
}

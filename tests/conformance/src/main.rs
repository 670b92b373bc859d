//! `write-load URL --name IQN --seed N [--key N]`: writes numbered content to an iSCSI unit and reads it back, for as long as standard input
//! is open; `tests/load/target-kill` drives it.
//!
//! The unit is divided into cells, small ones first and then large ones. Each has one writer, which writes it with the next number only when
//! the last one was answered: so a cell that holds less than its last acknowledged number has lost a write, or had an old one applied late.
//! Any error of the device ends the program with 1: whatever happens to the target, callers see none of it within the limit.
//!
//! Standard input takes lines: `status` answers `status OPERATIONS`; `check FILE` waits for the end of what is under way, reads every cell,
//! writes the acknowledged numbers to FILE (8 bytes each, little endian) and answers `checked CELLS`, and then `go` lets the load go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use block_core::dev::DevName;
use block_core::{
    BlockDevice, ByteLen, ByteOffset, Durability, Persistence, ReservationChange, ReservationKey, ReservationKind,
    ReservationOutcome,
};
use bytes::Bytes;
use iscsi_target_initiator::{Initiator, IscsiDevice, Options};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::RwLock;

/// Cells of 4 KiB, then cells of 256 KiB.
const SMALL: (u64, u64) = (2048, 4096);
const LARGE: (u64, u64) = (64, 256 * 1024);
const WRITERS: u64 = 32;
/// Longer than any test keeps the target down.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Load {
    device: Arc<IscsiDevice>,
    run: u64,
    /// Of each cell the last acknowledged number; 0: never written.
    acknowledged: Vec<AtomicU64>,
    operations: AtomicU64,
    /// Held by each operation; exclusively while the load is checked.
    pause: RwLock<()>,
}

fn place(cell: u64) -> (ByteOffset, ByteLen) {
    match cell.checked_sub(SMALL.0) {
        None => (ByteOffset(cell * SMALL.1), ByteLen(SMALL.1)),
        Some(large) => (ByteOffset(SMALL.0 * SMALL.1 + large * LARGE.1), ByteLen(LARGE.1)),
    }
}

/// What a cell holds with this number.
fn content(run: u64, cell: u64, number: u64) -> Bytes {
    let (_, len) = place(cell);
    if number == 0 {
        return Bytes::from(vec![0; len.0 as usize]);
    }
    let words = [u64::from_le_bytes(*b"corral-w"), run, cell, number].map(u64::to_le_bytes);
    Bytes::from(words.concat().repeat(len.0 as usize / 32))
}

impl Load {
    async fn compare(&self, cell: u64) -> Result<(), Failure> {
        let (at, len) = place(cell);
        let number = self.acknowledged[cell as usize].load(Ordering::Relaxed);
        let found = self.device.read(at, len).await?;
        if found == content(self.run, cell, number) {
            return Ok(());
        }
        let words: Vec<u64> =
            found[..32].chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("8"))).collect();
        Err(format!("cell {cell} at {at}: number {number} was acknowledged, found run, cell, number {:?}", &words[1..])
            .into())
    }

    async fn work(self: Arc<Self>, writer: u64) -> Result<(), Failure> {
        let mut dice = self.run ^ (writer + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |sides: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % sides
        };
        let cells = self.acknowledged.len() as u64;
        loop {
            let _running = self.pause.read().await;
            let cell = roll(cells / WRITERS) * WRITERS + writer;
            match roll(20) {
                0..=14 => {
                    let number = self.acknowledged[cell as usize].load(Ordering::Relaxed) + 1;
                    let durability = if roll(10) == 0 { Durability::Forced } else { Durability::Cached };
                    let (at, _) = place(cell);
                    self.device.write(at, vec![content(self.run, cell, number)], durability).await?;
                    self.acknowledged[cell as usize].store(number, Ordering::Relaxed);
                }
                15..=18 => self.compare(cell).await?,
                _ => self.device.flush().await?,
            }
            self.operations.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn check(&self, file: &str) -> Result<(), Failure> {
        let mut table = Vec::new();
        for cell in 0..self.acknowledged.len() as u64 {
            self.compare(cell).await?;
            table.extend_from_slice(&self.acknowledged[cell as usize].load(Ordering::Relaxed).to_le_bytes());
        }
        std::fs::write(file, table)?;
        println!("checked {}", self.acknowledged.len());
        Ok(())
    }

    /// Follows standard input to its end.
    async fn obey(&self) -> Result<(), Failure> {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            match line.split_once(' ') {
                Some(("check", file)) => {
                    let paused = self.pause.write().await;
                    self.check(file).await?;
                    match lines.next_line().await?.as_deref() {
                        Some("go") => {}
                        None => {
                            // Nobody writes any more: what was checked is what is left behind.
                            std::mem::forget(paused);
                            return Ok(());
                        }
                        Some(other) => return Err(format!("'{other}' is not 'go'").into()),
                    }
                }
                None if line == "status" => println!("status {}", self.operations.load(Ordering::Relaxed)),
                _ => return Err(format!("'{line}' is not understood").into()),
            }
        }
        Ok(())
    }
}

/// Registers a key and takes a reservation that shuts out everybody else's writes, both to survive restarts.
async fn reserve(device: &dyn BlockDevice, key: u64) -> Result<(), Failure> {
    let own = ReservationKey::new(key).ok_or("the key is 0")?;
    let persistence = Persistence::SurvivesPowerLoss;
    for change in [
        ReservationChange::Register { own: None, new: Some(own), persistence },
        ReservationChange::Reserve { own, kind: ReservationKind::WriteExclusiveAll },
    ] {
        match device.change_reservation(change).await? {
            ReservationOutcome::Done => {}
            other => return Err(format!("{change:?}: {other:?}").into()),
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).cloned()
    };
    let number = |name: &str| option(name).map(|text| text.parse::<u64>()).transpose();
    let Ok(DevName::Iscsi(url)) = DevName::parse(arguments.first().map_or("", String::as_str), |_| false) else {
        return Err("usage: write-load URL --name IQN --seed N [--key N]".into());
    };
    let options = Options { initiator_name: option("--name"), recovery_limit: RECOVERY_LIMIT, ..Options::default() };
    let device = Initiator::connect(&url, options).await?;
    if let Some(key) = number("--key")? {
        reserve(&*device, key).await?;
    }
    let acknowledged = (0..SMALL.0 + LARGE.0).map(|_| AtomicU64::new(0)).collect();
    let run = number("--seed")?.unwrap_or(1).wrapping_mul(2) + 1;
    let load = Arc::new(Load { device, run, acknowledged, operations: AtomicU64::new(0), pause: RwLock::new(()) });
    println!("run {run}");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(load.clone().work(writer));
    }
    tokio::select! {
        ended = load.obey() => ended,
        Some(ended) = writers.join_next() => ended?,
    }
}

//! What a replay of a log would write.

use std::collections::BTreeMap;

use gfs_format::MetaType;
use gfs_format::log::descriptor;

use super::locate::Journals;
use super::read::{Content, Item, Log};
use crate::report::{Finding, Kind};
use crate::source::CheckError;

/// What a replay of one journal would write, beside its log header.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub journal: u32,
    /// By block.
    pub writes: BTreeMap<u64, Write>,
    /// Logged blocks that a later revoke keeps from being written, each with how often.
    pub revoked: BTreeMap<u64, u64>,
    /// The node's changes that the totals do not have yet.
    pub space: Space,
    /// Whether the log says what they are; the first version of log headers does not.
    pub has_space: bool,
}

/// A node's difference to the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total: i64,
    pub free: i64,
    pub dinodes: i64,
}

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where the content lies: block within the log, and on the disk.
    pub at: u32,
    pub address: u64,
    pub is_escaped: bool,
    pub kind: Option<MetaType>,
}

impl Plan {
    /// Plans the replay of a log; an empty plan for a clean one. Refuses a log that a replay would refuse.
    pub fn of(journals: &Journals, log: &Log) -> Result<Plan, CheckError> {
        let mut plan = Plan { journal: log.journal, ..Plan::default() };
        if log.is_clean() {
            return Ok(plan);
        }
        let head = &log.head;
        if head.tail.get() >= log.blocks {
            let found = format!("block {} of {}", head.tail.get(), log.blocks);
            return Err(damaged(head.address.get(), "a tail within the log", found));
        }
        plan.has_space = head.crc.get() != 0;
        plan.space = Space {
            total: head.local_total.get().cast_signed(),
            free: head.local_free.get().cast_signed(),
            dinodes: head.local_dinodes.get().cast_signed(),
        };
        // What is live is the end of the list, in order. A tail that points into the middle of a chunk shows as a stray.
        let live: Vec<&Item> = log.items.iter().filter(|item| item.is_live).collect();
        let mut revokes = BTreeMap::new();
        for (place, item) in live.iter().enumerate() {
            check(item)?;
            if let Content::Chunk(chunk) = &item.content {
                revokes.extend(chunk.revokes.iter().map(|block| (*block, place)));
            }
        }
        let first = gfs_format::superblock::SUPERBLOCK_OFFSET / journals.block_size().bytes();
        for (place, item) in live.iter().enumerate() {
            let Content::Chunk(chunk) = &item.content else { continue };
            for logged in &chunk.blocks {
                if logged.block < first || logged.block >= journals.device_blocks() {
                    let found = format!("an entry for block {}", logged.block);
                    return Err(damaged(item.address, "blocks of the device in the log", found));
                }
                if revokes.get(&logged.block).is_some_and(|revoke| *revoke > place) {
                    *plan.revoked.entry(logged.block).or_default() += 1;
                    continue;
                }
                let write = Write {
                    at: logged.at,
                    address: logged.address,
                    is_escaped: logged.is_escaped && chunk.kind == descriptor::JOURNALED_DATA,
                    kind: logged.kind,
                };
                plan.writes.insert(logged.block, write);
            }
        }
        Ok(plan)
    }
}

fn check(item: &Item) -> Result<(), CheckError> {
    match &item.content {
        Content::Header { verdict: Ok(()), .. } => Ok(()),
        Content::Header { verdict: Err(error), .. } => {
            Err(damaged(item.address, "a log header with correct checksums", error.to_string()))
        }
        Content::Chunk(chunk) => match &chunk.fault {
            None => Ok(()),
            Some(fault) => Err(damaged(item.address, "a whole log descriptor", fault.clone())),
        },
        Content::Stray(kind) => {
            let found = kind.map_or("data".into(), |kind| format!("a block of type {kind:?}"));
            Err(damaged(item.address, "a log header or descriptor", found))
        }
    }
}

fn damaged(block: u64, expected: &str, found: String) -> CheckError {
    let finding = Finding { kind: Kind::Journal, block, inode: None, expected: expected.into(), found };
    CheckError::Damaged(Box::new(finding))
}

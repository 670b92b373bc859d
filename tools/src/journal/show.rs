//! `corral journal show`: a log transaction by transaction.
//!
//! A transaction is the descriptors that lie without a gap before a header with correct checksums. What is left of
//! older ones, or was written without a header when a node died, is shown as a fragment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use gfs_check::journal::{Chunk, Content, Item, Journals, Log, Plan};
use gfs_format::describe::{LOG_HEADER, Value as FieldValue};
use gfs_format::log::{LogHeaderError, descriptor};
use gfs_format::{LogHeader, MetaType};
use serde_json::{Map, Value, json};
use zerocopy::IntoBytes;

use super::names::{Owners, block_type, descriptor_type, find_owners, flag_names, owner_json, owner_text};
use crate::device::{self, Access};
use crate::output;

/// What is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Only what a replay would look at.
    pub live: bool,
    /// Also which file each block belongs to.
    pub files: bool,
    pub json: bool,
}

/// There is no journal of that number.
pub fn no_journal(journals: &Journals, number: u32) -> String {
    let found: Vec<String> = journals.list.iter().map(|journal| journal.index.to_string()).collect();
    let damage = journals.findings.first().map(|finding| format!(" ({finding})")).unwrap_or_default();
    format!("there is no journal {number}: there are {}{damage}", found.join(" "))
}

/// Shows journal `number`.
pub fn show(name: &str, number: u32, wanted: Wanted) -> Result<(), String> {
    device::with(name, Access::Read, async |device| {
        let journals = Journals::open(device.clone()).await.map_err(|error| error.to_string())?;
        let journal = journals.get(number).ok_or_else(|| no_journal(&journals, number))?;
        let log = Log::read(&journals, journal).await.map_err(|error| error.to_string())?;
        let plan = Plan::of(&journals, &log);
        let mut owners = Owners::new();
        if wanted.files {
            let chunks = log.items.iter().filter(|item| item.is_live || !wanted.live).filter_map(chunk_of);
            let mut blocks: BTreeSet<u64> = BTreeSet::new();
            for chunk in chunks {
                blocks.extend(chunk.blocks.iter().map(|logged| logged.block).chain(chunk.revokes.iter().copied()));
            }
            owners = find_owners(&device, &journals, &blocks).await?;
        }
        let shown = Shown { log: &log, inode: journal.inode, owners, plan, wanted, revoked: revoked_at(&log) };
        if wanted.json {
            output::print_json(&shown.json())
        } else {
            output::print(&shown.text())
        }
        Ok(())
    })
}

fn chunk_of(item: &Item) -> Option<&Chunk> {
    match &item.content {
        Content::Chunk(chunk) => Some(chunk),
        Content::Header { .. } | Content::Stray(_) => None,
    }
}

fn revoked_at(log: &Log) -> BTreeMap<u64, usize> {
    let live = log.items.iter().enumerate().filter(|(_, item)| item.is_live);
    live.filter_map(|(place, item)| Some((place, chunk_of(item)?)))
        .flat_map(|(place, chunk)| chunk.revokes.iter().map(move |block| (*block, place)))
        .collect()
}

struct Shown<'a> {
    log: &'a Log,
    inode: u64,
    owners: Owners,
    plan: Result<Plan, gfs_check::CheckError>,
    wanted: Wanted,
    /// The place of the last live revoke of each block.
    revoked: BTreeMap<u64, usize>,
}

/// Items that belong together, with their places in the list of all.
struct Group<'a> {
    items: Vec<(usize, &'a Item)>,
    /// The header that ends it; `None` for a fragment.
    header: Option<(&'a Item, &'a LogHeader, Result<(), LogHeaderError>)>,
}

impl Shown<'_> {
    fn items(&self) -> impl Iterator<Item = (usize, &Item)> {
        self.log.items.iter().enumerate().filter(|(_, item)| item.is_live || !self.wanted.live)
    }

    /// Whether a later revoke voids an entry of the item at this place.
    fn is_revoked(&self, place: usize, item: &Item, block: u64) -> bool {
        item.is_live && self.revoked.get(&block).is_some_and(|revoke| *revoke > place)
    }

    /// Transactions and fragments in order.
    fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut open: Vec<(usize, &Item)> = Vec::new();
        // Block of the log where a transaction that has begun goes on.
        let mut next = None;
        for (place, item) in self.items() {
            let follows = next == Some(item.at);
            if !follows && !open.is_empty() {
                groups.push(Group { items: std::mem::take(&mut open), header: None });
            }
            match &item.content {
                Content::Header { header, verdict } => {
                    groups.push(Group { items: std::mem::take(&mut open), header: Some((item, header, *verdict)) });
                    next = None;
                }
                Content::Chunk(chunk) => {
                    open.push((place, item));
                    let end = u64::from(item.at) + u64::from(chunk.length);
                    next = chunk.fault.is_none().then_some((end % u64::from(self.log.blocks)) as u32);
                }
                Content::Stray(_) => {
                    groups.push(Group { items: vec![(place, item)], header: None });
                    next = None;
                }
            }
        }
        if !open.is_empty() {
            groups.push(Group { items: open, header: None });
        }
        groups
    }

    fn state(&self) -> &'static str {
        if self.log.is_clean() { "clean" } else { "dirty" }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let head = &self.log.head;
        let _ = writeln!(
            out,
            "journal{}: inode {}, {} blocks, {}; head at block {} (sequence {}), tail at block {}{}",
            self.log.journal,
            self.inode,
            self.log.blocks,
            self.state(),
            head.block.get(),
            head.sequence.get(),
            head.tail.get(),
            if self.log.wraps() { "; the live part wraps around" } else { "" },
        );
        if let Err(error) = &self.plan {
            let _ = writeln!(out, "a replay would be refused: {error}");
        }
        let mut before = None;
        for group in self.groups() {
            let first = group.items.first().map(|(_, item)| *item).or(group.header.map(|(item, ..)| item));
            let Some(first) = first else { continue };
            if before.is_some_and(|before| first.at < before) {
                let _ = writeln!(out, "---- the log wraps around ----");
            }
            before = Some(first.at);
            match &group.header {
                Some((item, header, verdict)) => self.transaction_text(&mut out, item, header, verdict),
                None => {
                    let _ = writeln!(out, "fragment without a header{}", live_mark(first));
                }
            }
            for (place, item) in &group.items {
                self.item_text(&mut out, *place, item);
            }
        }
        out
    }

    fn transaction_text(
        &self,
        out: &mut String,
        item: &Item,
        header: &LogHeader,
        verdict: &Result<(), LogHeaderError>,
    ) {
        let verdict = match verdict {
            Ok(()) if header.crc.get() == 0 => "checksum good (version 1)".into(),
            Ok(()) => "checksums good".to_owned(),
            Err(error) => format!("INVALID: {error}"),
        };
        let _ = writeln!(
            out,
            "transaction {}{}: header at block {} (disk {}), tail {}, [{}], {verdict}",
            header.sequence.get(),
            live_mark(item),
            item.at,
            item.address,
            header.tail.get(),
            flag_names(header.flags.get()),
        );
        if header.crc.get() != 0 {
            let _ = writeln!(
                out,
                "    at {}.{:09}, free {:+}, inodes {:+}, total {:+}, journal {}, statfs {}, quota {}",
                header.seconds.get(),
                header.nanos.get(),
                header.local_free.get().cast_signed(),
                header.local_dinodes.get().cast_signed(),
                header.local_total.get().cast_signed(),
                header.journal_inode.get(),
                header.statfs_inode.get(),
                header.quota_inode.get(),
            );
        }
    }

    fn item_text(&self, out: &mut String, place: usize, item: &Item) {
        let chunk = match &item.content {
            Content::Chunk(chunk) => chunk,
            Content::Stray(kind) => {
                let _ = writeln!(out, "    block {}: {}, which nothing describes", item.at, block_type(*kind));
                return;
            }
            Content::Header { .. } => return,
        };
        let fault = chunk.fault.as_ref().map(|fault| format!(" INVALID: {fault}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "    block {} (disk {}): {} of {} entries in {} blocks{fault}",
            item.at,
            item.address,
            descriptor_type(chunk.kind),
            chunk.count,
            chunk.length,
        );
        for logged in &chunk.blocks {
            let is_revoked = self.is_revoked(place, item, logged.block);
            let _ = writeln!(
                out,
                "        {:>12}  {:<16} {:<9} {}",
                logged.block,
                block_type(logged.kind),
                match (is_revoked, logged.is_escaped) {
                    (true, _) => "revoked",
                    (false, true) => "escaped",
                    (false, false) => "",
                },
                if self.wanted.files { owner_text(self.owners.get(&logged.block)) } else { String::new() },
            );
        }
        for block in &chunk.revokes {
            let owner = if self.wanted.files { owner_text(self.owners.get(block)) } else { String::new() };
            let _ = writeln!(out, "        {block:>12}  {:<16} {:<9} {owner}", "revoke", "");
        }
    }

    fn json(&self) -> Value {
        let (mut transactions, mut fragments) = (Vec::new(), Vec::new());
        for group in self.groups() {
            let items: Vec<Value> = group.items.iter().map(|(place, item)| self.item_json(*place, item)).collect();
            match &group.header {
                Some((item, header, verdict)) => transactions.push(json!({
                    "sequence": header.sequence.get(),
                    "live": item.is_live,
                    "header": header_json(item, header, verdict),
                    "descriptors": items,
                })),
                None => fragments.push(json!({ "items": items })),
            }
        }
        let head = &self.log.head;
        json!({
            "journal": self.log.journal,
            "inode": self.inode,
            "blocks": self.log.blocks,
            "state": self.state(),
            "head": head.block.get(),
            "tail": head.tail.get(),
            "sequence": head.sequence.get(),
            "wraps": self.log.wraps(),
            "refused": self.plan.as_ref().err().map(ToString::to_string),
            "transactions": transactions,
            "fragments": fragments,
        })
    }

    fn item_json(&self, place: usize, item: &Item) -> Value {
        let chunk = match &item.content {
            Content::Chunk(chunk) => chunk,
            Content::Stray(kind) => {
                return json!({ "at": item.at, "address": item.address, "live": item.is_live,
                    "type": block_type(*kind), "fault": "nothing describes it" });
            }
            Content::Header { .. } => return Value::Null,
        };
        let blocks = chunk.blocks.iter().map(|logged| {
            let mut block = json!({
                "block": logged.block,
                "at": logged.at,
                "address": logged.address,
                "type": block_type(logged.kind),
                "mh_type": logged.kind.map(|kind: MetaType| kind as u32),
                "escaped": logged.is_escaped,
                "revoked": self.is_revoked(place, item, logged.block),
            });
            if self.wanted.files {
                block["owner"] = owner_json(self.owners.get(&logged.block));
            }
            block
        });
        let is_revoke = chunk.kind == descriptor::REVOKE;
        json!({
            "at": item.at,
            "address": item.address,
            "live": item.is_live,
            "ld_type": chunk.kind,
            "type": descriptor_type(chunk.kind),
            "length": chunk.length,
            "count": chunk.count,
            "fault": chunk.fault,
            "blocks": (!is_revoke).then(|| blocks.collect::<Vec<Value>>()),
            "revokes": is_revoke.then_some(&chunk.revokes),
        })
    }
}

fn live_mark(item: &Item) -> &'static str {
    if item.is_live { "" } else { " (old)" }
}

fn header_json(item: &Item, header: &LogHeader, verdict: &Result<(), LogHeaderError>) -> Value {
    let mut fields = Map::new();
    for (name, value) in LOG_HEADER.values(header.as_bytes()) {
        let value = match value {
            FieldValue::Number(n) | FieldValue::Hex(n) | FieldValue::Octal(n) => json!(n),
            FieldValue::Signed(n) => json!(n),
            FieldValue::Text(_) | FieldValue::Bytes(_) => json!(value.to_string()),
        };
        fields.insert(name.to_owned(), value);
    }
    json!({
        "at": item.at,
        "address": item.address,
        "version": if header.crc.get() == 0 { 1 } else { 2 },
        "flags": flag_names(header.flags.get()),
        "checksums": match verdict {
            Ok(()) => "good".to_owned(),
            Err(error) => error.to_string(),
        },
        "fields": fields,
    })
}

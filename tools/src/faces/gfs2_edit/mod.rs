//! `gfs2_edit -p`: structures and blocks as that tool prints them. Only printing: what would write is refused.
//!
//! Map: this file has the command line and the well-known places; `structure` prints one block, `tree` what an inode
//! points to, `journal` a log. Output is bytes: names are printed as they lie on the disk.
//!
//! Two things differ on purpose, because the tool misreads the disk: attribute blocks are printed record by record to
//! their end, and a quota change block by its header and its entries.

mod journal;
mod structure;
mod tree;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use block_core::BlockDevice;
use gfs_check::inspect::{Entry, Group, Inode, InspectError, SYSTEM_FILES, Volume};
use gfs_check::journal::{Journals, Log};
use gfs_format::describe::{self, Table};
use gfs_format::{Dinode, MetaHeader, MetaType, Superblock, validate};
use zerocopy::FromBytes;

use crate::device::{self, Access};
use crate::fs::number;

/// What ends the print of a block.
const END: &str = "------------------------------------------------------\n";

const USAGE: &str = "\
Usage: gfs2_edit [-V] [-h] [identify] -p [structures|blocks] [blocktype] [blockalloc] [blockbits] [blockrg]
                 [find sb|rg|rb|di|in|lf|jd|lh|ld|ea|ed|lb|13|qc] [field <name>] <device>
       gfs2_edit rgcount <device>
       gfs2_edit rgflags <number> <device>
Structures: sb size master root jindex journals per_node inum statfs rindex rg <number> rgs quota journal<number>
Blocks are decimal, or hexadecimal with 0x. Corral's gfs2_edit prints; it changes nothing and has no screen.
";

/// Runs the tool with the arguments behind its name.
pub(super) fn run(arguments: &[String]) -> ExitCode {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["-h" | "-help" | "-usage" | "--help"] => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        ["-V"] => {
            println!("gfs2_edit (Corral) version {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        [words @ .., name] => {
            let result = device::with(name, Access::Read, async |device: Arc<dyn BlockDevice>| {
                let volume = Volume::open(device.clone()).await.map_err(|error| format!("{name}: {error}"))?;
                Editor { volume, device, identify: false, out: Vec::new() }.all(words).await
            });
            match result {
                Ok(out) => {
                    // A reader that went away is not an error worth a message.
                    let _ = std::io::stdout().lock().write_all(&out);
                    ExitCode::SUCCESS
                }
                Err(message) => {
                    eprintln!(
                        "{}",
                        message.replace(&format!("{name}: No such"), &format!("Failed to open '{name}': No such"))
                    );
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// A run over the words of one command line.
struct Editor {
    volume: Volume,
    device: Arc<dyn BlockDevice>,
    identify: bool,
    out: Vec<u8>,
}

/// What a word names.
enum Place {
    Block(u64),
    Groups,
    Journals,
}

/// Appends a formatted line.
macro_rules! put {
    ($out:expr, $($text:tt)*) => {{
        // Writing into memory does not fail.
        let _ = write!($out, $($text)*);
    }};
}
use put;

impl Editor {
    async fn all(mut self, words: &[&str]) -> Result<Vec<u8>, String> {
        let mut places: Vec<Place> = Vec::new();
        let mut rest = words.iter().copied();
        self.identify = words.contains(&"identify");
        let next = |rest: &mut dyn Iterator<Item = &str>, what: &str| {
            rest.next().map(str::to_string).ok_or_else(|| format!("{what} needs a value\n\n{USAGE}"))
        };
        while let Some(word) = rest.next() {
            let last = match places.last() {
                Some(Place::Block(block)) => *block,
                _ => self.volume.superblock_block(),
            };
            match word {
                "-p" | "identify" => {}
                "size" => {
                    put!(self.out, "Device size: {} blocks\n", self.volume.device_blocks());
                    return Ok(self.out);
                }
                "rgcount" => {
                    let count = self.volume.groups().map_err(words_of)?.len();
                    put!(self.out, "{count} RGs in this file system.\n");
                    return Ok(self.out);
                }
                "rgflags" => {
                    let index = next(&mut rest, word)?;
                    self.group_flags(&index).await?;
                    return Ok(self.out);
                }
                "rg" => {
                    let index = next(&mut rest, word)?;
                    self.group(&index).await?;
                    return Ok(self.out);
                }
                "blocktype" => return self.block_type(last).await,
                "blockalloc" => return self.block_state(last).await,
                "blockrg" => {
                    put!(self.out, "{}\n", self.volume.group_of(last).map_or(0, Group::address));
                    return Ok(self.out);
                }
                "blockbits" => {
                    put!(self.out, "{}\n", self.bitmap_block(last));
                    return Ok(self.out);
                }
                "field" => {
                    let name = next(&mut rest, word)?;
                    return self.field(last, &name).await;
                }
                "find" => {
                    let kind = next(&mut rest, word)?;
                    return self.find(last, &kind).await;
                }
                "-x" | "-s" | "-c" | "-z" | "-d" | "savemeta" | "savemetaslow" | "savergs" | "restoremeta"
                | "printsavedmeta" | "rgrepair" | "rgbitmaps" => {
                    return Err(format!("{word} is not among what Corral's gfs2_edit does\n\n{USAGE}"));
                }
                word => match word.strip_prefix("journal").and_then(number) {
                    Some(index) => self.journal(index).await?,
                    None => places.push(self.place(word).await?),
                },
            }
        }
        for place in places {
            match place {
                Place::Block(block) => self.block(block).await?,
                Place::Groups => self.groups().await?,
                Place::Journals => self.journals().await?,
            }
        }
        Ok(self.out)
    }

    async fn place(&self, word: &str) -> Result<Place, String> {
        let superblock = &self.volume.superblock;
        if let Some(block) = number(word) {
            return Ok(Place::Block(block));
        }
        Ok(match word {
            "sb" | "superblock" => Place::Block(self.volume.superblock_block()),
            "master" => Place::Block(superblock.master_directory.address.get()),
            "root" => Place::Block(superblock.root_directory.address.get()),
            "rgs" => Place::Groups,
            "journals" => Place::Journals,
            "rgindex" => Place::Block(self.volume.system_file("rindex").await.map_err(words_of)?.address),
            word => match SYSTEM_FILES.into_iter().find(|name| *name == word) {
                Some(name) => Place::Block(self.volume.system_file(name).await.map_err(words_of)?.address),
                None => return Err(format!("I don't know what '{word}' means.\n\n{USAGE}")),
            },
        })
    }

    /// `-p BLOCK`, and what is there.
    async fn block(&mut self, block: u64) -> Result<(), String> {
        let bytes = self.volume.block(block).await.map_err(words_of)?;
        let kind = MetaHeader::kind_of(&bytes);
        put!(self.out, "Block #{block}    (0x{block:x}) of {0} (0x{0:x}) ", self.volume.device_blocks());
        if let Some(name) = kind.and_then(structure::kind_name) {
            put!(self.out, "({name})");
        }
        put!(self.out, "\n");
        let known = self.well_known(block).await;
        put!(self.out, "{}\n", known.map_or("", Known::banner));
        if self.identify {
            return Ok(());
        }
        match kind {
            None => put!(self.out, "Unknown block type\n"),
            Some(MetaType::Superblock) => self.superblock(&bytes),
            Some(MetaType::Dinode) => self.dinode(&bytes, known).await?,
            Some(kind) => structure::print(&mut self.out, kind, &bytes),
        }
        put!(self.out, "{END}");
        Ok(())
    }

    fn superblock(&mut self, bytes: &[u8]) {
        structure::print(&mut self.out, MetaType::Superblock, bytes);
        put!(self.out, "\nThe superblock has 2 directories\n");
        let Ok((sb, _)) = Superblock::ref_from_prefix(bytes) else { return };
        for (index, (name, number)) in [("root", sb.root_directory), ("master", sb.master_directory)].iter().enumerate()
        {
            let entry = Entry {
                name: name.as_bytes().to_vec(),
                formal: number.formal.get(),
                address: number.address.get(),
                kind: 4,
                hash: 0,
                block: 0,
            };
            structure::entry(&mut self.out, index + 1, &entry, 0);
        }
    }

    async fn dinode(&mut self, bytes: &[u8], known: Option<Known>) -> Result<(), String> {
        structure::print(&mut self.out, MetaType::Dinode, bytes);
        // A copy in a journal is an inode too: it is looked at as the one that it is a copy of. What cannot be read
        // as an inode is shown by its fields and no further.
        let Ok((dinode, _)) = Dinode::read_from_prefix(bytes) else { return Ok(()) };
        let (address, size) = (dinode.number.address.get(), self.volume.block_size());
        if let Err(error) = validate::dinode(address, bytes, size, self.volume.reach) {
            eprintln!("{error}");
            return Ok(());
        }
        let inode = Inode { address, dinode, block: bytes.to_vec().into() };
        match known {
            Some(Known::Inum) => {
                let next = inode.body().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                put!(self.out, "Next inode num = {next} (0x{next:x})\n");
            }
            Some(Known::Statfs) => {
                put!(self.out, "statfs file contents:\n");
                structure::fields(&mut self.out, &describe::STATFS_CHANGE, inode.body());
            }
            Some(Known::ResourceIndex) => {
                let groups = self.volume.groups().map_err(words_of)?;
                put!(self.out, "RG index entries found: {}.\n", groups.len());
                for group in groups {
                    put!(self.out, "RG #{}\n", group.index);
                    structure::fields(
                        &mut self.out,
                        &describe::RESOURCE_INDEX,
                        zerocopy::IntoBytes::as_bytes(&group.entry),
                    );
                }
            }
            Some(Known::Quota) if inode.dinode.height.get() == 0 => {
                let size = describe::QUOTA.size;
                let body = inode.body();
                let used = body.get(..inode.dinode.size.get() as usize).unwrap_or(body);
                put!(self.out, "quota file contents:\nquota entries found: {}.\n", used.len() / size);
                for (index, entry) in (1..).zip(used.chunks_exact(size)) {
                    put!(self.out, "Entry #{index}\n");
                    structure::fields(&mut self.out, &describe::QUOTA, entry);
                }
            }
            // Where a pointer leads astray the list ends; what there is of it is shown.
            _ => {
                if let Err(error) = tree::print(&mut self.out, &self.volume, &inode).await {
                    eprintln!("{error}");
                }
            }
        }
        Ok(())
    }

    /// `-p rgs`.
    async fn groups(&mut self) -> Result<(), String> {
        put!(self.out, "Block #RG List        of {0} (0x{0:x}) \n", self.volume.device_blocks());
        put!(self.out, "------------------ RG List ----------------------\n");
        let rindex = self.volume.system_file("rindex").await.map_err(words_of)?;
        structure::print(&mut self.out, MetaType::Dinode, &rindex.block);
        let groups = self.volume.groups().map_err(words_of)?;
        put!(self.out, "RG index entries found: {}.\n", groups.len());
        for group in groups {
            let bytes = self.volume.block(group.address()).await.map_err(words_of)?;
            group_lines(&mut self.out, group, &bytes);
        }
        put!(self.out, "{END}");
        Ok(())
    }

    async fn group(&mut self, index: &str) -> Result<(), String> {
        let group = self.numbered(index)?;
        let bytes = self.volume.block(group.address()).await.map_err(words_of)?;
        group_lines(&mut self.out, &group, &bytes);
        Ok(())
    }

    async fn group_flags(&mut self, index: &str) -> Result<(), String> {
        let group = self.numbered(index)?;
        let found = self.volume.group_use(&group).await.map_err(words_of)?;
        let (address, flags) = (group.address(), found.header.flags.get());
        put!(self.out, "RG #{index} (block {address} / 0x{address:x}) rg_flags = 0x{flags:08x}\n");
        Ok(())
    }

    fn numbered(&self, index: &str) -> Result<Group, String> {
        let groups = self.volume.groups().map_err(words_of)?;
        let wanted = number(index).ok_or_else(|| format!("'{index}' is not the number of a resource group"))?;
        let found = groups.get(wanted as usize).cloned();
        found.ok_or_else(|| format!("Error: File system only has {} RGs.", groups.len()))
    }

    /// `-p journals`.
    async fn journals(&mut self) -> Result<(), String> {
        let journals = Journals::open(self.device.clone()).await.map_err(|error| error.to_string())?;
        put!(self.out, "Block #Journal Status:       of {0} (0x{0:x}) \n", self.volume.device_blocks());
        put!(self.out, "-------------------- Journal List --------------------\n");
        for journal in &journals.list {
            let state = match Log::read(&journals, journal).await {
                Ok(log) if log.is_clean() => "clean.",
                Ok(_) => "dirty.",
                Err(_) => "corrupt.",
            };
            let name = format!("journal{}:", journal.index);
            put!(self.out, "{name} 0x{:<5x} {}MB {state}\n", journal.inode, mb(journal.bytes));
        }
        put!(self.out, "{END}");
        Ok(())
    }

    /// `-p journalN`.
    async fn journal(&mut self, index: u64) -> Result<(), String> {
        put!(self.out, "Dumping journal #{index}.\n");
        let journals = Journals::open(self.device.clone()).await.map_err(|error| error.to_string())?;
        let found = u32::try_from(index).ok().and_then(|index| journals.get(index)).cloned();
        let journal =
            found.ok_or_else(|| format!("there is no journal {index}: the filesystem has {}", journals.list.len()))?;
        journal::print(&mut self.out, &self.volume, &journal).await.map_err(words_of)
    }

    async fn block_type(mut self, block: u64) -> Result<Vec<u8>, String> {
        let bytes = self.volume.block(block).await.map_err(words_of)?;
        if let Some(kind) = MetaHeader::kind_of(&bytes) {
            let name = structure::kind_name(kind).unwrap_or("quota change");
            put!(self.out, "{0} (Block {block} is type {0}: {name})\n", kind as u32);
        }
        Ok(self.out)
    }

    async fn block_state(mut self, block: u64) -> Result<Vec<u8>, String> {
        let text = if block <= self.volume.superblock_block() {
            "3 (the superblock is not in the bitmap)"
        } else {
            match self.volume.state_of(block).await.map_err(words_of)?.map(|state| state as u8) {
                Some(0) => "0 (Free )",
                Some(1) => "1 (Data )",
                Some(2) => "2 (Unlnk)",
                Some(_) => "3 (Meta )",
                None => "-1 (block invalid or part of an rgrp).",
            }
        };
        put!(self.out, "{text}\n");
        Ok(self.out)
    }

    /// The block that has the bits of `block`; 0 for none.
    fn bitmap_block(&self, block: u64) -> u64 {
        let Some(group) = self.volume.group_of(block) else { return 0 };
        let Some(index) = block.checked_sub(group.data_start()) else { return group.address() };
        let size = self.volume.block_size();
        match (index / 4).checked_sub(size.group_header_bitmap_bytes()) {
            None => group.address(),
            Some(behind) => group.address() + 1 + behind / size.group_bitmap_bytes(),
        }
    }

    async fn field(mut self, block: u64, name: &str) -> Result<Vec<u8>, String> {
        let bytes = self.volume.block(block).await.map_err(words_of)?;
        let kind = MetaHeader::kind_of(&bytes).ok_or_else(|| format!("block {block}: no metadata"))?;
        let table: &Table = describe::table_of(kind);
        match table.field(name).and_then(|field| field.value(&bytes)) {
            Some(value) => put!(self.out, "{value}\n"),
            None => return Err(format!("No field '{name}' in block type '{}'", table.name)),
        }
        Ok(self.out)
    }

    /// The next block of a type behind `block` that is in use; 0 for none.
    async fn find(mut self, block: u64, name: &str) -> Result<Vec<u8>, String> {
        let wanted = MetaType::ALL.into_iter().find(|kind| structure::short_name(*kind) == name);
        let wanted = wanted.ok_or_else(|| format!("I don't know what block type '{name}' is.\n\n{USAGE}"))?;
        let mut at = block + 1;
        while at < self.volume.device_blocks() {
            let bytes = self.volume.block(at).await.map_err(words_of)?;
            if MetaHeader::kind_of(&bytes) == Some(wanted) && self.is_in_use(at, wanted).await? {
                put!(self.out, "{at}\n");
                return Ok(self.out);
            }
            at += 1;
        }
        put!(self.out, "0\n");
        Ok(self.out)
    }

    async fn is_in_use(&self, block: u64, kind: MetaType) -> Result<bool, String> {
        use gfs_format::BlockState::{Dinode, Free, Used};
        if matches!(kind, MetaType::Superblock | MetaType::ResourceGroup | MetaType::ResourceGroupBitmap) {
            return Ok(true);
        }
        let state = self.volume.state_of(block).await.map_err(words_of)?.unwrap_or(Free);
        Ok(if kind == MetaType::Dinode { state == Dinode } else { state == Used })
    }

    /// The inode with a name of its own that a block is.
    async fn well_known(&self, block: u64) -> Option<Known> {
        let superblock = &self.volume.superblock;
        if block == superblock.master_directory.address.get() {
            return Some(Known::Master);
        }
        if block == superblock.root_directory.address.get() {
            return Some(Known::Root);
        }
        let master = self.volume.master().await.ok()?;
        let entries = self.volume.entries(&master).await.ok()?;
        let entry =
            entries.into_iter().find(|entry| entry.address == block && entry.name != b"." && entry.name != b"..")?;
        match &entry.name[..] {
            b"jindex" => Some(Known::JournalIndex),
            b"per_node" => Some(Known::PerNode),
            b"inum" => Some(Known::Inum),
            b"statfs" => Some(Known::Statfs),
            b"rindex" => Some(Known::ResourceIndex),
            b"quota" => Some(Known::Quota),
            _ => None,
        }
    }
}

/// Inodes that are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Master,
    Root,
    JournalIndex,
    PerNode,
    Inum,
    Statfs,
    ResourceIndex,
    Quota,
}

impl Known {
    fn banner(self) -> &'static str {
        match self {
            Self::Master => "-------------- Master directory -----------------",
            Self::Root => "--------------- Root directory ------------------",
            Self::JournalIndex => "--------------- Journal Index ------------------",
            Self::PerNode => "--------------- Per-node Dir -------------------",
            Self::Inum => "---------------- Inum file ---------------------",
            Self::Statfs => "---------------- statfs file -------------------",
            Self::ResourceIndex => "---------------- rindex file -------------------",
            Self::Quota => "---------------- Quota file --------------------",
        }
    }
}

fn group_lines(out: &mut Vec<u8>, group: &Group, bytes: &[u8]) {
    let address = group.address();
    put!(out, "RG #{} located at: {address} (0x{address:x})\n", group.index);
    structure::fields(out, &describe::RESOURCE_GROUP, bytes);
}

fn mb(bytes: u64) -> u64 {
    bytes >> 20
}

fn words_of(error: InspectError) -> String {
    error.to_string()
}

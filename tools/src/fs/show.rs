//! The superblock, resource groups, system files and free space.

use std::fmt::Write as _;

use gfs_check::inspect::{Inode, SYSTEM_FILES, Volume};
use gfs_format::bitmap::BlockState;
use gfs_format::describe::{INUM_RANGE, STATFS_CHANGE, SUPERBLOCK};
use gfs_format::resource_group::flags;
use gfs_format::small_files::Quota;
use serde_json::{Value, json};
use zerocopy::{FromBytes, IntoBytes};

use super::{Answer, fields, words};
use crate::output::Table;

pub(super) fn superblock(volume: &Volume) -> Answer {
    let bytes = volume.superblock.as_bytes();
    let mut text = String::new();
    for line in fields::text(&SUPERBLOCK, bytes).lines().filter(|line| !line.starts_with("sb_uuid")) {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "{:<28}{}", "sb_uuid", fields::uuid_text(&volume.superblock.uuid));
    let _ = writeln!(text, "{:<28}{}", "device blocks", volume.device_blocks());
    let mut json = fields::object(&SUPERBLOCK, bytes);
    json.insert("block".into(), json!(volume.superblock_block()));
    json.insert("device_blocks".into(), json!(volume.device_blocks()));
    Answer { text, json: Value::Object(json) }
}

pub(super) async fn groups(volume: &Volume) -> Result<Answer, String> {
    let headings =
        ["GROUP", "BLOCK", "LENGTH", "DATA", "BLOCKS", "FREE", "USED", "DINODES", "UNLINKED", "RUNS", "FLAGS"];
    let mut table = Table::new(&headings);
    let mut list = Vec::new();
    for group in volume.groups().map_err(words)? {
        let found = volume.group_use(group).await.map_err(words)?;
        let set = found.header.flags.get();
        let names: Vec<_> = flags::NAMES.iter().filter(|(flag, _)| set & flag != 0).map(|(_, name)| *name).collect();
        let [free, used, unlinked, dinodes] = found.counted;
        let numbers = [
            group.index as u64,
            group.address(),
            group.entry.length.get().into(),
            group.data_start(),
            group.entry.data_blocks.get().into(),
            free,
            used,
            dinodes,
            unlinked,
            found.free_runs.len() as u64,
        ];
        table.row(numbers.iter().map(u64::to_string).chain([names.join(",")]).collect());
        list.push(json!({
            "index": group.index, "block": group.address(), "length": group.entry.length.get(),
            "data_start": group.data_start(), "data_blocks": group.entry.data_blocks.get(),
            "free": free, "used": used, "dinodes": dinodes, "unlinked": unlinked, "free_runs": found.free_runs.len(),
            "header": { "free": found.header.free.get(), "dinodes": found.header.dinodes.get(), "flags": set,
                        "skip": found.header.skip.get(), "inode_generation": found.header.inode_generation.get() },
        }));
    }
    Ok(Answer { text: table.text(), json: json!({ "groups": list }) })
}

pub(super) async fn space(volume: &Volume) -> Result<Answer, String> {
    let found = volume.free_space().await.map_err(words)?;
    let bytes = volume.block_size().bytes();
    let size = |blocks: u64| format!("{blocks} blocks, {:.1} MiB", (blocks * bytes) as f64 / f64::from(1 << 20));
    let mut text = String::new();
    for (name, value) in [
        ("block size", bytes.to_string()),
        ("described by bitmaps", size(found.total)),
        ("free", size(found.free)),
        ("dinodes", found.dinodes.to_string()),
        ("unlinked, not yet freed", found.unlinked.to_string()),
        ("runs of free blocks", found.runs.to_string()),
        ("longest run", format!("{} at block {}", size(found.longest), found.longest_at)),
    ] {
        let _ = writeln!(text, "{name:<28}{value}");
    }
    for (length, blocks) in &found.by_length {
        let _ = writeln!(text, "{:<28}{}", format!("in runs from {length}"), size(*blocks));
    }
    let by_length: Vec<_> =
        found.by_length.iter().map(|(from, blocks)| json!({"from": from, "blocks": blocks})).collect();
    let json = json!({
        "block_size": bytes, "total": found.total, "free": found.free, "dinodes": found.dinodes,
        "unlinked": found.unlinked, "runs": found.runs, "longest": found.longest, "longest_at": found.longest_at,
        "by_length": by_length,
    });
    Ok(Answer { text, json })
}

pub(super) async fn system(volume: &Volume) -> Result<Answer, String> {
    let mut table = Table::new(&["NAME", "INODE", "SIZE", "BLOCKS", "CONTENT"]);
    let mut list = Vec::new();
    for name in SYSTEM_FILES {
        let inode = volume.system_file(name).await.map_err(words)?;
        row(volume, name, &inode, &mut table, &mut list).await?;
        if inode.is_directory() {
            for entry in volume.entries(&inode).await.map_err(words)? {
                if !matches!(&entry.name[..], b"." | b"..") {
                    let below = volume.inode(entry.address).await.map_err(words)?;
                    let name = format!("{name}/{}", entry.name.escape_ascii());
                    row(volume, &name, &below, &mut table, &mut list).await?;
                }
            }
        }
    }
    Ok(Answer { text: table.text(), json: json!({ "files": list }) })
}

async fn row(
    volume: &Volume,
    name: &str,
    inode: &Inode,
    table: &mut Table,
    list: &mut Vec<Value>,
) -> Result<(), String> {
    let content = content(volume, name, inode).await?;
    let (size, blocks) = (inode.dinode.size.get(), inode.dinode.blocks.get());
    let said = match &content {
        Value::Object(map) => map.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    };
    table.row(vec![name.to_string(), inode.address.to_string(), size.to_string(), blocks.to_string(), said]);
    list.push(json!({ "name": name, "inode": inode.address, "size": size, "blocks": blocks, "content": content }));
    Ok(())
}

/// What a system file says, in few words.
async fn content(volume: &Volume, name: &str, inode: &Inode) -> Result<Value, String> {
    let last = name.rsplit('/').next().unwrap_or(name);
    if inode.is_directory() {
        return Ok(json!({ "entries": inode.dinode.entries.get() }));
    }
    if last == "statfs" || last.starts_with("statfs_change") {
        return Ok(Value::Object(fields::object(&STATFS_CHANGE, inode.body())));
    }
    if last.starts_with("inum_range") {
        return Ok(Value::Object(fields::object(&INUM_RANGE, inode.body())));
    }
    if last == "inum" {
        let next = inode.body().first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        return Ok(json!({ "next": next }));
    }
    if last == "rindex" {
        let groups = volume.groups().map_err(words)?;
        let free = |group: &gfs_format::ResourceGroup| u64::from(group.free.get());
        let mut sum = 0;
        for group in groups {
            sum += free(&volume.group_use(group).await.map_err(words)?.header);
        }
        return Ok(json!({ "groups": groups.len(), "free": sum }));
    }
    if last == "quota" {
        return Ok(json!({ "ids": quotas(volume, inode).await? }));
    }
    Ok(Value::Null)
}

/// How many ids have a limit or a use. Looks only at the blocks that the file has: it is sparse and may be huge.
async fn quotas(volume: &Volume, inode: &Inode) -> Result<usize, String> {
    let is_used = |quota: &Quota| quota.limit.get() | quota.warn.get() | quota.value.get() != 0;
    let size = size_of::<Quota>() as u64;
    if inode.dinode.height.get() == 0 {
        let content = volume.content(inode).await.map_err(words)?;
        return Ok(content
            .chunks_exact(size as usize)
            .filter_map(|b| Quota::ref_from_bytes(b).ok())
            .filter(|q| is_used(q))
            .count());
    }
    let block = volume.block_size().bytes();
    let mut found = std::collections::BTreeSet::new();
    for extent in volume.extents(inode).await.map_err(words)? {
        for index in 0..extent.count {
            let bytes = volume.block(extent.block + index).await.map_err(words)?;
            let from = (extent.logical + index) * block;
            // A quota may lie across two blocks; any byte of its three numbers says that it is used.
            for (at, byte) in (from..).zip(bytes.iter()) {
                if *byte != 0 && at % size < 24 {
                    found.insert(at / size);
                }
            }
        }
    }
    Ok(found.len())
}

const _: () = assert!(BlockState::Free as usize == 0 && BlockState::Used as usize == 1);

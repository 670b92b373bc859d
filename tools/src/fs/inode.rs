//! Inodes and directories.

use std::fmt::Write as _;

use gfs_check::inspect::{Inode, Role, Volume};
use gfs_format::describe::DINODE;
use gfs_format::dinode::flags;
use serde_json::{Value, json};

use super::fields::{mode_text, time_text};
use super::{Answer, fields, number, words};
use crate::output::Table;

const S_IFMT: u32 = 0o170_000;
const S_IFLNK: u32 = 0o120_000;

/// The inode that a user has named: by path, or by block.
pub(super) async fn named(volume: &Volume, what: &str) -> Result<Inode, String> {
    match number(what) {
        Some(block) => volume.inode(block).await.map_err(words),
        None => volume.lookup(what.as_bytes()).await.map_err(words),
    }
}

pub(super) async fn inode(volume: &Volume, what: &str) -> Result<Answer, String> {
    let inode = named(volume, what).await?;
    let dinode = &inode.dinode;
    let mut text = fields::text(&DINODE, &inode.block);
    let mut json = fields::object(&DINODE, &inode.block);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<28}{value}");
    };
    line("mode", &mode_text(dinode.mode.get()));
    let names: Vec<_> = flags::names(dinode.flags.get()).collect();
    line("flags", if names.is_empty() { "-".into() } else { names.join(",") }.as_str());
    json.insert("flags".into(), json!(names));
    for (name, seconds, nanos) in [
        ("accessed", dinode.atime.get(), dinode.atime_nanos.get()),
        ("modified", dinode.mtime.get(), dinode.mtime_nanos.get()),
        ("changed", dinode.ctime.get(), dinode.ctime_nanos.get()),
    ] {
        line(name, &time_text(seconds, nanos));
    }
    if let Some(target) = link_target(&inode) {
        line("target", &target.escape_ascii().to_string());
        json.insert("target".into(), json!(target.escape_ascii().to_string()));
    }
    let blocks = volume.blocks_of(&inode).await.map_err(words)?;
    let of_role = |wanted: &str| blocks.iter().filter(|(_, role)| role.name() == wanted).count();
    let mut roles = Vec::new();
    for name in
        ["dinode", "indirect", "data", "hash-table", "leaf", "attribute-indirect", "attributes", "attribute-value"]
    {
        let count = of_role(name);
        if count > 0 {
            roles.push((name, count));
        }
    }
    let said = roles.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ");
    line("blocks", &format!("{} ({said})", blocks.len()));
    json.insert("roles".into(), roles.iter().map(|(name, count)| ((*name).to_string(), json!(count))).collect());
    let extents = volume.extents(&inode).await.map_err(words)?;
    if !extents.is_empty() {
        let mut table = Table::new(&["EXTENT", "IN-FILE", "BLOCK", "BLOCKS"]);
        for (index, extent) in extents.iter().enumerate() {
            table.row([index as u64, extent.logical, extent.block, extent.count].iter().map(u64::to_string).collect());
        }
        text.push_str(&table.text());
    }
    json.insert(
        "extents".into(),
        extents.iter().map(|e| json!({ "logical": e.logical, "block": e.block, "count": e.count })).collect(),
    );
    let attributes = volume.attributes(&inode).await.map_err(words)?;
    if !attributes.is_empty() {
        let mut table = Table::new(&["ATTRIBUTE", "BYTES", "BLOCK", "VALUE-BLOCKS"]);
        for attribute in &attributes {
            let blocks: Vec<_> = attribute.value_blocks.iter().map(u64::to_string).collect();
            let (len, block) = (attribute.value_len.to_string(), attribute.block.to_string());
            table.row(vec![attribute.full_name(), len, block, blocks.join(",")]);
        }
        text.push_str(&table.text());
    }
    let list = attributes.iter().map(
        |a| json!({ "name": a.full_name(), "bytes": a.value_len, "block": a.block, "value_blocks": a.value_blocks }),
    );
    json.insert("attributes".into(), list.collect());
    Ok(Answer { text, json: Value::Object(json) })
}

pub(super) async fn list(volume: &Volume, what: &str) -> Result<Answer, String> {
    let directory = named(volume, what).await?;
    let mut table = Table::new(&["INODE", "MODE", "LINKS", "UID", "GID", "SIZE", "MODIFIED", "NAME"]);
    let mut list = Vec::new();
    for entry in volume.entries(&directory).await.map_err(words)? {
        let name = entry.name.escape_ascii().to_string();
        // One damaged inode does not hide the others.
        let (cells, json) = match volume.inode(entry.address).await {
            Ok(inode) => {
                let d = &inode.dinode;
                let shown = match link_target(&inode) {
                    Some(target) => format!("{name} -> {}", target.escape_ascii()),
                    None => name.clone(),
                };
                let modified = time_text(d.mtime.get(), d.mtime_nanos.get());
                let cells = vec![
                    entry.address.to_string(),
                    mode_text(d.mode.get()),
                    d.link_count.get().to_string(),
                    d.uid.get().to_string(),
                    d.gid.get().to_string(),
                    d.size.get().to_string(),
                    modified.get(..19).unwrap_or(&modified).to_string(),
                    shown,
                ];
                let json = json!({
                    "name": name, "inode": entry.address, "formal": entry.formal, "kind": entry.kind,
                    "hash": entry.hash, "record_block": entry.block, "mode": d.mode.get(),
                    "links": d.link_count.get(), "uid": d.uid.get(), "gid": d.gid.get(), "size": d.size.get(),
                });
                (cells, json)
            }
            Err(error) => {
                let cells = vec![entry.address.to_string(), "?".into(), String::new(), String::new(), String::new()];
                let cells = [cells, vec![String::new(), error.to_string(), name.clone()]].concat();
                (cells, json!({ "name": name, "inode": entry.address, "error": error.to_string() }))
            }
        };
        table.row(cells);
        list.push(json);
    }
    Ok(Answer { text: table.text(), json: json!({ "inode": directory.address, "entries": list }) })
}

/// Where a symbolic link points.
fn link_target(inode: &Inode) -> Option<&[u8]> {
    let is_link = inode.dinode.mode.get() & S_IFMT == S_IFLNK && inode.dinode.height.get() == 0;
    is_link.then(|| inode.body().get(..inode.dinode.size.get() as usize)).flatten()
}

/// A block's role, with the level of pointers.
pub(super) fn role_text(role: Role) -> String {
    match role {
        Role::Indirect { level } => format!("indirect, level {level}"),
        other => other.name().to_string(),
    }
}

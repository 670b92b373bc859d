//! A block by its number: what it is and whose. And the way from a path to its blocks.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use block_core::BlockDevice;
use gfs_check::inspect::{Role, Volume};
use gfs_check::journal::{Owner, owners};
use gfs_format::describe::table_of;
use gfs_format::{BlockState, MetaHeader, MetaType};
use serde_json::{Value, json};

use super::{Answer, fields, inode, number, words};

pub(super) async fn block(volume: &Volume, device: Arc<dyn BlockDevice>, what: &str) -> Result<Answer, String> {
    let block =
        number(what).ok_or_else(|| format!("'{what}' is not a block number: decimal, or 0x and hexadecimal"))?;
    let bytes = volume.block(block).await.map_err(words)?;
    let kind = MetaHeader::kind_of(&bytes);
    let state = volume.state_of(block).await.map_err(words)?;
    let group = volume.group_of(block);
    let owner = owner(device, block).await?;
    let role = role(volume, owner.as_ref(), block).await;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<28}{value}");
    };
    line("block", format!("{block} (0x{block:x})"));
    line("type", kind.map_or("no metadata".into(), |kind| format!("{} ({kind:?})", kind as u32)));
    line("state", state.map_or("not in a bitmap", state_name).to_string());
    line("resource group", group.map_or("-".into(), |group| format!("{} at block {}", group.index, group.address())));
    line("owner", owner.as_ref().map_or("-".into(), Owner::to_string));
    if let Some(Owner::Inode { inode, .. }) = &owner {
        line("owner's inode", inode.to_string());
    }
    line("role", role.map_or("-".into(), inode::role_text));
    let mut json = json!({
        "block": block, "type": kind.map(|kind| kind as u32), "type_name": kind.map(name_of),
        "state": state.map(state_name), "group": group.map(|group| group.address()),
        "owner": owner_json(owner.as_ref()), "role": role.map(Role::name),
    });
    if let Some(kind) = kind {
        text.push_str(&fields::text(table_of(kind), &bytes));
        json["fields"] = Value::Object(fields::object(table_of(kind), &bytes));
    }
    Ok(Answer { text, json })
}

pub(super) async fn path(volume: &Volume, device: Arc<dyn BlockDevice>, what: &str) -> Result<Answer, String> {
    if let Some(block) = number(what) {
        let owner = owner(device, block).await?;
        let said = owner.as_ref().ok_or_else(|| format!("block {block}: nothing leads to it"))?.to_string();
        return Ok(Answer {
            text: format!("{said}\n"),
            json: json!({ "block": block, "owner": owner_json(owner.as_ref()) }),
        });
    }
    let found = volume.lookup(what.as_bytes()).await.map_err(words)?;
    let blocks = volume.blocks_of(&found).await.map_err(words)?;
    let mut text = format!("inode {}\n", found.address);
    let mut runs: Vec<(u64, u64, Role)> = Vec::new();
    for (block, role) in blocks {
        match runs.last_mut() {
            Some((start, count, last)) if *start + *count == block && *last == role => *count += 1,
            _ => runs.push((block, 1, role)),
        }
    }
    for (start, count, role) in &runs {
        let range = if *count == 1 { start.to_string() } else { format!("{start}-{}", start + count - 1) };
        let _ = writeln!(text, "{range:<24}{}", inode::role_text(*role));
    }
    let runs: Vec<_> = runs
        .iter()
        .map(|(start, count, role)| json!({ "block": start, "count": count, "role": role.name() }))
        .collect();
    Ok(Answer { text, json: json!({ "path": what, "inode": found.address, "blocks": runs }) })
}

async fn owner(device: Arc<dyn BlockDevice>, block: u64) -> Result<Option<Owner>, String> {
    let mut found = owners(device, &BTreeSet::from([block])).await.map_err(|error| error.to_string())?;
    Ok(found.remove(&block))
}

/// What the block is to the inode that owns it; `None` where that inode is too damaged to say.
async fn role(volume: &Volume, owner: Option<&Owner>, block: u64) -> Option<Role> {
    let Some(Owner::Inode { inode, .. }) = owner else { return None };
    let inode = volume.inode(*inode).await.ok()?;
    let blocks = volume.blocks_of(&inode).await.ok()?;
    blocks.into_iter().find(|(found, _)| *found == block).map(|(_, role)| role)
}

fn owner_json(owner: Option<&Owner>) -> Value {
    match owner {
        None => Value::Null,
        Some(Owner::Superblock) => json!({ "kind": "superblock" }),
        Some(Owner::ResourceGroup(address)) => json!({ "kind": "resource-group", "block": address }),
        Some(Owner::Inode { inode, path }) => {
            json!({ "kind": "inode", "inode": inode, "path": path.as_ref().map(|path| path.escape_ascii().to_string()) })
        }
    }
}

fn state_name(state: BlockState) -> &'static str {
    match state {
        BlockState::Free => "free",
        BlockState::Used => "used",
        BlockState::Unlinked => "unlinked",
        BlockState::Dinode => "dinode",
    }
}

fn name_of(kind: MetaType) -> String {
    format!("{kind:?}")
}

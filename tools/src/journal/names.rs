//! How blocks, flags and owners are called in text and in JSON.

use std::collections::{BTreeMap, BTreeSet};

use gfs_check::journal::{Journals, Log, Owner, Plan, Replayed, owners};
use gfs_format::MetaType;
use gfs_format::log::{descriptor, flags};
use serde_json::{Value, json};

/// What a block is; `None` is data.
pub fn block_type(kind: Option<MetaType>) -> &'static str {
    match kind {
        None => "data",
        Some(MetaType::Superblock) => "superblock",
        Some(MetaType::ResourceGroup) => "resource group",
        Some(MetaType::ResourceGroupBitmap) => "bitmap",
        Some(MetaType::Dinode) => "inode",
        Some(MetaType::Indirect) => "indirect",
        Some(MetaType::Leaf) => "leaf",
        Some(MetaType::JournaledData) => "journaled data",
        Some(MetaType::LogHeader) => "log header",
        Some(MetaType::LogDescriptor) => "log descriptor",
        Some(MetaType::ExtendedAttribute) => "attributes",
        Some(MetaType::ExtendedAttributeData) => "attribute value",
        Some(MetaType::LogBlock) => "log block",
        Some(MetaType::QuotaChange) => "quota change",
    }
}

/// What a descriptor describes.
pub fn descriptor_type(kind: u32) -> &'static str {
    match kind {
        descriptor::METADATA => "metadata",
        descriptor::REVOKE => "revokes",
        descriptor::JOURNALED_DATA => "journaled data",
        _ => "unknown",
    }
}

/// The flags of a header, as `gfs2_edit` spells them.
pub fn flag_names(bits: u32) -> String {
    flags::names(bits).collect::<Vec<_>>().join("/")
}

/// Owners of blocks, by block.
pub type Owners = BTreeMap<u64, Owner>;

/// Finds the owners of `blocks` in the filesystem as it would be after the replay of every dirty journal that can be
/// replayed: what a log is about may not be in place yet.
pub async fn find_owners(
    device: &std::sync::Arc<dyn block_core::BlockDevice>,
    journals: &Journals,
    blocks: &BTreeSet<u64>,
) -> Result<Owners, String> {
    let mut plans = Vec::new();
    for journal in &journals.list {
        if let Ok(log) = Log::read(journals, journal).await
            && let Ok(plan) = Plan::of(journals, &log)
        {
            plans.push(plan);
        }
    }
    let seen = Replayed::new(device.clone(), journals, &plans).await.map_err(|error| error.to_string())?;
    owners(std::sync::Arc::new(seen), blocks).await.map_err(|error| error.to_string())
}

/// An owner in JSON: an object, or null.
pub fn owner_json(owner: Option<&Owner>) -> Value {
    match owner {
        None => Value::Null,
        Some(Owner::Superblock) => json!({ "kind": "superblock" }),
        Some(Owner::ResourceGroup(address)) => json!({ "kind": "resource group", "block": address }),
        Some(Owner::Inode { inode, path }) => {
            let path = path.as_ref().map(|path| path.escape_ascii().to_string());
            json!({ "kind": "inode", "inode": inode, "path": path })
        }
    }
}

/// An owner in text; `-` for none.
pub fn owner_text(owner: Option<&Owner>) -> String {
    owner.map_or_else(|| "-".into(), Owner::to_string)
}

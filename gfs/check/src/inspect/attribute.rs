//! Extended attributes of an inode: names, sizes, and the blocks that hold them.

use gfs_format::dinode::flags;
use gfs_format::{MetaHeader, MetaType, eattr, validate};

use super::error::InspectError;
use super::tree::Role;
use super::volume::{Inode, Volume};

/// An attribute, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// One of `eattr::kind`.
    pub kind: u8,
    /// Without the prefix that the kind stands for.
    pub name: Vec<u8>,
    /// Bytes of its value.
    pub value_len: u32,
    /// Block that has the record.
    pub block: u64,
    /// Blocks of the value; none when it is in the record.
    pub value_blocks: Vec<u64>,
}

impl Attribute {
    /// The name with its prefix, as getfattr(1) shows it.
    pub fn full_name(&self) -> String {
        let prefix = match self.kind {
            eattr::kind::USER => "user.",
            eattr::kind::SYSTEM => "system.",
            eattr::kind::SECURITY => "security.",
            eattr::kind::TRUSTED => "trusted.",
            _ => "",
        };
        format!("{prefix}{}", self.name.escape_ascii())
    }
}

impl Volume {
    /// The attributes of an inode.
    pub async fn attributes(&self, inode: &Inode) -> Result<Vec<Attribute>, InspectError> {
        let mut found = Vec::new();
        for block in self.record_blocks(inode).await? {
            let bytes = self.typed(block, MetaType::ExtendedAttribute).await?;
            for record in eattr::records(&bytes[size_of::<MetaHeader>()..]) {
                let record = record.map_err(|error| InspectError::AttributeRecord { block, error })?;
                if record.is_unused() {
                    continue;
                }
                found.push(Attribute {
                    kind: record.header.kind,
                    name: record.name.to_vec(),
                    value_len: record.header.value_len.get(),
                    block,
                    value_blocks: record.pointers().filter(|block| *block != 0).collect(),
                });
            }
        }
        Ok(found)
    }

    /// Adds the blocks of an inode's attributes.
    pub(super) async fn attribute_blocks(
        &self,
        inode: &Inode,
        into: &mut Vec<(u64, Role)>,
    ) -> Result<(), InspectError> {
        if inode.dinode.eattr.get() == 0 {
            return Ok(());
        }
        if inode.dinode.flags.get() & flags::EA_INDIRECT != 0 {
            into.push((inode.dinode.eattr.get(), Role::AttributeIndirect));
        }
        into.extend(self.record_blocks(inode).await?.into_iter().map(|block| (block, Role::Attributes)));
        for attribute in self.attributes(inode).await? {
            into.extend(attribute.value_blocks.into_iter().map(|block| (block, Role::AttributeValue)));
        }
        Ok(())
    }

    /// The blocks of records: the one that the inode names, or those that an indirect block names.
    async fn record_blocks(&self, inode: &Inode) -> Result<Vec<u64>, InspectError> {
        let first = inode.dinode.eattr.get();
        if first == 0 {
            return Ok(Vec::new());
        }
        if inode.dinode.flags.get() & flags::EA_INDIRECT == 0 {
            return Ok(vec![first]);
        }
        let bytes = self.typed(first, MetaType::Indirect).await?;
        let area = &bytes[size_of::<MetaHeader>()..];
        validate::pointers(first, area, self.reach)?;
        Ok(area.as_chunks::<8>().0.iter().map(|p| u64::from_be_bytes(*p)).take_while(|block| *block != 0).collect())
    }
}

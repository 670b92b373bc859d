//! Extended attributes of an inode: one block of records, or a block of pointers to such blocks.

use gfs_format::dinode::flags;
use gfs_format::{BlockState, MetaHeader, MetaType, eattr};

use crate::report::Kind;
use crate::source::CheckError;
use crate::walk::{Inode, Walk, all_pointers};

impl Walk<'_> {
    /// Claims the attribute blocks; gives their number.
    pub(crate) async fn attributes(&mut self, inode: &Inode) -> Result<u64, CheckError> {
        let top = inode.dinode.eattr.get();
        if top == 0 {
            return Ok(0);
        }
        if !self.claim(inode.address, top, BlockState::Used) {
            return Ok(1);
        }
        if !inode.flag(flags::EA_INDIRECT) {
            return Ok(1 + self.attribute_block(inode, top).await?);
        }
        let Some(bytes) = self.typed(inode.address, top, MetaType::Indirect).await? else { return Ok(1) };
        let mut blocks = 1;
        for block in all_pointers(&bytes[size_of::<MetaHeader>()..]).take_while(|pointer| *pointer != 0) {
            blocks += 1;
            if self.claim(inode.address, block, BlockState::Used) {
                blocks += self.attribute_block(inode, block).await?;
            }
        }
        Ok(blocks)
    }

    /// Checks a block of records; gives the number of value blocks that it points to.
    async fn attribute_block(&mut self, inode: &Inode, at: u64) -> Result<u64, CheckError> {
        let Some(bytes) = self.typed(inode.address, at, MetaType::ExtendedAttribute).await? else { return Ok(0) };
        let mut blocks = 0;
        for record in eattr::records(&bytes[size_of::<MetaHeader>()..]) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    let expected = "attribute records that fill the block";
                    self.report.note_of(Kind::ExtendedAttribute, inode.address, at, expected, error);
                    break;
                }
            };
            if !record.is_unused() && record.name.is_empty() {
                let found = format!("none in the record at byte {}", record.offset);
                self.report.note_of(Kind::ExtendedAttribute, inode.address, at, "a name for each attribute", found);
            }
            for block in record.pointers() {
                blocks += 1;
                if self.claim(inode.address, block, BlockState::Used) {
                    self.typed(inode.address, block, MetaType::ExtendedAttributeData).await?;
                }
            }
        }
        Ok(blocks)
    }
}

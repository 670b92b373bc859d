//! Which blocks hold an inode's extended attributes; needed to free them. Reading and setting
//! them comes with the attributes themselves.

use std::sync::Arc;

use gfs_format::dinode::flags;
use gfs_format::small_files::ExtendedAttribute;
use gfs_format::{MetaHeader, MetaType};
use zerocopy::FromBytes;

use super::block::DinodeBlock;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::Glock;

impl Fs {
    /// Every block of the inode's extended attributes.
    pub(crate) async fn attribute_blocks(&self, glock: &Arc<Glock>, dinode: &DinodeBlock) -> Result<Vec<u64>> {
        let top = dinode.head().eattr.get();
        if top == 0 {
            return Ok(Vec::new());
        }
        let mut out = vec![top];
        let mut header_blocks = vec![top];
        if dinode.head().flags.get() & flags::EA_INDIRECT != 0 {
            let block = self.read_block(glock, top, MetaType::Indirect).await?;
            header_blocks = pointers(&block[size_of::<MetaHeader>()..]);
            out.extend(&header_blocks);
        }
        for number in header_blocks {
            let block = self.read_block(glock, number, MetaType::ExtendedAttribute).await?;
            out.extend(value_blocks(&block, number)?);
        }
        for block in &out {
            self.check_range(*block, 1)?;
        }
        Ok(out)
    }
}

fn pointers(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("invariant: 8 bytes")));
    words.filter(|pointer| *pointer != 0).collect()
}

/// Blocks with values too long for their header's block.
fn value_blocks(block: &[u8], number: u64) -> Result<Vec<u64>> {
    let corrupt = |found: String| Error::Corrupt {
        block: number,
        expected: "extended attributes that fill their block".into(),
        found,
    };
    let mut out = Vec::new();
    let mut at = size_of::<MetaHeader>();
    while at < block.len() {
        let (head, _) = ExtendedAttribute::ref_from_prefix(&block[at..]).map_err(|_| corrupt("a short one".into()))?;
        let length = head.record_len.get() as usize;
        let names = size_of::<ExtendedAttribute>() + usize::from(head.name_len);
        let start = names.next_multiple_of(8);
        let count = usize::from(head.pointer_count);
        if length < size_of::<ExtendedAttribute>()
            || length > block.len() - at
            || count > 0 && start + count * 8 > length
        {
            return Err(corrupt(format!("a record of {length} bytes at {at}")));
        }
        out.extend(pointers(&block[at + start.min(length)..at + (start + count * 8).min(length)]));
        at += length;
    }
    Ok(out)
}

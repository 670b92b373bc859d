//! The filesystem's own inodes: journals, per-node files, and which of them this mount takes.

use std::sync::Arc;

use gfs_format::{BlockSize, ResourceIndexEntry};
use zerocopy::FromBytes;

use crate::alloc::Group;
use crate::api::{InodeNumber, InodeRef};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{GlockKey, GlockKind, Guard, RequestClass};
use crate::inode::DinodeBlock;
use crate::journal::{Extent, Ring};

impl Fs {
    /// A system inode by name.
    pub(super) async fn system_inode(&self, dir: InodeRef, name: &str) -> Result<InodeRef> {
        self.find_system_inode(dir, name).await?.ok_or_else(|| Error::Corrupt {
            block: dir.number.0,
            expected: format!("an entry {name:?} in the system directory"),
            found: "none".into(),
        })
    }

    pub(super) async fn find_system_inode(&self, dir: InodeRef, name: &str) -> Result<Option<InodeRef>> {
        let glock = self.inode_glock(dir.number.0);
        let guard = glock.shared(RequestClass::Ordinary).await?;
        let dinode = self.inode(guard.glock(), dir).await?;
        if !dinode.is_directory() {
            return Err(Error::Corrupt {
                block: dir.number.0,
                expected: "a system directory".into(),
                found: format!("an inode of mode {:o}", dinode.head().mode.get()),
            });
        }
        let place = self.find_entry(&glock, &dinode, name.as_bytes()).await?;
        Ok(place.map(|place| InodeRef {
            number: InodeNumber(place.record.inode.address.get()),
            generation: place.record.inode.formal.get(),
        }))
    }

    /// The journals, in order of their numbers: inode and ring.
    pub(super) async fn journals(&self, jindex: InodeRef) -> Result<Vec<(InodeRef, Ring)>> {
        let mut out = Vec::new();
        while let Some(inode) = self.find_system_inode(jindex, &format!("journal{}", out.len())).await? {
            out.push((inode, self.journal_ring(inode).await?));
        }
        if out.is_empty() {
            return Err(Error::Corrupt {
                block: jindex.number.0,
                expected: "at least one journal".into(),
                found: "none".into(),
            });
        }
        Ok(out)
    }

    async fn journal_ring(&self, inode: InodeRef) -> Result<Ring> {
        let size = self.block_size();
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.shared(RequestClass::Ordinary).await?;
        let dinode = self.inode(guard.glock(), inode).await?;
        let blocks = dinode.head().size.get() / size.bytes();
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = 0;
        while at < blocks {
            let run = self.map(&glock, &dinode, at, blocks - at).await?;
            let corrupt = |found: &str| Error::Corrupt {
                block: dinode.address(),
                expected: "a journal without holes, of at least 256 and less than 2^32 blocks".into(),
                found: found.into(),
            };
            let start = run.disk.ok_or_else(|| corrupt("a hole"))?;
            match extents.last_mut() {
                Some(last) if last.start + last.count == start => last.count += run.count,
                _ => extents.push(Extent { start, count: run.count }),
            }
            at += run.count;
            if blocks > u64::from(u32::MAX) {
                return Err(corrupt("more"));
            }
        }
        Ring::new(extents, size).ok_or_else(|| Error::Corrupt {
            block: inode.number.0,
            expected: format!("a journal of at least {} blocks", crate::journal::BLOCKS_MIN),
            found: format!("{blocks}"),
        })
    }

    /// The resource groups.
    pub(super) async fn resource_index(&self, rindex: InodeRef, device_blocks: u64) -> Result<Vec<Arc<Group>>> {
        let glock = self.inode_glock(rindex.number.0);
        let guard = glock.shared(RequestClass::Ordinary).await?;
        let dinode = self.inode(guard.glock(), rindex).await?;
        let length = dinode.head().size.get();
        let most = device_blocks.saturating_mul(size_of::<ResourceIndexEntry>() as u64);
        if length > most.min(1 << 30) {
            return Err(Error::Corrupt {
                block: dinode.address(),
                expected: format!("a resource index of at most {} bytes", most.min(1 << 30)),
                found: length.to_string(),
            });
        }
        let bytes = self.read_data(&glock, &dinode, 0, length).await?;
        decode_index(&bytes, self.block_size(), device_blocks, &dinode)
    }

    /// Takes the first journal that no other mount has, from `preferred` on.
    pub(super) async fn claim_journal(&self, count: u32, preferred: u32) -> Result<(u32, Guard)> {
        for i in 0..count {
            let number = (preferred + i) % count;
            let key = GlockKey { kind: GlockKind::Journal, number: u64::from(number) };
            match self.glocks.get(key).try_exclusive().await {
                Ok(guard) => return Ok((number, guard)),
                Err(Error::Lock(dlm_api::LockError::WouldBlock)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Mount {
            why: format!("all {count} journals are in use: add one with gfs2_jadd, or unmount it on another node"),
        })
    }
}

fn decode_index(bytes: &[u8], size: BlockSize, device_blocks: u64, rindex: &DinodeBlock) -> Result<Vec<Arc<Group>>> {
    let corrupt = |found: String| Error::Corrupt {
        block: rindex.address(),
        expected: "resource groups within the device".into(),
        found,
    };
    let mut groups = Vec::new();
    for (number, chunk) in bytes.chunks(size_of::<ResourceIndexEntry>()).enumerate() {
        let entry = ResourceIndexEntry::ref_from_bytes(chunk).map_err(|_| corrupt("a part of an entry".into()))?;
        let group = Group::decode(entry, size, device_blocks)
            .ok_or_else(|| corrupt(format!("entry {number} at block {}", entry.address.get())))?;
        groups.push(Arc::new(group));
    }
    if groups.is_empty() {
        return Err(corrupt("no entry".into()));
    }
    Ok(groups)
}

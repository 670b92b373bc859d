//! Space in the filesystem: the master's totals, and each node's difference that is added to them
//! from time to time.

use gfs_format::dinode::DINODE_BYTES;
use gfs_format::small_files::StatfsChange;
use zerocopy::{FromBytes, IntoBytes};

use crate::api::Space;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::RequestClass;
use crate::inode::DinodeBlock;
use crate::journal::SpaceChange;

impl Fs {
    /// Space as this node knows it: other nodes' recent changes show when they are added.
    pub async fn statfs(&self) -> Result<Space> {
        let inode = self.system.statfs;
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.shared(RequestClass::Passes).await?;
        let master = master_of(&self.inode(guard.glock(), inode).await?)?;
        let local = self.log.space_change();
        let add = |total: u64, change: i64| total.saturating_add_signed(change);
        let free = add(master.free.get(), local.free);
        let dinodes = add(master.dinodes.get(), local.dinodes);
        Ok(Space {
            block_size: u32::try_from(self.block_size().bytes()).expect("invariant: at most 65536"),
            blocks: add(master.total.get(), local.total),
            blocks_free: free,
            inodes: dinodes + free,
            inodes_free: free,
        })
    }

    /// Adds this node's difference, and `extra` from a replayed journal, to the master.
    pub(crate) async fn sync_statfs(&self, extra: SpaceChange) -> Result<()> {
        let local = self.log.space_change();
        if local == SpaceChange::default() && extra == SpaceChange::default() {
            return Ok(());
        }
        let inode = self.system.statfs;
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.exclusive(RequestClass::Ordinary).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        let mut transaction = self.log.begin(4).await?;
        let local = self.log.space_change();
        let mut master = master_of(&dinode)?;
        let add = |total: u64, a: i64, b: i64| total.wrapping_add_signed(a).wrapping_add_signed(b).into();
        master.total = add(master.total.get(), local.total, extra.total);
        master.free = add(master.free.get(), local.free, extra.free);
        master.dinodes = add(master.dinodes.get(), local.dinodes, extra.dinodes);
        dinode.payload_mut()[..size_of::<StatfsChange>()].copy_from_slice(master.as_bytes());
        transaction.put(&glock, dinode.address(), dinode.to_bytes());
        transaction.clear_space_change(local);
        transaction.end();
        Ok(())
    }
}

fn master_of(dinode: &DinodeBlock) -> Result<StatfsChange> {
    let (master, _) = StatfsChange::read_from_prefix(dinode.payload()).map_err(|_| Error::Corrupt {
        block: dinode.address(),
        expected: format!("totals behind the first {DINODE_BYTES} bytes"),
        found: "a short block".into(),
    })?;
    Ok(master)
}

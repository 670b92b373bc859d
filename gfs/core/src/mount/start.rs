//! Mounting.
//!
//! 1. The superblock; nothing is locked before it makes sense.
//! 2. The lock `MOUNTED`: whoever gets it exclusively is the first, and holds it until every
//!    dirty journal is replayed; the others wait for it shared.
//! 3. A journal that no other mount has; its lock is kept.
//! 4. Replay: all journals as the first mounter, otherwise our own if it is dirty.
//! 5. The resource index, and the mount is usable.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use block_core::{BlockError, ByteLen, ByteOffset};
use gfs_format::Superblock;
use gfs_format::superblock::SUPERBLOCK_OFFSET;
use tracing::{info, warn};

use crate::alloc::GroupIndex;
use crate::api::{InodeNumber, InodeRef};
use crate::error::{Error, Result};
use crate::fs::{Fs, Ports, SystemInodes};
use crate::glock::{GlockKey, GlockOwner, GlockTable, Guard, RequestClass, nondisk};
use crate::journal::replay::{JournalParts, Totals, is_clean, newest_header, recover};
use crate::journal::{Extent, Faults, HeaderFacts, Log, LogParts, Ring, SpaceChange};

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    pub is_read_only: bool,
    /// Read-only, and no journal is taken or replayed.
    pub is_spectator: bool,
    /// Show, inherit and change access control lists (`-o acl`).
    pub has_acls: bool,
    /// The journal to try first; nodes that each have their own seldom meet.
    pub preferred_journal: u32,
    /// Deliberate mistakes, for the simulator.
    pub faults: Faults,
}

impl Fs {
    /// Mounts the filesystem on the device.
    pub async fn mount(ports: Ports, options: MountOptions) -> Result<Arc<Fs>> {
        let superblock = read_superblock(&ports).await?;
        let glocks = GlockTable::new(ports.locks.clone(), ports.host.clone(), ports.caches.clone());
        let reader = Fs::reader(&ports, superblock, glocks.clone());
        let device_blocks = ports.device.geometry().size().0 / reader.block_size().bytes();
        let mut guards = Vec::new();
        let mounted = glocks.get(GlockKey::nondisk(nondisk::MOUNTED));
        let mut first = None;
        // A spectator does not count: it must not keep the next mount from being the first.
        if !options.is_spectator {
            match mounted.try_exclusive().await {
                Ok(guard) => first = Some(guard),
                Err(Error::Lock(dlm_api::LockError::WouldBlock)) => {
                    guards.push(mounted.shared(RequestClass::Ordinary).await?);
                }
                Err(error) => return Err(error),
            }
        }
        let master = reference(&superblock.master_directory);
        let jindex = reader.system_inode(master, "jindex").await?;
        let per_node = reader.system_inode(master, "per_node").await?;
        let journals = reader.journals(jindex).await?;
        let count = u32::try_from(journals.len()).map_err(|_| Error::Invalid)?;
        let slot = if options.is_spectator {
            0
        } else {
            let (slot, guard) = reader.claim_journal(count, options.preferred_journal % count).await?;
            guards.push(guard);
            slot
        };
        let mut facts = Vec::new();
        for (number, (inode, _)) in journals.iter().enumerate() {
            let statfs = reader.system_inode(per_node, &format!("statfs_change{number}")).await?;
            let quota = reader.system_inode(per_node, &format!("quota_change{number}")).await?;
            facts.push(HeaderFacts {
                journal_inode: inode.number.0,
                statfs_inode: statfs.number.0,
                quota_inode: quota.number.0,
            });
        }
        let statfs = reader.system_inode(master, "statfs").await?;
        // As the first, all of them; later only our own, and the others may have the totals in memory.
        let ours = slot as usize..slot as usize + 1;
        let (range, totals) = match (options.is_spectator, &first) {
            (true, _) => (0..0, Totals::Caller),
            (false, Some(_)) => (0..journals.len(), Totals::Replay { statfs: statfs.number.0 }),
            (false, None) => (ours, Totals::Caller),
        };
        let parts: Vec<JournalParts<'_>> =
            range.clone().map(|number| JournalParts { ring: &journals[number].1, facts: &facts[number] }).collect();
        let mut lost_space = SpaceChange::default();
        let mut is_anything_replayed = false;
        let recovered = recover(&ports.device, &parts, totals, ports.host.wall_time()).await;
        let recovered = recovered.map_err(|error| match error {
            Error::Device(BlockError::ReadOnly) => Error::Mount { why: unreplayed() },
            other => other,
        })?;
        for (number, done) in range.zip(recovered) {
            let Some(done) = done else { continue };
            info!(journal = number, blocks = done.blocks, revoked = done.revoked, "replayed");
            is_anything_replayed = true;
            lost_space = done.space;
        }
        if options.is_spectator {
            for (number, (_, ring)) in journals.iter().enumerate() {
                if !is_clean(&newest_header(&ports.device, ring).await?) {
                    warn!(journal = number, "not replayed: what is seen is old, unless another node has it in use");
                }
            }
        }
        // What was read before the replay may have been written by it.
        glocks.release_inodes().await?;
        let rindex = reader.system_inode(master, "rindex").await?;
        let groups = reader.resource_index(rindex, device_blocks).await?;
        let ring = journals[slot as usize].1.clone();
        let newest = newest_header(&ports.device, &ring).await?;
        let log = Log::new(LogParts {
            device: ports.device.clone(),
            host: ports.host.clone(),
            ring,
            facts: facts[slot as usize],
            newest_block: newest.block.get(),
            newest_sequence: newest.sequence.get(),
            faults: options.faults,
        });
        if let Some(first) = first {
            // Lowered before it is taken again: others may be mounting by now.
            drop(first);
            guards.push(mounted.shared(RequestClass::Ordinary).await?);
        }
        let fs = Arc::new(Fs {
            log,
            groups: GroupIndex::new(groups, slot as usize, journals.len()),
            system: SystemInodes { root: reference(&superblock.root_directory), statfs },
            is_read_only: options.is_read_only || options.is_spectator,
            has_acls: options.has_acls,
            mount_guards: Mutex::new(guards),
            slot,
            ..reader
        });
        let owner: Arc<dyn GlockOwner> = fs.clone();
        glocks.set_owner(Arc::downgrade(&owner));
        if lost_space != SpaceChange::default() && !options.is_spectator {
            fs.sync_statfs(lost_space).await?;
            if fs.is_read_only {
                fs.log.flush().await?;
            }
        }
        let host = fs.host.clone();
        host.spawn(Box::pin(super::background::run(Arc::downgrade(&fs))));
        if is_anything_replayed && !fs.is_read_only {
            host.spawn(Box::pin(crate::inode::reclaim::run(Arc::downgrade(&fs))));
        }
        info!(slot, "mounted");
        Ok(fs)
    }

    /// A filesystem that can only be read, to find the rest with.
    fn reader(ports: &Ports, superblock: Superblock, glocks: Arc<GlockTable>) -> Fs {
        let placeholder =
            Ring::new(vec![Extent { start: 0, count: crate::journal::BLOCKS_MIN }], superblock.block_size())
                .expect("invariant: enough blocks for a ring");
        let log = Log::new(LogParts {
            device: ports.device.clone(),
            host: ports.host.clone(),
            ring: placeholder,
            facts: HeaderFacts::default(),
            newest_block: 0,
            newest_sequence: 0,
            faults: Faults::default(),
        });
        log.stop();
        let root = reference(&superblock.root_directory);
        Fs {
            device: ports.device.clone(),
            host: ports.host.clone(),
            caches: ports.caches.clone(),
            superblock,
            glocks,
            log,
            groups: GroupIndex::new(Vec::new(), 0, 1),
            system: SystemInodes { root, statfs: root },
            is_read_only: true,
            chores: tokio::sync::Mutex::new(()),
            has_acls: false,
            unnamed: Mutex::default(),
            is_withdrawn: AtomicBool::new(false),
            withdrawn_by: OnceLock::new(),
            is_unmounted: AtomicBool::new(false),
            mount_guards: Mutex::new(Vec::<Guard>::new()),
            slot: 0,
        }
    }
}

fn reference(number: &gfs_format::InodeNumberPair) -> InodeRef {
    InodeRef { number: InodeNumber(number.address.get()), generation: number.formal.get() }
}

async fn read_superblock(ports: &Ports) -> Result<Superblock> {
    let geometry = ports.device.geometry();
    let refuse = |why: String| Error::Mount { why };
    if geometry.size().0 < SUPERBLOCK_OFFSET + 4096 {
        return Err(refuse(format!("the device has {}: too small to hold a GFS2 filesystem", geometry.size())));
    }
    let bytes = ports.device.read(ByteOffset(SUPERBLOCK_OFFSET), ByteLen(4096)).await?;
    let superblock = Superblock::decode(&bytes).map_err(|error| refuse(error.to_string()))?;
    if superblock.block_size().bytes() < u64::from(geometry.sector) {
        return Err(refuse(format!(
            "the filesystem's blocks of {} bytes are smaller than the device's sectors of {} bytes",
            superblock.block_size().bytes(),
            geometry.sector
        )));
    }
    Ok(superblock)
}

fn unreplayed() -> String {
    "a journal holds changes that are not in place yet, and the device cannot be written: make it writable, or work \
     on a copy; -o norecovery shows what is in place, which may be old and inconsistent"
        .into()
}

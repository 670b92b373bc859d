//! Renaming and exchanging.

use std::sync::Arc;

use gfs_format::dinode::flags;

use super::attr::check_name;
use super::block::DinodeBlock;
use super::unlink::{ENTRY_DIRECTORY, names_itself, reference};
use crate::alloc::GroupEdit;
use crate::api::{InodeNumber, InodeRef, RenameMode};
use crate::dir::Place;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, GlockKey, Guard, RequestClass, nondisk};

/// How often a rename starts again because a name changed before it held its locks.
const RETRIES: u32 = 16;

/// A directory with its name in the rename.
struct Side<'a> {
    dir: InodeRef,
    name: &'a [u8],
    glock: Arc<Glock>,
}

/// An inode that the rename touches, under its exclusive glock.
struct Held {
    inode: InodeRef,
    glock: Arc<Glock>,
    dinode: DinodeBlock,
}

impl Fs {
    /// Gives `from_name` of `from_dir` the name `to_name` in `to_dir`.
    pub async fn rename(
        &self,
        from_dir: InodeRef,
        from_name: &[u8],
        to_dir: InodeRef,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.check_writable()?;
        check_name(from_name)?;
        check_name(to_name)?;
        let is_move = from_dir.number != to_dir.number;
        // A move between directories changes the tree: alone in the cluster, so that nobody who
        // holds a directory and its child can meet it the other way round.
        let rename = self.glocks.get(GlockKey::nondisk(nondisk::RENAME));
        let _tree = if is_move {
            rename.exclusive(RequestClass::Ordinary).await?
        } else {
            rename.shared(RequestClass::Ordinary).await?
        };
        let from = Side { dir: from_dir, name: from_name, glock: self.inode_glock(from_dir.number.0) };
        let to = Side { dir: to_dir, name: to_name, glock: self.inode_glock(to_dir.number.0) };
        for _ in 0..RETRIES {
            match self.rename_once(&from, &to, mode, is_move).await {
                // The inode behind a name went away between looking and locking.
                Err(Error::Stale) => {}
                Ok(freed) => {
                    if let Some(inode) = freed {
                        self.free_if_unlinked(inode).await?;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Stale)
    }

    /// Returns the inode that lost its last name.
    async fn rename_once(
        &self,
        from: &Side<'_>,
        to: &Side<'_>,
        mode: RenameMode,
        is_move: bool,
    ) -> Result<Option<InodeRef>> {
        if is_move {
            self.check_not_below(from, to, mode).await?;
        }
        let (_dir_guards, mut from_dir, mut to_dir) = self.hold_directories(from, to, is_move).await?;
        // The kernel moves its own entries, with the lifetimes they have: whoever drains a
        // directory from here on must know both names.
        self.caches.announce_name(from.dir.number.0, from.name);
        self.caches.announce_name(to.dir.number.0, to.name);
        let is_drained = from.glock.lifetime().is_none() || to.glock.lifetime().is_none();
        let source = self.find_entry(&from.glock, &from_dir, from.name).await?.ok_or(Error::NotFound)?;
        let target_dir = to_dir.as_ref().unwrap_or(&from_dir);
        let target = self.find_entry(&to.glock, target_dir, to.name).await?;
        match (&target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Error::Exists),
            (None, RenameMode::Exchange) => return Err(Error::NotFound),
            _ => {}
        }
        let source_ref = reference(&source);
        let target_ref = target.as_ref().map(reference);
        if target_ref == Some(source_ref) {
            return Ok(None);
        }
        let is_dir = |inode: InodeRef| inode.number == from.dir.number || inode.number == to.dir.number;
        if is_dir(source_ref) || target_ref.is_some_and(|target| target.number == source_ref.number) {
            return Err(self.found(names_itself(from.dir)));
        }
        if target_ref.is_some_and(|target| target.number == to.dir.number) {
            return Err(self.found(names_itself(to.dir)));
        }
        if target_ref.is_some_and(|target| target.number == from.dir.number) {
            // The target is the directory that the source is in: not empty, and held already.
            return Err(if mode == RenameMode::Exchange { Error::Invalid } else { Error::NotEmpty });
        }
        let is_directory = |place: &Place| place.record.kind == ENTRY_DIRECTORY;
        let wanted = std::iter::once((source_ref, is_directory(&source)))
            .chain(target.as_ref().map(|target| (reference(target), is_directory(target))));
        let (_guards, mut held) = self.hold_inodes(wanted.collect()).await?;
        check_flags(&from_dir, target_dir, &held, target.is_some())?;
        let mut target_held = target_ref.map(|_| held.pop().expect("invariant: the target was held"));
        let mut source_held = held.pop().expect("invariant: the source was held");
        if let Some(target) = &target_held
            && mode != RenameMode::Exchange
        {
            check_replace(&source_held.dinode, &target.dinode)?;
        }
        if target.is_none() {
            let dir = to_dir.as_mut().unwrap_or(&mut from_dir);
            if dir.head().link_count.get() == 0 {
                return Err(Error::NotFound);
            }
            self.io(self.make_room(&to.glock, dir, to.name).await)?;
        }
        let mut group: Option<GroupEdit> = None;
        let mut freed = None;
        if let Some(target) = &mut target_held
            && mode != RenameMode::Exchange
        {
            group = self.drop_link(&mut target.dinode).await?;
            freed = group.is_some().then_some(target.inode);
        }
        let log_blocks = group.as_ref().map_or(0, |group| group.log_blocks()) + 16;
        let mut transaction = self.io(self.log.begin(log_blocks).await)?;
        let changed = self
            .move_entries(
                from,
                to,
                mode,
                &mut from_dir,
                &mut to_dir,
                &mut source_held,
                &mut target_held,
                &mut transaction,
            )
            .await;
        self.io(changed)?;
        transaction.put(&from.glock, from_dir.address(), from_dir.to_bytes());
        if let Some(dir) = &to_dir {
            transaction.put(&to.glock, dir.address(), dir.to_bytes());
        }
        for held in std::iter::once(&source_held).chain(&target_held) {
            transaction.put(&held.glock, held.dinode.address(), held.dinode.to_bytes());
        }
        if let Some(group) = group {
            group.finish(&mut transaction);
        }
        transaction.end();
        if is_drained {
            // The drain may have listed the names before ours was among them.
            self.caches.drop_names(from.dir.number.0).await;
            self.caches.drop_names(to.dir.number.0).await;
        }
        Ok(freed)
    }

    async fn hold_directories(
        &self,
        from: &Side<'_>,
        to: &Side<'_>,
        is_move: bool,
    ) -> Result<(Vec<Guard>, DinodeBlock, Option<DinodeBlock>)> {
        let mut guards = Vec::new();
        let mut glocks = vec![&from.glock];
        if is_move {
            glocks.push(&to.glock);
        }
        glocks.sort_by_key(|glock| glock.key());
        for glock in glocks {
            guards.push(glock.exclusive(RequestClass::Passes).await?);
        }
        let from_dir = self.inode(&from.glock, from.dir).await?;
        let to_dir = if is_move { Some(self.inode(&to.glock, to.dir).await?) } else { None };
        for dir in std::iter::once(&from_dir).chain(&to_dir) {
            if !dir.is_directory() {
                return Err(Error::NotDirectory);
            }
        }
        Ok((guards, from_dir, to_dir))
    }

    /// Locks inodes, each with whether it is a directory: directories first, since others take a
    /// file while they hold its directory; then by number. The result has them in the order of
    /// the arguments.
    async fn hold_inodes(&self, wanted: Vec<(InodeRef, bool)>) -> Result<(Vec<Guard>, Vec<Held>)> {
        let mut glocks: Vec<_> =
            wanted.iter().map(|(inode, is_directory)| (!is_directory, self.inode_glock(inode.number.0))).collect();
        let in_order: Vec<_> = glocks.iter().map(|(_, glock)| glock.clone()).collect();
        glocks.sort_by_key(|(is_file, glock)| (*is_file, glock.key()));
        let mut guards = Vec::new();
        for (_, glock) in &glocks {
            guards.push(glock.exclusive(RequestClass::Passes).await?);
        }
        let mut held = Vec::new();
        for ((inode, _), glock) in wanted.into_iter().zip(in_order) {
            let dinode = self.inode(&glock, inode).await?;
            held.push(Held { inode, glock, dinode });
        }
        Ok((guards, held))
    }

    /// Changes entries, `..` and link counts; nothing is put but leaves.
    #[expect(clippy::too_many_arguments, reason = "the four inodes of a rename and what happens to them")]
    async fn move_entries(
        &self,
        from: &Side<'_>,
        to: &Side<'_>,
        mode: RenameMode,
        from_dir: &mut DinodeBlock,
        to_dir: &mut Option<DinodeBlock>,
        source: &mut Held,
        target: &mut Option<Held>,
        transaction: &mut crate::journal::Transaction<'_>,
    ) -> Result<()> {
        let now = self.wall_time();
        let (source_number, source_kind) = (source.dinode.head().number, source.dinode.entry_kind());
        let is_move = to_dir.is_some();
        {
            let dir = to_dir.as_mut().unwrap_or(from_dir);
            match target {
                Some(_) => {
                    let place = self.find_entry(&to.glock, dir, to.name).await?.ok_or(Error::NotFound)?;
                    self.redirect_entry(&to.glock, dir, transaction, &place, source_number, source_kind).await?;
                }
                None => {
                    self.add_entry(&to.glock, dir, transaction, to.name, source_number, source_kind).await?;
                }
            }
        }
        let place = self.find_entry(&from.glock, from_dir, from.name).await?.ok_or(Error::NotFound)?;
        match target {
            Some(target) if mode == RenameMode::Exchange => {
                let (number, kind) = (target.dinode.head().number, target.dinode.entry_kind());
                self.redirect_entry(&from.glock, from_dir, transaction, &place, number, kind).await?;
                target.dinode.touch(now, false);
                if is_move && target.dinode.is_directory() {
                    self.reparent(target, from_dir, transaction).await?;
                }
            }
            _ => self.remove_entry(&from.glock, from_dir, transaction, &place).await?,
        }
        source.dinode.touch(now, false);
        // Links that `..` of each side holds on its directory.
        let source_links = i64::from(source.dinode.is_directory());
        let target_links = target.as_ref().map_or(0, |target| i64::from(target.dinode.is_directory()));
        let exchanged = if mode == RenameMode::Exchange { target_links } else { 0 };
        if let Some(dir) = to_dir {
            if source.dinode.is_directory() {
                self.reparent(source, dir, transaction).await?;
            }
            add_links(dir, source_links - target_links);
            add_links(from_dir, exchanged - source_links);
        } else {
            add_links(from_dir, exchanged - target_links);
        }
        Ok(())
    }

    /// Points `..` of a directory to its new parent.
    async fn reparent(
        &self,
        child: &mut Held,
        parent: &DinodeBlock,
        transaction: &mut crate::journal::Transaction<'_>,
    ) -> Result<()> {
        let place = self.find_entry(&child.glock, &child.dinode, b"..").await?.ok_or_else(|| Error::Corrupt {
            block: child.dinode.address(),
            expected: "an entry ..".into(),
            found: "none".into(),
        })?;
        let number = parent.head().number;
        let mtime = (child.dinode.head().mtime, child.dinode.head().mtime_nanos);
        self.redirect_entry(&child.glock, &mut child.dinode, transaction, &place, number, 4).await?;
        // The directory's content is the same to its users.
        let head = child.dinode.head_mut();
        (head.mtime, head.mtime_nanos) = mtime;
        Ok(())
    }

    /// Refuses to move a directory below itself. The rename glock is held: the tree stands still.
    async fn check_not_below(&self, from: &Side<'_>, to: &Side<'_>, mode: RenameMode) -> Result<()> {
        let source = self.peek(from).await?.ok_or(Error::NotFound)?;
        self.check_ancestors(to.dir, source).await?;
        if mode == RenameMode::Exchange
            && let Some(target) = self.peek(to).await?
        {
            self.check_ancestors(from.dir, target).await?;
        }
        Ok(())
    }

    async fn peek(&self, side: &Side<'_>) -> Result<Option<InodeRef>> {
        let _guard = side.glock.shared(RequestClass::Passes).await?;
        let dir = self.inode(&side.glock, side.dir).await?;
        if !dir.is_directory() {
            return Err(Error::NotDirectory);
        }
        Ok(self.find_entry(&side.glock, &dir, side.name).await?.as_ref().map(reference))
    }

    /// Fails if `wanted` is `dir` or above it.
    async fn check_ancestors(&self, dir: InodeRef, wanted: InodeRef) -> Result<()> {
        let mut at = dir;
        // Deeper than any path that can be typed, and an end for a tree with a circle.
        for _ in 0..100_000 {
            if at == wanted {
                return Err(Error::Invalid);
            }
            if at.number == self.root().number {
                return Ok(());
            }
            let glock = self.inode_glock(at.number.0);
            let _guard = glock.shared(RequestClass::Passes).await?;
            let dinode = self.inode(&glock, at).await?;
            if !dinode.is_directory() {
                return Err(Error::NotDirectory);
            }
            let Some(up) = self.find_entry(&glock, &dinode, b"..").await? else { return Err(Error::Stale) };
            at = InodeRef {
                number: InodeNumber(up.record.inode.address.get()),
                generation: up.record.inode.formal.get(),
            };
        }
        Err(Error::Corrupt { block: dir.number.0, expected: "a way to the root".into(), found: "a circle".into() })
    }
}

/// Refuses what the flags of the inodes forbid: a name is taken away in the first directory, and in the second if it
/// is there already.
fn check_flags(from_dir: &DinodeBlock, to_dir: &DinodeBlock, held: &[Held], has_target: bool) -> Result<()> {
    let has = |dinode: &DinodeBlock, wanted| dinode.head().flags.get() & wanted != 0;
    let is_fixed = flags::IMMUTABLE | flags::APPEND_ONLY;
    let is_forbidden = has(from_dir, is_fixed)
        || has(to_dir, if has_target { is_fixed } else { flags::IMMUTABLE })
        || held.iter().any(|held| has(&held.dinode, is_fixed));
    if is_forbidden { Err(Error::NotPermitted) } else { Ok(()) }
}

fn add_links(dir: &mut DinodeBlock, change: i64) {
    let head = dir.head_mut();
    let links = i64::from(head.link_count.get()) + change;
    head.link_count = u32::try_from(links.max(0)).unwrap_or(u32::MAX).into();
}

fn check_replace(source: &DinodeBlock, target: &DinodeBlock) -> Result<()> {
    match (source.is_directory(), target.is_directory()) {
        (true, false) => Err(Error::NotDirectory),
        (false, true) => Err(Error::IsDirectory),
        (true, true) if !Fs::is_empty_directory(target) => Err(Error::NotEmpty),
        _ => Ok(()),
    }
}

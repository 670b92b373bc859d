//! A node's system calls: what its kernel does around each request to the filesystem, with every
//! request and every use of a cache written into the history.
//!
//! A node has a kernel with caches in front of its mount, or none: then requests reach the mount
//! as they come, with nothing that would order them.

mod allocate;
mod xattr;

use std::sync::Arc;

use bytes::Bytes;
use gfs_core::{
    Attributes, Caller, Error, Fs, InodeRef, Lifetime, Lookup, NewInode, RenameMode, RequestOrigin, SetAttributes,
    WriteAt,
};
use tokio::sync::{Mutex, OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use crate::checkers::content::{ContentOperation, Tag, pattern};
use crate::checkers::history::{History, Started};
use crate::checkers::tree::{Answer, Attempt, Kind, Name, Seen};
use crate::executor::Sim;
use crate::kernel::{Change, Kernel, Moment, PAGE, PageState};

/// One mount and what is in front of it.
#[derive(Clone)]
pub struct Node {
    pub number: u32,
    pub fs: Arc<Fs>,
    pub kernel: Option<Arc<Kernel>>,
    pub history: Arc<History>,
    pub sim: Sim,
    /// Serialises renames between directories, as a kernel does.
    pub rename: Arc<Mutex<()>>,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPath {
    /// Past the page cache.
    Direct,
    Cached,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A task of a node.
#[derive(Clone)]
pub struct Process {
    pub node: Node,
    pub task: u32,
}

impl Process {
    pub fn root(&self) -> InodeRef {
        self.node.fs.root()
    }

    /// Finds a name; `None` if it is missing.
    pub async fn lookup(&self, dir: InodeRef, name: &Name) -> Result<Option<InodeRef>, Error> {
        if let Some(found) = self.cached_name(dir, name) {
            return Ok(found);
        }
        let _shared = self.share(dir).await;
        self.ask_name(dir, name).await
    }

    pub async fn stat(&self, inode: InodeRef) -> Result<Attributes, Error> {
        let started = self.start("stat", inode);
        if let Some(attributes) = self.node.kernel.as_ref().and_then(|kernel| kernel.attributes(inode)) {
            self.record_attributes(started, inode, &attributes);
            return Ok(attributes);
        }
        let moment = self.moment();
        let result = self.node.fs.getattr(inode).await;
        match result {
            Ok(reply) => {
                self.record_attributes(started, inode, &reply.attributes);
                self.remember_attributes(&reply.attributes, reply.lifetime, moment);
                Ok(reply.attributes)
            }
            Err(error) => self.refused(started, Attempt::Attributes { inode }, error),
        }
    }

    /// The inode's type, which a kernel remembers for ever.
    pub async fn kind(&self, inode: InodeRef) -> Result<Kind, Error> {
        Ok(kind_of_mode(self.stat(inode).await?.mode))
    }

    pub async fn chmod(&self, inode: InodeRef, permissions: u32) -> Result<(), Error> {
        let _own = self.own(inode).await;
        let _change = self.change(&[inode]);
        let started = self.start("chmod", inode);
        let change = SetAttributes { mode: Some(permissions), ..SetAttributes::default() };
        let attempt = Attempt::SetPermissions { inode, permissions };
        let result = self.node.fs.setattr(inode, change).await;
        self.record(started, attempt, result.as_ref().map(|attributes| Answer::Seen(seen(attributes))));
        result.map(drop)
    }

    pub async fn truncate(&self, inode: InodeRef, size: u64) -> Result<(), Error> {
        let _own = self.own(inode).await;
        let _change = self.change(&[inode]);
        let started = self.start("truncate", inode);
        let change = SetAttributes { size: Some(size), ..SetAttributes::default() };
        match self.node.fs.setattr(inode, change).await {
            Ok(attributes) => {
                if attributes.size != size {
                    let found = attributes.size;
                    self.node.sim.violated(format!("a truncate of {inode:?} to {size} says that it has {found}"));
                }
                self.node.history.content(started, inode, ContentOperation::Truncate(size));
                Ok(())
            }
            Err(error) => self.refused(started, Attempt::Touch { inode }, error),
        }
    }

    pub async fn readlink(&self, inode: InodeRef) -> Result<(), Error> {
        let started = self.start("readlink", inode);
        let result = self.node.fs.readlink(inode).await;
        let answer = result.as_ref().map(|target| Answer::Target(target.as_slice().into()));
        self.record(started, Attempt::Readlink { inode }, answer);
        result.map(drop)
    }

    pub async fn create(&self, dir: InodeRef, name: &Name, kind: Kind, permissions: u32) -> Result<InodeRef, Error> {
        let _own = self.own(dir).await;
        if self.node.kernel.is_some() && self.known_name(dir, name).await?.is_some() {
            return Err(Error::Exists);
        }
        let _change = self.change(&[dir]);
        let moment = self.forget_name(dir, name);
        let target: Arc<[u8]> = Arc::from(format!("target of {name}").as_bytes());
        let (what, target) = match kind {
            Kind::File => (NewInode::File { mode: permissions }, None),
            Kind::Directory => (NewInode::Directory { mode: permissions }, None),
            Kind::Symlink => (NewInode::Symlink { target: target.to_vec() }, Some(target)),
        };
        // A symlink's permissions are nobody's choice.
        let permissions = if kind == Kind::Symlink { 0o777 } else { permissions };
        let started = self.start("create", dir);
        let attempt = Attempt::Create { dir, name: name.clone(), kind, permissions, target };
        match self.node.fs.create(Caller::default(), dir, name.as_bytes(), what).await {
            Ok(entry) => {
                let inode = inode_of(&entry.attributes);
                self.record(started, attempt, Ok(Answer::Seen(seen(&entry.attributes))));
                self.remember_name(dir, name, Some(inode), entry.name_lifetime, moment);
                Ok(inode)
            }
            Err(error) => self.refused(started, attempt, error),
        }
    }

    pub async fn link(&self, inode: InodeRef, dir: InodeRef, name: &Name) -> Result<(), Error> {
        let _own = self.own(dir).await;
        if self.node.kernel.is_some() && self.known_name(dir, name).await?.is_some() {
            return Err(Error::Exists);
        }
        let _own_inode = self.own(inode).await;
        let _change = self.change(&[dir, inode]);
        let moment = self.forget_name(dir, name);
        let started = self.start("link", inode);
        let attempt = Attempt::Link { inode, dir, name: name.clone() };
        match self.node.fs.link(inode, dir, name.as_bytes()).await {
            Ok(entry) => {
                self.record(started, attempt, Ok(Answer::Seen(seen(&entry.attributes))));
                self.remember_name(dir, name, Some(inode), entry.name_lifetime, moment);
                Ok(())
            }
            Err(error) => self.refused(started, attempt, error),
        }
    }

    pub async fn unlink(&self, dir: InodeRef, name: &Name) -> Result<(), Error> {
        let _own = self.own(dir).await;
        let victim = self.victim(dir, name).await?;
        let _own_victim = match victim {
            Some((inode, Kind::File | Kind::Symlink)) => self.own(inode).await,
            Some((_, Kind::Directory)) | None => None,
        };
        let _change =
            self.change(&[Some(dir), victim.map(|(inode, _)| inode)].into_iter().flatten().collect::<Vec<_>>());
        self.forget_name(dir, name);
        let started = self.start("unlink", dir);
        let result = self.node.fs.unlink(dir, name.as_bytes()).await;
        self.record(started, Attempt::Unlink { dir, name: name.clone() }, result.as_ref().map(|()| Answer::Done));
        result
    }

    pub async fn rmdir(&self, dir: InodeRef, name: &Name) -> Result<(), Error> {
        let _own = self.own(dir).await;
        let victim = self.victim(dir, name).await?;
        let _change =
            self.change(&[Some(dir), victim.map(|(inode, _)| inode)].into_iter().flatten().collect::<Vec<_>>());
        self.forget_name(dir, name);
        let started = self.start("rmdir", dir);
        let result = self.node.fs.rmdir(dir, name.as_bytes()).await;
        self.record(started, Attempt::Rmdir { dir, name: name.clone() }, result.as_ref().map(|()| Answer::Done));
        result
    }

    pub async fn rename(&self, from: (InodeRef, Name), to: (InodeRef, Name), mode: RenameMode) -> Result<(), Error> {
        let _rename = match &self.node.kernel {
            Some(_) if from.0 != to.0 => Some(self.node.rename.lock().await),
            _ => None,
        };
        let _own = self.own_all(vec![from.0, to.0]).await;
        let (source, target) = (self.victim(from.0, &from.1).await?, self.victim(to.0, &to.1).await);
        let target = if source.is_some() { target.unwrap_or(None) } else { target? };
        let parts: Vec<(InodeRef, Kind)> = [source, target].into_iter().flatten().collect();
        let leaves = parts.iter().filter(|(_, kind)| *kind != Kind::Directory).map(|(inode, _)| *inode);
        let _own_leaves = self.own_all(leaves.collect()).await;
        let changed: Vec<InodeRef> = [from.0, to.0].into_iter().chain(parts.iter().map(|(inode, _)| *inode)).collect();
        let _change = self.change(&changed);
        self.forget_name(from.0, &from.1);
        self.forget_name(to.0, &to.1);
        let started = self.start("rename", from.0);
        let result = self.node.fs.rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), mode).await;
        self.record(started, Attempt::Rename { from, to, mode }, result.as_ref().map(|()| Answer::Done));
        result
    }

    pub async fn list(&self, dir: InodeRef) -> Result<Vec<(Name, InodeRefNumber, Kind)>, Error> {
        let _shared = self.share(dir).await;
        let started = self.start("list", dir);
        let result = self.node.fs.readdir(dir, 0, LISTING_MOST).await;
        let names = result.map(|entries| {
            let named = entries.into_iter().filter(|entry| entry.name != b"." && entry.name != b"..");
            let mut names: Vec<_> = named
                .map(|entry| {
                    (Name::from(String::from_utf8_lossy(&entry.name)), entry.inode, kind_of_dirent(entry.kind))
                })
                .collect();
            names.sort_by(|(one, ..), (other, ..)| one.cmp(other));
            names
        });
        self.record(started, Attempt::List { dir }, names.as_ref().map(|names| Answer::Names(names.clone())));
        names
    }

    pub async fn open(&self, inode: InodeRef, access: Access) -> Result<(), Error> {
        let started = self.start("open", inode);
        let result = self.node.fs.open(inode, access == Access::Write).await;
        self.record(started, Attempt::Open { inode }, result.as_ref().map(|()| Answer::Done));
        result
    }

    pub async fn close(&self, inode: InodeRef, access: Access) {
        let started = self.start("close", inode);
        // The handle may be gone for the filesystem as soon as this begins.
        self.record(started, Attempt::Release { inode }, Ok(Answer::Done));
        self.node.fs.release(inode, access == Access::Write).await;
    }

    pub async fn fsync(&self, inode: InodeRef) -> Result<(), Error> {
        let started = self.start("fsync", inode);
        match self.node.fs.fsync(inode, false).await {
            Ok(()) => Ok(()),
            Err(error) => self.refused(started, Attempt::Touch { inode }, error),
        }
    }

    /// Writes `len` bytes of the pattern `tag`.
    pub async fn write(&self, inode: InodeRef, offset: Option<u64>, len: u64, tag: Tag) -> Result<(), Error> {
        let (_own, _shared) = match offset {
            None => (self.own(inode).await, None),
            Some(_) => (None, self.share(inode).await),
        };
        let _change = self.change(&[inode]);
        let at = offset.map_or(WriteAt::End, WriteAt::Offset);
        let started = self.start("write", inode);
        match self.node.fs.write(inode, at, pattern(tag, len), RequestOrigin::Call).await {
            Ok(written) => {
                if u64::from(written) != len {
                    self.node.sim.violated(format!("a write of {len} to {inode:?} wrote {written}"));
                }
                self.node.history.content(started, inode, ContentOperation::Write { offset, len, tag });
                Ok(())
            }
            Err(error) => self.refused(started, Attempt::Touch { inode }, error),
        }
    }

    /// Reads up to `len` bytes.
    pub async fn read(&self, inode: InodeRef, offset: u64, len: u64, path: ReadPath) -> Result<(), Error> {
        match &self.node.kernel {
            Some(kernel) if path == ReadPath::Cached => self.read_pages(kernel, inode, offset, len).await,
            _ => self.read_direct(inode, offset, len, RequestOrigin::Call).await.map(drop),
        }
    }

    async fn read_direct(&self, inode: InodeRef, offset: u64, len: u64, origin: RequestOrigin) -> Result<Bytes, Error> {
        let started = self.start("read", inode);
        let short = u32::try_from(len).expect("invariant: workloads read little at a time");
        match self.node.fs.read(inode, offset, short, origin).await {
            Ok(bytes) => {
                let read = ContentOperation::Read { offset, len, bytes: bytes.clone() };
                self.node.history.content(started, inode, read);
                Ok(bytes)
            }
            Err(error) => self.refused(started, Attempt::Touch { inode }, error),
        }
    }

    /// Through the page cache: every page that is used is an operation of its own.
    async fn read_pages(&self, kernel: &Kernel, inode: InodeRef, offset: u64, len: u64) -> Result<(), Error> {
        let size = self.stat(inode).await?.size;
        let end = size.min(offset + len);
        let mut position = offset;
        while position < end {
            let page = position / PAGE;
            let most = (end.div_ceil(PAGE) - page).min(READAHEAD_PAGES);
            match kernel.page(inode, page, most) {
                PageState::Hit(bytes) => {
                    let page_end = ((page + 1) * PAGE).min(end);
                    let part = bytes.slice((position - page * PAGE) as usize..(page_end - page * PAGE) as usize);
                    let hit = ContentOperation::Page { offset: position, bytes: part };
                    self.node.history.content(self.start("cached read", inode), inode, hit);
                    position = page_end;
                }
                PageState::Wait => kernel.page_unlocked().await,
                PageState::Fill(count) => {
                    let result = self.read_direct(inode, page * PAGE, count * PAGE, RequestOrigin::PageCache).await;
                    kernel.fill(inode, page, count, result.as_ref().ok());
                    result?;
                    position = ((page + count) * PAGE).max(position);
                }
            }
        }
        Ok(())
    }

    fn start(&self, what: &'static str, inode: InodeRef) -> Started {
        self.node.history.start(self.node.number, self.task, what, inode)
    }

    fn record(&self, started: Started, attempt: Attempt, outcome: Result<Answer, &Error>) {
        self.node.history.tree(started, attempt, outcome.map_err(Error::clone));
    }

    fn refused<T>(&self, started: Started, attempt: Attempt, error: Error) -> Result<T, Error> {
        self.node.history.tree(started, attempt, Err(error.clone()));
        Err(error)
    }

    fn record_attributes(&self, started: Started, inode: InodeRef, attributes: &Attributes) {
        self.record(started, Attempt::Attributes { inode }, Ok(Answer::Seen(seen(attributes))));
        if kind_of_mode(attributes.mode) == Kind::File {
            self.node.history.content(started, inode_of(attributes), ContentOperation::Size(attributes.size));
        }
    }

    fn cached_name(&self, dir: InodeRef, name: &Name) -> Option<Option<InodeRef>> {
        let found = self.node.kernel.as_ref()?.name(dir, name)?;
        let answer = found.map_or(Answer::Missing, Answer::Named);
        self.record(self.start("cached lookup", dir), Attempt::Lookup { dir, name: name.clone() }, Ok(answer));
        Some(found)
    }

    /// Asks the filesystem for a name. The caller has the directory's lock.
    async fn ask_name(&self, dir: InodeRef, name: &Name) -> Result<Option<InodeRef>, Error> {
        let started = self.start("lookup", dir);
        let moment = self.moment();
        let attempt = Attempt::Lookup { dir, name: name.clone() };
        match self.node.fs.lookup(dir, name.as_bytes()).await {
            Ok(Lookup::Found(entry)) => {
                let inode = inode_of(&entry.attributes);
                // The name is one moment's and the attributes another's: between them the directory is
                // not held.
                self.record(started, attempt, Ok(Answer::Named(inode)));
                self.record_attributes(started, inode, &entry.attributes);
                self.remember_name(dir, name, Some(inode), entry.name_lifetime, moment);
                self.remember_attributes(&entry.attributes, entry.attributes_lifetime, moment);
                Ok(Some(inode))
            }
            Ok(Lookup::Missing(lifetime)) => {
                self.record(started, attempt, Ok(Answer::Missing));
                self.remember_name(dir, name, None, lifetime, moment);
                Ok(None)
            }
            Err(error) => self.refused(started, attempt, error),
        }
    }

    /// A name under the directory's lock, from the cache if it has it.
    async fn known_name(&self, dir: InodeRef, name: &Name) -> Result<Option<InodeRef>, Error> {
        match self.cached_name(dir, name) {
            Some(found) => Ok(found),
            None => self.ask_name(dir, name).await,
        }
    }

    /// What a kernel has in hand before it removes a name; nothing where there is no kernel.
    async fn victim(&self, dir: InodeRef, name: &Name) -> Result<Option<(InodeRef, Kind)>, Error> {
        if self.node.kernel.is_none() {
            return Ok(None);
        }
        let Some(inode) = self.known_name(dir, name).await? else { return Err(Error::NotFound) };
        let attributes = self.stat(inode).await?;
        Ok(Some((inode, kind_of_mode(attributes.mode))))
    }

    async fn own(&self, inode: InodeRef) -> Option<OwnedRwLockWriteGuard<()>> {
        Some(self.node.kernel.as_ref()?.inode_lock(inode).write_owned().await)
    }

    /// All of them, in one order everywhere.
    async fn own_all(&self, mut inodes: Vec<InodeRef>) -> Vec<OwnedRwLockWriteGuard<()>> {
        inodes.sort();
        inodes.dedup();
        let mut owned = Vec::new();
        for inode in inodes {
            owned.extend(self.own(inode).await);
        }
        owned
    }

    async fn share(&self, inode: InodeRef) -> Option<OwnedRwLockReadGuard<()>> {
        Some(self.node.kernel.as_ref()?.inode_lock(inode).read_owned().await)
    }

    fn change(&self, inodes: &[InodeRef]) -> Option<Change> {
        Some(self.node.kernel.as_ref()?.change(inodes))
    }

    fn forget_name(&self, dir: InodeRef, name: &Name) -> Option<Moment> {
        let kernel = self.node.kernel.as_ref()?;
        kernel.forget_name(dir, name);
        Some(kernel.moment())
    }

    fn remember_name(
        &self,
        dir: InodeRef,
        name: &Name,
        found: Option<InodeRef>,
        lifetime: Lifetime,
        asked: Option<Moment>,
    ) {
        if let (Some(kernel), Some(asked)) = (&self.node.kernel, asked) {
            kernel.remember_name(dir, name, found, lifetime, asked);
        }
    }

    fn moment(&self) -> Option<Moment> {
        Some(self.node.kernel.as_ref()?.moment())
    }

    fn remember_attributes(&self, attributes: &Attributes, lifetime: Lifetime, asked: Option<Moment>) {
        if let (Some(kernel), Some(asked)) = (&self.node.kernel, asked) {
            kernel.remember_attributes(attributes, lifetime, asked);
        }
    }
}

/// Enough for any directory of a workload to come in one piece, which is then one moment's.
const LISTING_MOST: usize = 10_000;
/// Pages that one fill asks for at most.
const READAHEAD_PAGES: u64 = 4;

type InodeRefNumber = gfs_core::InodeNumber;

fn inode_of(attributes: &Attributes) -> InodeRef {
    InodeRef { number: attributes.inode, generation: attributes.generation }
}

fn seen(attributes: &Attributes) -> Seen {
    Seen {
        inode: inode_of(attributes),
        kind: kind_of_mode(attributes.mode),
        permissions: attributes.mode & 0o7777,
        links: attributes.link_count,
    }
}

/// `st_mode`'s file type (sys/stat.h).
fn kind_of_mode(mode: u32) -> Kind {
    match mode & 0o170_000 {
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Symlink,
        _ => Kind::File,
    }
}

/// `d_type` (dirent.h).
fn kind_of_dirent(kind: u8) -> Kind {
    match kind {
        4 => Kind::Directory,
        10 => Kind::Symlink,
        _ => Kind::File,
    }
}

//! Requests of the kernel as operations of the filesystem.
//!
//! A request is typed by `request`, becomes a future here, and is run by `server`. Nothing here
//! decides about locks or caches: lifetimes come from the filesystem, which knows its glocks.

mod xattr;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use gfs_core::{
    Caller, Entry, Error, Fs, InodeNumber, InodeRef, Lifetime, Lookup, NewInode, RequestOrigin, SetAttributes,
    SizeChange, WriteAt,
};

use crate::answer::Answer;
use crate::asking::Asking;
use crate::convert;
use crate::errno::Refusal;
use crate::handles::{Handle, Handles};
use crate::interrupt::Ends;
use crate::kernel_caches::MountCaches;
use crate::nodes::Nodes;
use crate::reply::Reply;
use crate::request::{Operation, Request};
use crate::server::Server;
use crate::session::Handler;
use crate::wire::{self, ROOT_ID, fattr, fopen};

/// How files that are open for writing use the kernel's page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterCaching {
    /// Cached, written through: for a filesystem that nobody else has mounted.
    WriteThrough,
    /// Not at all: no page is locked while a write waits for another node.
    Direct,
}

/// One mount's requests.
#[derive(Clone)]
pub struct Adapter {
    parts: Arc<Parts>,
    server: Arc<Server>,
}

struct Parts {
    fs: Arc<Fs>,
    root: InodeRef,
    nodes: Arc<Nodes>,
    handles: Arc<Handles>,
    caches: Arc<MountCaches>,
    writers: WriterCaching,
}

type Result<T> = std::result::Result<T, Refusal>;

impl Adapter {
    pub fn new(
        fs: Arc<Fs>,
        nodes: Arc<Nodes>,
        handles: Arc<Handles>,
        caches: Arc<MountCaches>,
        writers: WriterCaching,
        server: impl FnOnce(Box<dyn Fn(u64) + Send + Sync>) -> Arc<Server>,
    ) -> Adapter {
        let root = fs.root();
        let parts = Arc::new(Parts { fs, root, nodes, handles, caches, writers });
        let releasing = parts.clone();
        let runtime = tokio::runtime::Handle::current();
        let server = server(Box::new(move |handle| {
            let parts = releasing.clone();
            runtime.spawn(async move { parts.release(handle).await });
        }));
        Adapter { parts, server }
    }

    /// Gives back what the kernel can no longer give back itself: handles that were open when the
    /// connection ended. Call it when serving has ended.
    pub async fn finish(&self) {
        self.parts.caches.close();
        self.server.idle().await;
        for handle in self.parts.handles.drain() {
            self.parts.fs.release(handle.inode(), handle.can_write).await;
        }
    }

    fn run(&self, reply: Reply, pid: u32, operation: impl Future<Output = Result<Answer>> + Send + 'static) {
        let parts = self.parts.clone();
        self.server.run(reply, pid, Ends::OnDeath, async move {
            operation.await.unwrap_or_else(|refusal| {
                if let Refusal::Filesystem(error) = &refusal {
                    parts.fs.judge(error);
                }
                Answer::Error(refusal.errno())
            })
        });
    }
}

impl Handler for Adapter {
    fn handle(&self, request: Request<'_>, reply: Reply) {
        let (node, pid) = (request.node, request.pid);
        let by = |umask| Caller { uid: request.uid, gid: request.gid, umask };
        let fs = self.parts.clone();
        macro_rules! run {
            ($operation:expr) => {
                self.run(reply, pid, $operation)
            };
        }
        match request.operation {
            Operation::Lookup { name } => run!(fs.lookup(node, name.to_vec())),
            Operation::GetAttributes { handle: None } => run!(fs.get_attributes(node)),
            Operation::GetAttributes { handle: Some(handle) } => run!(fs.get_size(node, handle, pid)),
            Operation::SetAttributes(asked) => run!(fs.set_attributes(node, asked)),
            Operation::ReadLink => run!(fs.read_link(node)),
            Operation::Symlink { name, target } => {
                run!(fs.make(by(0), node, name.to_vec(), NewInode::Symlink { target: target.to_vec() }));
            }
            Operation::MakeNode { name, mode, device, umask } => {
                run!(fs.make(by(umask), node, name.to_vec(), new_node(mode, device)));
            }
            Operation::MakeDirectory { name, mode, umask } => {
                run!(fs.make(by(umask), node, name.to_vec(), NewInode::Directory { mode: mode & 0o7777 }));
            }
            Operation::Unlink { name } => run!(fs.unlink(node, name.to_vec())),
            Operation::RemoveDirectory { name } => run!(fs.remove_directory(node, name.to_vec())),
            Operation::Rename { name, new_directory, new_name, flags } => {
                run!(fs.rename(node, name.to_vec(), new_directory, new_name.to_vec(), flags));
            }
            Operation::Link { node: existing, new_name } => run!(fs.link(existing, node, new_name.to_vec())),
            Operation::Open { flags, kills_suid } => run!(fs.open(node, flags, kills_suid)),
            Operation::Create { name, flags, mode, umask, .. } => {
                run!(fs.create(by(umask), node, name.to_vec(), flags, mode));
            }
            Operation::Read { handle, offset, len, is_direct } => run!(fs.read(handle, offset, len, is_direct)),
            Operation::Write { handle, offset, data, is_direct, is_write_back, kills_suid } => {
                let write =
                    Write { handle, offset, data: Bytes::copy_from_slice(data), is_direct, is_write_back, kills_suid };
                run!(fs.write(node, write));
            }
            Operation::Statfs => run!(fs.statfs()),
            Operation::Release { handle, is_directory: false } => run!(async move {
                fs.release(handle).await;
                Ok(Answer::Empty)
            }),
            Operation::Fsync { data_only, .. } => run!(fs.fsync(node, data_only)),
            Operation::OpenDirectory => run!(async { Ok(Answer::Opened(wire::OpenOut::default())) }),
            Operation::ReadDirectory { offset, len, .. } => run!(fs.read_directory(node, offset, len)),
            Operation::Release { is_directory: true, .. } => drop(reply.empty()),
            Operation::CreateUnnamed { flags, mode, umask } => {
                run!(fs.create_unnamed(by(umask), node, flags, mode));
            }
            Operation::GetXattr { name, len_max } => run!(fs.get_xattr(node, name.to_vec(), len_max)),
            Operation::ListXattrs { len_max } => run!(fs.list_xattrs(node, len_max)),
            Operation::SetXattr { name, value, flags, kills_sgid } => {
                run!(fs.set_xattr(node, name.to_vec(), value.to_vec(), flags, kills_sgid));
            }
            Operation::RemoveXattr { name } => run!(fs.remove_xattr(node, name.to_vec())),
            Operation::Ioctl { command, input, len_max } => run!(fs.ioctl(node, command, input.to_vec(), len_max)),
            Operation::Seek { handle, offset, whence } => run!(fs.seek(handle, offset, whence)),
            // These the kernel does itself, or does without, once it has seen the error: permission
            // checks, and flushing at close (our writes need none).
            Operation::Access { .. } | Operation::Flush { .. } => {
                reply.error(Refusal::KernelDoesIt.errno());
            }
            Operation::Fallocate { handle, offset, len, mode } => run!(fs.allocate(handle, offset, len, mode)),
            Operation::Unknown { opcode } => {
                tracing::debug!(opcode, "the kernel asks for an operation that this build does not have");
                reply.error(Refusal::KernelDoesIt.errno());
            }
            // Served by the session.
            Operation::Forget { .. }
            | Operation::BatchForget { .. }
            | Operation::Interrupt { .. }
            | Operation::Init(_)
            | Operation::Destroy => drop(reply.error(Refusal::Misplaced.errno())),
        }
    }

    fn forget(&self, node: u64, lookups: u64) {
        if self.parts.nodes.forget(node, lookups) {
            self.parts.caches.forget_names(node);
        }
    }
}

struct Write {
    handle: u64,
    offset: u64,
    data: Bytes,
    is_direct: bool,
    is_write_back: bool,
    kills_suid: bool,
}

impl Parts {
    fn inode(&self, node: u64) -> Result<InodeRef> {
        if node == ROOT_ID {
            return Ok(self.root);
        }
        let generation = self.nodes.generation(node).ok_or(Refusal::UnknownNode)?;
        Ok(InodeRef { number: InodeNumber(node), generation })
    }

    fn handle(&self, handle: u64) -> Result<Handle> {
        self.handles.get(handle).ok_or(Refusal::UnknownHandle)
    }

    fn entry(&self, entry: &Entry) -> wire::EntryOut {
        let names_live = self.caches.may_cache_names();
        wire::EntryOut {
            nodeid: entry.attributes.inode.0,
            generation: entry.attributes.generation,
            entry_valid: if names_live { convert::lifetime(entry.name_lifetime) } else { 0 },
            attr_valid: convert::lifetime(entry.attributes_lifetime),
            attr: convert::attributes(&entry.attributes),
            ..Default::default()
        }
    }

    async fn lookup(self: Arc<Self>, dir: u64, name: Vec<u8>) -> Result<Answer> {
        match self.fs.lookup(self.inode(dir)?, &name).await? {
            Lookup::Found(entry) => Ok(Answer::Entry(Box::new(self.entry(&entry)))),
            Lookup::Missing(lifetime) if self.caches.may_cache_names() => {
                let entry_valid = convert::lifetime(lifetime);
                Ok(Answer::Entry(Box::new(wire::EntryOut { entry_valid, ..Default::default() })))
            }
            Lookup::Missing(_) => Err(Refusal::NoName),
        }
    }

    async fn get_attributes(self: Arc<Self>, node: u64) -> Result<Answer> {
        Ok(Answer::Attributes(self.attributes(self.inode(node)?).await?))
    }

    /// For a cached read, which goes by the size.
    async fn get_size(self: Arc<Self>, node: u64, handle: u64, thread: u32) -> Result<Answer> {
        let inode = self.handle(handle)?.inode();
        let mut asking = Asking::new(self.nodes.clone(), node, thread);
        let attributes = asking.run(self.attributes(inode)).await?;
        Ok(Answer::AttributesForRead(attributes, asking))
    }

    async fn attributes(&self, inode: InodeRef) -> Result<Box<wire::AttrOut>> {
        let reply = self.fs.getattr(inode).await?;
        Ok(Box::new(wire::AttrOut {
            attr_valid: convert::lifetime(reply.lifetime),
            attr: convert::attributes(&reply.attributes),
            ..Default::default()
        }))
    }

    async fn set_attributes(self: Arc<Self>, node: u64, asked: Box<wire::SetattrIn>) -> Result<Answer> {
        let inode = match asked.valid & fattr::FH {
            0 => self.inode(node)?,
            _ => self.handle(asked.fh)?.inode(),
        };
        let attributes = self.fs.setattr(inode, convert::set_attributes(&asked)).await?;
        // No lifetime: the kernel applies this reply without looking at its age.
        Ok(Answer::Attributes(Box::new(wire::AttrOut { attr: convert::attributes(&attributes), ..Default::default() })))
    }

    async fn read_link(self: Arc<Self>, node: u64) -> Result<Answer> {
        Ok(Answer::Bytes(self.fs.readlink(self.inode(node)?).await?.into()))
    }

    async fn make(self: Arc<Self>, caller: Caller, dir: u64, name: Vec<u8>, new: NewInode) -> Result<Answer> {
        let entry = self.fs.create(caller, self.inode(dir)?, &name, new).await?;
        Ok(Answer::Entry(Box::new(self.entry(&entry))))
    }

    async fn link(self: Arc<Self>, existing: u64, dir: u64, name: Vec<u8>) -> Result<Answer> {
        let entry = self.fs.link(self.inode(existing)?, self.inode(dir)?, &name).await?;
        Ok(Answer::Entry(Box::new(self.entry(&entry))))
    }

    async fn unlink(self: Arc<Self>, dir: u64, name: Vec<u8>) -> Result<Answer> {
        self.fs.unlink(self.inode(dir)?, &name).await?;
        Ok(Answer::Empty)
    }

    async fn remove_directory(self: Arc<Self>, dir: u64, name: Vec<u8>) -> Result<Answer> {
        self.fs.rmdir(self.inode(dir)?, &name).await?;
        Ok(Answer::Empty)
    }

    async fn rename(
        self: Arc<Self>,
        dir: u64,
        name: Vec<u8>,
        new_dir: u64,
        new_name: Vec<u8>,
        flags: u32,
    ) -> Result<Answer> {
        let mode = convert::rename_mode(flags).ok_or(Refusal::UnknownFlags)?;
        let (from, to) = (self.inode(dir)?, self.inode(new_dir)?);
        self.fs.rename(from, &name, to, &new_name, mode).await?;
        Ok(Answer::Empty)
    }

    async fn open(self: Arc<Self>, node: u64, flags: u32, kills_suid: bool) -> Result<Answer> {
        let inode = self.inode(node)?;
        self.check_append_only(inode, flags).await?;
        let open = self.open_inode(inode, node, flags).await?;
        if flags & libc::O_TRUNC.cast_unsigned() != 0 {
            let empty = SetAttributes { size: Some(0), clear_suid: kills_suid, ..Default::default() };
            if let Err(error) = self.fs.setattr(inode, empty).await {
                self.release(open.fh).await;
                return Err(error.into());
            }
        }
        Ok(Answer::Opened(open))
    }

    async fn open_inode(&self, inode: InodeRef, node: u64, flags: u32) -> Result<wire::OpenOut> {
        let can_write = flags & libc::O_ACCMODE.cast_unsigned() != libc::O_RDONLY.cast_unsigned();
        let is_append = flags & libc::O_APPEND.cast_unsigned() != 0;
        self.fs.open(inode, can_write).await?;
        let fh = self.handles.add(Handle {
            node,
            number: inode.number.0,
            generation: inode.generation,
            can_write,
            is_append,
        });
        let open_flags = match (can_write, self.writers) {
            // Nothing to flush at the close of a handle that cannot dirty anything.
            (false, _) => fopen::KEEP_CACHE | fopen::NOFLUSH,
            (true, WriterCaching::WriteThrough) => fopen::KEEP_CACHE,
            (true, WriterCaching::Direct) => fopen::DIRECT_IO,
        };
        Ok(wire::OpenOut { fh, open_flags, backing_id: 0 })
    }

    async fn create(self: Arc<Self>, caller: Caller, dir: u64, name: Vec<u8>, flags: u32, mode: u32) -> Result<Answer> {
        let new = NewInode::File { mode: mode & 0o7777 };
        let entry = match self.fs.create(caller, self.inode(dir)?, &name, new).await {
            Ok(entry) => entry,
            // Another node made it since the kernel looked. ESTALE has the kernel look again and
            // check the permissions of what is there, which it has not.
            Err(Error::Exists) if flags & libc::O_EXCL.cast_unsigned() == 0 => return Err(Refusal::LookAgain),
            Err(error) => return Err(error.into()),
        };
        let number = entry.attributes.inode;
        let inode = InodeRef { number, generation: entry.attributes.generation };
        let open = self.open_inode(inode, number.0, flags).await?;
        Ok(Answer::Created(Box::new(wire::CreateOut { entry: self.entry(&entry), open })))
    }

    async fn create_unnamed(self: Arc<Self>, caller: Caller, dir: u64, flags: u32, mode: u32) -> Result<Answer> {
        let attributes = self.fs.create_unnamed(caller, self.inode(dir)?, mode & 0o7777).await?;
        let inode = InodeRef { number: attributes.inode, generation: attributes.generation };
        let open = self.open_inode(inode, inode.number.0, flags).await;
        self.fs.release(inode, false).await;
        let entry = Entry { attributes, name_lifetime: Lifetime::None, attributes_lifetime: Lifetime::None };
        Ok(Answer::Created(Box::new(wire::CreateOut { entry: self.entry(&entry), open: open? })))
    }

    async fn read(self: Arc<Self>, handle: u64, offset: u64, len: u32, is_direct: bool) -> Result<Answer> {
        let inode = self.handle(handle)?.inode();
        let origin = if is_direct { RequestOrigin::Call } else { RequestOrigin::PageCache };
        Ok(Answer::Bytes(self.fs.read(inode, offset, len, origin).await?))
    }

    async fn write(self: Arc<Self>, node: u64, write: Write) -> Result<Answer> {
        // Write-back names any handle that can write, and at the end of an unmount perhaps none.
        let (inode, is_append) = match self.handles.get(write.handle) {
            Some(handle) => (handle.inode(), handle.is_append && write.is_direct),
            None if write.is_write_back => (self.inode(node)?, false),
            None => return Err(Refusal::UnknownHandle),
        };
        if write.kills_suid {
            self.clear_suid(inode).await?;
        }
        let at = if is_append { WriteAt::End } else { WriteAt::Offset(write.offset) };
        let origin = if write.is_direct { RequestOrigin::Call } else { RequestOrigin::PageCache };
        Ok(Answer::Written(self.fs.write(inode, at, write.data, origin).await?))
    }

    async fn clear_suid(&self, inode: InodeRef) -> Result<()> {
        let mode = self.fs.getattr(inode).await?.attributes.mode;
        if mode & 0o6000 != 0 {
            let clear = SetAttributes { clear_suid: true, ..Default::default() };
            self.fs.setattr(inode, clear).await?;
        }
        Ok(())
    }

    async fn allocate(self: Arc<Self>, handle: u64, offset: u64, len: u64, mode: u32) -> Result<Answer> {
        const KEEP: u32 = libc::FALLOC_FL_KEEP_SIZE.cast_unsigned();
        const PUNCH: u32 = libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned() | KEEP;
        let inode = self.handle(handle)?.inode();
        match mode {
            0 => self.fs.allocate(inode, offset, len, SizeChange::Grow).await?,
            KEEP => self.fs.allocate(inode, offset, len, SizeChange::Keep).await?,
            PUNCH => self.fs.punch_hole(inode, offset, len).await?,
            _ => return Err(Refusal::NotSupported),
        }
        Ok(Answer::Empty)
    }

    async fn statfs(self: Arc<Self>) -> Result<Answer> {
        Ok(Answer::Space(Box::new(convert::space(self.fs.statfs().await?))))
    }

    async fn release(&self, handle: u64) {
        if let Some(handle) = self.handles.remove(handle) {
            self.fs.release(handle.inode(), handle.can_write).await;
        }
    }

    async fn fsync(self: Arc<Self>, node: u64, data_only: bool) -> Result<Answer> {
        self.fs.fsync(self.inode(node)?, data_only).await?;
        Ok(Answer::Empty)
    }

    async fn read_directory(self: Arc<Self>, node: u64, offset: u64, len: u32) -> Result<Answer> {
        let len = len as usize;
        let entries_max = len / wire::dirent_len(1);
        let entries = self.fs.readdir(self.inode(node)?, offset, entries_max).await;
        let entries = match entries {
            Err(Error::Stale) => return Err(Refusal::NoName),
            entries => entries?,
        };
        let mut listing = Vec::with_capacity(len.min(1 << 16));
        for entry in &entries {
            if !convert::push_entry(&mut listing, len, entry) {
                break;
            }
        }
        Ok(Answer::Bytes(listing.into()))
    }
}

impl Handle {
    fn inode(&self) -> InodeRef {
        InodeRef { number: InodeNumber(self.number), generation: self.generation }
    }
}

fn new_node(mode: u32, device: u32) -> NewInode {
    if mode & libc::S_IFMT == libc::S_IFREG {
        return NewInode::File { mode: mode & 0o7777 };
    }
    let (major, minor) = convert::split_device(device);
    NewInode::Special { mode, major, minor }
}

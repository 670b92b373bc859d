//! One flat directory of files in memory, mounted twice; what is tested is the kernel's caches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gfs_core::glock::gate::RequestClass;
use gfs_fuse::answer::{Answer, FOREVER};
use gfs_fuse::asking::Asking;
use gfs_fuse::handles::{Handle, Handles};
use gfs_fuse::interrupt::Ends;
use gfs_fuse::kernel_caches::MountCaches;
use gfs_fuse::nodes::Nodes;
use gfs_fuse::reply::Reply;
use gfs_fuse::request::{Operation, Request};
use gfs_fuse::server::Server;
use gfs_fuse::session::Handler;
use gfs_fuse::wire::{self, ROOT_ID, fattr, fopen};
use nix::errno::Errno;
use tokio::sync::Notify;
use zerocopy::IntoBytes;

use super::cluster::{Member, Mode, Shared};
use super::glock::Glock;

pub struct Toy {
    pub node: usize,
    pub cluster: Shared,
    pub caches: Arc<MountCaches>,
    pub nodes: Arc<Nodes>,
    pub handles: Arc<Handles>,
    glocks: Mutex<HashMap<u64, Arc<Glock>>>,
    /// While set, CREATE of a name that begins with "park" waits, before it takes any glock.
    pub parks: AtomicBool,
    pub unparked: Notify,
}

/// Cached reading: what the kernel fills from READs.
const CACHED: u32 = fopen::KEEP_CACHE | fopen::NOFLUSH;

impl Toy {
    pub fn new(
        node: usize,
        cluster: Shared,
        caches: Arc<MountCaches>,
        nodes: Arc<Nodes>,
        handles: Arc<Handles>,
    ) -> Arc<Toy> {
        Arc::new(Toy {
            node,
            cluster,
            caches,
            nodes,
            handles,
            glocks: Mutex::default(),
            parks: AtomicBool::new(false),
            unparked: Notify::new(),
        })
    }

    pub fn glock(&self, number: u64) -> Arc<Glock> {
        let mut glocks = self.glocks.lock().unwrap();
        let new = || Glock::new(number, self.node, self.cluster.clone(), self.caches.clone());
        glocks.entry(number).or_insert_with(new).clone()
    }

    fn disk<T>(&self, use_it: impl FnOnce(&mut super::cluster::Disk) -> T) -> T {
        use_it(&mut self.cluster.disk.lock().unwrap())
    }

    fn attributes(&self, number: u64) -> wire::Attr {
        self.cluster.check(self.node, number, Mode::Shared, "attributes");
        let size = self.disk(|disk| disk.files.get(&number).map_or(0, |data| data.len() as u64));
        let is_directory = number == ROOT_ID;
        wire::Attr {
            ino: number,
            size,
            mode: if is_directory { 0o40777 } else { 0o100666 },
            nlink: 1,
            blksize: 4096,
            ..Default::default()
        }
    }

    async fn entry(&self, name: &[u8], number: u64, is_new: bool) -> wire::EntryOut {
        let glock = self.glock(number);
        let _guard = glock.hold(Mode::Shared, RequestClass::Ordinary).await;
        self.caches.announce_attributes(number);
        let attr = self.attributes(number);
        self.caches.announce(ROOT_ID, name);
        let names_live = self.glock(ROOT_ID).may_cache();
        let attributes_live = glock.may_cache() && !is_new;
        wire::EntryOut {
            nodeid: number,
            generation: 1,
            entry_valid: if names_live { FOREVER } else { 0 },
            attr_valid: if attributes_live { FOREVER } else { 0 },
            attr,
            ..Default::default()
        }
    }

    async fn lookup(self: Arc<Self>, name: Vec<u8>) -> Answer {
        let root = self.glock(ROOT_ID);
        let _guard = root.hold(Mode::Shared, RequestClass::Passes).await;
        self.cluster.check(self.node, ROOT_ID, Mode::Shared, "lookup");
        match self.disk(|disk| disk.root.get(&name).copied()) {
            Some(number) => Answer::Entry(Box::new(self.entry(&name, number, false).await)),
            None => {
                self.caches.announce(ROOT_ID, &name);
                let entry_valid = if root.may_cache() { FOREVER } else { 0 };
                Answer::Entry(Box::new(wire::EntryOut { entry_valid, ..Default::default() }))
            }
        }
    }

    async fn get_attributes(self: Arc<Self>, number: u64, reader: Option<u32>) -> Answer {
        let Some(thread) = reader else { return Answer::Attributes(self.given_attributes(number).await) };
        let mut asking = Asking::new(self.nodes.clone(), number, thread);
        let attributes = asking.run(self.given_attributes(number)).await;
        Answer::AttributesForRead(attributes, asking)
    }

    async fn given_attributes(&self, number: u64) -> Box<wire::AttrOut> {
        let glock = self.glock(number);
        let _guard = glock.hold(Mode::Shared, RequestClass::Ordinary).await;
        self.caches.announce_attributes(number);
        let attr = self.attributes(number);
        let attr_valid = if glock.may_cache() { FOREVER } else { 0 };
        Box::new(wire::AttrOut { attr_valid, attr, ..Default::default() })
    }

    async fn set_attributes(self: Arc<Self>, number: u64, asked: wire::SetattrIn) -> Answer {
        let _guard = self.glock(number).hold(Mode::Exclusive, RequestClass::Passes).await;
        self.cluster.check(self.node, number, Mode::Exclusive, "setattr");
        if asked.valid & fattr::SIZE != 0 {
            self.disk(|disk| disk.files.entry(number).or_default().resize(asked.size as usize, 0));
        }
        Answer::Attributes(Box::new(wire::AttrOut { attr: self.attributes(number), ..Default::default() }))
    }

    async fn open(self: Arc<Self>, number: u64, flags: u32) -> Answer {
        if flags & libc::O_TRUNC as u32 != 0 {
            let _guard = self.glock(number).hold(Mode::Exclusive, RequestClass::Passes).await;
            self.disk(|disk| disk.files.entry(number).or_default().clear());
        }
        Answer::Opened(self.handle(number, flags).await)
    }

    async fn handle(&self, number: u64, flags: u32) -> wire::OpenOut {
        let can_write = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        if can_write {
            self.glock(number).add_writer().await;
        }
        let is_append = flags & libc::O_APPEND as u32 != 0;
        let fh = self.handles.add(Handle { node: number, number, generation: 1, can_write, is_append });
        wire::OpenOut { fh, open_flags: if can_write { fopen::DIRECT_IO } else { CACHED }, backing_id: 0 }
    }

    async fn create(self: Arc<Self>, name: Vec<u8>, flags: u32) -> Answer {
        if name.starts_with(b"park") {
            loop {
                let mut unparked = std::pin::pin!(self.unparked.notified());
                unparked.as_mut().enable();
                if !self.parks.load(Ordering::SeqCst) {
                    break;
                }
                unparked.await;
            }
        }
        let _guard = self.glock(ROOT_ID).hold(Mode::Exclusive, RequestClass::Passes).await;
        self.cluster.check(self.node, ROOT_ID, Mode::Exclusive, "create");
        let number = self.disk(|disk| {
            let number = *disk.root.entry(name.clone()).or_insert_with(|| {
                disk.last += 1;
                100 + disk.last
            });
            disk.files.entry(number).or_default();
            number
        });
        let entry = self.entry(&name, number, true).await;
        let open = self.handle(number, flags).await;
        Answer::Created(Box::new(wire::CreateOut { entry, open }))
    }

    async fn unlink(self: Arc<Self>, name: Vec<u8>) -> Answer {
        let _guard = self.glock(ROOT_ID).hold(Mode::Exclusive, RequestClass::Passes).await;
        self.cluster.check(self.node, ROOT_ID, Mode::Exclusive, "unlink");
        match self.disk(|disk| disk.root.remove(&name)) {
            Some(_) => Answer::Empty,
            None => Answer::Error(Errno::ENOENT),
        }
    }

    async fn rename(self: Arc<Self>, name: Vec<u8>, new_name: Vec<u8>) -> Answer {
        let _guard = self.glock(ROOT_ID).hold(Mode::Exclusive, RequestClass::Passes).await;
        self.cluster.check(self.node, ROOT_ID, Mode::Exclusive, "rename");
        let Some(number) = self.disk(|disk| disk.root.remove(&name)) else { return Answer::Error(Errno::ENOENT) };
        // The kernel moves the old name's entry, lifetime and all, to the new name.
        self.caches.announce(ROOT_ID, &new_name);
        self.disk(|disk| disk.root.insert(new_name, number));
        Answer::Empty
    }

    async fn read(self: Arc<Self>, number: u64, offset: u64, len: u32, is_direct: bool) -> Answer {
        let class = if is_direct {
            RequestClass::Ordinary
        } else {
            RequestClass::Drains { pages: Some(offset..offset + u64::from(len)) }
        };
        let _guard = self.glock(number).hold(Mode::Shared, class).await;
        self.cluster.check(self.node, number, Mode::Shared, "read");
        let bytes = self.disk(|disk| {
            let data = disk.files.get(&number).map_or(&[][..], |data| data);
            let start = (offset as usize).min(data.len());
            let end = (start + len as usize).min(data.len());
            Bytes::copy_from_slice(&data[start..end])
        });
        Answer::Bytes(bytes)
    }

    async fn write(self: Arc<Self>, number: u64, at: Option<u64>, data: Bytes, is_direct: bool) -> Answer {
        let class = if is_direct { RequestClass::Ordinary } else { RequestClass::Drains { pages: None } };
        let _guard = self.glock(number).hold(Mode::Exclusive, class).await;
        self.cluster.check(self.node, number, Mode::Exclusive, "write");
        self.disk(|disk| {
            let file = disk.files.entry(number).or_default();
            let start = at.map_or(file.len(), |at| at as usize);
            let end = start + data.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[start..end].copy_from_slice(&data);
        });
        Answer::Written(data.len() as u32)
    }

    async fn read_directory(self: Arc<Self>, offset: u64, len: u32) -> Answer {
        let _guard = self.glock(ROOT_ID).hold(Mode::Shared, RequestClass::Ordinary).await;
        self.cluster.check(self.node, ROOT_ID, Mode::Shared, "readdir");
        let names: Vec<_> = self.disk(|disk| disk.root.clone().into_iter().collect());
        let mut bytes = Vec::new();
        for (index, (name, ino)) in names.iter().enumerate().skip(offset as usize) {
            if bytes.len() + wire::dirent_len(name.len()) > len as usize {
                break;
            }
            let head = wire::Dirent { ino: *ino, off: index as u64 + 1, namelen: name.len() as u32, kind: 8 };
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(name);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        Answer::Bytes(bytes.into())
    }

    async fn release(self: Arc<Self>, handle: u64) -> Answer {
        if let Some(handle) = self.handles.remove(handle)
            && handle.can_write
        {
            self.glock(handle.node).remove_writer();
        }
        Answer::Empty
    }

    async fn statfs(self: Arc<Self>) -> Answer {
        Answer::Space(Box::new(wire::StatfsOut { bsize: 4096, namelen: 255, frsize: 4096, ..Default::default() }))
    }
}

pub struct ToyHandler(pub Arc<Toy>, pub Arc<Server>);

impl Handler for ToyHandler {
    fn handle(&self, request: Request<'_>, reply: Reply) {
        let server = &self.1;
        let toy = self.0.clone();
        let (node, pid) = (request.node, request.pid);
        macro_rules! run {
            ($operation:expr) => {
                server.run(reply, pid, Ends::OnDeath, $operation)
            };
        }
        match request.operation {
            Operation::Lookup { name } => run!(toy.lookup(name.to_vec())),
            Operation::GetAttributes { handle } => run!(toy.get_attributes(node, handle.map(|_| pid))),
            Operation::SetAttributes(asked) => run!(toy.set_attributes(node, *asked)),
            Operation::Open { flags, .. } => run!(toy.open(node, flags)),
            Operation::Create { name, flags, .. } => run!(toy.create(name.to_vec(), flags)),
            Operation::Unlink { name } => run!(toy.unlink(name.to_vec())),
            Operation::Rename { name, new_name, .. } => run!(toy.rename(name.to_vec(), new_name.to_vec())),
            Operation::Read { offset, len, is_direct, .. } => run!(toy.read(node, offset, len, is_direct)),
            Operation::Write { handle, offset, data, is_direct, is_write_back, .. } => {
                let is_append = !is_write_back && toy.handles.get(handle).is_some_and(|handle| handle.is_append);
                let at = (!is_append).then_some(offset);
                run!(toy.write(node, at, Bytes::copy_from_slice(data), is_direct));
            }
            Operation::ReadDirectory { offset, len, .. } => run!(toy.read_directory(offset, len)),
            Operation::Release { handle, is_directory: false } => run!(toy.release(handle)),
            Operation::OpenDirectory => run!(async { Answer::Opened(wire::OpenOut::default()) }),
            Operation::Release { .. } | Operation::Flush { .. } | Operation::Fsync { .. } => {
                run!(async { Answer::Empty })
            }
            Operation::Statfs => run!(toy.statfs()),
            _ => drop(reply.error(Errno::ENOSYS)),
        }
    }

    fn forget(&self, node: u64, lookups: u64) {
        self.0.nodes.forget(node, lookups);
    }
}

impl Member for Toy {
    fn blocked(&self, number: u64, wanted: Mode) {
        self.glock(number).blocked(wanted);
    }
}

//! Extended attributes and access control lists: random changes beside a model, judged by fsck.gfs2 and by the next
//! mount.

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::crash::CrashDevice;
use block_core::{BlockDevice, ByteLen};
use dlm_api::local::LocalLocks;
use engine_tests::{TokioHost, Volume};
use gfs_core::{
    AclKind, Caller, Entry, Error, Fs, InodeFlags, InodeRef, MountOptions, NewInode, NoKernelCaches, Ports,
    RequestOrigin, SetAcl, SetAttributes, WriteAt, XattrName, XattrWrite,
};

type Model = BTreeMap<String, Vec<u8>>;

fn inode(entry: &Entry) -> InodeRef {
    InodeRef { number: entry.attributes.inode, generation: entry.attributes.generation }
}

async fn make(fs: &Fs, dir: InodeRef, name: &str, new: NewInode, umask: u32) -> InodeRef {
    inode(&fs.create(Caller { umask, ..Caller::default() }, dir, name.as_bytes(), new).await.expect(name))
}

fn name(spelt: &str) -> XattrName {
    XattrName::parse(spelt.as_bytes()).expect(spelt)
}

/// Reproducible chance: a linear congruence, its high bits.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }

    fn value(&mut self, block_size: usize) -> Vec<u8> {
        let around = [0, 20, 300, block_size - 60, block_size, 2 * block_size, 5000, 20_000, 65_500];
        let len = around[self.below(around.len())] + self.below(40);
        let seed = self.below(251);
        (0..len.min(65_536)).map(|i| (i * 7 + seed) as u8).collect()
    }
}

async fn expect_model(fs: &Fs, file: InodeRef, model: &Model) {
    let mut listed: Vec<String> = fs
        .list_xattrs(file)
        .await
        .expect("list")
        .iter()
        .map(|name| String::from_utf8(name.spelt()).expect("test names are text"))
        .collect();
    listed.sort();
    assert_eq!(listed, model.keys().cloned().collect::<Vec<_>>());
    for (spelt, value) in model {
        assert_eq!(&fs.get_xattr(file, &name(spelt)).await.expect(spelt), value, "{spelt}");
    }
}

/// One random change on the filesystem and in the model.
async fn change(fs: &Fs, file: InodeRef, model: &mut Model, dice: &mut Dice, block_size: usize, names: usize) {
    let space = ["user", "security", "trusted"][dice.below(3)];
    let spelt = format!("{space}.{}{}", dice.below(names), "x".repeat(dice.below(3) * 40));
    let exists = model.contains_key(&spelt);
    if dice.below(4) == 0 {
        let removed = fs.remove_xattr(file, &name(&spelt)).await;
        assert_eq!(removed, if exists { Ok(()) } else { Err(Error::NoXattr) }, "{spelt}");
        model.remove(&spelt);
        return;
    }
    let value = dice.value(block_size);
    let mode = [XattrWrite::Any, XattrWrite::Any, XattrWrite::Create, XattrWrite::Replace][dice.below(4)];
    let expected = match (mode, exists) {
        (XattrWrite::Create, true) => Err(Error::Exists),
        (XattrWrite::Replace, false) => Err(Error::NoXattr),
        _ => Ok(()),
    };
    match fs.set_xattr(file, &name(&spelt), &value, mode).await {
        // What does not fit the pointers of one record.
        Err(Error::XattrTooLarge) if block_size == 512 && value.len() > 20_000 => {}
        result => {
            assert_eq!(result, expected, "{spelt} {} bytes", value.len());
            if result.is_ok() {
                model.insert(spelt, value);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_changes_of_attributes_are_read_back_and_leave_nothing_behind() {
    for (seed, block_size, names) in
        [(1, 4096, 3), (2, 4096, 200), (3, 1024, 4), (4, 1024, 60), (5, 512, 5), (6, 512, 40)]
    {
        let volume = Volume::new(&format!("xattr{seed}"), 128, block_size).await;
        let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
        let free = fs.statfs().await.expect("statfs").blocks_free;
        let mut dice = Dice(seed);
        let mut files = Vec::new();
        for number in 0..3 {
            let made = make(&fs, fs.root(), &format!("f{number}"), NewInode::File { mode: 0o644 }, 0).await;
            files.push((made, Model::new()));
        }
        let block_size = block_size as usize;
        for step in 0..400 {
            let number = dice.below(files.len());
            let (file, model) = &mut files[number];
            change(&fs, *file, model, &mut dice, block_size, names).await;
            if step % 40 == 0 {
                expect_model(&fs, *file, model).await;
            }
        }
        fs.unmount().await.expect("unmount");
        volume.assert_clean();
        let fs = volume.mount(Arc::new(LocalLocks::new()), 1).await;
        for (file, model) in &files {
            expect_model(&fs, *file, model).await;
        }
        // Attribute by attribute, with the inode, and by the inode alone.
        for spelt in files[0].1.keys() {
            fs.remove_xattr(files[0].0, &name(spelt)).await.expect("remove");
        }
        let sectors = fs.getattr(files[0].0).await.expect("getattr").attributes.sectors;
        assert_eq!(sectors, block_size as u64 / 512, "only the inode itself is left");
        for number in 0..3 {
            fs.unlink(fs.root(), format!("f{number}").as_bytes()).await.expect("unlink");
        }
        fs.sync().await.expect("sync");
        assert_eq!(fs.statfs().await.expect("statfs").blocks_free, free, "seed {seed}");
        fs.unmount().await.expect("unmount");
        volume.assert_clean();
    }
}

/// Entries of an access control list: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const NOBODY: u32 = u32::MAX;

async fn mode(fs: &Fs, inode: InodeRef) -> u32 {
    fs.getattr(inode).await.expect("getattr").attributes.mode & 0o7777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_list_takes_the_place_of_the_umask_and_a_chmod_changes_the_mask() {
    let volume = Volume::new("acl", 128, 1024).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let dir = make(&fs, fs.root(), "dir", NewInode::Directory { mode: 0o755 }, 0).await;
    let plain = make(&fs, dir, "plain", NewInode::File { mode: 0o666 }, 0o027).await;
    assert_eq!(mode(&fs, plain).await, 0o640);
    let list = acl(&[(1, 7, NOBODY), (2, 7, 1000), (4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY)]);
    let set = SetAcl { list: &list, clears_set_group_id: false };
    fs.set_acl(dir, AclKind::Default, set).await.expect("set");
    assert_eq!(mode(&fs, dir).await, 0o755, "a default list says nothing of the directory itself");
    assert_eq!(fs.set_acl(plain, AclKind::Default, set).await, Err(Error::AccessDenied));
    let file = make(&fs, dir, "file", NewInode::File { mode: 0o666 }, 0o027).await;
    assert_eq!(mode(&fs, file).await, 0o660);
    let below = make(&fs, dir, "below", NewInode::Directory { mode: 0o2777 }, 0o027).await;
    assert_eq!(mode(&fs, below).await, 0o2770);
    assert_eq!(fs.get_xattr(below, &name("system.posix_acl_default")).await.expect("inherited"), list);
    let link = make(&fs, dir, "link", NewInode::Symlink { target: b"x".to_vec() }, 0o027).await;
    assert_eq!(fs.list_xattrs(link).await, Ok(Vec::new()));
    fs.setattr(file, SetAttributes { mode: Some(0o604), ..SetAttributes::default() }).await.expect("chmod");
    let after = acl(&[(1, 6, NOBODY), (2, 7, 1000), (4, 5, NOBODY), (16, 0, NOBODY), (32, 4, NOBODY)]);
    assert_eq!(fs.get_xattr(file, &name("system.posix_acl_access")).await.expect("still there"), after);
    let expressed = acl(&[(1, 6, NOBODY), (4, 4, NOBODY), (32, 0, NOBODY)]);
    let set = SetAcl { list: &expressed, clears_set_group_id: true };
    fs.set_acl(file, AclKind::Access, set).await.expect("set");
    assert_eq!((mode(&fs, file).await, fs.list_xattrs(file).await), (0o640, Ok(Vec::new())));
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_the_greatest_length_are_inherited() {
    for (block_size, users) in [(4096, 296), (512, 33)] {
        let volume = Volume::new(&format!("acls{block_size}"), 128, block_size).await;
        let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
        let mut entries = vec![(1, 7, NOBODY)];
        entries.extend((0..users).map(|user| (2, 6, 1000 + user)));
        entries.extend([(4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY)]);
        let list = acl(&entries);
        let too_long = acl(&[&entries[..1], &[(2, 1, 1), (2, 1, 2)], &entries[1..]].concat());
        let dir = make(&fs, fs.root(), "dir", NewInode::Directory { mode: 0o755 }, 0).await;
        let set = SetAcl { list: &list, clears_set_group_id: false };
        fs.set_acl(dir, AclKind::Default, set).await.expect("set");
        let long = SetAcl { list: &too_long, clears_set_group_id: false };
        assert_eq!(fs.set_acl(dir, AclKind::Default, long).await, Err(Error::AclTooLong));
        let mut at = dir;
        for _ in 0..5 {
            at = make(&fs, at, "below", NewInode::Directory { mode: 0o777 }, 0).await;
            assert_eq!(fs.get_xattr(at, &name("system.posix_acl_default")).await.expect("inherited"), list);
        }
        fs.unmount().await.expect("unmount");
        volume.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_forbid_what_they_say_and_a_write_takes_capabilities_away() {
    let volume = Volume::new("flags", 128, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let root = fs.root();
    let file = make(&fs, root, "file", NewInode::File { mode: 0o644 }, 0).await;
    let capability = name("security.capability");
    fs.set_xattr(file, &capability, b"\x01\0\0\x02", XattrWrite::Any).await.expect("set");
    fs.write(file, WriteAt::End, bytes::Bytes::from_static(b"new"), RequestOrigin::Call).await.expect("write");
    assert_eq!(fs.get_xattr(file, &capability).await, Err(Error::NoXattr));
    let immutable = InodeFlags { is_immutable: true, ..InodeFlags::default() };
    fs.set_inode_flags(file, immutable).await.expect("flags");
    assert_eq!(fs.inode_flags(file).await, Ok(immutable));
    assert_eq!(fs.open(file, true).await, Err(Error::NotPermitted));
    assert_eq!(fs.set_xattr(file, &name("user.a"), b"", XattrWrite::Any).await, Err(Error::NotPermitted));
    assert_eq!(fs.unlink(root, b"file").await, Err(Error::NotPermitted));
    let moved = fs.rename(root, b"file", root, b"other", gfs_core::RenameMode::Replace).await;
    assert_eq!(moved, Err(Error::NotPermitted));
    let append = InodeFlags { is_append_only: true, ..InodeFlags::default() };
    fs.set_inode_flags(file, append).await.expect("flags");
    let cut = SetAttributes { size: Some(0), ..SetAttributes::default() };
    assert_eq!(fs.setattr(file, cut).await, Err(Error::NotPermitted));
    assert_eq!(fs.unlink(root, b"file").await, Err(Error::NotPermitted));
    fs.set_inode_flags(file, InodeFlags::default()).await.expect("flags");
    fs.unlink(root, b"file").await.expect("unlink");
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}

async fn mount_device(device: Arc<dyn BlockDevice>) -> Arc<Fs> {
    let ports =
        Ports { device, locks: Arc::new(LocalLocks::new()), host: TokioHost::new(), caches: Arc::new(NoKernelCaches) };
    Fs::mount(ports, MountOptions::default()).await.expect("mount")
}

async fn read_model(fs: &Fs, file: InodeRef) -> Model {
    let mut model = Model::new();
    for name in fs.list_xattrs(file).await.expect("list") {
        let value = fs.get_xattr(file, &name).await.expect("get");
        model.insert(String::from_utf8(name.spelt()).expect("test names are text"), value);
    }
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_the_attributes_are_those_of_one_moment_since_the_last_sync() {
    for seed in 1..7 {
        let block_size = [4096, 1024, 512][seed as usize % 3];
        let mut crash = CrashDevice::new(ByteLen(64 << 20));
        let device: Arc<dyn BlockDevice> = crash.clone();
        let mut options = mkfs::Options::new(mkfs::Protocol::Nolock, "", [7; 16]);
        options.journal_mb = Some(8);
        options.block_size = Some(block_size);
        mkfs::format(&device, &options).await.expect("mkfs");
        device.flush().await.expect("flush");
        let mut dice = Dice(seed);
        let fs = mount_device(crash.clone()).await;
        let file = make(&fs, fs.root(), "file", NewInode::File { mode: 0o644 }, 0).await;
        fs.unmount().await.expect("unmount");
        let mut model = Model::new();
        for round in 0..3 {
            let fs = mount_device(crash.clone()).await;
            let mut moments = vec![model.clone()];
            for step in 0..50 + dice.below(100) {
                change(&fs, file, &mut model, &mut dice, block_size as usize, 6).await;
                moments.push(model.clone());
                if dice.below(30) == 0 {
                    fs.fsync(file, false).await.expect("fsync");
                    moments = vec![model.clone()];
                } else if step % 10 == 0 {
                    // Committed, with no promise to anybody.
                    tokio::task::yield_now().await;
                }
            }
            let image = crash.power_cut(&mut || dice.below(1 << 30) as u64 * 0x9e37_79b9_7f4a_7c15);
            drop(fs);
            crash = CrashDevice::from_image(image);
            let fs = mount_device(crash.clone()).await;
            let found = read_model(&fs, file).await;
            assert!(moments.contains(&found), "seed {seed} round {round}: {:?}", found.keys());
            model = found;
            fs.unmount().await.expect("unmount");
            let path = std::env::temp_dir().join(format!("corral-xcut-{}-{seed}-{round}.img", std::process::id()));
            std::fs::write(&path, crash.snapshot().to_bytes()).expect("write the image");
            Volume { path }.assert_clean();
        }
    }
}

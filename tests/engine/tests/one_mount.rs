//! What one mount writes, fsck.gfs2 finds clean, and the next mount reads back.

use std::sync::Arc;

use bytes::Bytes;
use dlm_api::local::LocalLocks;
use engine_tests::Volume;
use gfs_core::{
    Caller, Entry, Error, Fs, InodeRef, Lookup, NewInode, RenameMode, RequestOrigin, SetAttributes, WriteAt,
};

fn inode(entry: &Entry) -> InodeRef {
    InodeRef { number: entry.attributes.inode, generation: entry.attributes.generation }
}

async fn make(fs: &Fs, dir: InodeRef, name: &str, new: NewInode) -> InodeRef {
    inode(&fs.create(Caller::default(), dir, name.as_bytes(), new).await.expect(name))
}

async fn file(fs: &Fs, dir: InodeRef, name: &str, content: &[u8]) -> InodeRef {
    let file = make(fs, dir, name, NewInode::File { mode: 0o644 }).await;
    put(fs, file, 0, content).await;
    file
}

async fn put(fs: &Fs, file: InodeRef, offset: u64, content: &[u8]) {
    let data = Bytes::copy_from_slice(content);
    let count = fs.write(file, WriteAt::Offset(offset), data, RequestOrigin::Call).await.expect("write");
    assert_eq!(count as usize, content.len());
}

async fn content(fs: &Fs, file: InodeRef) -> Vec<u8> {
    let size = fs.getattr(file).await.expect("getattr").attributes.size;
    let mut out = Vec::new();
    while (out.len() as u64) < size {
        out.extend_from_slice(&fs.read(file, out.len() as u64, 1 << 20, RequestOrigin::Call).await.expect("read"));
    }
    out
}

async fn find(fs: &Fs, dir: InodeRef, name: &str) -> Option<InodeRef> {
    match fs.lookup(dir, name.as_bytes()).await.expect("lookup") {
        Lookup::Found(entry) => Some(inode(&entry)),
        Lookup::Missing(_) => None,
    }
}

async fn names(fs: &Fs, dir: InodeRef) -> Vec<String> {
    let (mut out, mut from) = (Vec::new(), 0);
    loop {
        let entries = fs.readdir(dir, from, 100).await.expect("readdir");
        let Some(last) = entries.last() else { break };
        from = last.next;
        out.extend(entries.into_iter().map(|entry| String::from_utf8(entry.name).expect("test names are text")));
    }
    out.retain(|name| name != "." && name != "..");
    out.sort();
    out
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251 + seed * 7) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_height_are_read_back_by_the_next_mount() {
    for block_size in [4096, 1024] {
        let volume = Volume::new(&format!("heights{block_size}"), 200, block_size).await;
        let sizes = [0, 1, 700, 3864, 3865, 4096, 5000, 100_000, 3_000_000, 20_000_000];
        let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
        let root = fs.root();
        for (i, size) in sizes.iter().enumerate() {
            file(&fs, root, &format!("f{i}"), &pattern(i, *size)).await;
        }
        let sparse = make(&fs, root, "sparse", NewInode::File { mode: 0o600 }).await;
        put(&fs, sparse, 50_000_000_000, b"far away").await;
        fs.unmount().await.expect("unmount");
        volume.assert_clean();
        let fs = volume.mount(Arc::new(LocalLocks::new()), 1).await;
        for (i, size) in sizes.iter().enumerate() {
            let file = find(&fs, root, &format!("f{i}")).await.expect("the file");
            assert!(content(&fs, file).await == pattern(i, *size), "size {size}");
        }
        let sparse = find(&fs, root, "sparse").await.expect("the file");
        let far = fs.read(sparse, 49_999_999_999, 100, RequestOrigin::Call).await.expect("read");
        assert_eq!(&far[..], b"\0far away");
        fs.unmount().await.expect("unmount");
        volume.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_grows_to_a_hash_table_and_empties_again() {
    let volume = Volume::new("bigdir", 300, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let dir = make(&fs, fs.root(), "big", NewInode::Directory { mode: 0o755 }).await;
    let mut expected = Vec::new();
    for i in 0..6000 {
        let name = format!("a rather long name, so that leaves fill up quickly, number {i}");
        make(&fs, dir, &name, NewInode::File { mode: 0o644 }).await;
        expected.push(name);
    }
    expected.sort();
    assert_eq!(names(&fs, dir).await, expected);
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let dir = find(&fs, fs.root(), "big").await.expect("the directory");
    assert_eq!(names(&fs, dir).await, expected);
    for name in &expected {
        fs.unlink(dir, name.as_bytes()).await.expect(name);
    }
    assert!(names(&fs, dir).await.is_empty());
    fs.rmdir(fs.root(), b"big").await.expect("rmdir");
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_and_deletion_give_every_block_back() {
    let volume = Volume::new("space", 200, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let root = fs.root();
    let before = fs.statfs().await.expect("statfs");
    let big = file(&fs, root, "big", &pattern(1, 30_000_000)).await;
    for size in [29_999_999, 10_000_000, 4097, 100, 50_000, 0, 70_000] {
        let changes = SetAttributes { size: Some(size), ..SetAttributes::default() };
        fs.setattr(big, changes).await.expect("setattr");
        assert_eq!(content(&fs, big).await.len() as u64, size);
    }
    assert!(content(&fs, big).await.iter().all(|byte| *byte == 0), "grown again, it shows zeroes");
    fs.unlink(root, b"big").await.expect("unlink");
    let after = fs.statfs().await.expect("statfs");
    assert_eq!(before.blocks_free, after.blocks_free);
    assert_eq!(before.inodes, after.inodes);
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_filesystem_says_so_and_stays_clean() {
    let volume = Volume::new("full", 64, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let root = fs.root();
    let chunk = pattern(3, 1 << 20);
    let mut count = 0;
    'fill: for i in 0.. {
        let file = match fs
            .create(Caller::default(), root, format!("f{i}").as_bytes(), NewInode::File { mode: 0o644 })
            .await
        {
            Ok(entry) => inode(&entry),
            Err(error) => {
                assert_eq!(error, Error::NoSpace);
                break;
            }
        };
        for part in 0..4 {
            let data = Bytes::copy_from_slice(&chunk);
            match fs.write(file, WriteAt::Offset(part << 20), data, RequestOrigin::Call).await {
                Ok(written) => count += u64::from(written),
                Err(error) => {
                    assert_eq!(error, Error::NoSpace);
                    break 'fill;
                }
            }
        }
    }
    assert!(count > 20 << 20, "wrote only {count} bytes");
    assert!(fs.statfs().await.expect("statfs").blocks_free < 64);
    for name in names(&fs, root).await {
        fs.unlink(root, name.as_bytes()).await.expect("unlink");
    }
    file(&fs, root, "again", &chunk).await;
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_move_between_directories_with_their_links() {
    let volume = Volume::new("rename", 64, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let root = fs.root();
    let a = make(&fs, root, "a", NewInode::Directory { mode: 0o755 }).await;
    let b = make(&fs, root, "b", NewInode::Directory { mode: 0o755 }).await;
    let inner = make(&fs, a, "inner", NewInode::Directory { mode: 0o755 }).await;
    let one = file(&fs, a, "one", b"one").await;
    file(&fs, b, "two", b"two").await;
    fs.link(one, b, b"link").await.expect("link");
    fs.rename(a, b"inner", b, b"moved", RenameMode::Replace).await.expect("move a directory");
    assert_eq!(fs.rename(b, b"moved", inner, b"x", RenameMode::Replace).await, Err(Error::Invalid));
    assert_eq!(fs.rename(root, b"b", inner, b"x", RenameMode::Replace).await, Err(Error::Invalid));
    fs.rename(a, b"one", b, b"two", RenameMode::Replace).await.expect("replace");
    assert_eq!(fs.rename(b, b"two", b, b"link", RenameMode::NoReplace).await, Err(Error::Exists));
    fs.rename(b, b"moved", b, b"two", RenameMode::Exchange).await.expect("exchange");
    assert_eq!(names(&fs, b).await, ["link", "moved", "two"]);
    let moved = find(&fs, b, "moved").await.expect("moved");
    assert_eq!(content(&fs, moved).await, b"one");
    assert_eq!(fs.getattr(one).await.expect("getattr").attributes.link_count, 2);
    assert_eq!(fs.getattr(a).await.expect("getattr").attributes.link_count, 2);
    assert_eq!(fs.getattr(b).await.expect("getattr").attributes.link_count, 3);
    assert_eq!(fs.rmdir(root, b"b").await, Err(Error::NotEmpty));
    assert_eq!(fs.unlink(root, b"b").await, Err(Error::IsDirectory));
    make(&fs, a, "soft", NewInode::Symlink { target: b"../b/two".to_vec() }).await;
    make(&fs, a, "pipe", NewInode::Special { mode: 0o010_644, major: 0, minor: 0 }).await;
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_outlives_its_name_and_is_freed_with_the_last_close() {
    let volume = Volume::new("open", 64, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let root = fs.root();
    let before = fs.statfs().await.expect("statfs");
    let open = file(&fs, root, "open", &pattern(1, 200_000)).await;
    fs.open(open, true).await.expect("open");
    fs.unlink(root, b"open").await.expect("unlink");
    assert_eq!(content(&fs, open).await, pattern(1, 200_000));
    put(&fs, open, 300_000, b"more").await;
    assert_ne!(fs.statfs().await.expect("statfs").blocks_free, before.blocks_free);
    fs.release(open, true).await;
    assert_eq!(fs.statfs().await.expect("statfs").blocks_free, before.blocks_free);
    assert_eq!(fs.getattr(open).await, Err(Error::Stale));
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}

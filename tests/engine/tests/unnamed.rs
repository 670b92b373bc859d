//! Files that are made without a name.

use std::sync::Arc;

use bytes::Bytes;
use dlm_api::local::LocalLocks;
use engine_tests::Volume;
use gfs_core::{Caller, Error, Fs, InodeRef, Lookup, NewInode, RequestOrigin, WriteAt};

async fn unnamed(fs: &Fs) -> InodeRef {
    let attributes = fs.create_unnamed(Caller::default(), fs.root(), 0o600).await.expect("create");
    assert_eq!(attributes.link_count, 0);
    let file = InodeRef { number: attributes.inode, generation: attributes.generation };
    let data = Bytes::from(vec![7; 100_000]);
    fs.write(file, WriteAt::Offset(0), data, RequestOrigin::Call).await.expect("write");
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_made_without_a_name_goes_with_its_last_close_unless_it_gets_one() {
    let volume = Volume::new("unnamed", 128, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let free = fs.statfs().await.expect("statfs").blocks_free;
    let file = unnamed(&fs).await;
    fs.release(file, false).await;
    fs.sync().await.expect("sync");
    assert_eq!(fs.getattr(file).await, Err(Error::Stale));
    assert_eq!(fs.statfs().await.expect("statfs").blocks_free, free);

    let file = unnamed(&fs).await;
    let entry = fs.link(file, fs.root(), b"named").await.expect("link");
    assert_eq!(entry.attributes.link_count, 1);
    fs.release(file, false).await;
    fs.unmount().await.expect("unmount");
    volume.assert_clean();

    let fs = volume.mount(Arc::new(LocalLocks::new()), 1).await;
    assert!(matches!(fs.lookup(fs.root(), b"named").await, Ok(Lookup::Found(_))));
    let read = fs.read(file, 0, 1 << 20, RequestOrigin::Call).await.expect("read");
    assert!(read.len() == 100_000 && read.iter().all(|byte| *byte == 7));
    fs.unmount().await.expect("unmount");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_lost_its_names_gets_none_again() {
    let volume = Volume::new("lost", 128, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let new = NewInode::File { mode: 0o644 };
    let entry = fs.create(Caller::default(), fs.root(), b"file", new).await.expect("create");
    let file = InodeRef { number: entry.attributes.inode, generation: entry.attributes.generation };
    fs.open(file, false).await.expect("open");
    fs.unlink(fs.root(), b"file").await.expect("unlink");
    assert_eq!(fs.link(file, fs.root(), b"again").await.map(drop), Err(Error::NotFound));
    fs.release(file, false).await;
    let gone = fs.create_unnamed(Caller::default(), file, 0o600).await.map(drop);
    assert!(gone.is_err(), "a file is no directory");
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}

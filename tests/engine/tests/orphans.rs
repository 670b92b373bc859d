//! A file that was open when its last name was removed, on a node that then died.

use std::sync::Arc;

use block_core::crash::CrashDevice;
use block_core::{BlockDevice, ByteLen};
use bytes::Bytes;
use dlm_api::local::LocalLocks;
use engine_tests::TokioHost;
use gfs_core::{Caller, Fs, InodeRef, MountOptions, NewInode, NoKernelCaches, Ports, RequestOrigin, WriteAt};

async fn mount(device: Arc<dyn BlockDevice>) -> Arc<Fs> {
    let ports =
        Ports { device, locks: Arc::new(LocalLocks::new()), host: TokioHost::new(), caches: Arc::new(NoKernelCaches) };
    Fs::mount(ports, MountOptions::default()).await.expect("mount")
}

async fn free_blocks(fs: &Fs) -> u64 {
    fs.statfs().await.expect("statfs").blocks_free
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_mount_frees_what_a_dead_node_had_open_without_a_name() {
    let disk = CrashDevice::new(ByteLen(64 << 20));
    let device: Arc<dyn BlockDevice> = disk.clone();
    let mut options = mkfs::Options::new(mkfs::Protocol::Nolock, "", [7; 16]);
    options.journals = 1;
    options.journal_mb = Some(8);
    mkfs::format(&device, &options).await.expect("mkfs");

    let fs = mount(disk.clone()).await;
    let before = free_blocks(&fs).await;
    let new = NewInode::File { mode: 0o600 };
    let made = fs.create(Caller::default(), fs.root(), b"scratch", new).await.expect("create").attributes;
    let file = InodeRef { number: made.inode, generation: made.generation };
    let data = Bytes::from(vec![7; 1 << 20]);
    fs.write(file, WriteAt::Offset(0), data, RequestOrigin::Call).await.expect("write");
    fs.open(file, true).await.expect("open");
    fs.unlink(fs.root(), b"scratch").await.expect("unlink");
    fs.sync().await.expect("sync");
    assert!(free_blocks(&fs).await + 256 <= before, "it is open, so its blocks are still its own");

    // Everything was synced, so the cut loses nothing; nobody closes the file.
    let image = disk.power_cut(&mut || 0);
    drop(fs);
    let fs = mount(CrashDevice::from_image(image)).await;
    let bound = tokio::time::Duration::from_secs(20);
    let reclaimed = tokio::time::timeout(bound, async {
        while free_blocks(&fs).await < before {
            tokio::task::yield_now().await;
        }
    });
    reclaimed.await.expect("its blocks are free again");
    fs.unmount().await.expect("unmount");
}

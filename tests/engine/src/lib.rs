//! A filesystem in a file, mounted once or several times in this process, for tests that judge
//! the engine's images with `fsck.gfs2`.
//!
//! The mounts share nothing but the device and a lock manager.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{BoxFuture, Host, Instant, WallTime};
use block_core::{BlockDevice, ByteLen};
use block_file::{FileDevice, OpenOptions};
use dlm_api::LockManager;
use gfs_core::{Fs, MountOptions, NoKernelCaches, Ports};

/// Clock and spawn of the running tokio runtime.
pub struct TokioHost {
    runtime: tokio::runtime::Handle,
    start: tokio::time::Instant,
}

impl TokioHost {
    pub fn new() -> Arc<TokioHost> {
        Arc::new(TokioHost { runtime: tokio::runtime::Handle::current(), start: tokio::time::Instant::now() })
    }
}

impl Host for TokioHost {
    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall_time(&self) -> WallTime {
        // Any time will do, as long as it moves.
        WallTime { seconds: 1_700_000_000 + (self.now().as_nanos() / 1_000_000_000).cast_signed(), nanos: 0 }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let wait = deadline.saturating_since(self.now());
        Box::pin(async move { tokio::time::sleep(wait.min(Duration::from_secs(86_400))).await })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.runtime.spawn(task);
    }

    fn random(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// An image file that goes with the test.
pub struct Volume {
    pub path: PathBuf,
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Volume {
    /// Makes a filesystem of `megabytes` with three journals.
    pub async fn new(name: &str, megabytes: u64, block_size: u32) -> Volume {
        let path = std::env::temp_dir().join(format!("corral-engine-{}-{name}.img", std::process::id()));
        let volume = Volume { path };
        let options = OpenOptions { create_size: Some(ByteLen(megabytes << 20)), ..OpenOptions::default() };
        let device: Arc<dyn BlockDevice> = FileDevice::open(&volume.path, options).expect("a file for the volume");
        let mut options = mkfs::Options::new(mkfs::Protocol::Dlm, "test:engine", [7; 16]);
        options.block_size = Some(block_size);
        options.journals = 3;
        options.journal_mb = Some(8);
        mkfs::format(&device, &options).await.expect("mkfs");
        device.flush().await.expect("flush");
        volume
    }

    /// Mounts it.
    pub async fn mount(&self, locks: Arc<dyn LockManager>, journal: u32) -> Arc<Fs> {
        let options = OpenOptions { exclusive: false, ..OpenOptions::default() };
        let device: Arc<dyn BlockDevice> = FileDevice::open(&self.path, options).expect("the volume's file");
        let ports = Ports { device, locks, host: TokioHost::new(), caches: Arc::new(NoKernelCaches) };
        let options = MountOptions { preferred_journal: journal, has_acls: true, ..MountOptions::default() };
        Fs::mount(ports, options).await.expect("mount")
    }

    /// Fails unless `fsck.gfs2 -n` finds nothing to say.
    pub fn assert_clean(&self) {
        let Some(output) = fsck(&self.path) else {
            eprintln!("SKIPPED: fsck.gfs2 is not installed, so the image was not judged");
            return;
        };
        let bad = ["error", "bad ", "wrong", "should be", "not linked", "is dirty", "mismatch"];
        let text = output.to_lowercase();
        assert!(!bad.iter().any(|word| text.contains(word)), "fsck.gfs2 says:\n{output}");
    }
}

fn fsck(path: &Path) -> Option<String> {
    let tool = ["/usr/sbin/fsck.gfs2", "/sbin/fsck.gfs2"].into_iter().find(|tool| Path::new(tool).exists())?;
    let output = Command::new(tool).arg("-n").arg(path).output().ok()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "fsck.gfs2 exits with {}:\n{text}", output.status);
    Some(text)
}

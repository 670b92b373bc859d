//! Folders, names and addresses of the cluster on one machine. Pure naming apart from making and deleting folders.
//!
//! ```text
//! run/  disk.img  view.toml  tree.sha256  bin/  storage/{log,state,pids}  node1/{mnt,log,state,pids}  node2/…  node3/…
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// How many nodes quickstart starts.
pub const NODE_COUNT: u32 = 3;
/// Size of the shared disk; the file is thin.
pub const DISK_SIZE: &str = "3G";
/// Size of each journal in MiB; a small one makes mkfs quick and is ample for a demonstration.
pub const JOURNAL_MIB: u32 = 32;
/// Cluster and filesystem name: `mkfs -t`.
pub const CLUSTER: &str = "demo";
pub const LOCKSPACE: &str = "fs0";
/// The name of the target on the storage host.
pub const TARGET: &str = "iqn.2026-11.org.corral:demo";
/// Ports inside the namespaces, where nobody else listens: iSCSI's own, and that of the kernel's DLM.
pub const TARGET_PORT: u16 = 3260;
pub const DLM_PORT: u16 = 21064;

/// The run folder and the names derived from it.
#[derive(Clone, Debug)]
pub struct Layout {
    pub run: PathBuf,
    /// `corral-` and six hex digits of the run folder's path: two clones on one machine do not meet.
    tag: String,
}

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceKind {
    Storage,
    Node(u32),
}

/// A simulated machine: a network namespace and a folder.
#[derive(Clone, Debug)]
pub struct Place {
    pub kind: PlaceKind,
    pub folder: PathBuf,
    pub namespace: String,
}

impl Place {
    /// `storage`, `node1` …
    pub fn name(&self) -> String {
        match self.kind {
            PlaceKind::Storage => "storage".into(),
            PlaceKind::Node(n) => format!("node{n}"),
        }
    }

    /// Its address on the cluster's switch.
    pub fn address(&self) -> String {
        match self.kind {
            PlaceKind::Storage => "10.77.0.254".into(),
            PlaceKind::Node(n) => format!("10.77.0.{n}"),
        }
    }

    /// The name that its iSCSI initiators log in by.
    pub fn initiator_name(&self) -> String {
        format!("iqn.2026-11.org.corral:{}", self.name())
    }

    pub fn mnt(&self) -> PathBuf {
        self.folder.join("mnt")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Every process of this place, one number a line.
    pub fn pids(&self) -> PathBuf {
        self.folder.join("pids")
    }

    /// The numbers in `pids`.
    pub fn recorded_pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.pids()).unwrap_or_default();
        text.lines().filter_map(|l| l.trim().parse().ok()).collect()
    }

    /// Notes one more process.
    pub fn record_pid(&self, pid: i32) -> io::Result<()> {
        writeln!(fs::OpenOptions::new().create(true).append(true).open(self.pids())?, "{pid}")
    }
}

impl Layout {
    fn of(run: PathBuf) -> Self {
        // FNV-1a: a name that is the same in every build, which the standard hasher does not promise.
        let bytes = run.as_os_str().as_encoded_bytes();
        let hash =
            bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        Self { tag: format!("corral-{:06x}", hash & 0xff_ffff), run }
    }

    /// The run folder that quickstart uses: `CORRAL_RUN`, or `run` in the working folder.
    pub fn here() -> Result<Self, String> {
        let run = std::env::var_os("CORRAL_RUN").map_or_else(|| PathBuf::from("run"), PathBuf::from);
        fs::create_dir_all(&run).map_err(|e| format!("cannot make the folder {}: {e}", run.display()))?;
        Ok(Self::of(run.canonicalize().map_err(|e| format!("{}: {e}", run.display()))?))
    }

    /// The run folder of a cluster that was started: `CORRAL_RUN`, `run` in the working folder or one above it,
    /// or beside the build that this program lies in.
    pub fn near() -> Option<Self> {
        if let Some(named) = std::env::var_os("CORRAL_RUN") {
            // Whoever names a cluster means no other.
            let run = PathBuf::from(named).canonicalize().ok().filter(|run| run.join(MARK).exists());
            return run.map(Self::of);
        }
        let working = std::env::current_dir().ok();
        let exe = std::env::current_exe().ok();
        let above = |start: &Option<PathBuf>| -> Vec<PathBuf> {
            start.iter().flat_map(|d| d.ancestors()).map(|d| d.join("run")).collect()
        };
        let places = above(&working).into_iter().chain(above(&exe));
        let found = places.filter_map(|p| p.canonicalize().ok()).find(|p| p.join(MARK).exists());
        found.map(Self::of)
    }

    /// Makes every folder and marks the run folder as quickstart's.
    pub fn prepare(&self) -> Result<(), String> {
        let make = || -> io::Result<()> {
            for place in self.places() {
                fs::create_dir_all(place.log())?;
                fs::create_dir_all(place.state())?;
                if place.kind != PlaceKind::Storage && fs::symlink_metadata(place.mnt()).is_err() {
                    fs::create_dir(place.mnt())?;
                }
            }
            fs::write(self.run.join(MARK), "This folder belongs to ./quickstart; `corral down --purge` deletes it.\n")
        };
        make().map_err(|e| format!("cannot prepare {}: {e}", self.run.display()))
    }

    /// Keeps a second quickstart out. The kernel drops the lock with the process.
    pub fn lock(&self) -> Result<Flock<fs::File>, String> {
        let file = fs::File::create(self.run.join(".lock")).map_err(|e| format!("{}: {e}", self.run.display()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| format!("another quickstart is at work in {}", self.run.display()))
    }

    /// Deletes the run folder, refusing while anything is mounted in it.
    pub fn purge(&self) -> Result<(), String> {
        let mounted = crate::mounts::all().map_err(|e| e.to_string())?;
        if let Some(mount) = mounted.iter().find(|m| m.dir.starts_with(&self.run)) {
            return Err(format!("{} is still mounted: nothing deleted", mount.dir.display()));
        }
        fs::remove_dir_all(&self.run).map_err(|e| format!("cannot delete {}: {e}", self.run.display()))
    }

    pub fn node(&self, number: u32) -> Place {
        let folder = self.run.join(format!("node{number}"));
        Place { kind: PlaceKind::Node(number), folder, namespace: format!("{}-{number}", self.tag) }
    }

    pub fn nodes(&self) -> Vec<Place> {
        (1..=NODE_COUNT).map(|n| self.node(n)).collect()
    }

    pub fn storage(&self) -> Place {
        let folder = self.run.join("storage");
        Place { kind: PlaceKind::Storage, folder, namespace: format!("{}-disk", self.tag) }
    }

    /// Storage first, then the nodes.
    pub fn places(&self) -> Vec<Place> {
        std::iter::once(self.storage()).chain(self.nodes()).collect()
    }

    /// The namespace that holds only the switch.
    pub fn switch(&self) -> String {
        format!("{}-net", self.tag)
    }

    /// Every namespace of this cluster.
    pub fn namespaces(&self) -> Vec<String> {
        std::iter::once(self.switch()).chain(self.places().into_iter().map(|p| p.namespace)).collect()
    }

    /// The shared disk.
    pub fn disk(&self) -> PathBuf {
        self.run.join("disk.img")
    }

    /// There while every mount of the disk has ended cleanly.
    pub fn clean_mark(&self) -> PathBuf {
        self.run.join("disk.clean")
    }

    /// The static view of the lockspace.
    pub fn view(&self) -> PathBuf {
        self.run.join("view.toml")
    }

    /// Checksums of the tree that was brought in, in the form of sha256sum; there once all nodes agreed.
    pub fn manifest(&self) -> PathBuf {
        self.run.join("tree.sha256")
    }

    pub fn bin(&self) -> PathBuf {
        self.run.join("bin")
    }

    /// The disk as the nodes name it.
    pub fn url(&self) -> String {
        format!("iscsi://{}:{TARGET_PORT}/{TARGET}/0", self.storage().address())
    }

    /// The text of the view file.
    pub fn view_text(&self) -> String {
        let mut text = format!(
            "# The members of the lockspace. Plaintext is for this machine's own namespaces only.\n\
             cluster = \"{CLUSTER}\"\nallow_plaintext = true\n"
        );
        for number in 1..=NODE_COUNT {
            let address = self.node(number).address();
            text.push_str(&format!("\n[[member]]\nid = {number}\naddress = \"{address}:{DLM_PORT}\"\n"));
        }
        text
    }
}

/// Shortens a path below the working folder for display.
pub fn shown(path: &Path) -> String {
    let short = std::env::current_dir().ok().and_then(|d| path.strip_prefix(d).ok().map(Path::to_path_buf));
    short.unwrap_or_else(|| path.to_path_buf()).display().to_string()
}

/// Marks a run folder as quickstart's; only such a folder is ever cleaned or purged.
const MARK: &str = ".corral-quickstart";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clones_use_different_namespaces() {
        let (one, two) = (Layout::of("/a/run".into()), Layout::of("/b/run".into()));
        assert!(one.namespaces().iter().all(|n| !two.namespaces().contains(n)));
        assert_eq!(one.namespaces(), Layout::of("/a/run".into()).namespaces());
    }

    #[test]
    fn the_view_names_every_member_once() {
        let text = Layout::of("/a/run".into()).view_text();
        assert_eq!(text.matches("[[member]]").count(), 3);
        assert!(text.contains("address = \"10.77.0.3:21064\""));
    }
}

//! A real tree of the machine's own files: chosen the same way every time, copied in through node 1, compared by
//! checksum on the others.
//!
//! The judge is coreutils' `sha256sum`, not our own code: the checksums are taken of the originals and checked on
//! the mounts. What sha256sum does not see (types, modes, owners, times, link targets) is compared here.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::network;
use super::session::Session;
use super::story::Story;

/// Where files are taken from, in this order, until both bounds are met.
const SOURCES: [&str; 6] = ["/usr/share", "/usr/include", "/usr/lib", "/usr/bin", "/usr/libexec", "/usr/sbin"];
const FILES_MIN: usize = 10_000;
const BYTES_MIN: u64 = 200 << 20;
/// A single file over this is left out, so that the total stays near its bound.
const FILE_MAX: u64 = 8 << 20;
/// Once the bytes suffice and files are still wanted, only small ones are taken.
const SMALL_FILE: u64 = 16 << 10;
/// How many files are copied at the same time.
const COPIERS: usize = 4;

/// What was chosen, as paths relative to `/`.
#[derive(Debug, Default)]
struct Chosen {
    dirs: Vec<PathBuf>,
    files: Vec<(PathBuf, u64)>,
    links: Vec<PathBuf>,
    bytes: u64,
}

/// Chooses, copies in through the first mount and compares on the others.
pub fn bring_in(session: &Session, story: &Story, mounts: &[PathBuf]) -> Result<(), String> {
    let manifest = session.layout.manifest();
    let unproved = manifest.with_extension("new");
    let mut chosen = Chosen::default();
    story.step("A real tree: files of this machine's /usr, with their checksums", || {
        chosen = choose(story)?;
        checksum(session, story, &chosen, &unproved)?;
        Ok(describe(&chosen))
    })?;
    story.step("Copying it in through node 1", || copy(story, &chosen, &mounts[0]))?;
    story.step("Comparing it on node 2 and node 3, every file by its checksum", || {
        let wrong = check_on(session, story, mounts, &unproved)?;
        if let Some((node, files)) = wrong.iter().find(|(_, files)| !files.is_empty()) {
            return Err(format!("{} files differ on node {node}, the first: {}", files.len(), first(files)));
        }
        for (index, mount) in mounts.iter().enumerate().skip(1) {
            compare_attributes(story, &chosen, mount).map_err(|e| format!("node {}: {e}", index + 1))?;
        }
        Ok("equal, with modes, owners, times and link targets".into())
    })?;
    fs::rename(&unproved, &manifest).map_err(|e| format!("{}: {e}", manifest.display()))
}

/// Checks a tree that an earlier run brought in. Files that differ in the same way on every node were changed by the
/// user; anything else is an error.
pub fn check_again(session: &Session, story: &Story, mounts: &[PathBuf]) -> Result<(), String> {
    story.step("Comparing the tree on node 2 and node 3, every file by its checksum", || {
        let wrong = check_on(session, story, mounts, &session.layout.manifest())?;
        let (node, files) = &wrong[0];
        if let Some((other, theirs)) = wrong.iter().find(|(_, theirs)| theirs != files) {
            let odd: BTreeSet<String> = files.symmetric_difference(theirs).cloned().collect();
            return Err(format!("{} files differ between node {node} and node {other}: {}", odd.len(), first(&odd)));
        }
        if files.is_empty() {
            return Ok("equal".into());
        }
        Ok(format!("equal on both; {} files were changed since they were brought in ({})", files.len(), first(files)))
    })
}

fn first(files: &BTreeSet<String>) -> &str {
    files.first().map_or("", String::as_str)
}

fn describe(chosen: &Chosen) -> String {
    let (files, dirs, links) = (chosen.files.len(), chosen.dirs.len(), chosen.links.len());
    format!("{files} files, {dirs} folders, {links} links, {} MiB", chosen.bytes >> 20)
}

// ---- choosing ----

fn choose(story: &Story) -> Result<Chosen, String> {
    let mut chosen = Chosen::default();
    chosen.dirs.push("usr".into());
    for source in SOURCES {
        let source = Path::new(source);
        if fs::symlink_metadata(source).is_ok_and(|m| m.is_dir()) && !chosen.is_enough() {
            walk(source, &mut chosen, story)?;
        }
    }
    if !chosen.is_enough() {
        story.note(&format!("this machine's /usr is small: {}", describe(&chosen)));
    }
    Ok(chosen)
}

impl Chosen {
    fn is_enough(&self) -> bool {
        self.files.len() >= FILES_MIN && self.bytes >= BYTES_MIN
    }

    fn wants(&self, size: u64) -> bool {
        size <= if self.bytes < BYTES_MIN { FILE_MAX } else { SMALL_FILE }
    }
}

/// Depth first, names in order of their bytes, so that the same machine gives the same tree.
fn walk(dir: &Path, chosen: &mut Chosen, story: &Story) -> Result<(), String> {
    let relative = |p: &Path| p.strip_prefix("/").unwrap_or(p).to_path_buf();
    let mut entries: Vec<_> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().collect(),
        Err(_) => return Ok(()), // not readable or gone: then it is not part of the tree
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    chosen.dirs.push(relative(dir));
    story.beat(format!("{}: {} files, {} MiB", dir.display(), chosen.files.len(), chosen.bytes >> 20))?;
    for entry in entries {
        if chosen.is_enough() {
            return Ok(());
        }
        let path = entry.path();
        // sha256sum quotes names with a line break or a backslash; such a name would need undoing below.
        let plain = path.as_os_str().to_str().is_some_and(|p| !p.contains(['\n', '\r', '\\']));
        let Ok(meta) = entry.metadata() else { continue };
        if !plain {
            continue;
        } else if meta.is_dir() {
            walk(&path, chosen, story)?;
        } else if meta.is_symlink() {
            chosen.links.push(relative(&path));
        } else if meta.is_file() && chosen.wants(meta.len()) {
            chosen.bytes += meta.len();
            chosen.files.push((relative(&path), meta.len()));
        }
    }
    Ok(())
}

// ---- checksums ----

/// Takes the checksums of the originals, in the form that `sha256sum -c` reads.
fn checksum(session: &Session, story: &Story, chosen: &Chosen, manifest: &Path) -> Result<(), String> {
    let list = session.layout.run.join("tree.list");
    let mut names = Vec::new();
    for (path, _) in &chosen.files {
        names.extend_from_slice(path.as_os_str().as_encoded_bytes());
        names.push(0);
    }
    let io = |e: io::Error| format!("{}: {e}", manifest.display());
    fs::write(&list, names).map_err(io)?;
    story.beat("taking the checksums of the originals")?;
    let mut command = Command::new("xargs");
    command.args(["-0", "sha256sum", "--"]).current_dir("/").env("LC_ALL", "C");
    command.stdin(File::open(&list).map_err(io)?).stdout(File::create(manifest).map_err(io)?);
    let status = network::inside(&session.layout.node(1).namespace, || command.status())?.map_err(io)?;
    if status.success() { Ok(()) } else { Err(format!("sha256sum of the originals: {status}")) }
}

/// Runs `sha256sum -c` on every mount but the first, at the same time; the names that fail, by node.
fn check_on(
    session: &Session,
    story: &Story,
    mounts: &[PathBuf],
    manifest: &Path,
) -> Result<Vec<(usize, BTreeSet<String>)>, String> {
    let total =
        BufReader::new(File::open(manifest).map_err(|e| format!("{}: {e}", manifest.display()))?).lines().count();
    let done = AtomicUsize::new(0);
    let one = |index: usize, mount: &Path| {
        let node = index + 1;
        let namespace = session.layout.nodes()[index].namespace.clone();
        let mut command = Command::new("sha256sum");
        command.arg("-c").arg(manifest).current_dir(mount).env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = network::inside(&namespace, || command.spawn())?.map_err(|e| format!("sha256sum: {e}"))?;
        let output = child.stdout.take().ok_or("sha256sum has no output")?;
        let mut wrong = BTreeSet::new();
        for line in BufReader::new(output).lines() {
            let line = line.map_err(|e| format!("sha256sum: {e}"))?;
            if let Some((name, "FAILED" | "FAILED open or read")) = line.rsplit_once(": ") {
                wrong.insert(name.to_string());
            }
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            story.beat(format!("{count} of {} files compared", total * (mounts.len() - 1)))?;
        }
        let status = child.wait().map_err(|e| format!("sha256sum: {e}"))?;
        if !status.success() && wrong.is_empty() {
            return Err(format!("sha256sum on node {node}: {status}"));
        }
        Ok((node, wrong))
    };
    thread::scope(|scope| {
        let one = &one;
        let others = mounts.iter().enumerate().skip(1);
        let workers: Vec<_> = others.map(|(i, m)| scope.spawn(move || one(i, m))).collect();
        workers.into_iter().map(|w| w.join().unwrap_or_else(|_| Err("the comparison panicked".into()))).collect()
    })
}

// ---- copying ----

fn copy(story: &Story, chosen: &Chosen, mount: &Path) -> Result<String, String> {
    let start = crate::clock::now();
    for dir in &chosen.dirs {
        story.beat(format!("making {}", dir.display()))?;
        let to = mount.join(dir);
        fs::create_dir(&to).map_err(|e| format!("{}: {e}", to.display()))?;
    }
    copy_files(story, chosen, mount)?;
    for link in &chosen.links {
        story.beat(format!("linking {}", link.display()))?;
        let to = mount.join(link);
        copy_link(&Path::new("/").join(link), &to).map_err(|e| format!("{}: {e}", to.display()))?;
    }
    // Last and deepest first: whatever is made in a folder changes its time.
    for dir in chosen.dirs.iter().rev() {
        story.beat(format!("finishing {}", dir.display()))?;
        let (from, to) = (Path::new("/").join(dir), mount.join(dir));
        let finish = || copy_attributes(&fs::metadata(&from)?, &to);
        finish().map_err(|e| format!("{}: {e}", to.display()))?;
    }
    let seconds = crate::clock::now().duration_since(start).as_secs_f64().max(0.001);
    let (files, mib) = (chosen.files.len() as f64, (chosen.bytes >> 20) as f64);
    Ok(format!("{:.0} files/s, {:.1} MiB/s", files / seconds, mib / seconds))
}

fn copy_files(story: &Story, chosen: &Chosen, mount: &Path) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let copied = AtomicU64::new(0);
    let failure = Mutex::new(None);
    let failed = || failure.lock().unwrap_or_else(|e| e.into_inner()).is_some();
    let worker = || {
        while !failed() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((path, size)) = chosen.files.get(index) else { return };
            let to = mount.join(path);
            let outcome = copy_file(&Path::new("/").join(path), &to).map_err(|e| format!("{}: {e}", to.display()));
            let bytes = copied.fetch_add(*size, Ordering::Relaxed) + size;
            let progress =
                format!("{} of {} files, {} of {} MiB", index + 1, chosen.files.len(), bytes >> 20, chosen.bytes >> 20);
            if let Err(message) = outcome.and_then(|()| story.beat(progress)) {
                *failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(message);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..COPIERS {
            scope.spawn(worker);
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::create_new(to)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = io::Read::read(&mut source, &mut buffer)?;
        if count == 0 {
            break;
        }
        target.write_all(&buffer[..count])?;
    }
    drop(target);
    copy_attributes(&source.metadata()?, to)
}

/// Owner before mode, because a change of owner clears the set-user-ID bit; times last.
fn copy_attributes(meta: &Metadata, to: &Path) -> io::Result<()> {
    chown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    let (accessed, modified) =
        (TimeSpec::new(meta.atime(), meta.atime_nsec()), TimeSpec::new(meta.mtime(), meta.mtime_nsec()));
    Ok(utimensat(AT_FDCWD, to, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
}

fn copy_link(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    symlink(fs::read_link(from)?, to)?;
    lchown(to, Some(meta.uid()), Some(meta.gid()))
}

// ---- comparing what checksums do not see ----

fn compare_attributes(story: &Story, chosen: &Chosen, mount: &Path) -> Result<(), String> {
    for path in chosen.dirs.iter().chain(chosen.files.iter().map(|(p, _)| p)) {
        story.beat(format!("comparing the attributes of {}", path.display()))?;
        let (want, have) = (look(&Path::new("/").join(path))?, look(&mount.join(path))?);
        let facts = |m: &Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
        if facts(&want) != facts(&have) {
            let (want, have) = (facts(&want), facts(&have));
            return Err(format!("{}: mode, owner, group, time are {have:?}, should be {want:?}", path.display()));
        }
    }
    for path in &chosen.links {
        let read = |p: PathBuf| fs::read_link(&p).map_err(|e| format!("{}: {e}", p.display()));
        let (want, have) = (read(Path::new("/").join(path))?, read(mount.join(path))?);
        if want != have {
            return Err(format!("{} points to {}, should to {}", path.display(), have.display(), want.display()));
        }
    }
    Ok(())
}

fn look(path: &Path) -> Result<Metadata, String> {
    fs::symlink_metadata(path).map_err(|e| format!("{}: {e}", path.display()))
}

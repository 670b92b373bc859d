//! World `fs`: processes on several nodes that work on a few shared files and directories, each with
//! random system calls; then everybody unmounts, one node mounts again and reads everything.
//!
//! Few names and small files make the nodes meet; a write's pattern makes every byte say who wrote
//! it. What was seen is judged as a whole at the end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gfs_core::{Error, InodeRef, RenameMode, SizeChange, XattrWrite};

use crate::checkers::content::pattern;
use crate::checkers::tree::{Kind, Name};
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::executor::{Limits, Sim, TaskKind, lock};
use crate::faults::Plant;
use crate::fsck;
use crate::node::{Access, Node, Process, ReadPath};
use crate::trace::Who;
use crate::workload::locks::join;
use crate::world::{RunOptions, expect_done};

/// The deliberate faults of this world.
pub fn plants() -> Vec<&'static str> {
    Plant::names()
}

/// One run.
pub fn run(sim: &Sim, seed: u64, options: RunOptions<'_>) -> Result<(), String> {
    let mut dice = Dice::new(seed, "fs");
    let count = dice.between(2, 4) as u32;
    let cluster = Arc::new(Cluster::new(sim, &mut dice, count, Plant::by_name(options.plant))?);
    let result = run_on(sim, seed, &mut dice, &cluster, options);
    cluster.tear_down();
    result
}

fn run_on(
    sim: &Sim,
    seed: u64,
    dice: &mut Dice,
    cluster: &Arc<Cluster>,
    options: RunOptions<'_>,
) -> Result<(), String> {
    let load = Arc::new(Load::new(seed, dice));
    let processes = dice.between(1, 3) as u32;
    sim.event(Who::World, format_args!("{} nodes with {processes} processes each, {load:?}", cluster.len()));
    join(sim, &cluster.lockspaces)?;
    let nodes = mount_all(sim, cluster, 1..=cluster.len())?;
    let root = nodes[0].fs.root();
    make_directories(sim, &nodes[0], &load)?;
    for node in &nodes {
        for task in 1..=processes {
            let worker = Worker {
                process: Process { node: node.clone(), task },
                dice: Dice::new(seed, &format!("process {}.{task}", node.number)),
                xattr_dice: Dice::new(seed, &format!("attributes {}.{task}", node.number)),
                holes_dice: Dice::new(seed, &format!("holes {}.{task}", node.number)),
                load: load.clone(),
            };
            sim.spawn(Who::Node(node.number), &format!("process {task}"), TaskKind::Client, worker.run());
        }
    }
    phase(sim, "the load").map_err(|why| explain_hang(sim, cluster, &nodes, why))?;
    unmount_all(sim, nodes)?;
    let reader = dice.between(1, u64::from(cluster.len())) as u32;
    let nodes = mount_all(sim, cluster, reader..=reader)?;
    let process = Process { node: nodes[0].clone(), task: 0 };
    let has_xattrs = load.xattr_percent > 0;
    sim.spawn(Who::Node(reader), "reads everything", TaskKind::Client, async move {
        read_all(&process, has_xattrs).await;
    });
    phase(sim, "reading everything after the unmounts")?;
    unmount_all(sim, nodes)?;
    cluster.history().judge(root, ROOT_PERMISSIONS)?;
    fsck::check(cluster.image(), options.ask_fsck)
}

/// Adds what was under way; the glocks of every node go to the trace.
fn explain_hang(sim: &Sim, cluster: &Cluster, nodes: &[Node], why: String) -> String {
    for node in nodes {
        for glock in node.fs.describe_glocks() {
            sim.event(Who::Node(node.number), format_args!("{glock}"));
        }
    }
    [vec![why], cluster.history().under_way()].concat().join("\n    ")
}

/// As mkfs makes it.
const ROOT_PERMISSIONS: u32 = 0o755;

fn phase(sim: &Sim, doing: &str) -> Result<(), String> {
    expect_done(sim.run(Limits { time: Duration::from_secs(300), steps: 5_000_000 }), doing)
}

fn mount_all(sim: &Sim, cluster: &Arc<Cluster>, numbers: std::ops::RangeInclusive<u32>) -> Result<Vec<Node>, String> {
    let mounted = Arc::new(Mutex::new(Vec::new()));
    for number in numbers {
        let (cluster, mounted, sim_of_task) = (cluster.clone(), mounted.clone(), sim.clone());
        sim.spawn(Who::Node(number), "mounts", TaskKind::Client, async move {
            match cluster.mount(number).await {
                Ok(node) => lock(&mounted).push(node),
                Err(why) => sim_of_task.violated(why),
            }
        });
    }
    phase(sim, "mounting")?;
    let mut nodes = std::mem::take(&mut *lock(&mounted));
    nodes.sort_by_key(|node: &Node| node.number);
    Ok(nodes)
}

fn unmount_all(sim: &Sim, nodes: Vec<Node>) -> Result<(), String> {
    for node in nodes {
        let sim_of_task = sim.clone();
        sim.spawn(Who::Node(node.number), "unmounts", TaskKind::Client, async move {
            if let Err(error) = node.fs.unmount().await {
                sim_of_task.violated(format!("node {} cannot unmount: {error}", node.number));
            }
        });
    }
    phase(sim, "unmounting")
}

/// What the processes of a run have in common.
#[derive(Debug)]
struct Load {
    /// Names per directory.
    names: u64,
    /// Added to each name, so that a directory outgrows its inode.
    suffix: String,
    /// Whether most of it is reading and writing a few files, or work with names.
    focus: Focus,
    /// Activities of a process.
    activities: u64,
    /// Most time between two activities.
    think_most: Duration,
    /// Per cent of reads through the page cache.
    cached_percent: u64,
    /// Per cent of a process's activities that are about extended attributes.
    xattr_percent: u64,
    /// Per cent of the uses of a file open for writing that are fallocate.
    holes_percent: u64,
    writes: AtomicU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Focus {
    Files,
    Names,
}

impl Load {
    /// Chance that came later has streams of its own, so that seeds stay what they were.
    fn new(seed: u64, dice: &mut Dice) -> Load {
        let focus = if dice.percent(50) { Focus::Files } else { Focus::Names };
        let is_long = focus == Focus::Names && dice.percent(40);
        Load {
            names: if is_long { 30 } else { dice.between(1, if focus == Focus::Files { 3 } else { 6 }) },
            suffix: if is_long { "x".repeat(180) } else { String::new() },
            focus,
            activities: dice.between(5, 30),
            think_most: Duration::from_micros(*dice.pick(&[0, 200, 5000])),
            cached_percent: *dice.pick(&[0, 50, 90]),
            xattr_percent: *Dice::new(seed, "with xattrs").pick(&[0, 0, 0, 40]),
            holes_percent: *Dice::new(seed, "with holes").pick(&[0, 0, 0, 40]),
            writes: AtomicU32::new(0),
        }
    }

    fn new_tag(&self) -> u32 {
        self.writes.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn file_name(&self, number: u64) -> Name {
        format!("f{number}{}", self.suffix).into()
    }
}

/// Directories that exist from the beginning, until somebody removes them.
const DIRECTORIES: [&str; 2] = ["d0", "d1"];

fn make_directories(sim: &Sim, node: &Node, load: &Arc<Load>) -> Result<(), String> {
    let process = Process { node: node.clone(), task: 0 };
    let load = load.clone();
    sim.spawn(Who::Node(node.number), "makes the directories", TaskKind::Client, async move {
        let root = process.root();
        for name in DIRECTORIES {
            let _ = process.create(root, &name.into(), Kind::Directory, 0o755).await;
        }
        let files = if load.focus == Focus::Files { load.names } else { load.names / 2 };
        for number in 0..files {
            let _ = process.create(root, &load.file_name(number), Kind::File, 0o644).await;
        }
    });
    phase(sim, "making the directories")
}

/// A process with its own stream of chance.
struct Worker {
    process: Process,
    dice: Dice,
    xattr_dice: Dice,
    holes_dice: Dice,
    load: Arc<Load>,
}

/// What a process does next.
#[derive(Clone, Copy)]
enum Activity {
    UseFile,
    Create,
    Symlink,
    Mkdir,
    Rmdir,
    Unlink,
    Link,
    Rename,
    Stat,
    List,
    Readlink,
    Chmod,
    Truncate,
    Sync,
}

impl Focus {
    fn activities(self) -> [(u64, Activity); 14] {
        // Reads, writes and stats of files, changes of names, looks at names.
        let (files, changes, looks) = match self {
            Focus::Files => (12, 1, 2),
            Focus::Names => (3, 6, 6),
        };
        [
            (8 * files, Activity::UseFile),
            (files, Activity::Truncate),
            (2 * files, Activity::Stat),
            (6 * changes, Activity::Create),
            (changes, Activity::Symlink),
            (2 * changes, Activity::Mkdir),
            (changes, Activity::Rmdir),
            (4 * changes, Activity::Unlink),
            (2 * changes, Activity::Link),
            (4 * changes, Activity::Rename),
            (changes, Activity::Chmod),
            (2 * looks, Activity::List),
            (looks, Activity::Readlink),
            (1, Activity::Sync),
        ]
    }
}

impl Worker {
    async fn run(mut self) {
        for _ in 0..self.load.activities {
            // What is refused is in the history, which judges whether it was rightly refused.
            let _ = self.activity().await;
            self.process.node.sim.pause(self.load.think_most).await;
        }
    }

    async fn activity(&mut self) -> Result<(), Error> {
        if self.load.xattr_percent > 0 && self.xattr_dice.percent(self.load.xattr_percent) {
            return self.use_attributes().await;
        }
        let process = self.process.clone();
        let activity = self.dice.weighted(&self.load.focus.activities());
        if let Activity::Sync = activity {
            return process.node.fs.sync().await;
        }
        let Some(dir) = self.directory().await? else { return Ok(()) };
        let name = self.name();
        match activity {
            Activity::UseFile => self.use_file(dir, &name).await,
            Activity::Create => process.create(dir, &name, Kind::File, 0o644).await.map(drop),
            Activity::Symlink => process.create(dir, &name, Kind::Symlink, 0o777).await.map(drop),
            Activity::Mkdir => process.create(dir, &self.directory_name(), Kind::Directory, 0o755).await.map(drop),
            Activity::Rmdir => process.rmdir(dir, &self.directory_name()).await,
            Activity::Unlink => process.unlink(dir, &name).await,
            Activity::Link => {
                let Some(inode) = self.file(dir, &name).await? else { return Ok(()) };
                let Some(to) = self.directory().await? else { return Ok(()) };
                let other = self.name();
                process.link(inode, to, &other).await
            }
            Activity::Rename => self.rename(dir, name).await,
            Activity::Stat => match process.lookup(dir, &name).await? {
                Some(inode) => process.stat(inode).await.map(drop),
                None => Ok(()),
            },
            Activity::List => process.list(dir).await.map(drop),
            Activity::Readlink => match process.lookup(dir, &name).await? {
                Some(inode) if self.kind(inode).await? == Kind::Symlink => process.readlink(inode).await,
                _ => Ok(()),
            },
            Activity::Chmod => match process.lookup(dir, &name).await? {
                Some(inode) if self.kind(inode).await? != Kind::Symlink => {
                    let permissions = *self.dice.pick(&[0o600, 0o644, 0o755, 0o4755]);
                    process.chmod(inode, permissions).await
                }
                _ => Ok(()),
            },
            Activity::Truncate => match self.file(dir, &name).await? {
                Some(inode) => process.truncate(inode, self.offset()).await,
                None => Ok(()),
            },
            Activity::Sync => Ok(()),
        }
    }

    /// Opens a file and works on it for a while.
    async fn use_file(&mut self, dir: InodeRef, name: &Name) -> Result<(), Error> {
        let process = self.process.clone();
        let Some(inode) = self.file(dir, name).await? else { return Ok(()) };
        let access = if self.dice.percent(50) { Access::Write } else { Access::Read };
        process.open(inode, access).await?;
        let mut result = Ok(());
        for _ in 0..self.dice.between(1, 6) {
            result = self.use_open_file(inode, access).await;
            if result.is_err() {
                break;
            }
        }
        process.close(inode, access).await;
        result
    }

    async fn use_open_file(&mut self, inode: InodeRef, access: Access) -> Result<(), Error> {
        let (process, holes) = (self.process.clone(), self.load.holes_percent);
        if access == Access::Write && holes > 0 && self.holes_dice.percent(holes) {
            return self.use_holes(inode).await;
        }
        let path = if self.dice.percent(self.load.cached_percent) { ReadPath::Cached } else { ReadPath::Direct };
        match self.dice.below(if access == Access::Write { 100 } else { 64 }) {
            0..=39 => process.read(inode, self.offset(), self.length() * 3, path).await,
            40..=54 => process.read(inode, 0, READ_ALL_MOST, path).await,
            55..=59 => process.stat(inode).await.map(drop),
            60..=63 => process.fsync(inode).await,
            64..=78 => process.write(inode, Some(self.offset()), self.length(), self.load.new_tag()).await,
            79..=94 => process.write(inode, None, self.length(), self.load.new_tag()).await,
            _ => process.truncate(inode, self.offset()).await,
        }
    }

    async fn use_holes(&mut self, inode: InodeRef) -> Result<(), Error> {
        let dice = &mut self.holes_dice;
        let offset = *dice.pick(&[0, 100, 4096, 8192, 20_000]) + dice.weighted(&[(1, 0), (1, 1)]) * dice.below(200);
        let len = *dice.pick(&[50, 4096, 12_288]) + dice.weighted(&[(1, 0), (1, 1)]) * dice.below(200);
        match dice.below(4) {
            0 => self.process.allocate(inode, offset, len, SizeChange::Grow).await,
            1 => self.process.allocate(inode, offset, len, SizeChange::Keep).await,
            _ => self.process.punch_hole(inode, offset, len).await,
        }
    }

    /// Works on the extended attributes of a file, or of the root, for a while.
    async fn use_attributes(&mut self) -> Result<(), Error> {
        let (process, dice) = (self.process.clone(), &mut self.xattr_dice);
        let number = dice.below(2);
        let inode = match dice.percent(70) {
            true => process.lookup(process.root(), &self.load.file_name(number)).await?,
            false => Some(process.root()),
        };
        let Some(inode) = inode else { return Ok(()) };
        for _ in 0..dice.between(1, 4) {
            let name = Name::from(*dice.pick(&["a", "b", "c"]));
            match dice.below(10) {
                0..=3 => {
                    let len = *dice.pick(&[0, 10, 1500, 3900, 5000, 20_000]) + dice.below(50);
                    let mode =
                        dice.weighted(&[(4, XattrWrite::Any), (1, XattrWrite::Create), (1, XattrWrite::Replace)]);
                    let value = pattern(self.load.new_tag(), len);
                    match process.set_xattr(inode, &name, value, mode).await {
                        Ok(()) | Err(Error::Exists | Error::NoXattr) => {}
                        Err(error) => return Err(error),
                    }
                }
                4 => match process.remove_xattr(inode, &name).await {
                    Ok(()) | Err(Error::NoXattr) => {}
                    Err(error) => return Err(error),
                },
                5..=7 => process.get_xattr(inode, &name).await?,
                _ => drop(process.list_xattrs(inode).await?),
            }
        }
        Ok(())
    }

    async fn rename(&mut self, dir: InodeRef, name: Name) -> Result<(), Error> {
        let Some(to) = self.directory().await? else { return Ok(()) };
        let mode =
            self.dice.weighted(&[(7, RenameMode::Replace), (2, RenameMode::NoReplace), (1, RenameMode::Exchange)]);
        let (from_name, to_name) = match self.dice.percent(20) {
            true => (self.directory_name(), self.directory_name()),
            false => (name, self.name()),
        };
        self.process.rename((dir, from_name), (to, to_name), mode).await
    }

    /// The root or a directory below it; `None` if there is no such directory now.
    async fn directory(&mut self) -> Result<Option<InodeRef>, Error> {
        let mut at = self.process.root();
        let depths = match self.load.focus {
            Focus::Files => [(18, 0), (1, 1), (1, 2)],
            Focus::Names => [(6, 0), (3, 1), (1, 2)],
        };
        for _ in 0..self.dice.weighted(&depths) {
            let name = self.directory_name();
            let Some(next) = self.process.lookup(at, &name).await? else { return Ok(None) };
            if self.kind(next).await? != Kind::Directory {
                return Ok(None);
            }
            at = next;
        }
        Ok(Some(at))
    }

    /// A regular file of that name, if there is one.
    async fn file(&mut self, dir: InodeRef, name: &Name) -> Result<Option<InodeRef>, Error> {
        let Some(inode) = self.process.lookup(dir, name).await? else { return Ok(None) };
        Ok((self.kind(inode).await? == Kind::File).then_some(inode))
    }

    /// A kernel knows an inode's type since it was looked up; without one it is asked for.
    async fn kind(&self, inode: InodeRef) -> Result<Kind, Error> {
        self.process.kind(inode).await
    }

    fn name(&mut self) -> Name {
        if self.load.focus == Focus::Names && self.dice.percent(5) {
            return self.directory_name();
        }
        let number = self.dice.below(self.load.names);
        self.load.file_name(number)
    }

    fn directory_name(&mut self) -> Name {
        Name::from(*self.dice.pick(&["d0", "d1", "d2"]))
    }

    /// Around the places where something changes: the end of an inode's own bytes, of a block, of a
    /// few blocks, and now and then far out.
    fn offset(&mut self) -> u64 {
        let place = self.dice.weighted(&[
            (5, 0),
            (5, 100),
            (3, 4096 - 232),
            (4, 4096),
            (3, 8192),
            (2, 20_000),
            (1, 483 * 4096),
        ]);
        place + self.dice.weighted(&[(2, 0), (1, 1)]) * self.dice.below(200)
    }

    fn length(&mut self) -> u64 {
        let most = *self.dice.pick(&[10, 200, 4096, 9000]);
        self.dice.between(1, most)
    }
}

/// More than most files have.
const READ_ALL_MOST: u64 = 64 << 10;

/// Reads the whole tree into the history.
async fn read_all(process: &Process, has_xattrs: bool) {
    let mut directories = vec![process.root()];
    if has_xattrs {
        read_attributes(process, process.root()).await;
    }
    while let Some(dir) = directories.pop() {
        let _ = process.stat(dir).await;
        let Ok(names) = process.list(dir).await else { continue };
        for (name, _, kind) in names {
            let Ok(Some(inode)) = process.lookup(dir, &name).await else { continue };
            if has_xattrs {
                read_attributes(process, inode).await;
            }
            match kind {
                Kind::Directory => directories.push(inode),
                Kind::Symlink => drop(process.readlink(inode).await),
                Kind::File => read_file(process, inode).await,
            }
        }
    }
}

async fn read_attributes(process: &Process, inode: InodeRef) {
    for name in process.list_xattrs(inode).await.unwrap_or_default() {
        let _ = process.get_xattr(inode, &name).await;
    }
}

async fn read_file(process: &Process, inode: InodeRef) {
    let Ok(attributes) = process.stat(inode).await else { return };
    if process.open(inode, Access::Read).await.is_err() {
        return;
    }
    let mut offset = 0;
    while offset <= attributes.size {
        let _ = process.read(inode, offset, READ_PIECE, ReadPath::Direct).await;
        offset += READ_PIECE;
    }
    process.close(inode, Access::Read).await;
}

const READ_PIECE: u64 = 1 << 20;

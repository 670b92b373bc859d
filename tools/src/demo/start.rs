//! The steps of quickstart, from an empty machine to three nodes at work on one filesystem.
//!
//! What an earlier run left decides how it begins: a cluster that answers is checked again, anything else is ended first;
//! a disk that every node left cleanly is used as it is, any other is made anew.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::layout::{CLUSTER, DISK_SIZE, DLM_PORT, JOURNAL_MIB, LOCKSPACE, Layout, NODE_COUNT, TARGET, TARGET_PORT};
use super::layout::{Place, shown};
use super::session::{Service, Session, TARGET_PROGRAM, last_line};
use super::story::Story;
use super::{down, network, together, tree};
use crate::clock;
use crate::mounts::{MOUNT_PROGRAM, Mount};
use crate::{links, output, sibling};

const MKFS_PROGRAM: &str = "mkfs.gfs2";
/// How long the target may take to listen, and all mounts together to become usable.
const LISTEN_MAX: Duration = Duration::from_secs(20);
const MOUNT_MAX: Duration = Duration::from_secs(90);
/// How long a mount of an earlier run has to answer to be taken over.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Everything, in order. What it starts can be found and ended by `down` at any moment.
pub fn run(session: &Session, story: &Story) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("namespaces and mounts need root: run it as root (sudo ./quickstart)".into());
    }
    for program in [TARGET_PROGRAM, MOUNT_PROGRAM, MKFS_PROGRAM] {
        sibling::find(program)?;
    }
    let layout = &session.layout;
    let (_, refused) = links::make(&layout.bin()).map_err(|e| format!("{}: {e}", layout.bin().display()))?;
    for refusal in refused {
        story.note(&refusal);
    }
    let fresh = match left_over(layout, story) {
        Left::Running => {
            story.note("the cluster of an earlier quickstart is running and answers: it is checked again");
            false
        }
        Left::Nothing => boot(session, story)?,
        Left::Remains => {
            story.step("Ending what an earlier quickstart left behind", || {
                let report = down::run(layout, &|line| story.note(line));
                if report.left.is_empty() { Ok(String::new()) } else { Err(report.left.join(", ")) }
            })?;
            boot(session, story)?
        }
    };
    let mounts: Vec<PathBuf> = layout.nodes().iter().map(Place::mnt).collect();
    if fresh {
        tree::bring_in(session, story, &mounts)?;
    } else {
        tree::check_again(session, story, &mounts)?;
    }
    together::work(story, &mounts)?;
    farewell(layout);
    Ok(())
}

enum Left {
    Nothing,
    Running,
    Remains,
}

fn left_over(layout: &Layout, story: &Story) -> Left {
    let mounts = down::mounts_of(layout);
    let processes = network::processes(layout);
    let namespaces = layout.namespaces().iter().any(|n| network::handle(n).exists());
    if mounts.is_empty() && processes.is_empty() && !namespaces {
        return Left::Nothing;
    }
    let serving = processes.iter().any(|p| p.name() == TARGET_PROGRAM);
    let complete = mounts.len() == layout.nodes().len() && layout.manifest().exists();
    let _ = story.beat("looking at the cluster of an earlier run");
    let answers = |m: &Mount| m.server().is_some() && m.answers(ANSWER_MAX);
    if serving && complete && mounts.iter().all(answers) { Left::Running } else { Left::Remains }
}

/// From nothing to three mounts; whether the filesystem was made anew.
fn boot(session: &Session, story: &Story) -> Result<bool, String> {
    let layout = &session.layout;
    let fresh = !(layout.clean_mark().exists() && layout.disk().exists() && layout.manifest().exists());
    story.step("A network: a storage host, three nodes and a switch, each in a network namespace", || {
        session.start(|| network::add_switch(layout))?;
        for place in layout.places() {
            story.beat(format!("plugging in {}", place.name()))?;
            session.start(|| network::add_place(layout, &place))?;
        }
        Ok(format!("{} to {}", layout.node(1).address(), layout.node(NODE_COUNT).address()))
    })?;
    let disk = shown(&layout.disk());
    story.step(&format!("The shared disk: corral-target exports {disk} ({DISK_SIZE}, thin) over iSCSI"), || {
        if fresh {
            forget_disk(layout, story)?;
        }
        start_target(session, story)
    })?;
    if fresh {
        let title =
            format!("The filesystem: mkfs.gfs2 -p lock_dlm -j {NODE_COUNT} -t {CLUSTER}:{LOCKSPACE}, from node 1");
        story.step(&title, || make_filesystem(session).map(|()| layout.url()))?;
    } else {
        story.note(&format!("{disk} holds the filesystem of an earlier run, left clean: it is used as it is"));
    }
    story.step("The mounts: node 1, 2 and 3 at the same time, locks through the DLM", || mount_all(session, story))?;
    Ok(fresh)
}

/// A disk that was not left clean, or whose tree was never complete, is made anew: a first look should not begin with a
/// recovery.
fn forget_disk(layout: &Layout, story: &Story) -> Result<(), String> {
    if layout.disk().exists() {
        story.note("the disk of an earlier run was not left clean: it is made anew");
    }
    for file in [layout.disk(), layout.manifest(), layout.clean_mark()] {
        match fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(format!("{}: {e}", file.display())),
            _ => {}
        }
    }
    Ok(())
}

fn start_target(session: &Session, story: &Story) -> Result<String, String> {
    let layout = &session.layout;
    let storage = layout.storage();
    let portal = format!("{}:{TARGET_PORT}", storage.address());
    let arguments = [
        "--listen".into(),
        portal.clone(),
        "--state".into(),
        storage.state().display().to_string(),
        "--target".into(),
        TARGET.into(),
        "--lun".into(),
        format!("file={},size={DISK_SIZE},thin", layout.disk().display()),
    ];
    let mut target = session.service(&storage, &sibling::find(TARGET_PROGRAM)?, &arguments)?;
    let deadline = clock::now() + LISTEN_MAX;
    while network::inside(&storage.namespace, || TcpStream::connect(&portal))?.is_err() {
        target.check().map_err(|e| format!("corral-target {e}"))?;
        if clock::now() >= deadline {
            return Err(format!("corral-target does not listen on {portal}: {}", last_line(&target.output)));
        }
        story.beat(format!("waiting for corral-target to listen on {portal}"))?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(portal)
}

fn make_filesystem(session: &Session) -> Result<(), String> {
    let layout = &session.layout;
    let arguments = [
        "-O".into(),
        "-q".into(),
        "-p".into(),
        "lock_dlm".into(),
        "-j".into(),
        NODE_COUNT.to_string(),
        "-J".into(),
        JOURNAL_MIB.to_string(),
        "-t".into(),
        format!("{CLUSTER}:{LOCKSPACE}"),
        layout.url(),
    ];
    session.run(&layout.node(1), &sibling::find(MKFS_PROGRAM)?, &arguments)
}

fn mount_all(session: &Session, story: &Story) -> Result<String, String> {
    let layout = &session.layout;
    let program = sibling::find(MOUNT_PROGRAM)?;
    fs::write(layout.view(), layout.view_text()).map_err(|e| format!("{}: {e}", layout.view().display()))?;
    // From here on a node may have work in its journal.
    let _ = fs::remove_file(layout.clean_mark());
    let mut waiting: Vec<(u32, Place, Service)> = Vec::new();
    for number in 1..=NODE_COUNT {
        let place = layout.node(number);
        let log = place.log().join("mount.log");
        let options =
            format!("lockproto=lock_dlm,view={},node={number},log={}", layout.view().display(), log.display());
        let arguments = ["-f".into(), "-o".into(), options, layout.url(), place.mnt().display().to_string()];
        let service = session.service(&place, &program, &arguments)?;
        waiting.push((number, place, service));
    }
    let deadline = clock::now() + MOUNT_MAX;
    while !waiting.is_empty() {
        let mut still = Vec::new();
        for (number, place, mut service) in waiting {
            service.check().map_err(|e| format!("node {number}: {MOUNT_PROGRAM} {e} (see {})", shown(&place.log())))?;
            let mounted = Mount::at(&place.mnt()).map_err(|e| e.to_string())?;
            if !mounted.is_some_and(|m| m.answers(Duration::from_millis(500))) {
                still.push((number, place, service));
            }
        }
        waiting = still;
        let names: Vec<String> = waiting.iter().map(|(n, ..)| format!("node {n}")).collect();
        if clock::now() >= deadline {
            return Err(format!("no usable mount after {}: {}", clock::human(MOUNT_MAX), names.join(", ")));
        }
        if !waiting.is_empty() {
            story.beat(format!("waiting for the mount of {}", names.join(", ")))?;
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(format!("{} … {}; DLM on port {DLM_PORT}", shown(&layout.node(1).mnt()), shown(&layout.node(NODE_COUNT).mnt())))
}

fn farewell(layout: &Layout) {
    let (one, two, bin) = (shown(&layout.node(1).mnt()), shown(&layout.node(2).mnt()), shown(&layout.bin()));
    let disk = shown(&layout.disk());
    let bin = if bin.starts_with('/') { bin } else { format!("$PWD/{bin}") };
    output::print(&format!(
        "\nThe cluster is running. To try next:\n\n  \
         export PATH={bin}:$PATH\n  \
         ls {two}                              the same files on every node\n  \
         echo hello >{one}/hello; cat {two}/hello\n  \
         corral status                                what runs where\n  \
         corral down                                  end everything; {disk} stays\n"
    ));
}

//! Three nodes at work in one folder: each writes its own files and one line after another to a shared log, then
//! each reads everything the others wrote.
//!
//! What is checked is what a coherent filesystem must show: after a call has returned on one node, every other node
//! sees its effect at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use super::story::Story;
use crate::clock;

/// Files and log lines each node makes.
const FILES_EACH: usize = 100;
const LINES_EACH: usize = 50;
/// Rounds of writing on one node and reading on another.
const ROUNDS: usize = 20;

/// All of it, as steps of the story.
pub fn work(story: &Story, mounts: &[PathBuf]) -> Result<(), String> {
    story.step("A file written on one node is read on the others", || visible(story, mounts))?;
    story.step("All three nodes at work in one folder", || shared_folder(story, mounts))
}

/// The median time from the write on one node to the right answer on the next, which must be the first answer.
fn visible(story: &Story, mounts: &[PathBuf]) -> Result<String, String> {
    let mut micros = Vec::new();
    for round in 0..ROUNDS {
        story.beat(format!("round {} of {ROUNDS}", round + 1))?;
        let writer = round % mounts.len();
        let reader = (round + 1) % mounts.len();
        let text = format!("round {round}, written on node {}\n", writer + 1);
        let start = clock::now();
        fs::write(mounts[writer].join("greeting"), &text).map_err(|e| format!("node {}: {e}", writer + 1))?;
        let read =
            fs::read_to_string(mounts[reader].join("greeting")).map_err(|e| format!("node {}: {e}", reader + 1))?;
        micros.push(clock::now().duration_since(start).as_micros());
        if read != text {
            return Err(format!("node {} read {read:?}, should have read {text:?}", reader + 1));
        }
    }
    micros.sort_unstable();
    let (middle, worst) = (micros[micros.len() / 2], micros[micros.len() - 1]);
    Ok(format!("{middle} µs from write to read in the middle, {worst} µs at worst, never stale"))
}

fn shared_folder(story: &Story, mounts: &[PathBuf]) -> Result<String, String> {
    let folders: Vec<PathBuf> = mounts.iter().map(|m| m.join("together")).collect();
    match fs::remove_dir_all(&folders[0]) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(format!("{}: {e}", folders[0].display())),
        _ => {}
    }
    fs::create_dir(&folders[0]).map_err(|e| format!("{}: {e}", folders[0].display()))?;
    File::create_new(folders[0].join("log")).map_err(|e| format!("{}: {e}", folders[0].display()))?;
    let start = clock::now();
    on_every_node(&folders, |node, folder| write_share(story, node, folder))?;
    let took = clock::now().duration_since(start);
    on_every_node(&folders, |_, folder| read_all(story, folder, folders.len()))?;
    on_every_node(&folders, |node, folder| remove_share_of(story, node % folders.len() + 1, folder))?;
    on_every_node(&folders, |_, folder| {
        let names = list(folder)?;
        if names == ["log"] { Ok(()) } else { Err(format!("{} names are left, should be the log alone", names.len())) }
    })?;
    let files = folders.len() * FILES_EACH;
    let lines = folders.len() * LINES_EACH;
    Ok(format!("{files} files and {lines} log lines in {}, read on every node, removed crosswise", clock::human(took)))
}

/// Runs `work(node, folder)` for all nodes at the same time; the first failure, with its node.
fn on_every_node(folders: &[PathBuf], work: impl Fn(usize, &Path) -> Result<(), String> + Sync) -> Result<(), String> {
    thread::scope(|scope| {
        let work = &work;
        let start = |(index, folder): (usize, &PathBuf)| {
            let folder = folder.clone();
            scope.spawn(move || work(index + 1, &folder).map_err(|e| format!("node {}: {e}", index + 1)))
        };
        let workers: Vec<_> = folders.iter().enumerate().map(start).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err("a worker panicked".into())))
    })
}

fn content(node: usize, number: usize) -> String {
    format!("file {number} of node {node}\n").repeat(number + 1)
}

fn write_share(story: &Story, node: usize, folder: &Path) -> Result<(), String> {
    let say = |what: &str, e: io::Error| format!("{what}: {e}");
    let path = folder.join("log");
    let mut log = OpenOptions::new().append(true).open(&path).map_err(|e| say("opening the log", e))?;
    for number in 0..FILES_EACH {
        story.beat(format!("node {node} writes file {number}"))?;
        let path = folder.join(format!("node{node}-{number:03}"));
        fs::write(&path, content(node, number)).map_err(|e| say(&path.display().to_string(), e))?;
        if number < LINES_EACH {
            let line = format!("node {node} line {number:03}\n");
            log.write_all(line.as_bytes()).map_err(|e| say("the log", e))?;
        }
    }
    Ok(())
}

fn read_all(story: &Story, folder: &Path, nodes: usize) -> Result<(), String> {
    let names = list(folder)?;
    if names.len() != nodes * FILES_EACH + 1 {
        return Err(format!("{} names in the folder, should be {}", names.len(), nodes * FILES_EACH + 1));
    }
    for node in 1..=nodes {
        for number in 0..FILES_EACH {
            story.beat(format!("reading file {number} of node {node}"))?;
            let path = folder.join(format!("node{node}-{number:03}"));
            let read = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            if read != content(node, number) {
                return Err(format!("{}: wrong content ({} bytes)", path.display(), read.len()));
            }
        }
    }
    let log = fs::read_to_string(folder.join("log")).map_err(|e| format!("the log: {e}"))?;
    for node in 1..=nodes {
        let own: Vec<&str> = log.lines().filter(|l| l.starts_with(&format!("node {node} "))).collect();
        let want: Vec<String> = (0..LINES_EACH).map(|n| format!("node {node} line {n:03}")).collect();
        if own != want {
            return Err(format!("the log has {} of {LINES_EACH} lines of node {node} in order", own.len()));
        }
    }
    Ok(())
}

fn remove_share_of(story: &Story, node: usize, folder: &Path) -> Result<(), String> {
    for number in 0..FILES_EACH {
        story.beat(format!("removing file {number} of node {node}"))?;
        let path = folder.join(format!("node{node}-{number:03}"));
        fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<String>, String> {
    let names = fs::read_dir(folder).and_then(|entries| {
        entries.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()
    });
    names.map_err(|e| format!("{}: {e}", folder.display()))
}

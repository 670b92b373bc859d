//! Workloads that map files, as processes of their own: this test binary, run again.

use std::env;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::map::Map;
use super::{hammer, now};

const WORKLOAD: &str = "CORRAL_TOY_CHILD";

/// To be called by a test named `child` in every binary that starts children.
pub fn run() {
    let Ok(workload) = env::var(WORKLOAD) else { return };
    let words: Vec<&str> = workload.split(' ').collect();
    match words[..] {
        ["count", path, slot, millis] => count(path, slot.parse().unwrap(), millis.parse().unwrap()),
        ["dirty", path, pages, value] => dirty(path, pages.parse().unwrap(), value.parse().unwrap()),
        _ => panic!("unknown workload {workload}"),
    }
}

/// Starts `workload`, one of those of `run`.
pub fn start(workload: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(WORKLOAD, workload)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Counts up in its own word of a page that another node maps too: none of its counts may be
/// lost, and the other's must never run backwards.
fn count(path: &str, slot: usize, millis: u64) {
    let file = OpenOptions::new().read(true).write(true).open(Path::new(path)).unwrap();
    let map = Map::new(&file, super::PAGE);
    let (own, other) = (map.word(slot), map.word(1 - slot));
    let (mut mine, mut theirs) = (own.load(Ordering::SeqCst), 0);
    let end = now() + Duration::from_millis(millis);
    while now() < end {
        for _ in 0..100 {
            let seen = own.load(Ordering::SeqCst);
            assert_eq!(seen, mine, "a count of slot {slot} was lost");
            mine += 1;
            own.store(mine, Ordering::SeqCst);
            let seen = other.load(Ordering::SeqCst);
            assert!(seen >= theirs, "the other's count went from {theirs} back to {seen}");
            theirs = seen;
        }
    }
    println!("count {mine}");
}

/// Dirties `pages` pages with `value`, says so, and keeps the mapping until its input ends.
fn dirty(path: &str, pages: usize, value: u64) {
    let file = OpenOptions::new().read(true).write(true).open(Path::new(path)).unwrap();
    let map = Map::new(&file, pages * super::PAGE);
    for page in 0..pages {
        for word in 0..super::PAGE / 8 {
            map.word(page * super::PAGE / 8 + word).store(value, Ordering::SeqCst);
        }
    }
    println!("dirtied");
    let _ = std::io::read_to_string(std::io::stdin());
    hammer(Duration::ZERO, || {});
}

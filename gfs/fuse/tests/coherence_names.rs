//! Names of one node never outlive the lock of their directory, and dropping them never hangs.

mod toy;

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use toy::cluster::Mode;
use toy::{Pair, Versions, hammer, pair};

const SOME_TIME: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(20);

/// Runs `change` with one version after the other, at alternating nodes, while both nodes look
/// with `is_there`, which must fit one of the versions that may be.
fn check(
    pair: &Pair,
    change: impl Fn(u64, usize) + Sync,
    is_there: impl Fn(usize) -> bool + Sync,
    may_be_there: impl Fn(u64) -> bool + Sync,
) {
    let versions = Versions::default();
    let is_done = AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    thread::scope(|scope| {
        for node in [0, 1] {
            let (versions, is_done, looks) = (&versions, &is_done, &looks);
            let (is_there, may_be_there) = (&is_there, &may_be_there);
            scope.spawn(move || {
                while !is_done.load(Ordering::SeqCst) {
                    let (first, seen, last) = versions.around(|| is_there(node));
                    let fits = (first..=last).any(|version| may_be_there(version) == seen);
                    assert!(fits, "node {node} sees {seen} in {first} to {last}");
                    looks.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            hammer(SOME_TIME, || versions.write(|version| change(version, (version / 3) as usize % 2)));
            is_done.store(true, Ordering::SeqCst);
        });
    });
    let counts = pair.nodes[0].toy.caches.counts();
    eprintln!(
        "names: {} changes, {} looks, {} drops, {} epochs",
        versions.finished.load(Ordering::SeqCst),
        looks.load(Ordering::SeqCst),
        counts.name_drops.load(Ordering::SeqCst),
        counts.epochs.load(Ordering::SeqCst)
    );
}

#[test]
fn a_name_that_comes_and_goes_is_seen_as_it_is() {
    let Some(pair) = pair("create and unlink", LIMIT) else { return };
    let path = |node| pair.path(node, "n");
    check(
        &pair,
        |version, node| match version % 2 {
            1 => drop(File::create(path(node)).unwrap()),
            _ => fs::remove_file(path(node)).unwrap(),
        },
        |node| path(node).exists(),
        |version| version % 2 == 1,
    );
    pair.finish();
}

#[test]
fn a_name_that_is_moved_is_seen_where_it_is() {
    let Some(pair) = pair("rename", LIMIT) else { return };
    pair.plant("a", vec![]);
    let path = |node, name: &str| pair.path(node, name);
    check(
        &pair,
        |version, node| {
            let (from, to) = if version % 2 == 1 { ("a", "b") } else { ("b", "a") };
            fs::rename(path(node, from), path(node, to)).unwrap();
        },
        |node| path(node, "b").exists(),
        |version| version % 2 == 1,
    );
    pair.finish();
}

#[test]
fn names_are_dropped_while_a_create_of_that_directory_waits() {
    let Some(pair) = pair("parked create", LIMIT) else { return };
    pair.plant("old", vec![]);
    assert!(pair.path(0, "old").exists());
    assert!(!pair.path(0, "new").exists(), "and that is cached");
    let toy = &pair.nodes[0].toy;
    toy.parks.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let parked = scope.spawn(|| File::create(pair.path(0, "parked")).map(drop));
        while pair.nodes[0].session.interrupts().parked_count() == 0 {
            thread::yield_now();
        }
        // The CREATE holds the directory's lock in the kernel of node 0; node 1 wants the glock.
        let start = toy::now();
        drop(File::create(pair.path(1, "new")).unwrap());
        let took = start.elapsed();
        eprintln!("parked create: the other node's create took {took:?}");
        assert!(took < Duration::from_secs(1));
        assert!(toy.caches.counts().epochs.load(Ordering::SeqCst) > 0, "the epoch was the way out");
        toy.parks.store(false, Ordering::SeqCst);
        toy.unparked.notify_waiters();
        parked.join().unwrap().unwrap();
    });
    assert!(pair.path(0, "new").exists() && pair.path(0, "old").exists());
    pair.finish();
}

#[test]
fn very_many_names_are_dropped_at_once() {
    let Some(pair) = pair("many names", LIMIT) else { return };
    for number in 0..1000 {
        pair.plant(&format!("f{number}"), vec![]);
    }
    let paths = |node| -> Vec<PathBuf> { (0..1000).map(|number| pair.path(node, &format!("f{number}"))).collect() };
    assert!(paths(0).iter().all(|path| path.exists()));
    for path in paths(1).iter().step_by(2) {
        fs::remove_file(path).unwrap();
    }
    for (number, path) in paths(0).iter().enumerate() {
        assert_eq!(path.exists(), number % 2 == 1, "{}", path.display());
    }
    assert_eq!(fs::read_dir(&pair.nodes[0].directory).unwrap().count(), 500);
    pair.finish();
}

#[test]
fn what_is_cached_costs_no_request() {
    let Some(pair) = pair("cached", LIMIT) else { return };
    pair.plant("f", vec![7; 100]);
    let path = pair.path(0, "f");
    assert_eq!(fs::read(&path).unwrap(), vec![7; 100]);
    // Everything that needs the glock would wait for this, had it to ask.
    let number = 101;
    let (glock, other) = (pair.nodes[0].toy.glock(number), pair.nodes[1].toy.glock(number));
    assert!(glock.may_cache());
    let before = toy::now();
    for _ in 0..1000 {
        assert!(!pair.path(0, "missing").exists());
        assert_eq!(fs::metadata(&path).unwrap().len(), 100);
    }
    eprintln!("cached: a missing and a found name in {:?}", before.elapsed() / 1000);
    drop(pair.runtime().block_on(other.hold(Mode::Exclusive, gfs_core::glock::RequestClass::Ordinary)));
    assert_eq!(fs::metadata(&path).unwrap().len(), 100);
    pair.finish();
}

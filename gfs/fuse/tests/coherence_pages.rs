//! Pages of one node never outlive the lock that justifies them, whatever the other does.

mod toy;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use toy::{PAGE, Pair, Versions, hammer, page_of, pair, read_at, versions_of};

const SOME_TIME: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn child() {
    toy::child::run();
}

fn writer(pair: &Pair, node: usize, name: &str) -> File {
    OpenOptions::new().write(true).open(pair.path(node, name)).unwrap()
}

#[test]
fn cached_readers_never_see_an_old_page_while_another_node_writes() {
    let Some(pair) = pair("cached readers", LIMIT) else { return };
    const PAGES: usize = 16;
    pair.plant("f", page_of(0).repeat(PAGES));
    let versions = Versions::default();
    let is_done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    thread::scope(|scope| {
        for node in [0, 1, 1] {
            let (pair, versions, is_done, reads) = (&pair, &versions, &is_done, &reads);
            scope.spawn(move || {
                let file = File::open(pair.path(node, "f")).unwrap();
                while !is_done.load(Ordering::SeqCst) {
                    let (first, bytes, last) = versions.around(|| read_at(&file, 0, PAGES * PAGE));
                    assert_eq!(bytes.len(), PAGES * PAGE);
                    for version in versions_of(&bytes) {
                        assert!((first..=last).contains(&version), "read {version} at {first} to {last}");
                    }
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            let file = writer(&pair, 0, "f");
            hammer(SOME_TIME, || {
                versions.write(|version| file.write_all_at(&page_of(version).repeat(PAGES), 0).unwrap());
            });
            is_done.store(true, Ordering::SeqCst);
        });
    });
    let (written, read) = (versions.finished.load(Ordering::SeqCst), reads.load(Ordering::SeqCst));
    eprintln!("cached readers: {written} writes, {read} reads of {PAGES} pages");
    assert!(written > 10 && read > 10);
    pair.finish();
}

#[test]
fn readahead_never_brings_back_old_pages() {
    let Some(pair) = pair("readahead", LIMIT) else { return };
    const PAGES: usize = 1024;
    pair.plant("f", page_of(0).repeat(PAGES));
    let versions = Versions::default();
    let newest: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in [0, 1] {
            let (pair, versions, newest, is_done) = (&pair, &versions, &newest, &is_done);
            scope.spawn(move || {
                while !is_done.load(Ordering::SeqCst) {
                    let file = File::open(pair.path(node, "f")).unwrap();
                    for chunk in 0..PAGES / 32 {
                        let known: Vec<u64> =
                            newest[chunk * 32..][..32].iter().map(|newest| newest.load(Ordering::SeqCst)).collect();
                        let (_, bytes, last) =
                            versions.around(|| read_at(&file, (chunk * 32 * PAGE) as u64, 32 * PAGE));
                        for (version, known) in versions_of(&bytes).into_iter().zip(known) {
                            assert!((known..=last).contains(&version), "read {version}, was {known} at least");
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            let files = [writer(&pair, 0, "f"), writer(&pair, 1, "f")];
            hammer(SOME_TIME, || {
                versions.write(|version| {
                    let page = (version * 7919) as usize % PAGES;
                    files[version as usize % 2].write_all_at(&page_of(version), (page * PAGE) as u64).unwrap();
                    newest[page].store(version, Ordering::SeqCst);
                });
            });
            is_done.store(true, Ordering::SeqCst);
        });
    });
    eprintln!("readahead: {} writes", versions.finished.load(Ordering::SeqCst));
    pair.finish();
}

#[test]
fn counts_in_a_page_that_both_nodes_map_are_never_lost() {
    let Some(pair) = pair("mapped counters", LIMIT) else { return };
    pair.plant("f", vec![0; PAGE]);
    let millis = SOME_TIME.as_millis();
    let children: Vec<_> = (0..2)
        .map(|node| toy::child::start(&format!("count {} {node} {millis}", pair.path(node, "f").display())))
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        eprint!("mapped: {}", said.lines().find(|line| line.starts_with("count")).unwrap_or("no count\n"));
        eprintln!();
        assert!(output.status.success(), "{said}");
    }
    pair.finish();
}

#[test]
fn dirty_mapped_pages_arrive_before_another_node_reads() {
    let Some(pair) = pair("dirty pages", LIMIT) else { return };
    const PAGES: usize = 1024;
    pair.plant("f", page_of(0).repeat(PAGES));
    let reader = File::open(pair.path(1, "f")).unwrap();
    assert_eq!(versions_of(&read_at(&reader, 0, PAGES * PAGE)), vec![0; PAGES], "pages cached before");
    let mut child = toy::child::start(&format!("dirty {} {PAGES} 7", pair.path(0, "f").display()));
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("dirtied")));
    assert_eq!(versions_of(&read_at(&reader, 0, PAGES * PAGE)), vec![7; PAGES]);
    child.stdin.take().unwrap().flush().unwrap();
    assert!(child.wait().unwrap().success());
    drop(reader);
    pair.finish();
}

#[test]
fn a_reader_sees_the_size_that_another_node_has_set() {
    let Some(pair) = pair("truncate", LIMIT) else { return };
    pair.plant("f", vec![]);
    // Version v has this size and is full of zeroes but for what truncation must have removed.
    let size_of = |version: u64| (version * 2357) % 40_000;
    let versions = Versions::default();
    let is_done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    thread::scope(|scope| {
        for node in [0, 1, 1] {
            let (pair, versions, is_done, reads) = (&pair, &versions, &is_done, &reads);
            scope.spawn(move || {
                let file = File::open(pair.path(node, "f")).unwrap();
                // A version that truncates with O_TRUNC and then grows passes through zero.
                let is_possible = |first: u64, last: u64, size: u64| {
                    size == 0 || (first..=last).any(|version| size_of(version) == size)
                };
                // A read is not one step: a size that is set between two pages ends it there.
                let may_end = |first: u64, last: u64, end: u64| {
                    is_possible(first, last, end)
                        || end.is_multiple_of(PAGE as u64) && (first..=last).any(|version| size_of(version) > end)
                };
                while !is_done.load(Ordering::SeqCst) {
                    let (first, size, last) = versions.around(|| file.metadata().unwrap().len());
                    assert!(is_possible(first, last, size), "stat says {size} in {first} to {last}");
                    let mut bytes = vec![1; 50_000];
                    let (first, read, last) = versions.around(|| file.read_at(&mut bytes, 0).unwrap());
                    assert!(bytes[..read].iter().all(|byte| *byte == 0));
                    assert!(may_end(first, last, read as u64), "read {read} in {first} to {last}");
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            hammer(SOME_TIME, || {
                versions.write(|version| {
                    let node = (version / 3) as usize % 2;
                    let file = if version % 5 == 0 {
                        OpenOptions::new().write(true).truncate(true).open(pair.path(node, "f")).unwrap()
                    } else {
                        writer(&pair, node, "f")
                    };
                    file.set_len(size_of(version)).unwrap();
                });
            });
            is_done.store(true, Ordering::SeqCst);
        });
    });
    let (set, read) = (versions.finished.load(Ordering::SeqCst), reads.load(Ordering::SeqCst));
    eprintln!("truncate: {set} sizes, {read} reads");
    pair.finish();
}

#[test]
fn appends_of_both_nodes_are_all_there() {
    let Some(pair) = pair("append", LIMIT) else { return };
    pair.plant("f", vec![]);
    let counts: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|node| {
                let pair = &pair;
                scope.spawn(move || {
                    let mut file = OpenOptions::new().append(true).open(pair.path(node, "f")).unwrap();
                    let mut count = 0;
                    hammer(SOME_TIME / 3, || {
                        count += 1;
                        let record = [node as u64, count].map(u64::to_le_bytes).concat();
                        assert_eq!(file.write(&record).unwrap(), record.len());
                    });
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let file = File::open(pair.path(0, "f")).unwrap();
    let bytes = read_at(&file, 0, file.metadata().unwrap().len() as usize);
    drop(file);
    let mut seen = [0, 0];
    for record in bytes.chunks_exact(16) {
        let node = record[0] as usize;
        let count = u64::from_le_bytes(record[8..].try_into().unwrap());
        seen[node] += 1;
        assert_eq!(count, seen[node], "records of a node are in order");
    }
    eprintln!("append: {counts:?}");
    assert_eq!(seen.to_vec(), counts);
    pair.finish();
}

#[test]
fn readers_that_never_pause_do_not_hold_up_the_other_node() {
    let Some(pair) = pair("bounded demotion", LIMIT) else { return };
    const PAGES: usize = 256;
    pair.plant("f", page_of(0).repeat(PAGES));
    let is_done = AtomicBool::new(false);
    let mut waits = Vec::new();
    thread::scope(|scope| {
        for reader in 0..6_u64 {
            let (pair, is_done) = (&pair, &is_done);
            scope.spawn(move || {
                let file = File::open(pair.path(1, "f")).unwrap();
                let mut at = reader * 41;
                while !is_done.load(Ordering::SeqCst) {
                    at = (at * 31 + 7) % PAGES as u64;
                    versions_of(&read_at(&file, at * PAGE as u64, PAGE));
                }
            });
        }
        let file = writer(&pair, 0, "f");
        let mut version = 0;
        hammer(SOME_TIME, || {
            version += 1;
            let start = toy::now();
            file.write_all_at(&page_of(version), (version % PAGES as u64) * PAGE as u64).unwrap();
            waits.push(start.elapsed());
        });
        is_done.store(true, Ordering::SeqCst);
    });
    waits.sort();
    let glock = pair.nodes[1].toy.glock(101);
    eprintln!(
        "bounded demotion: {} writes, median {:?}, longest {:?}, {} passes at most",
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() - 1],
        glock.passes()
    );
    assert!(waits[waits.len() - 1] < Duration::from_secs(1));
    pair.finish();
}

//! `corral journal` and `corral fsck` on the kernel's images, judged by `gfs2_edit` and `fsck.gfs2`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A golden image in a folder that goes with it; `None`, loudly, when it cannot be unpacked.
struct Image {
    path: PathBuf,
}

impl Image {
    fn unpack(name: &str, test: &str) -> Option<Image> {
        let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/{name}.img.zst"));
        let path = std::env::temp_dir().join(format!("corral-{test}-{}-{name}.img", std::process::id()));
        let done = Command::new("zstd").args(["-qdf", "--sparse"]).arg(&packed).arg("-o").arg(&path).output();
        match done {
            Ok(output) if output.status.success() => Some(Image { path }),
            other => {
                eprintln!("SKIPPED {test}: zstd cannot unpack {}: {other:?}", packed.display());
                None
            }
        }
    }

    fn corral(&self, before: &[&str], after: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corral"));
        command.args(before).arg(&self.path).args(after).output().expect("corral starts")
    }

    fn json(&self, before: &[&str], after: &[&str]) -> Value {
        let output = self.corral(before, after);
        assert!(output.status.success(), "{before:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The blocks that `other` has otherwise.
    fn difference(&self, other: &Image, block_bytes: usize) -> BTreeSet<u64> {
        let open = |path: &Path| File::open(path).expect("an image");
        let (mut ours, mut theirs) = (open(&self.path), open(&other.path));
        let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut different = BTreeSet::new();
        let mut block = 0;
        loop {
            let len = ours.read(&mut a).expect("reads");
            if len == 0 {
                return different;
            }
            theirs.read_exact(&mut b[..len]).expect("images of one size");
            for (x, y) in a[..len].chunks(block_bytes).zip(b[..len].chunks(block_bytes)) {
                if x != y {
                    different.insert(block);
                }
                block += 1;
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn tool(name: &str, test: &str) -> Option<PathBuf> {
    let found = ["/usr/sbin", "/sbin", "/usr/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|p| p.exists());
    if found.is_none() {
        eprintln!("SKIPPED {test}: {name} is not installed");
    }
    found
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// A header or a descriptor in one form for both tools.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Header {
        sequence: u64,
        tail: u64,
        block: u64,
        flags: String,
    },
    /// Kind, length, count; entries with the two letters that `gfs2_edit` gives a type.
    Descriptor {
        kind: u64,
        length: u64,
        count: u64,
        entries: Vec<(u64, String)>,
    },
}

/// What `gfs2_edit -p journalN` prints, by block of the log, with the disk address.
fn dumped(text: &str) -> BTreeMap<u64, (u64, Line)> {
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hexadecimal");
    let between = |line: &str, from: &str, to: &str| -> String {
        let rest = line.split_once(from).unwrap_or_else(|| panic!("{from:?} in {line}")).1;
        rest.split_once(to).map_or(rest, |(head, _)| head).trim().to_owned()
    };
    let mut found = BTreeMap::new();
    let mut last = None;
    for line in text.lines() {
        if let Some((address, rest)) = line.split_once(" (j+") {
            let at = hex(rest.split_once(')').expect("a bracket").0.trim());
            let content = if rest.contains("Log header") {
                Line::Header {
                    sequence: hex(&between(line, "Seq: ", ",")),
                    tail: hex(&between(line, "tail: ", ",")),
                    block: hex(&between(line, "blk: ", " ")),
                    flags: between(line, "[", "]"),
                }
            } else {
                Line::Descriptor {
                    kind: between(line, "type ", " ").parse().expect("a number"),
                    length: between(line, "len:", ",").parse().expect("a number"),
                    count: between(line, "data1: ", "\n").parse().expect("a number"),
                    entries: Vec::new(),
                }
            };
            found.insert(at, (hex(address), content));
            last = Some(at);
        } else if let Some(numbers) = line.strip_prefix("                    ") {
            let Some((_, Line::Descriptor { entries, .. })) = last.and_then(|at| found.get_mut(&at)) else {
                panic!("entries without a descriptor: {line}")
            };
            // Columns of 19: a number, and two letters for what the logged block is.
            for column in numbers.as_bytes().chunks(19) {
                let column = String::from_utf8_lossy(column);
                let mut words = column.split_whitespace();
                if let Some(block) = words.next() {
                    entries.push((hex(block), words.next().unwrap_or_default().to_owned()));
                }
            }
        }
    }
    found
}

/// The same from `corral journal show --json`.
fn shown(document: &Value) -> BTreeMap<u64, (u64, Line)> {
    let mut found = BTreeMap::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut items: Vec<Value> = Vec::new();
    for transaction in list(&document["transactions"]) {
        items.extend(list(&transaction["descriptors"]));
        let header = &transaction["header"];
        let field = |name: &str| number(&header["fields"][name]);
        assert_eq!(header["checksums"], "good", "{header}");
        let line = Line::Header {
            sequence: field("lh_sequence"),
            tail: field("lh_tail"),
            block: field("lh_blkno"),
            flags: header["flags"].as_str().expect("flags").to_owned(),
        };
        found.insert(number(&header["at"]), (number(&header["address"]), line));
    }
    list(&document["fragments"]).iter().for_each(|fragment| items.extend(list(&fragment["items"])));
    for item in items {
        if item["ld_type"].is_null() {
            continue; // a block that nothing describes
        }
        let kind = number(&item["ld_type"]);
        let letters = |mh_type: u64| {
            ["", "sb", "rg", "rb", "di", "in", "lf", "jd", "lh", "ld", "ea", "ed", "lb", "", "qc"][mh_type as usize]
        };
        let entries = match kind {
            301 => list(&item["revokes"]).iter().map(|block| (number(block), String::new())).collect(),
            // `gfs2_edit` shows the words of block and escape flag up to the first zero.
            302 => {
                let words = list(&item["blocks"]).into_iter();
                let words = words.flat_map(|b| [number(&b["block"]), u64::from(b["escaped"] == Value::Bool(true))]);
                words.take_while(|word| *word != 0).map(|word| (word, String::new())).collect()
            }
            _ => {
                let blocks = list(&item["blocks"]).into_iter();
                blocks.map(|b| (number(&b["block"]), letters(b["mh_type"].as_u64().unwrap_or(0)).to_owned())).collect()
            }
        };
        let line = Line::Descriptor { kind, length: number(&item["length"]), count: number(&item["count"]), entries };
        found.insert(number(&item["at"]), (number(&item["address"]), line));
    }
    found
}

#[test]
fn every_journal_reads_as_gfs2_edit_reads_it() {
    const NAME: &str = "every_journal_reads_as_gfs2_edit_reads_it";
    let Some(gfs2_edit) = tool("gfs2_edit", NAME) else { return };
    for (name, journals) in [("dirty-j0", 2), ("dirty-j0-j1", 2), ("jdata-4k", 1), ("clean-4k", 2), ("clean-1k", 2)] {
        let Some(image) = Image::unpack(name, NAME) else { return };
        for journal in 0..journals {
            let output = Command::new(&gfs2_edit).arg("-p").arg(format!("journal{journal}")).arg(&image.path).output();
            let theirs = dumped(&String::from_utf8_lossy(&output.expect("gfs2_edit starts").stdout));
            let document = image.json(&["journal", "show", "--json"], &[&journal.to_string()]);
            let (ours, blocks) = (shown(&document), number(&document["blocks"]));
            assert!(theirs.len() > 10, "{name} journal{journal}: gfs2_edit shows {} blocks", theirs.len());
            for (at, line) in &theirs {
                let mine = ours.get(at).unwrap_or_else(|| panic!("{name} journal{journal}: block {at}: only {line:?}"));
                assert_same(mine, line, blocks - at, &format!("{name} journal{journal} block {at}"));
            }
            let extra: Vec<_> = ours.iter().filter(|(at, _)| !theirs.contains_key(at)).collect();
            assert!(extra.is_empty(), "{name} journal{journal}: not in gfs2_edit: {extra:?}");
        }
    }
}

/// Fails at the first difference, with what each says.
fn assert_same(ours: &(u64, Line), theirs: &(u64, Line), end: u64, what: &str) {
    assert_eq!(ours.0, theirs.0, "{what}: disk address");
    let (mine, other) = match (&ours.1, &theirs.1) {
        (Line::Descriptor { entries: mine, .. }, Line::Descriptor { entries: other, .. }) => (mine, other),
        (mine, other) => return assert_eq!(mine, other, "{what}"),
    };
    let head = |line: &Line| match line {
        Line::Descriptor { kind, length, count, .. } => (*kind, *length, *count),
        Line::Header { .. } => panic!("a descriptor"),
    };
    assert_eq!(head(&ours.1), head(&theirs.1), "{what}: type, length, count");
    assert_eq!(mine.len(), other.len(), "{what}: entries");
    for (index, (mine, other)) in (1..).zip(mine.iter().zip(other)) {
        assert_eq!(mine.0, other.0, "{what}: entry {index}");
        // Past the log's end it looks at the disk's next block, and not at the log's first one.
        if index < end {
            assert_eq!(mine.1, other.1, "{what}: type of entry {index}");
        }
    }
}

#[test]
fn the_dry_run_names_exactly_the_blocks_that_the_replay_changes() {
    const NAME: &str = "the_dry_run_names_exactly_the_blocks_that_the_replay_changes";
    for name in ["dirty-j0", "dirty-j0-j1"] {
        let Some(before) = Image::unpack(name, NAME) else { return };
        let Some(after) = Image::unpack(name, "replayed") else { return };
        let plan = before.json(&["journal", "replay", "--dry-run", "--json"], &[]);
        let writes = plan["writes"].as_array().expect("writes").clone();
        let named: BTreeSet<u64> =
            writes.iter().filter(|write| write["changes"] == true).map(|write| number(&write["block"])).collect();
        let list = before.json(&["journal", "list", "--json"], &[]);
        let logs: Vec<(u64, u64)> = list["journals"]
            .as_array()
            .expect("journals")
            .iter()
            .map(|journal| (number(&journal["first_block"]), number(&journal["blocks"])))
            .collect();

        let done = after.json(&["journal", "replay", "--json"], &[]);
        assert!(done["journals"][0]["replayed"] == true, "{done}");
        let changed: BTreeSet<u64> = before.difference(&after, 4096);
        let is_log = |block: &u64| logs.iter().any(|(first, count)| (*first..first + count).contains(block));
        let (log, in_place): (BTreeSet<u64>, BTreeSet<u64>) = changed.iter().partition(|block| is_log(block));
        assert_eq!(in_place, named, "{name}");
        assert!(!log.is_empty() && log.len() <= 12, "{name}: {log:?}");

        // Nothing is left to do, and nothing is done.
        let again = Image { path: after.path.with_extension("again") };
        std::fs::copy(&after.path, &again.path).expect("copies");
        let done = again.json(&["journal", "replay", "--json"], &[]);
        assert!(done["journals"][0]["replayed"] == false, "{done}");
        assert!(after.difference(&again, 4096).is_empty());
    }
}

#[test]
fn fsck_replays_and_what_it_leaves_is_clean_in_fsck_gfs2() {
    const NAME: &str = "fsck_replays_and_what_it_leaves_is_clean_in_fsck_gfs2";
    for (name, dirty) in [("dirty-j0", true), ("dirty-j0-j1", true), ("jdata-4k", false), ("clean-1k", false)] {
        let Some(image) = Image::unpack(name, NAME) else { return };
        let untouched = Image { path: image.path.with_extension("untouched") };
        std::fs::copy(&image.path, &untouched.path).expect("copies");
        let code = |arguments: &[&str]| image.corral(arguments, &[]).status.code();
        assert_eq!(code(&["fsck", "-n"]), Some(if dirty { 4 } else { 0 }), "{name}");
        assert!(image.difference(&untouched, 4096).is_empty(), "{name}: -n writes nothing");
        assert_eq!(
            code(&["fsck", "-p"]),
            Some(if name == "dirty-j0-j1" { 4 } else { u8::from(dirty).into() }),
            "{name}"
        );
        assert_eq!(code(&["fsck"]), Some(if name == "dirty-j0-j1" { 1 } else { 0 }), "{name}");
        assert_eq!(code(&["fsck", "-n"]), Some(0), "{name}");
        let Some(fsck) = tool("fsck.gfs2", NAME) else { continue };
        let output = Command::new(fsck).arg("-n").arg(&image.path).output().expect("fsck.gfs2 starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.contains("dirty") && !text.contains("wrong"), "{name}: {text}");
    }
}

#[test]
fn what_is_no_filesystem_ends_with_the_right_code_and_a_reason() {
    let path = std::env::temp_dir().join(format!("corral-nothing-{}", std::process::id()));
    File::create(&path).and_then(|mut file| file.write_all(&vec![0; 1 << 20])).expect("a file");
    let image = Image { path };
    let output = image.corral(&["fsck"], &[]);
    assert_eq!(output.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&output.stderr).contains("superblock"), "{output:?}");
    for command in [&["journal", "list"][..], &["journal", "replay", "--dry-run"], &["journal", "replay"]] {
        let output = image.corral(command, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    std::fs::remove_file(&image.path).expect("removes");
    assert_eq!(image.corral(&["fsck"], &[]).status.code(), Some(16));
}

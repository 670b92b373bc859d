//! The transcripts in tests/scenarios/dlm: commands to a calm cluster, and what members say to one
//! another and to their users. `UPDATE_SCENARIOS=1 cargo test -p dlm-core --test scenarios` writes
//! what happens now into the files; read the difference before committing it.

mod cluster;

use std::path::Path;
use std::time::Duration;

use base::NodeId;
use cluster::{Cluster, name};
use dlm_api::{Flags, LockId, Mode};
use dlm_core::{Faults, Input};

#[test]
fn the_transcripts_tell_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios/dlm");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "no transcripts in {}", folder.display());
    for path in paths {
        let expected = std::fs::read_to_string(&path).expect("a transcript");
        let found = replay(&expected);
        if std::env::var_os("UPDATE_SCENARIOS").is_some() {
            std::fs::write(&path, found).expect("written");
        } else {
            assert_eq!(found, expected, "{}", path.display());
        }
    }
}

/// The transcript with what happens after each command. Commands begin with `>`, stories with `#`.
fn replay(text: &str) -> String {
    let mut cluster = Cluster::new(1, 3, Faults::default());
    let mut out = String::new();
    for line in text.lines().filter(|line| line.starts_with(['>', '#']) || line.is_empty()) {
        out.push_str(line);
        out.push('\n');
        if let Some(command) = line.strip_prefix("> ") {
            let from = cluster.log.len();
            let words: Vec<_> = command.split_whitespace().collect();
            run(&mut cluster, &words);
            cluster.calm();
            for line in &cluster.log[from..] {
                assert!(!line.starts_with("WRONG"), "{line}");
                out.push_str(&format!("  {line}\n"));
            }
        }
    }
    out
}

fn run(cluster: &mut Cluster, words: &[&str]) {
    let number = |word: &str| word.parse::<u32>().expect("a number");
    let mode = |word: &str| Mode::ALL.into_iter().find(|mode| mode.to_string() == word).expect("a mode");
    let flags = |words: &[&str]| {
        words.iter().fold(Flags::NONE, |flags, word| {
            flags
                | match *word {
                    "noqueue" => Flags::NOQUEUE,
                    "noqueuebast" => Flags::NOQUEUEBAST,
                    "quecvt" => Flags::QUECVT,
                    other => panic!("unknown flag {other}"),
                }
        })
    };
    match words {
        ["start", nodes @ ..] => nodes.iter().for_each(|node| cluster.start(NodeId(number(node)))),
        ["lock", node, resource, to, rest @ ..] => {
            cluster.lock(NodeId(number(node)), &name(resource), mode(to), flags(rest));
        }
        ["convert", lock, to, rest @ ..] => {
            cluster.convert(LockId(u64::from(number(lock))), mode(to), flags(rest));
        }
        ["unlock", lock] => cluster.unlock(LockId(u64::from(number(lock)))),
        ["cancel", node, lock] => {
            let lock = LockId(u64::from(number(lock)));
            cluster.input(NodeId(number(node)), Input::Cancel { lock });
        }
        ["leave", node] => cluster.leave(NodeId(number(node))),
        ["cut", one, other] => cluster.disconnect(NodeId(number(one)), NodeId(number(other))),
        ["mend", one, other] => cluster.connect(NodeId(number(one)), NodeId(number(other))),
        ["wait", millis] => cluster.now = cluster.now + Duration::from_millis(u64::from(number(millis))),
        ["tick"] => {
            for node in cluster.all.clone() {
                cluster.input(node, Input::Tick);
            }
        }
        _ => panic!("unknown command {words:?}"),
    }
}

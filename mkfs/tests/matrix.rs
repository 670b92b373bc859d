//! The options against each other: every value, and in the long form every pair of values, judged by fsck.gfs2,
//! gfs2_edit and blkid. `tests/load/mkfs-matrix` runs the long form (CORRAL_LONG=1), which takes some minutes and
//! gigabytes; without it, small filesystems in which every value occurs that fits into a hundred megabytes of journals.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MKFS: &str = env!("CARGO_BIN_EXE_mkfs-gfs2");
const MIB: u64 = 1 << 20;

/// Options in the order of [`Case::arguments`], each with its values.
const VALUES: [&[&str]; 8] = [
    &["512", "1024", "2048", "4096"],
    &["1", "2", "3", "5", "8", "16"],
    &["8", "16", "32", "64", "128", "256", "512", "1024"],
    &["32", "64", "128", "256", "512", "1024", "2048"],
    &["1801", "1802"],
    &["lock_dlm", "lock_nolock"],
    &["1", "3", "64"],
    // How large the device is beside what is needed: 1 is just enough.
    &["1", "2", "9"],
];

/// Bytes of all journals together, at most: one pair of values (16 of 1 GiB) is beyond it.
const LOGS_MAX: u64 = 8 << 30;
const LOGS_MAX_SHORT: u64 = 64 * MIB;

/// One choice of values, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case([usize; VALUES.len()]);

impl Case {
    fn value(&self, option: usize) -> &'static str {
        VALUES[option][self.0[option]]
    }

    fn number(&self, option: usize) -> u64 {
        self.value(option).parse().expect("a number in the table")
    }

    /// Bytes of all journals.
    fn logs(&self) -> u64 {
        self.number(1) * self.number(2) * MIB
    }

    /// Bytes of the device: journals may take half of it, and each has its quota changes.
    fn device(&self) -> u64 {
        let needed = self.logs() * 2 + self.number(1) * (self.number(6) + 2) * MIB + 40 * MIB;
        (needed * self.number(7)).max(64 * MIB)
    }

    fn arguments(&self) -> Vec<String> {
        let names = ["-b", "-j", "-J", "-r", "-oformat=", "-p", "-c"];
        let mut words = vec!["-q".into(), "-O".into(), "-K".into(), "-t".into(), "judge:fs".into()];
        for (option, name) in names.iter().enumerate() {
            words.push(format!("{name}{}", self.value(option)));
        }
        words
    }
}

/// Two values: each the number of an option and the number of its value.
type Pair = ((usize, usize), (usize, usize));

/// All pairs of values of two options.
fn pairs() -> impl Iterator<Item = Pair> {
    let all = || VALUES.iter().enumerate().flat_map(|(option, values)| (0..values.len()).map(move |x| (option, x)));
    all().flat_map(move |one| all().filter(move |other| other.0 > one.0).map(move |other| (one, other)))
}

/// Cases that together have every pair of values (or, for the short form, every value), each as small as the rest
/// allows. Greedy: takes the case that has most that is missing.
fn cases(logs_max: u64, is_pairs: bool) -> Vec<Case> {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit as u64) as usize
    };
    let mut missing: Vec<Pair> = match is_pairs {
        true => pairs().collect(),
        false => pairs().flat_map(|(one, other)| [(one, one), (other, other)]).collect(),
    };
    let fits = |case: &Case| case.logs() <= logs_max;
    let smallest = Case([0; VALUES.len()]);
    missing.retain(|((a, x), (b, y))| {
        let mut case = smallest;
        case.0[*a] = *x;
        case.0[*b] = *y;
        fits(&case)
    });
    let mut chosen = Vec::new();
    while let Some(first) = missing.first().copied() {
        let has = |case: &Case, ((a, x), (b, y)): &Pair| case.0[*a] == *x && case.0[*b] == *y;
        // What a case brings for what it costs: each gigabyte of logs takes a while.
        let worth = |count: usize, case: &Case| count as f64 / (1.0 + case.logs() as f64 / f64::from(1 << 28));
        let mut best: Option<(f64, Case)> = None;
        for _ in 0..200 {
            let mut case = Case(std::array::from_fn(|option| below(VALUES[option].len())));
            (case.0[first.0.0], case.0[first.1.0]) = (first.0.1, first.1.1);
            let count = missing.iter().filter(|pair| has(&case, pair)).count();
            let worth = worth(count, &case);
            if fits(&case) && best.is_none_or(|(most, _)| worth > most) {
                best = Some((worth, case));
            }
        }
        let case = best.map_or_else(
            || {
                let mut case = smallest;
                (case.0[first.0.0], case.0[first.1.0]) = (first.0.1, first.1.1);
                case
            },
            |(_, case)| case,
        );
        missing.retain(|pair| !has(&case, pair));
        chosen.push(case);
    }
    chosen
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new(program).args(arguments).env("PATH", search).env("TERM", "xterm").output().expect("it starts")
}

/// What the judges have against a case; empty if nothing.
fn judged(case: &Case, image: &Path) -> Vec<String> {
    let mut against = Vec::new();
    let file = std::fs::File::create(image).expect("an image");
    file.set_len(case.device()).expect("a sparse image");
    let name = image.display().to_string();
    let uuid = "5eac6ad6-8f34-4b1e-9c57-0123456789ab";
    let mut arguments = case.arguments();
    arguments.extend(["-U".into(), uuid.into(), name.clone()]);
    let made = run(MKFS, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    if !made.status.success() {
        return vec![format!("mkfs: {}", String::from_utf8_lossy(&made.stderr))];
    }
    let checked = run("fsck.gfs2", &["-n", &name]);
    let said = String::from_utf8_lossy(&checked.stdout).to_lowercase();
    let words = ["error", "bad ", "wrong", "should be", "mismatch", "dirty"];
    if !checked.status.success() || !checked.stderr.is_empty() || words.iter().any(|word| said.contains(word)) {
        against.push(format!("fsck.gfs2: {said}{}", String::from_utf8_lossy(&checked.stderr)));
    }
    for place in ["sb", "master", "root", "jindex", "per_node", "inum", "statfs", "rindex", "rgs", "quota"] {
        let printed = run("gfs2_edit", &["-p", place, &name]);
        if !printed.status.success() || !printed.stderr.is_empty() {
            against.push(format!("gfs2_edit -p {place}: {}", String::from_utf8_lossy(&printed.stderr)));
        }
    }
    // The first journal only: where the journal index is kept in leaves gfs2_edit does not find all, whoever made it.
    let dumped = run("gfs2_edit", &["-p", "journal0", &name]);
    let headers = String::from_utf8_lossy(&dumped.stdout).matches("[UNMOUNT/USERSPACE]").count() as u64;
    let blocks = case.number(2) * MIB / case.number(0);
    if headers != blocks {
        against.push(format!("gfs2_edit -p journal0: {headers} clean headers, not {blocks}"));
    }
    let probed = run("blkid", &["-p", "-s", "LABEL", "-s", "UUID", "-s", "TYPE", &name]);
    let said = String::from_utf8_lossy(&probed.stdout).into_owned();
    for wanted in ["LABEL=\"judge:fs\"", &format!("UUID=\"{uuid}\""), "TYPE=\"gfs2\""] {
        if !said.contains(wanted) {
            against.push(format!("blkid: no {wanted} in {said}"));
        }
    }
    against
}

#[test]
fn every_option_value_gives_a_filesystem_that_its_owners_tools_accept() {
    let is_long = std::env::var_os("CORRAL_LONG").is_some();
    for tool in ["fsck.gfs2", "gfs2_edit", "blkid"] {
        let is_there = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(tool).exists());
        if !is_there {
            eprintln!("SKIPPED: {tool} is not installed (Debian: gfs2-utils, util-linux)");
            return;
        }
    }
    let cases = cases(if is_long { LOGS_MAX } else { LOGS_MAX_SHORT }, is_long);
    let folder: PathBuf = std::env::temp_dir().join(format!("corral-mkfs-matrix-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut failed = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let image = folder.join("image");
        let against = judged(case, &image);
        std::fs::remove_file(&image).expect("it is there");
        if is_long {
            eprintln!(
                "{}/{}: {} on {} MiB: {}",
                index + 1,
                cases.len(),
                case.arguments().join(" "),
                case.device() / MIB,
                if against.is_empty() { "ok" } else { "FAILED" }
            );
        }
        if !against.is_empty() {
            failed.push(format!("{} on {} MiB: {against:#?}", case.arguments().join(" "), case.device() / MIB));
        }
    }
    std::fs::remove_dir_all(&folder).expect("it is there");
    println!("{} filesystems", cases.len());
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), cases.len());
}

#[test]
fn the_long_form_has_every_pair_of_values() {
    let cases = cases(LOGS_MAX, true);
    for ((a, x), (b, y)) in pairs() {
        let (one, other) = (VALUES[a][x], VALUES[b][y]);
        let is_beyond = (a, b) == (1, 2) && one == "16" && other == "1024";
        let found = cases.iter().any(|case| case.0[a] == x && case.0[b] == y);
        assert!(found || is_beyond, "{one} with {other}");
    }
    assert!(cases.len() < 150, "{}", cases.len());
}

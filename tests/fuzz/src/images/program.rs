//! The runs over many images: `--images N` reads N damaged ones, `--compare N` also asks `fsck.gfs2`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gfs_core::Error;

use super::base::{Base, NAMES};
use super::{compare, judge, mutate};
use crate::random::Random;

/// An image that takes longer than this is a hang.
const IMAGE_MAX: Duration = Duration::from_secs(30);
/// Memory that a run may take, in bytes.
const MEMORY_MAX: u64 = 1 << 30;

/// Which rounds of which seed.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    pub seed: u64,
    pub first: u64,
    pub count: u64,
    /// Say what each round did and found.
    pub is_verbose: bool,
}

/// What the images were found to be.
#[derive(Default)]
struct Tally {
    consistent: AtomicU64,
    damaged: AtomicU64,
    refused: AtomicU64,
    engine_errors: AtomicU64,
    failed: AtomicU64,
}

/// Reads damaged images on every processor; whether all is well.
#[expect(clippy::disallowed_methods, reason = "a test program measures what it does")]
pub fn run(rounds: Rounds) -> bool {
    let bases: Vec<Base> = NAMES.into_iter().filter_map(Base::load).collect();
    if bases.is_empty() {
        return true;
    }
    // One line is enough: the round is told, and repeats it.
    std::panic::set_hook(Box::new(|panic| println!("images: {panic}")));
    let start = Instant::now();
    let (next, tally) = (AtomicU64::new(rounds.first), Tally::default());
    let end = rounds.first + rounds.count;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let at_work: Mutex<Vec<Option<(u64, Instant)>>> = Mutex::new(vec![None; threads]);
    let at = |worker: usize, round: Option<u64>| {
        at_work.lock().expect("invariant: no panic under this lock")[worker] =
            round.map(|round| (round, Instant::now()));
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let (next, tally, bases, at) = (&next, &tally, &bases, &at);
                scope.spawn(move || {
                    loop {
                        let round = next.fetch_add(1, Ordering::Relaxed);
                        if round >= end {
                            return at(worker, None);
                        }
                        at(worker, Some(round));
                        one(bases, rounds, round, tally);
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(200));
            let late = at_work
                .lock()
                .expect("invariant: no panic under this lock")
                .iter()
                .flatten()
                .find_map(|(round, since)| (since.elapsed() > IMAGE_MAX).then_some(*round));
            if let Some(round) = late {
                println!("images: HANG, again with --images 1 --seed {} --round {round}", rounds.seed);
                std::process::exit(1);
            }
        }
    });
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let memory = peak_memory();
    println!(
        "images: {} in {:.1} s: {} consistent, {} damaged, {} refused; the engine met errors in {}; {} failed; {} MiB at most",
        rounds.count,
        start.elapsed().as_secs_f64(),
        get(&tally.consistent),
        get(&tally.damaged),
        get(&tally.refused),
        get(&tally.engine_errors),
        get(&tally.failed),
        memory >> 20,
    );
    if memory > MEMORY_MAX {
        println!("images: more than {} MiB of memory", MEMORY_MAX >> 20);
    }
    get(&tally.failed) == 0 && memory <= MEMORY_MAX
}

fn one(bases: &[Base], rounds: Rounds, round: u64, tally: &Tally) {
    let work = || -> Result<(), String> {
        let mut random = Random::new(rounds.seed, round);
        let base = &bases[random.below(bases.len())];
        let mutated = mutate::mutate(base, &mut random);
        if rounds.is_verbose {
            println!("round {round}, {}: {}", base.name, mutated.done.join("; "));
        }
        let report = judge::check(&mutated.image);
        match &report {
            Ok(report) if report.is_consistent() => tally.consistent.fetch_add(1, Ordering::Relaxed),
            Ok(_) => tally.damaged.fetch_add(1, Ordering::Relaxed),
            Err(_) => tally.refused.fetch_add(1, Ordering::Relaxed),
        };
        let read = judge::engine(&mutated.image);
        if !read.errors.is_empty() {
            tally.engine_errors.fetch_add(1, Ordering::Relaxed);
        }
        if rounds.is_verbose {
            match &report {
                Ok(report) => println!("{report}"),
                Err(error) => println!("{error}"),
            }
            println!("engine: {read:?}");
        }
        match read.errors.iter().find(|error| !says_where(error)) {
            Some(error) => Err(format!("an error that does not name its block: {error:?}")),
            None => Ok(()),
        }
    };
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(message)) => message,
        Err(_) => "PANIC".into(),
    };
    tally.failed.fetch_add(1, Ordering::Relaxed);
    println!("images: {failure}, again with --images 1 --seed {} --round {round} --verbose", rounds.seed);
}

/// Whether an error of the engine says what is damaged, or is no damage.
fn says_where(error: &Error) -> bool {
    match error {
        Error::Corrupt { .. } | Error::Stale | Error::Withdrawn | Error::NotFound | Error::ReadOnly => true,
        // What a mutated mode, name or flag makes of an inode.
        Error::NotDirectory | Error::IsDirectory | Error::Invalid | Error::NotSupported { .. } => true,
        Error::NotPermitted | Error::NameTooLong | Error::FileTooLarge | Error::TooManyLinks => true,
        // The superblock is in one place.
        Error::Mount { .. } => true,
        _ => false,
    }
}

/// The most memory that this process had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Compares verdicts with `fsck.gfs2 -n` on images without a dirty journal; whether it finds nothing that we do not.
/// Where we are the stricter one, the kernel is as strict, or would misread what is there: docs/format.md says how.
pub fn compare(rounds: Rounds) -> bool {
    let Some(tool) = compare::tool() else {
        println!("SKIPPED comparing verdicts: fsck.gfs2 is not installed");
        return true;
    };
    // It would not replay, so a dirty image is never clean for it.
    let Some(base) = Base::load(NAMES[0]) else { return true };
    let file = std::env::temp_dir().join(format!("corral-damaged-{}.img", std::process::id()));
    let (mut both_clean, mut both_damaged, mut stricter, mut missed) = (0, 0, 0, 0);
    for round in rounds.first..rounds.first + rounds.count {
        let mutated = mutate::mutate(&base, &mut Random::new(rounds.seed, round));
        let verdicts = match compare::verdicts(&tool, &mutated.image, &file) {
            Ok(verdicts) => verdicts,
            Err(error) => {
                println!("compare: {}: {error}", file.display());
                return false;
            }
        };
        let counter = match (verdicts.ours_is_clean, verdicts.theirs_is_clean) {
            (true, true) => &mut both_clean,
            (false, false) => &mut both_damaged,
            (false, true) => &mut stricter,
            (true, false) => &mut missed,
        };
        *counter += 1;
        if rounds.is_verbose || verdicts.ours_is_clean != verdicts.theirs_is_clean {
            let what = if verdicts.ours_is_clean && !verdicts.theirs_is_clean { "MISSED: " } else { "" };
            println!("{what}round {round}: {}", mutated.done.join("; "));
            println!("    ours: {}", verdicts.ours.replace('\n', " | "));
            println!("    fsck.gfs2: {}", verdicts.theirs);
        }
    }
    let _ = std::fs::remove_file(&file);
    println!(
        "compare: {both_clean} clean for both, {both_damaged} damaged for both, {stricter} only for us, {missed} only for fsck.gfs2"
    );
    missed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_filesystems_are_read_without_a_panic_and_with_errors_that_say_where() {
        assert!(run(Rounds { seed: 7, first: 0, count: 60, is_verbose: false }));
    }
}

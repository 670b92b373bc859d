//! Small sweeps of every world, and the promises of the simulator itself.

use sim::trace::TraceWish;
use sim::world::{Report, RunOptions, World};

fn run(world: World, seed: u64, plant: Option<&str>, wish: TraceWish) -> Report {
    world.run(seed, RunOptions { plant, wish, ask_fsck: false })
}

/// No seed of the range fails.
fn sweep(world: World, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let failure = run(world, seed, None, TraceWish::Nothing).failure;
        assert_eq!(failure, None, "world {} seed {seed}", world.name());
    }
}

/// Every deliberate fault fails some seed of the range.
fn catch_plants(world: World, seeds: std::ops::Range<u64>) {
    for plant in world.plants() {
        let is_caught = |seed| run(world, seed, Some(plant), TraceWish::Nothing).failure.is_some();
        assert!(seeds.clone().any(is_caught), "world {}: {plant} is not caught", world.name());
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for world in World::ALL {
        for seed in 0..10 {
            let (one, other) =
                (run(world, seed, None, TraceWish::Everything), run(world, seed, None, TraceWish::Everything));
            assert!(one.trace.len() > 100, "world {} seed {seed} does next to nothing", world.name());
            assert_eq!(one, other, "world {} seed {seed}", world.name());
        }
    }
}

#[test]
fn watching_a_run_does_not_change_it() {
    let plant = Some("skip-blocking");
    let watched = run(World::Locks, 0, plant, TraceWish::Everything);
    assert_eq!(watched.failure, run(World::Locks, 0, plant, TraceWish::Nothing).failure);
}

#[test]
fn locks_hold_over_a_sweep() {
    sweep(World::Locks, 1000..1200);
}

#[test]
fn every_fault_planted_in_the_lock_manager_is_caught() {
    catch_plants(World::Locks, 0..500);
}

#[test]
fn the_filesystem_holds_over_a_sweep() {
    sweep(World::Fs, 1000..1060);
}

/// Seeds that found bugs, with what they found. Their meaning changes with the workload; they cost nothing to keep.
#[test]
fn seeds_that_found_bugs_stay_good() {
    for seed in [
        891, 4498,   // An inode was freed while another node had it open; a reader got a freed inode's old bytes.
        20151,  // A page fill was granted the shared state while a handle was open for writing.
        20836,  // An unlink waited for a local opener of its victim, which waited for the unlink's lock.
        23827,  // A close looked at the inode before its own iopen lock was really given up.
        339354, // A page fill queued behind a truncate was not served by the drain that waited for its page.
        504370, // An open by an old generation kept the block's next inode from being freed, and left it so.
        212355, // A rename locked a file before a directory, an unlink the other way round.
    ] {
        sweep(World::Fs, seed..seed + 1);
    }
    // A mastership that was handed over was forgotten before the directory knew of it.
    sweep(World::Locks, 831_019..831_020);
}

#[test]
fn every_fault_planted_under_or_in_the_filesystem_is_caught() {
    catch_plants(World::Fs, 0..300);
}

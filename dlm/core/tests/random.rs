//! Random users on a random network: no two incompatible grants, no stale value, every request ends,
//! members leave and come back in any order. A failure prints its seed and its story.

mod cluster;

use base::NodeId;
use cluster::{Cluster, name};
use dlm_api::{Flags, Mode};
use dlm_core::{Faults, invariants};

struct Shape {
    members: u32,
    names: usize,
    steps: u32,
    loss_percent: u64,
    leaves: bool,
}

fn run(seed: u64, shape: &Shape, faults: Faults) -> Result<u64, String> {
    let mut cluster = Cluster::new(seed, shape.members, faults);
    cluster.loss_percent = shape.loss_percent;
    let fail = |cluster: &Cluster, what: &str| {
        let from = cluster.log.len().saturating_sub(200);
        Err(format!("seed {seed}: {what}\n{}", cluster.log[from..].join("\n")))
    };
    for node in cluster.all.clone() {
        cluster.start(node);
    }
    let names: Vec<_> = (0..shape.names).map(|number| name(&format!("name {number}"))).collect();
    for _ in 0..shape.steps {
        cluster.step();
        if let Some(wrong) = cluster.wrong() {
            return fail(&cluster, wrong);
        }
        if faults == Faults::default()
            && let Err(wrong) = invariants::check_masters(cluster.members.values())
        {
            return fail(&cluster, &wrong);
        }
        if cluster.random.chance(30) {
            act(&mut cluster, &names, shape);
        }
        give_way(&mut cluster);
    }
    // Faults stop; everybody gives everything up, and every request must end.
    cluster.loss_percent = 0;
    for node in cluster.all.clone() {
        if !cluster.members.contains_key(&node) {
            cluster.start(node);
        }
    }
    // Whoever is told gives way; that must be enough for every request to end.
    for step in 0..6_000 {
        if cluster.locks.values().all(|lock| lock.asked.is_none()) {
            break;
        }
        let told: Vec<_> = cluster.locks.iter().filter(|(_, lock)| lock.told).map(|(lock, _)| *lock).collect();
        for lock in &told {
            match cluster.locks[lock].asked {
                Some(_) => {
                    let node = cluster.locks[lock].node;
                    cluster.input(node, dlm_core::Input::Cancel { lock: *lock });
                }
                None => {
                    if let Some(user) = cluster.locks.get_mut(lock) {
                        user.told = false;
                    }
                    cluster.convert(*lock, Mode::Null, Flags::NONE);
                }
            }
        }
        if (!cluster.step() && told.is_empty()) || step == 5_999 {
            return fail(&cluster, &format!("somebody waits for ever: {:?}", cluster.locks));
        }
        if let Some(wrong) = cluster.wrong() {
            return fail(&cluster, wrong);
        }
    }
    for step in 0..6_000 {
        if cluster.locks.is_empty() && cluster.members.values().all(|member| member.waiting_for().is_empty()) {
            break;
        }
        let idle: Vec<_> =
            cluster.locks.iter().filter(|(_, lock)| lock.asked.is_none()).map(|(lock, _)| *lock).collect();
        let is_idle = !idle.is_empty();
        for lock in idle {
            cluster.unlock(lock);
        }
        if (!cluster.step() && !is_idle) || step == 5_999 {
            return fail(&cluster, &format!("somebody waits for ever: {:?}", cluster.locks));
        }
        if let Some(wrong) = cluster.wrong() {
            return fail(&cluster, wrong);
        }
    }
    for _ in 0..2000 {
        cluster.step();
    }
    if let Err(wrong) = invariants::check_quiet(cluster.members.values()) {
        let all: Vec<_> = cluster.members.values().map(|member| member.status().to_string()).collect();
        cluster.log.extend(all);
        return fail(&cluster, &wrong);
    }
    // And all leave at once.
    for node in cluster.all.clone() {
        cluster.leave(node);
    }
    for _ in 0..6_000 {
        if cluster.members.is_empty() || !cluster.step() {
            break;
        }
    }
    if let Some(wrong) = cluster.wrong() {
        return fail(&cluster, wrong);
    }
    if !cluster.members.is_empty() {
        let left: Vec<_> = cluster.members.values().map(|member| member.status().to_string()).collect();
        return fail(&cluster, &format!("not all could leave:\n{}", left.join("\n")));
    }
    Ok(cluster.grants)
}

/// One user does something.
fn act(cluster: &mut Cluster, names: &[dlm_api::ResourceName], shape: &Shape) {
    let node = cluster.all[cluster.random.below(cluster.all.len())];
    if shape.leaves && cluster.random.chance(1) {
        if cluster.members.contains_key(&node) {
            cluster.leave(node);
        } else {
            cluster.log.push(format!("{node}: starts"));
            cluster.start(node);
        }
        return;
    }
    if shape.leaves && cluster.random.chance(2) {
        let other = cluster.all[cluster.random.below(cluster.all.len())];
        if other != node && cluster.members.contains_key(&node) && cluster.members.contains_key(&other) {
            cluster.disconnect(node, other);
            cluster.connect(node, other);
        }
        return;
    }
    if !cluster.members.contains_key(&node) {
        return;
    }
    let mode = Mode::ALL[cluster.random.below(6)];
    let flags = [Flags::NONE, Flags::NONE, Flags::NOQUEUE, Flags::NOQUEUEBAST | Flags::NOQUEUE, Flags::QUECVT];
    let flags = flags[cluster.random.below(flags.len())];
    let mine: Vec<_> = cluster.locks.iter().filter(|(_, lock)| lock.node == node).map(|(lock, _)| *lock).collect();
    if mine.len() < 4 && cluster.random.chance(40) {
        let name = &names[cluster.random.below(names.len())];
        cluster.lock(node, name, mode, flags);
    } else if !mine.is_empty() {
        let lock = mine[cluster.random.below(mine.len())];
        let is_idle = cluster.locks[&lock].asked.is_none();
        match cluster.random.below(4) {
            0 if is_idle => cluster.unlock(lock),
            1 | 2 if is_idle => cluster.convert(lock, mode, flags),
            3 if !is_idle => cluster.input(node, dlm_core::Input::Cancel { lock }),
            _ => {}
        }
    }
}

/// Whoever is in the way gives way, sooner or later.
fn give_way(cluster: &mut Cluster) {
    let told: Vec<_> =
        cluster.locks.iter().filter(|(_, lock)| lock.told && lock.asked.is_none()).map(|(lock, _)| *lock).collect();
    for lock in told {
        if cluster.random.chance(10)
            && let Some(user) = cluster.locks.get_mut(&lock)
        {
            user.told = false;
            cluster.convert(lock, Mode::Null, Flags::NONE);
        }
    }
}

#[test]
fn grants_are_right_on_a_network_that_delays_and_reorders() {
    let mut grants = 0;
    for seed in 0..60 {
        let shape = Shape { members: 3, names: 3, steps: 3000, loss_percent: 0, leaves: false };
        grants += run(seed, &shape, Faults::default()).unwrap_or_else(|story| panic!("{story}"));
    }
    assert!(grants > 5000, "{grants}");
}

#[test]
fn grants_are_right_on_a_network_that_loses_frames() {
    for seed in 0..30 {
        let shape = Shape { members: 4, names: 4, steps: 3000, loss_percent: 10, leaves: false };
        run(seed, &shape, Faults::default()).unwrap_or_else(|story| panic!("{story}"));
    }
}

#[test]
fn members_leave_and_come_back_in_any_order() {
    for seed in 0..100 {
        let shape = Shape { members: 2 + (seed % 3) as u32, names: 3, steps: 4000, loss_percent: 3, leaves: true };
        run(seed, &shape, Faults::default()).unwrap_or_else(|story| panic!("{story}"));
    }
}

#[test]
fn every_planted_fault_is_found() {
    for (name, _) in Faults::ALL {
        let faults = Faults::by_name(name).expect("a fault of the list");
        let found = (0..60).any(|seed| {
            let shape = Shape { members: 3, names: 3, steps: 4000, loss_percent: 0, leaves: true };
            run(seed, &shape, faults).is_err()
        });
        assert!(found, "{name} was not found");
    }
}

/// A member dies without a word: every request of the others ends, granted or not, nothing that the
/// dead member held is given to anybody, and leaving fails with a reason instead of hanging.
#[test]
fn a_lost_member_blocks_nobody_for_ever_and_loses_nothing_it_held() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed, 3, Faults::default());
        cluster.lost_after = Some(std::time::Duration::from_secs(2));
        for node in cluster.all.clone() {
            cluster.start(node);
        }
        let names: Vec<_> = (0..6).map(|number| name(&format!("name {number}"))).collect();
        let shape = Shape { members: 3, names: 6, steps: 0, loss_percent: 0, leaves: false };
        let dead = NodeId(1 + (seed % 3) as u32);
        for step in 0..3000 {
            if step == 1000 {
                cluster.kill(dead);
            }
            cluster.step();
            if cluster.random.chance(30) {
                act(&mut cluster, &names, &shape);
            }
            give_way(&mut cluster);
        }
        let living = |cluster: &Cluster| {
            cluster.locks.iter().filter(|(_, lock)| lock.node != dead).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        for _ in 0..3000 {
            for lock in living(&cluster) {
                if cluster.locks.get(&lock).is_some_and(|lock| lock.asked.is_none()) {
                    cluster.unlock(lock);
                }
            }
            cluster.step();
        }
        let story = || cluster.log[cluster.log.len().saturating_sub(200)..].join("\n");
        assert!(cluster.wrong().is_none(), "seed {seed}: {:?}\n{}", cluster.wrong(), story());
        assert!(living(&cluster).is_empty(), "seed {seed}: {:?}\n{}", cluster.locks, story());
        for node in cluster.all.clone() {
            cluster.leave(node);
        }
        let failures = cluster.log.iter().filter(|line| line.contains("LeaveFailed")).count();
        assert_eq!(failures, 2, "seed {seed}: {:?}", cluster.log.last());
    }
}

#[test]
fn one_member_alone_needs_nobody() {
    let mut cluster = Cluster::new(1, 1, Faults::default());
    cluster.start(NodeId(1));
    let lock = cluster.lock(NodeId(1), &name("a"), Mode::Exclusive, Flags::NONE);
    assert_eq!(cluster.locks[&lock].held, Some(Mode::Exclusive));
    assert!(cluster.flying.is_empty());
}

#[test]
#[ignore = "long: minutes"]
fn many_seeds_of_everything() {
    for seed in 1000..4000 {
        let shape = Shape {
            members: 2 + (seed % 4) as u32,
            names: 3,
            steps: 4000,
            loss_percent: seed % 3 * 5,
            leaves: seed % 5 != 0,
        };
        run(seed, &shape, Faults::default()).unwrap_or_else(|story| panic!("{story}"));
    }
}

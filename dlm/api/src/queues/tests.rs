use super::*;
use Mode::{ConcurrentRead as CR, ConcurrentWrite as CW, Exclusive as EX, Null as NL};
use Mode::{ProtectedRead as PR, ProtectedWrite as PW};

/// Applies a script and compares the effects: `a PR` a new lock, `a>EX` a conversion, `a-` unlock,
/// `a!` cancel; a suffix `?` is NOQUEUE, `*` NOQUEUE with NOQUEUEBAST, `q` QUECVT.
fn check(script: &str, expected: &str) {
    let mut queues: Queues<char> = Queues::default();
    let mut sequence = 0;
    let mut seen = Vec::new();
    for step in script.split(", ") {
        let mut effects = Vec::new();
        sequence += 1;
        let key = step.chars().next().expect("a key");
        let rest = &step[1..];
        let flags = match rest.chars().last() {
            Some('?') => Flags::NOQUEUE,
            Some('*') => Flags::NOQUEUE | Flags::NOQUEUEBAST,
            Some('q') => Flags::QUECVT,
            _ => Flags::NONE,
        };
        let mode = |text: &str| {
            let name = &text[..2];
            Mode::ALL.into_iter().find(|mode| mode.to_string() == name).expect("a mode")
        };
        let right = Mistakes::default();
        match &rest[..1] {
            " " => queues.request(key, sequence, mode(&rest[1..]), flags, right, &mut effects),
            ">" => {
                let request = Request { mode: mode(&rest[1..]), flags, value: None };
                assert!(queues.convert(key, sequence, request, right, &mut effects), "{step}");
            }
            "-" => assert!(queues.unlock(key, None, right, &mut effects), "{step}"),
            _ => assert!(queues.cancel(key, LockError::Cancelled, right, &mut effects), "{step}"),
        }
        queues.check().unwrap_or_else(|wrong| panic!("after {step}: {wrong}"));
        for effect in effects {
            seen.push(match effect {
                Effect::Granted { key, granted, .. } => format!("{key}={}", granted.mode),
                Effect::Refused { key, error, .. } => format!("{key}:{error:?}"),
                Effect::Blocking { key, mode } => format!("{key}<{mode}"),
            });
        }
    }
    assert_eq!(seen.join(" "), expected, "{script}");
}

#[test]
fn a_reader_waits_for_a_writer_and_the_writer_is_told_once() {
    check("a EX, b PR, c PR, a>NL", "a=EX a<PR a=NL b=PR c=PR");
}

#[test]
fn a_new_request_waits_behind_those_that_wait() {
    check("a PR, b EX, c PR, a-", "a=PR a<EX b=EX b<PR");
}

#[test]
fn a_request_of_its_own_kind_waits_even_where_it_would_be_compatible() {
    check("a PR, b EX, c PR, b!", "a=PR a<EX b:Cancelled c=PR");
}

#[test]
fn a_holder_is_told_of_the_highest_mode_and_again_only_if_a_higher_one_comes() {
    check("a EX, b PR, c EX, d PR", "a=EX a<PR a<EX");
}

#[test]
fn noqueue_ends_at_once_and_tells_nobody_unless_asked() {
    check("a EX, b PR?, b PR*, b PR*", "a=EX b:WouldBlock b:WouldBlock a<PR b:WouldBlock a<PR");
}

#[test]
fn a_holder_told_by_a_request_that_did_not_wait_is_told_again_by_one_that_does() {
    check("a EX, b PR*, b PR", "a=EX b:WouldBlock a<PR a<PR");
}

#[test]
fn convert_to_exclusive_waits_for_reader() {
    check("a PR, b PR, a>EX, b-", "a=PR b=PR b<EX a=EX");
}

#[test]
fn two_readers_that_both_convert_up_do_not_wait_for_one_another() {
    check("a PR, b PR, a>EX, b>EX, b-", "a=PR b=PR b<EX b:Deadlock a=EX");
}

#[test]
fn a_converting_lock_that_is_in_the_way_is_told() {
    check("a PR, b CR, c PR, a>PW, d EX", "a=PR b=CR c=PR c<PW b<EX c<EX a<EX");
}

#[test]
fn a_fresh_conversion_passes_those_that_wait_unless_it_asks_to_queue() {
    check("a NL, b PR, c EX, a>PR", "a=NL b=PR b<EX a=PR a<EX");
    check("a NL, b PR, c NL, c>EX, a>CRq, b-", "a=NL b=PR c=NL b<EX c=EX c<CR");
}

#[test]
fn conversions_go_before_new_requests_and_in_order() {
    check("a NL, b EX, c PR, a>EX, b-", "a=NL b=EX b<PR b<EX a=EX a<PR");
}

#[test]
fn a_cancelled_conversion_keeps_its_granted_mode() {
    check("a PR, b PR, a>EX, a!, b>PR", "a=PR b=PR b<EX a:Cancelled b=PR");
}

#[test]
fn a_way_down_is_immediate_whoever_waits() {
    check("a EX, b EX, a>PRq, a>NL", "a=EX a<EX a=PR a<EX a=NL b=EX");
}

#[test]
fn two_conversions_blocked_by_a_third_holder_both_wait() {
    check("a NL, b NL, c PR, a>EX, b>EX, c-, a>NL", "a=NL b=NL c=PR c<EX a=EX a<EX a=NL b=EX");
}

#[test]
fn values_travel_down_from_a_writer_and_up_to_the_next_holder() {
    let mut queues: Queues<char> = Queues::default();
    let (right, mut effects) = (Mistakes::default(), Vec::new());
    queues.request('a', 1, EX, Flags::VALBLK, right, &mut effects);
    let value = Some(ValueBlock([7; 32]));
    assert!(queues.convert('a', 2, Request { mode: NL, flags: Flags::VALBLK, value }, right, &mut effects));
    queues.request('b', 1, PR, Flags::VALBLK, right, &mut effects);
    assert!(queues.convert(
        'b',
        2,
        Request { mode: CR, flags: Flags::VALBLK, value: Some(ValueBlock([9; 32])) },
        right,
        &mut effects
    ));
    queues.request('c', 1, CW, Flags::VALBLK, right, &mut effects);
    let values: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Granted { key, granted, .. } => Some((*key, granted.value)),
            Effect::Refused { .. } | Effect::Blocking { .. } => None,
        })
        .collect();
    let zero = Some(ValueBlock::default());
    assert_eq!(values, [('a', zero), ('a', None), ('b', value), ('b', None), ('c', value)]);
    let _ = PW;
}

/// Every script of three locks and six steps over a few modes keeps the invariants, and whoever
/// waits has somebody in the way who was told.
#[test]
fn every_short_history_keeps_the_invariants() {
    fn explore(queues: &Queues<u8>, depth: u32, count: &mut u64) {
        if depth == 0 {
            return;
        }
        for key in 0..3_u8 {
            for mode in [NL, CW, PR, EX] {
                let mut next = queues.clone();
                let mut effects = Vec::new();
                match next.find(key) {
                    None => next.request(key, 1, mode, Flags::NONE, Mistakes::default(), &mut effects),
                    Some(entry) if entry.request.is_none() => {
                        let request = Request { mode, flags: Flags::NONE, value: None };
                        assert!(next.convert(key, 1, request, Mistakes::default(), &mut effects));
                    }
                    Some(_) if mode == NL => {
                        next.cancel(key, LockError::Cancelled, Mistakes::default(), &mut effects);
                    }
                    Some(_) if mode == EX => {
                        next.unlock(key, None, Mistakes::default(), &mut effects);
                    }
                    Some(_) => continue,
                }
                next.check().unwrap_or_else(|wrong| panic!("{wrong}: {next:?}"));
                for blocked in next.converting.iter().chain(&next.waiting) {
                    let mode = blocked.request.as_ref().expect("queued").mode;
                    for holder in next.granted.iter().chain(&next.converting) {
                        let held = holder.granted.expect("held");
                        if holder.key != blocked.key && !held.is_compatible(mode) {
                            let told = Mode::ALL.iter().any(|told| holder.told & (1 << *told as u8) != 0);
                            assert!(told, "{holder:?} was not told: {next:?}");
                        }
                    }
                }
                *count += 1;
                explore(&next, depth - 1, count);
            }
        }
    }
    let mut count = 0;
    explore(&Queues::default(), 5, &mut count);
    assert!(count > 100_000, "{count}");
}

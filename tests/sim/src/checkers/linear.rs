//! Is a history of overlapping operations explainable by some order in which they took effect one
//! at a time, each between its start and its end? (Linearizability; Herlihy and Wing 1990. The
//! search is Wing and Gong's, in the just-in-time form: configurations are carried along the
//! history and extended only when an operation ends.)
//!
//! Invariants: an operation that changes nothing is placed as soon as some configuration explains
//! its outcome, which loses no explanation; configurations that are equal are kept once.

use std::fmt::Display;

/// A sequential model of an object: what it is after an operation, if the operation's outcome is one
/// that the object could have given.
pub trait Model: Clone + Eq {
    /// An operation together with its outcome.
    type Operation: Display;

    /// The object afterwards, or `None` if it would not have answered so.
    fn step(&self, operation: &Self::Operation) -> Option<Self>;
    /// Whether the operation, answered so, leaves every object as it was.
    fn is_pure(operation: &Self::Operation) -> bool;
    /// What the object has to say about the operation, for the report.
    fn explain(&self, operation: &Self::Operation) -> String;
}

/// One operation of a history. `start` and `end` are positions in the history's total order of
/// events and are all different.
pub struct Timed<O> {
    pub start: u64,
    pub end: u64,
    pub operation: O,
}

/// What came of a check.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Explained,
    /// No order explains the history; says which operation had no place, and beside what.
    Violated(String),
    /// More orders are possible than the check is prepared to follow.
    TooMany,
}

/// Checks `history` against `model`'s initial state. The history may be in any order.
pub fn check<M: Model>(model: M, history: &[Timed<M::Operation>]) -> Verdict {
    let mut events: Vec<(u64, usize, Edge)> = Vec::with_capacity(history.len() * 2);
    for (index, timed) in history.iter().enumerate() {
        events.push((timed.start, index, Edge::Start));
        events.push((timed.end, index, Edge::End));
    }
    events.sort_unstable_by_key(|(at, ..)| *at);
    let mut search =
        Search { history, pending: Vec::new(), configurations: vec![Configuration { model, placed: Vec::new() }] };
    for (_, index, edge) in events {
        match edge {
            Edge::Start => search.start(index),
            Edge::End => {
                let before = search.end(index);
                if search.configurations.is_empty() {
                    return Verdict::Violated(search.report(index, &before));
                }
                if search.configurations.len() > MAX_CONFIGURATIONS {
                    return Verdict::TooMany;
                }
            }
        }
    }
    Verdict::Explained
}

/// Histories of the simulator's workloads stay below a few dozen.
const MAX_CONFIGURATIONS: usize = 20_000;

#[derive(Clone, Copy)]
enum Edge {
    Start,
    End,
}

/// One way in which things may have gone so far.
#[derive(Clone, PartialEq, Eq)]
struct Configuration<M> {
    model: M,
    /// Which of the pending operations have taken effect, sorted.
    placed: Vec<usize>,
}

struct Search<'a, M: Model> {
    history: &'a [Timed<M::Operation>],
    /// Started and not ended.
    pending: Vec<usize>,
    configurations: Vec<Configuration<M>>,
}

impl<M: Model> Search<'_, M> {
    fn start(&mut self, index: usize) {
        self.pending.push(index);
        let operation = &self.history[index].operation;
        if M::is_pure(operation) {
            for configuration in &mut self.configurations {
                if configuration.model.step(operation).is_some() {
                    configuration.place(index);
                }
            }
        }
    }

    /// Leaves the configurations in which the operation has taken effect; returns those from before.
    fn end(&mut self, index: usize) -> Vec<Configuration<M>> {
        let before = std::mem::take(&mut self.configurations);
        let mut frontier = Vec::new();
        let mut ended = Vec::new();
        for configuration in &before {
            let list = if configuration.has(index) { &mut ended } else { &mut frontier };
            list.push(configuration.clone());
        }
        let mut seen = frontier.clone();
        while let Some(configuration) = frontier.pop() {
            for candidate in &self.pending {
                let operation = &self.history[*candidate].operation;
                if configuration.has(*candidate) || (M::is_pure(operation) && *candidate != index) {
                    continue;
                }
                let Some(model) = configuration.model.step(operation) else { continue };
                let mut next = Configuration { model, placed: configuration.placed.clone() };
                next.place(*candidate);
                self.place_pure(&mut next);
                if next.has(index) {
                    push_new(&mut ended, next);
                } else if push_new(&mut seen, next.clone()) {
                    frontier.push(next);
                }
            }
            if seen.len() > MAX_CONFIGURATIONS {
                break;
            }
        }
        self.pending.retain(|pending| *pending != index);
        for mut configuration in ended {
            configuration.placed.retain(|placed| *placed != index);
            push_new(&mut self.configurations, configuration);
        }
        before
    }

    fn place_pure(&self, configuration: &mut Configuration<M>) {
        for candidate in &self.pending {
            let operation = &self.history[*candidate].operation;
            if M::is_pure(operation) && !configuration.has(*candidate) && configuration.model.step(operation).is_some()
            {
                configuration.place(*candidate);
            }
        }
    }

    fn report(&self, index: usize, before: &[Configuration<M>]) -> String {
        let operation = &self.history[index].operation;
        let mut text = format!("no order of events explains: {operation}");
        let mut explanations: Vec<String> = Vec::new();
        for configuration in before {
            let explanation = configuration.model.explain(operation);
            if !explanations.contains(&explanation) && explanations.len() < MAX_EXPLANATIONS {
                explanations.push(explanation);
            }
        }
        text += &format!("\n    the model: {}", explanations.join("\n           or: "));
        for other in self.pending.iter().filter(|other| **other != index) {
            text += &format!("\n    at the same time: {}", self.history[*other].operation);
        }
        text
    }
}

const MAX_EXPLANATIONS: usize = 4;

impl<M> Configuration<M> {
    fn has(&self, index: usize) -> bool {
        self.placed.binary_search(&index).is_ok()
    }

    fn place(&mut self, index: usize) {
        if let Err(at) = self.placed.binary_search(&index) {
            self.placed.insert(at, index);
        }
    }
}

/// Adds `item` unless it is there; says whether it was added.
fn push_new<T: Eq>(list: &mut Vec<T>, item: T) -> bool {
    let is_new = !list.contains(&item);
    if is_new {
        list.push(item);
    }
    is_new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Eq)]
    struct Register(u32);

    enum Operation {
        Write(u32),
        Read(u32),
    }

    impl Display for Operation {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Operation::Write(value) => write!(f, "write {value}"),
                Operation::Read(value) => write!(f, "read gives {value}"),
            }
        }
    }

    impl Model for Register {
        type Operation = Operation;

        fn step(&self, operation: &Operation) -> Option<Register> {
            match operation {
                Operation::Write(value) => Some(Register(*value)),
                Operation::Read(value) => (self.0 == *value).then(|| self.clone()),
            }
        }

        fn is_pure(operation: &Operation) -> bool {
            matches!(operation, Operation::Read(_))
        }

        fn explain(&self, _: &Operation) -> String {
            format!("the register is {}", self.0)
        }
    }

    fn verdict(history: &[(u64, u64, Operation)]) -> bool {
        let timed = history.iter().map(|(start, end, operation)| Timed {
            start: *start,
            end: *end,
            operation: match operation {
                Operation::Write(value) => Operation::Write(*value),
                Operation::Read(value) => Operation::Read(*value),
            },
        });
        check(Register(0), &timed.collect::<Vec<_>>()) == Verdict::Explained
    }

    use Operation::{Read, Write};

    #[test]
    fn a_read_during_a_write_may_see_either_value() {
        assert!(verdict(&[(1, 4, Write(7)), (2, 3, Read(0))]));
        assert!(verdict(&[(1, 4, Write(7)), (2, 3, Read(7))]));
    }

    #[test]
    fn a_read_after_a_write_sees_it() {
        assert!(!verdict(&[(1, 2, Write(7)), (3, 4, Read(0))]));
    }

    #[test]
    fn a_value_that_was_seen_is_not_unseen() {
        assert!(!verdict(&[(1, 8, Write(7)), (2, 3, Read(7)), (4, 5, Read(0))]));
    }

    #[test]
    fn a_read_may_lie_between_two_writes_that_end_before_it() {
        assert!(verdict(&[(1, 4, Write(1)), (2, 5, Write(2)), (3, 8, Read(1))]));
        assert!(verdict(&[(1, 4, Write(1)), (2, 5, Write(2)), (3, 8, Read(2))]));
        assert!(!verdict(&[(1, 4, Write(1)), (2, 5, Write(2)), (6, 8, Read(0))]));
    }
}

//! Seeded randomness with the few questions that workloads ask of it.
//!
//! Every source of chance in a run descends from its seed; streams with different labels are
//! independent, so that a change in one (a planted fault, say) does not move the others.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// A stream of chance.
pub struct Dice(StdRng);

impl Dice {
    /// The stream `label` of `seed`.
    pub fn new(seed: u64, label: &str) -> Dice {
        // FNV-1a, so that a label's stream does not depend on the standard library's hasher.
        let mut mixed = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in label.bytes() {
            mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Dice(StdRng::seed_from_u64(mixed))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, which are not empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// An index below `len`, which is at least 1.
    pub fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    /// One of the values, each with its weight; the weights are not all 0.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let mut left = self.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, value) in choices {
            if left < *weight {
                return *value;
            }
            left -= weight;
        }
        unreachable!("invariant: the draw is below the sum of the weights")
    }
}

//! The house rules as tests: what CONTRIBUTING.md promises and the compiler does not check.
//!
//! Map: `layers` (who may depend on whom), `sources` (what a source file may contain), `tree` (finding the files).
//! The rules run in `tests/rules.rs`; each checker is a pure function over text, tried on made-up violations beside it.

pub mod layers;
pub mod sources;
pub mod tree;

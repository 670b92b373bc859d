//! World `fs`.

use crate::executor::Sim;
use crate::world::RunOptions;

pub fn plants() -> Vec<&'static str> {
    vec![]
}

pub fn run(_: &Sim, _: u64, _: RunOptions<'_>) -> Result<(), String> {
    Err("not there yet".into())
}

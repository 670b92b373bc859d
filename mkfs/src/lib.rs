//! Makes GFS2 filesystems: options and a device's size become a plan, the plan becomes writes.
//!
//! [`format`] is what the simulator and tests call; it runs on any executor, takes the time and
//! the UUID from its caller, and refuses before it writes. The program in `main.rs` adds the
//! command line, the question before overwriting, and the summary.
//!
//! [`change`] adds journals and space to a filesystem that is mounted nowhere.
//!
//! Knows the format and the block device port; never mounts, locks or asks a cluster.

#![forbid(unsafe_code)]

pub mod change;
pub mod cli;
pub mod directory;
pub mod error;
pub mod geometry;
pub mod open;
pub mod options;
pub mod plan;
pub mod probe;
pub mod program;
pub mod summary;
pub mod tree;
pub mod write;

use std::sync::Arc;

use block_core::BlockDevice;

pub use error::MkfsError;
pub use options::{Options, Protocol, Stripe};
pub use plan::Plan;
pub use summary::Summary;
pub use write::Step;

/// Makes a filesystem on `device`. Nothing has been written when options or size are refused.
pub async fn format(device: &Arc<dyn BlockDevice>, options: &Options) -> Result<Summary, MkfsError> {
    let plan = plan(device, options)?;
    write::write(device, &plan, options.discard, |_| ()).await?;
    Ok(Summary::new(&plan, options))
}

/// Plans a filesystem on `device` without touching it.
pub fn plan(device: &Arc<dyn BlockDevice>, options: &Options) -> Result<Plan, MkfsError> {
    let geometry = device.geometry();
    options.check()?;
    let block = options.block_size()?.bytes();
    if u64::from(geometry.sector) > block {
        return Err(MkfsError::SectorSize { block, sector: u64::from(geometry.sector) });
    }
    Plan::new(geometry.size().0, options)
}

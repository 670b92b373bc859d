//! The program `corral-mount`: arguments, the device, the locks, the background process, and the
//! order in which a mount begins and ends.

pub mod arguments;
pub mod background;
pub mod host;
pub mod log;
pub mod parts;
pub mod record;
pub mod serve;

//! The parts of `corral-target`; the program itself is `main.rs`. A library, so that tests can put the same units and the
//! same execution of commands over other devices and other wires.

pub mod access;
pub mod admin;
pub mod atomic;
pub mod attention;
pub mod backing;
pub mod clock;
pub mod config;
pub mod connection;
pub mod execute;
pub mod fence;
pub mod guests;
pub mod inflight;
pub mod kept;
pub mod lun_options;
pub mod park;
pub mod plan;
pub mod portal;
pub mod registry;
pub mod reservations;
pub mod server;
pub mod state;
pub mod system;
pub mod targets_conf;
pub mod unit;

//! Other tools' faces: `corral` called by the name of a tool that administrators and their scripts know.
//!
//! Each face takes that tool's arguments and prints its lines, so that a script which reads them keeps working; where
//! the tool's own output is wrong, the face is right and its file says so. Nothing here starts or reads those tools.

mod gfs2_edit;
mod gfs2_tool;
mod tunegfs2;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::fs;

/// Names that `corral` answers to and that this module handles.
pub const NAMES: [&str; 5] = ["gfs2_tool", "tunegfs2", "gfs2_edit", "gfs2_jadd", "gfs2_grow"];

/// Acts as the tool `name`; `None` if it is none of [`NAMES`].
pub fn run(name: &str, arguments: &[OsString]) -> Option<ExitCode> {
    let words = || arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
    Some(match name {
        "gfs2_tool" => gfs2_tool::run(&words()),
        "tunegfs2" => tunegfs2::run(&words()),
        "gfs2_edit" => gfs2_edit::run(&words()),
        "gfs2_jadd" | "gfs2_grow" => fs::hand_on(name, arguments.to_vec()),
        _ => return None,
    })
}

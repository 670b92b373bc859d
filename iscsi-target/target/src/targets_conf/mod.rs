//! tgt's `targets.conf`: the same file says the same here, or an error or a warning says where it does not.
//!
//! `lines` reads files (comments, continued lines, includes), `tree` finds the blocks, `meaning` makes targets of them.
//! Every error names the file and the line. A secret is never part of one.

mod lines;
mod meaning;
mod tree;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use iscsi_target_proto::chap::ChapPolicy;

use crate::plan::{Plan, PlanError};

/// Adds what a file describes to a plan.
pub fn read(file: &Path, plan: &mut Plan) -> Result<(), PlanError> {
    let lines = lines::read(file)?;
    let document = tree::parse(lines)?;
    if document.holds_secrets() && is_readable_by_others(file) {
        plan.warnings.push(format!("{}: it holds secrets, and others may read it; chmod 600 it", file.display()));
    }
    meaning::add(&document, plan)
}

/// Who may log in and who the target proves to be: a file with nothing but `incominguser` and `outgoinguser`.
pub fn read_users(file: &Path) -> Result<Arc<ChapPolicy>, PlanError> {
    let document = tree::parse(lines::read(file)?)?;
    meaning::users_only(&document, file)
}

/// Whether somebody but its owner may read a file. One that cannot be looked at will be told of when it is read.
pub fn is_readable_by_others(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.mode() & 0o077 != 0)
}

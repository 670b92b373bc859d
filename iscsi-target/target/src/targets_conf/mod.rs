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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "default-driver iscsi\nincomingdiscoveryuser me secretpass12\n<target iqn.2008-09.com.example:t>\n\
        \tbacking-store /x/a # a comment\n\t<direct-store /x/b>\n\t\tlun 15\n\t\tvendor_id \"back 1\"\n\t\tparams \
        thin_provisioning=1\n\t</direct-store>\n\tinitiator-address 10.0.0.0/8\n\tincominguser a b\n\twrite-cache \\\n off\n\
        \toutgoinguser c d\n\tbsoflags = sync,direct\n</target>\n";

    /// SplitMix64: looks random and is the same for the same seed.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[test]
    fn whatever_is_in_a_file_it_is_read_or_refused() {
        let file = std::env::temp_dir().join(format!("corral-targets-conf-{}", std::process::id()));
        let try_with = |content: &[u8]| {
            std::fs::write(&file, content).expect("a file can be written");
            let mut plan = Plan::default();
            let result = read(&file, &mut plan);
            (result, plan)
        };
        let (result, plan) = try_with(GOOD.as_bytes());
        assert_eq!(result, Ok(()));
        assert_eq!(plan.targets[0].units.iter().map(|unit| unit.number).collect::<Vec<_>>(), [1, 15]);
        let (mut refused, mut state) = (0, 7);
        for seed in 0..1000 {
            let mut content = GOOD.as_bytes().to_vec();
            for _ in 0..=next(&mut state) % 4 {
                let at = next(&mut state) as usize % content.len();
                let byte = b"<>/#\\ \n=\"'\0\xffax1"[next(&mut state) as usize % 15];
                match next(&mut state) % 4 {
                    0 => content[at] = byte,
                    1 => content.insert(at, byte),
                    2 => drop(content.remove(at)),
                    _ => content.truncate(at.max(8)),
                }
            }
            let (result, _) = try_with(&content);
            let says_where = |error: PlanError| error.to_string().starts_with(&format!("{}:", file.display()));
            refused += usize::from(result.is_err_and(|error| {
                assert!(says_where(error), "seed {seed}");
                true
            }));
        }
        // The file goes whatever the test says.
        let _ = std::fs::remove_file(&file);
        assert!(refused > 300, "{refused} of 1000 were refused");
    }
}

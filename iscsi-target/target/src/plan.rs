//! What is to be served, whatever it was read from: targets with their units, who may use them, what they must prove.
//! Checked as a whole before anything is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use iscsi_target_proto::chap::ChapPolicy;

use crate::access::Access;
use crate::config::LunOptions;

/// Everything that is to be served.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub targets: Vec<TargetPlan>,
    /// What initiators must prove in a discovery session.
    pub discovery: Option<Arc<ChapPolicy>>,
    /// What was read and has no effect here.
    pub warnings: Vec<String>,
}

/// A target.
#[derive(Clone, Debug)]
pub struct TargetPlan {
    /// In lower case.
    pub name: String,
    /// Where it was read: `--target` or a file and line.
    pub place: String,
    pub units: Vec<UnitPlan>,
    pub access: Access,
    /// What initiators must prove.
    pub authentication: Option<Arc<ChapPolicy>>,
}

/// A logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitPlan {
    pub number: u16,
    /// Where it was read.
    pub place: String,
    pub options: LunOptions,
}

/// What cannot be served, and whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// Somebody wrote nonsense: exit code 2.
    Usage(String),
    /// Something cannot be read: exit code 1.
    Unusable(String),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) | Self::Unusable(what) => write!(f, "{what}"),
        }
    }
}

/// LUNs of one target, at most: REPORT LUNS tells them in one answer.
pub const UNITS_MAX: usize = 256;
/// Targets, at most.
pub const TARGETS_MAX: usize = 1024;

impl Plan {
    /// Refuses what cannot be served together.
    pub fn check(&self) -> Result<(), PlanError> {
        let mut names = BTreeMap::new();
        let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
        let usage = |what: String| Err(PlanError::Usage(what));
        if self.targets.len() > TARGETS_MAX {
            return usage(format!("{} targets: there may be {TARGETS_MAX}", self.targets.len()));
        }
        for target in &self.targets {
            if let Some(before) = names.insert(&target.name, &target.place) {
                return usage(format!("{}: target {} is there already ({before})", target.place, target.name));
            }
            if target.units.len() > UNITS_MAX {
                return usage(format!("{}: {} LUNs: there may be {UNITS_MAX}", target.place, target.units.len()));
            }
            let mut numbers = BTreeSet::new();
            for unit in &target.units {
                if unit.number > LUN_MAX {
                    return usage(format!("{}: LUN {}: numbers go up to {LUN_MAX}", unit.place, unit.number));
                }
                if !numbers.insert(unit.number) {
                    return usage(format!("{}: target {} has LUN {} already", unit.place, target.name, unit.number));
                }
                // Two units over one file would not know of one another's reservations. Other spellings of the same
                // file are found when it is opened.
                let spelled = unit.options.file.canonicalize().unwrap_or_else(|_| unit.options.file.clone());
                let here = format!("LUN {} of {}", unit.number, target.name);
                if let Some(before) = files.insert(spelled, here) {
                    return usage(format!("{}: {} is {before} already", unit.place, unit.options.file.display()));
                }
            }
        }
        Ok(())
    }
}

/// Highest LUN (peripheral or flat addressing in 14 bits: SAM-5 §4.7.7).
const LUN_MAX: u16 = 0x3fff;

impl fmt::Display for Plan {
    /// For `--check`: never a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(policy) = &self.discovery {
            writeln!(f, "discovery: {}", users(policy))?;
        }
        for target in &self.targets {
            writeln!(f, "target {}", target.name)?;
            for unit in &target.units {
                writeln!(f, "  LUN {} {}", unit.number, unit.options)?;
            }
            let Access { names, addresses } = &target.access;
            names.iter().try_for_each(|name| writeln!(f, "  initiator {name}"))?;
            addresses.iter().try_for_each(|range| writeln!(f, "  address {range}"))?;
            if let Some(policy) = &target.authentication {
                writeln!(f, "  {}", users(policy))?;
            }
        }
        Ok(())
    }
}

fn users(policy: &ChapPolicy) -> String {
    let names: Vec<_> = policy.incoming().iter().map(|user| user.name()).collect();
    let proves = policy.outgoing().map(|user| format!(", proves to be {}", user.name())).unwrap_or_default();
    format!("CHAP user {}{proves}", names.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, units: &[(u16, &str)]) -> TargetPlan {
        let unit = |(number, file): &(u16, &str)| UnitPlan {
            number: *number,
            place: "here".to_owned(),
            options: format!("file={file}").parse().expect("valid"),
        };
        TargetPlan {
            name: name.to_owned(),
            place: "here".to_owned(),
            units: units.iter().map(unit).collect(),
            access: Access::default(),
            authentication: None,
        }
    }

    #[test]
    fn what_is_there_twice_is_refused() {
        let check = |targets: Vec<TargetPlan>| Plan { targets, ..Plan::default() }.check();
        assert_eq!(
            check(vec![target("iqn.a:a", &[(0, "/x/a"), (1, "/x/b")]), target("iqn.a:b", &[(0, "/x/c")])]),
            Ok(())
        );
        assert!(check(vec![target("iqn.a:a", &[]), target("iqn.a:a", &[])]).is_err());
        assert!(check(vec![target("iqn.a:a", &[(1, "/x/a"), (1, "/x/b")])]).is_err());
        assert!(check(vec![target("iqn.a:a", &[(0, "/x/a")]), target("iqn.a:b", &[(0, "/x/a")])]).is_err());
        assert!(check(vec![target("iqn.a:a", &[(0x4000, "/x/a")])]).is_err());
    }
}

//! The model of one inode's extended attributes: a map from names to values.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use gfs_core::{Error, XattrWrite};

use super::history::By;
use super::linear::Model;
use super::tree::Name;

/// What was done with the attributes, and what came of it. `Err` is one of the two refusals that
/// depend on what is there; whatever else goes wrong is the tree's to judge.
pub enum AttributeOperation {
    Set { name: Name, value: Bytes, mode: XattrWrite, outcome: Result<(), Error> },
    Remove { name: Name, outcome: Result<(), Error> },
    Get { name: Name, value: Option<Bytes> },
    List { names: Vec<Name> },
}

/// An operation with who did it, for reports.
pub struct AttributeEvent {
    pub by: By,
    pub operation: AttributeOperation,
}

/// Attributes of an inode.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Attributes(Rc<BTreeMap<Name, Bytes>>);

impl Model for Attributes {
    type Operation = AttributeEvent;

    fn step(&self, event: &AttributeEvent) -> Option<Attributes> {
        match &event.operation {
            AttributeOperation::Set { name, value, mode, outcome } => {
                let expected = match (mode, self.0.contains_key(name)) {
                    (XattrWrite::Create, true) => Err(Error::Exists),
                    (XattrWrite::Replace, false) => Err(Error::NoXattr),
                    (XattrWrite::Any, _) | (XattrWrite::Create, false) | (XattrWrite::Replace, true) => Ok(()),
                };
                let mut next = self.clone();
                if outcome.is_ok() {
                    Rc::make_mut(&mut next.0).insert(name.clone(), value.clone());
                }
                (*outcome == expected).then_some(next)
            }
            AttributeOperation::Remove { name, outcome } => {
                let mut next = self.clone();
                let removed = Rc::make_mut(&mut next.0).remove(name);
                (*outcome == removed.map(drop).ok_or(Error::NoXattr)).then_some(next)
            }
            AttributeOperation::Get { name, value } => (self.0.get(name) == value.as_ref()).then(|| self.clone()),
            AttributeOperation::List { names } => self.0.keys().eq(names).then(|| self.clone()),
        }
    }

    fn is_pure(event: &AttributeEvent) -> bool {
        match &event.operation {
            AttributeOperation::Set { outcome, .. } | AttributeOperation::Remove { outcome, .. } => outcome.is_err(),
            AttributeOperation::Get { .. } | AttributeOperation::List { .. } => true,
        }
    }

    fn explain(&self, _: &AttributeEvent) -> String {
        let shown: Vec<String> = self.0.iter().map(|(name, value)| format!("{name} = {}", shown(value))).collect();
        format!("[{}]", shown.join(", "))
    }
}

/// A value's length and beginning.
fn shown(value: &Bytes) -> String {
    let start: String = value.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes {start}", value.len())
}

impl fmt::Display for AttributeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.by)?;
        match &self.operation {
            AttributeOperation::Set { name, value, mode, outcome } => {
                write!(f, "set {name} = {} ({mode:?}) gives {outcome:?}", shown(value))
            }
            AttributeOperation::Remove { name, outcome } => write!(f, "remove {name} gives {outcome:?}"),
            AttributeOperation::Get { name, value: Some(value) } => write!(f, "get {name} gives {}", shown(value)),
            AttributeOperation::Get { name, value: None } => write!(f, "get {name} gives nothing"),
            AttributeOperation::List { names } => write!(f, "list gives {names:?}"),
        }
    }
}

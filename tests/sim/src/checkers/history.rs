//! What the nodes of a run did with the filesystem, in the order of its starts and ends, and the
//! judgement on it: the tree of names is one object, the bytes of each file another, and so are the
//! extended attributes of each inode.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use base::Instant;
use gfs_core::InodeRef;

use super::attributes::{AttributeEvent, AttributeOperation, Attributes};
use super::content::{Content, ContentEvent, ContentOperation};
use super::linear::{Timed, Verdict, check};
use super::tree::{Answer, Attempt, Tree, TreeEvent};
use crate::executor::{Sim, lock};
use crate::trace::Who;

/// Who did something, and when.
#[derive(Clone, Copy, Debug)]
pub struct By {
    pub node: u32,
    pub task: u32,
    pub from: Instant,
    pub to: Instant,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |at: Instant| at.as_nanos() / 1000;
        write!(f, "node {}.{} [{}..{} us]", self.node, self.task, micros(self.from), micros(self.to))
    }
}

/// The start of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    node: u32,
    task: u32,
    from: Instant,
    position: u64,
}

/// The record of a run.
pub struct History {
    sim: Sim,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    /// Next position in the order of events.
    position: u64,
    tree: Vec<Timed<TreeEvent>>,
    contents: BTreeMap<InodeRef, Vec<Timed<ContentEvent>>>,
    attributes: BTreeMap<InodeRef, Vec<Timed<AttributeEvent>>>,
    /// What has begun and not ended, by node and task.
    under_way: BTreeMap<(u32, u32), (&'static str, InodeRef, Instant)>,
}

impl History {
    pub fn new(sim: &Sim) -> History {
        History { sim: sim.clone(), record: Mutex::default() }
    }

    /// An operation begins.
    pub fn start(&self, node: u32, task: u32, what: &'static str, inode: InodeRef) -> Started {
        let mut record = lock(&self.record);
        record.position += 1;
        let from = self.sim.now();
        record.under_way.insert((node, task), (what, inode, from));
        Started { node, task, from, position: record.position }
    }

    /// Operations that have not ended, in words.
    pub fn under_way(&self) -> Vec<String> {
        let record = lock(&self.record);
        let describe = |(node, task): &(u32, u32), what: &str, inode: InodeRef, from: Instant| {
            format!("node {node}.{task} since {} us: {what} of inode {}", from.as_nanos() / 1000, inode.number.0)
        };
        record.under_way.iter().map(|(who, (what, inode, from))| describe(who, what, *inode, *from)).collect()
    }

    /// An operation on the tree has ended.
    pub fn tree(&self, started: Started, attempt: Attempt, outcome: Result<Answer, gfs_core::Error>) {
        let event = TreeEvent { by: self.by(started), attempt, outcome };
        self.sim.event(Who::Node(started.node), format_args!("{event}"));
        let mut record = lock(&self.record);
        record.position += 1;
        record.under_way.remove(&(started.node, started.task));
        let timed = Timed { start: started.position, end: record.position, operation: event };
        record.tree.push(timed);
    }

    /// An operation on a file's bytes has ended.
    pub fn content(&self, started: Started, inode: InodeRef, operation: ContentOperation) {
        let event = ContentEvent { by: self.by(started), operation };
        self.sim.event(Who::Node(started.node), format_args!("inode {}: {event}", inode.number.0));
        let mut record = lock(&self.record);
        record.position += 1;
        record.under_way.remove(&(started.node, started.task));
        let timed = Timed { start: started.position, end: record.position, operation: event };
        record.contents.entry(inode).or_default().push(timed);
    }

    /// An operation on an inode's extended attributes has ended.
    pub fn attributes(&self, started: Started, inode: InodeRef, operation: AttributeOperation) {
        let event = AttributeEvent { by: self.by(started), operation };
        self.sim.event(Who::Node(started.node), format_args!("inode {}: {event}", inode.number.0));
        let mut record = lock(&self.record);
        record.position += 1;
        record.under_way.remove(&(started.node, started.task));
        let timed = Timed { start: started.position, end: record.position, operation: event };
        record.attributes.entry(inode).or_default().push(timed);
    }

    /// How many operations were recorded.
    pub fn len(&self) -> usize {
        let record = lock(&self.record);
        record.tree.len()
            + record.contents.values().map(Vec::len).sum::<usize>()
            + record.attributes.values().map(Vec::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the whole history is explainable, beginning with an empty root.
    pub fn judge(&self, root: InodeRef, root_permissions: u32) -> Result<(), String> {
        let record = lock(&self.record);
        verdict("the tree", check(Tree::new(root, root_permissions), &record.tree))?;
        for (inode, history) in &record.contents {
            verdict(&format!("the bytes of inode {}", inode.number.0), check(Content::default(), history))?;
        }
        for (inode, history) in &record.attributes {
            let object = format!("the attributes of inode {}", inode.number.0);
            verdict(&object, check(Attributes::default(), history))?;
        }
        Ok(())
    }

    fn by(&self, started: Started) -> By {
        By { node: started.node, task: started.task, from: started.from, to: self.sim.now() }
    }
}

fn verdict(object: &str, verdict: Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Explained => Ok(()),
        Verdict::Violated(what) => Err(format!("{object}: {what}")),
        // A workload that gets here needs more reads between its writes.
        Verdict::TooMany => Err(format!("{object}: too many orders are possible to check them all")),
    }
}

//! The model of the tree of names: inodes in a map, directories as maps of names, link counts,
//! who keeps a deleted inode open. Bytes of files are another model's (`content`): objects that are
//! judged one by one need fewer orders to be tried, and a history is explainable as a whole exactly
//! if it is for each object.
//!
//! Where several refusals apply, any of them will do: POSIX leaves their order open. An inode
//! without links may answer as it was or `Stale` on a node that does not have it open.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use gfs_core::{Error, InodeNumber, InodeRef, RenameMode};

use super::history::By;
use super::linear::Model;

/// A name in a directory. Workloads use printable ones.
pub type Name = Arc<str>;

/// Type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
}

/// What `stat` showed, as far as the tree has a say in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub inode: InodeRef,
    pub kind: Kind,
    pub permissions: u32,
    pub links: u32,
}

/// What was asked.
#[derive(Clone, Debug)]
pub enum Attempt {
    Lookup {
        dir: InodeRef,
        name: Name,
    },
    /// Any operation on the inode itself, of which only its refusal concerns the tree.
    Touch {
        inode: InodeRef,
    },
    Attributes {
        inode: InodeRef,
    },
    SetPermissions {
        inode: InodeRef,
        permissions: u32,
    },
    Create {
        dir: InodeRef,
        name: Name,
        kind: Kind,
        permissions: u32,
        target: Option<Arc<[u8]>>,
    },
    Readlink {
        inode: InodeRef,
    },
    Link {
        inode: InodeRef,
        dir: InodeRef,
        name: Name,
    },
    Unlink {
        dir: InodeRef,
        name: Name,
    },
    Rmdir {
        dir: InodeRef,
        name: Name,
    },
    Rename {
        from: (InodeRef, Name),
        to: (InodeRef, Name),
        mode: RenameMode,
    },
    List {
        dir: InodeRef,
    },
    Open {
        inode: InodeRef,
    },
    Release {
        inode: InodeRef,
    },
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Seen(Seen),
    /// The name of this inode.
    Named(InodeRef),
    Missing,
    Target(Arc<[u8]>),
    /// Sorted by name, without `.` and `..`.
    Names(Vec<(Name, InodeNumber, Kind)>),
}

/// One operation with its outcome and who did it.
pub struct TreeEvent {
    pub by: By,
    pub attempt: Attempt,
    pub outcome: Result<Answer, Error>,
}

/// The tree. Inodes that are gone for good stay as tombstones.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<InodeRef, Rc<Node>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Node {
    permissions: u32,
    links: u32,
    /// How many handles are open, by node.
    opens: BTreeMap<u32, u32>,
    body: Body,
}

#[derive(Clone, PartialEq, Eq)]
enum Body {
    File,
    Directory { parent: InodeRef, entries: BTreeMap<Name, InodeRef> },
    Symlink { target: Arc<[u8]> },
}

/// What the tree makes of an attempt, before it sees the outcome.
enum Must {
    Succeed,
    /// Fail with one of these.
    Fail(Vec<Error>),
    /// Succeed, or fail with one of these.
    Either(Vec<Error>),
}

impl Tree {
    /// A tree with an empty root.
    pub fn new(root: InodeRef, permissions: u32) -> Tree {
        let body = Body::Directory { parent: root, entries: BTreeMap::new() };
        Tree { nodes: BTreeMap::from([(root, Rc::new(Node { permissions, links: 2, opens: BTreeMap::new(), body }))]) }
    }

    fn entries(&self, dir: InodeRef) -> Option<&BTreeMap<Name, InodeRef>> {
        match &self.nodes.get(&dir)?.body {
            Body::Directory { entries, .. } => Some(entries),
            Body::File | Body::Symlink { .. } => None,
        }
    }

    fn child(&self, dir: InodeRef, name: &str) -> Option<InodeRef> {
        self.entries(dir)?.get(name).copied()
    }

    fn node_mut(&mut self, inode: InodeRef) -> &mut Node {
        Rc::make_mut(self.nodes.get_mut(&inode).expect("invariant: names lead to nodes of the model"))
    }

    fn entries_mut(&mut self, dir: InodeRef) -> &mut BTreeMap<Name, InodeRef> {
        match &mut self.node_mut(dir).body {
            Body::Directory { entries, .. } => entries,
            Body::File | Body::Symlink { .. } => unreachable!("invariant: checked to be a directory"),
        }
    }

    fn kind(&self, inode: InodeRef) -> Option<Kind> {
        Some(match self.nodes.get(&inode)?.body {
            Body::File => Kind::File,
            Body::Directory { .. } => Kind::Directory,
            Body::Symlink { .. } => Kind::Symlink,
        })
    }

    fn is_directory(&self, inode: InodeRef) -> bool {
        self.kind(inode) == Some(Kind::Directory)
    }

    fn is_full(&self, dir: InodeRef) -> bool {
        self.entries(dir).is_some_and(|entries| !entries.is_empty())
    }

    /// Has no link, and no handle of `node` keeps it.
    fn may_be_gone(&self, inode: InodeRef, node: u32) -> bool {
        self.nodes.get(&inode).is_none_or(|found| found.links == 0 && !found.opens.contains_key(&node))
    }

    fn is_linked(&self, inode: InodeRef) -> bool {
        self.nodes.get(&inode).is_some_and(|node| node.links > 0)
    }

    fn is_within(&self, inode: InodeRef, ancestor: InodeRef) -> bool {
        let mut at = inode;
        loop {
            if at == ancestor {
                return true;
            }
            match self.nodes.get(&at).map(|node| &node.body) {
                Some(Body::Directory { parent, .. }) if *parent != at => at = *parent,
                _ => return false,
            }
        }
    }

    fn seen(&self, inode: InodeRef) -> Option<Seen> {
        let node = self.nodes.get(&inode)?;
        Some(Seen { inode, kind: self.kind(inode)?, permissions: node.permissions, links: node.links })
    }

    fn must(&self, attempt: &Attempt, node: u32) -> Must {
        match attempt {
            Attempt::Lookup { dir, .. } | Attempt::List { dir } if !self.is_linked(*dir) => {
                Must::Either(vec![Error::NotFound, Error::Stale])
            }
            Attempt::Lookup { .. } | Attempt::List { .. } | Attempt::Release { .. } => Must::Succeed,
            Attempt::Touch { inode }
            | Attempt::Attributes { inode }
            | Attempt::SetPermissions { inode, .. }
            | Attempt::Readlink { inode }
            | Attempt::Open { inode } => match self.may_be_gone(*inode, node) {
                true => Must::Either(vec![Error::Stale, Error::NotFound]),
                false => Must::Succeed,
            },
            Attempt::Create { .. }
            | Attempt::Link { .. }
            | Attempt::Unlink { .. }
            | Attempt::Rmdir { .. }
            | Attempt::Rename { .. } => match self.refusals(attempt) {
                refusals if refusals.is_empty() => Must::Succeed,
                refusals => Must::Fail(refusals),
            },
        }
    }

    /// Every refusal of a change of names that applies.
    fn refusals(&self, attempt: &Attempt) -> Vec<Error> {
        let mut refusals = Vec::new();
        let mut refuse = |applies: bool, errors: &[Error]| {
            if applies {
                refusals.extend_from_slice(errors);
            }
        };
        match attempt {
            Attempt::Create { dir, name, .. } => {
                refuse(!self.is_linked(*dir), &[Error::NotFound, Error::Stale]);
                refuse(self.child(*dir, name).is_some(), &[Error::Exists]);
            }
            Attempt::Link { inode, dir, name } => {
                refuse(!self.is_linked(*dir) || !self.is_linked(*inode), &[Error::NotFound, Error::Stale]);
                refuse(self.child(*dir, name).is_some(), &[Error::Exists]);
            }
            Attempt::Unlink { dir, name } => match self.child(*dir, name) {
                None => refuse(true, &[Error::NotFound, Error::Stale]),
                Some(child) => refuse(self.is_directory(child), &[Error::IsDirectory]),
            },
            Attempt::Rmdir { dir, name } => match self.child(*dir, name) {
                None => refuse(true, &[Error::NotFound, Error::Stale]),
                Some(child) => {
                    refuse(!self.is_directory(child), &[Error::NotDirectory]);
                    refuse(self.is_full(child), &[Error::NotEmpty]);
                }
            },
            Attempt::Rename { from, to, mode } => {
                refuse(!self.is_linked(from.0) || !self.is_linked(to.0), &[Error::NotFound, Error::Stale]);
                let (source, target) = (self.child(from.0, &from.1), self.child(to.0, &to.1));
                refuse(source.is_none(), &[Error::NotFound]);
                refuse(*mode == RenameMode::Exchange && target.is_none(), &[Error::NotFound]);
                refuse(*mode == RenameMode::NoReplace && target.is_some(), &[Error::Exists]);
                let Some(source) = source else { return refusals };
                let loops = self.is_directory(source) && self.is_within(to.0, source);
                refuse(loops, &[Error::Invalid]);
                let Some(target) = target.filter(|target| *target != source) else { return refusals };
                let loops_back = self.is_directory(target) && self.is_within(from.0, target);
                match mode {
                    RenameMode::Exchange => refuse(loops_back, &[Error::Invalid]),
                    RenameMode::NoReplace => {}
                    RenameMode::Replace => {
                        let (moves, meets) = (self.is_directory(source), self.is_directory(target));
                        refuse(moves && !meets, &[Error::NotDirectory]);
                        refuse(!moves && meets, &[Error::IsDirectory]);
                        refuse(meets && self.is_full(target), &[Error::NotEmpty]);
                        refuse(loops_back, &[Error::Invalid]);
                    }
                }
            }
            _ => {}
        }
        refusals
    }

    /// The tree after a success with this answer, if it is the right one.
    fn succeed(&self, attempt: &Attempt, answer: &Answer, node: u32) -> Option<Tree> {
        let mut next = self.clone();
        let is_right = match (attempt, answer) {
            (Attempt::Lookup { dir, name }, Answer::Missing) => self.child(*dir, name).is_none(),
            (Attempt::Lookup { dir, name }, Answer::Named(inode)) => self.child(*dir, name) == Some(*inode),
            (Attempt::Touch { .. }, Answer::Done) => true,
            (Attempt::Attributes { inode }, Answer::Seen(seen)) => self.seen(*inode).as_ref() == Some(seen),
            (Attempt::SetPermissions { inode, permissions }, Answer::Seen(seen)) => {
                next.node_mut(*inode).permissions = *permissions;
                next.seen(*inode).as_ref() == Some(seen)
            }
            (Attempt::Create { dir, name, kind, permissions, target }, Answer::Seen(seen)) => {
                next.create(*dir, name, *kind, *permissions, target, seen.inode)
                    && next.seen(seen.inode).as_ref() == Some(seen)
            }
            (Attempt::Readlink { inode }, Answer::Target(seen)) => {
                matches!(&self.nodes.get(inode)?.body, Body::Symlink { target } if target == seen)
            }
            (Attempt::Link { inode, dir, name }, Answer::Seen(seen)) => {
                next.entries_mut(*dir).insert(name.clone(), *inode);
                next.node_mut(*inode).links += 1;
                next.seen(*inode).as_ref() == Some(seen)
            }
            (Attempt::Unlink { dir, name } | Attempt::Rmdir { dir, name }, Answer::Done) => {
                next.remove(*dir, name);
                true
            }
            (Attempt::Rename { from, to, mode }, Answer::Done) => {
                next.rename(from, to, *mode);
                true
            }
            (Attempt::List { dir }, Answer::Names(names)) => self.listing(*dir) == *names,
            (Attempt::Open { inode }, Answer::Done) => {
                *next.node_mut(*inode).opens.entry(node).or_default() += 1;
                true
            }
            (Attempt::Release { inode }, Answer::Done) => {
                let opens = &mut next.node_mut(*inode).opens;
                let left = opens.remove(&node)?.checked_sub(1)?;
                if left > 0 {
                    opens.insert(node, left);
                }
                true
            }
            _ => false,
        };
        is_right.then_some(next)
    }

    /// Adds the new inode under its name; false if its number is one that is still in use.
    fn create(
        &mut self,
        dir: InodeRef,
        name: &Name,
        kind: Kind,
        permissions: u32,
        target: &Option<Arc<[u8]>>,
        inode: InodeRef,
    ) -> bool {
        let same_block = self.nodes.iter().filter(|(other, _)| other.number == inode.number);
        let is_taken = same_block
            .into_iter()
            .any(|(other, node)| other.generation == inode.generation || node.links > 0 || !node.opens.is_empty());
        if is_taken {
            return false;
        }
        let (links, body) = match kind {
            Kind::File => (1, Body::File),
            Kind::Directory => (2, Body::Directory { parent: dir, entries: BTreeMap::new() }),
            Kind::Symlink => (1, Body::Symlink { target: target.clone().unwrap_or_default() }),
        };
        self.nodes.insert(inode, Rc::new(Node { permissions, links, opens: BTreeMap::new(), body }));
        self.entries_mut(dir).insert(name.clone(), inode);
        if kind == Kind::Directory {
            self.node_mut(dir).links += 1;
        }
        true
    }

    fn remove(&mut self, dir: InodeRef, name: &str) {
        let Some(child) = self.entries_mut(dir).remove(name) else { return };
        if self.is_directory(child) {
            self.node_mut(child).links = 0;
            self.node_mut(dir).links -= 1;
        } else {
            self.node_mut(child).links -= 1;
        }
    }

    fn rename(&mut self, from: &(InodeRef, Name), to: &(InodeRef, Name), mode: RenameMode) {
        let (source, target) = (self.child(from.0, &from.1), self.child(to.0, &to.1));
        let Some(source) = source.filter(|source| Some(*source) != target) else { return };
        if mode == RenameMode::Exchange {
            let target = target.expect("invariant: an exchange without a target is refused");
            self.place(from, target, to.0);
            self.place(to, source, from.0);
            return;
        }
        if target.is_some() {
            self.remove(to.0, &to.1);
        }
        self.entries_mut(from.0).remove(&from.1);
        self.place(to, source, from.0);
    }

    /// Puts `inode`, which came from `old_dir`, under a name.
    fn place(&mut self, to: &(InodeRef, Name), inode: InodeRef, old_dir: InodeRef) {
        self.entries_mut(to.0).insert(to.1.clone(), inode);
        if let Body::Directory { parent, .. } = &mut self.node_mut(inode).body {
            *parent = to.0;
            self.node_mut(old_dir).links -= 1;
            self.node_mut(to.0).links += 1;
        }
    }

    fn listing(&self, dir: InodeRef) -> Vec<(Name, InodeNumber, Kind)> {
        let entries = self.entries(dir).into_iter().flatten();
        entries
            .map(|(name, inode)| {
                (name.clone(), inode.number, self.kind(*inode).expect("invariant: names lead to nodes"))
            })
            .collect()
    }

    fn describe_inode(&self, inode: InodeRef) -> String {
        let number = inode.number.0;
        let Some(node) = self.nodes.get(&inode) else { return format!("inode {number} is unknown") };
        let permissions = node.permissions;
        let head = format!(
            "inode {number}: mode {permissions:o}, {} links, open on nodes {:?}",
            node.links,
            node.opens.keys()
        );
        match &node.body {
            Body::File => format!("{head}, a file"),
            Body::Symlink { target } => format!("{head}, a symlink to {}", target.escape_ascii()),
            Body::Directory { entries, .. } => {
                let names = entries.iter().map(|(name, child)| format!("{name}={}", child.number.0));
                format!("{head}, a directory of {{{}}}", names.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

impl Model for Tree {
    type Operation = TreeEvent;

    fn step(&self, event: &TreeEvent) -> Option<Tree> {
        match (&event.outcome, self.must(&event.attempt, event.by.node)) {
            (Ok(answer), Must::Succeed | Must::Either(_)) => self.succeed(&event.attempt, answer, event.by.node),
            (Err(error), Must::Fail(errors) | Must::Either(errors)) => errors.contains(error).then(|| self.clone()),
            (Ok(_), Must::Fail(_)) | (Err(_), Must::Succeed) => None,
        }
    }

    fn is_pure(event: &TreeEvent) -> bool {
        match event.attempt {
            Attempt::Lookup { .. }
            | Attempt::Touch { .. }
            | Attempt::Attributes { .. }
            | Attempt::Readlink { .. }
            | Attempt::List { .. } => true,
            Attempt::SetPermissions { .. }
            | Attempt::Create { .. }
            | Attempt::Link { .. }
            | Attempt::Unlink { .. }
            | Attempt::Rmdir { .. }
            | Attempt::Rename { .. }
            | Attempt::Open { .. }
            | Attempt::Release { .. } => event.outcome.is_err(),
        }
    }

    fn explain(&self, event: &TreeEvent) -> String {
        let must = match self.must(&event.attempt, event.by.node) {
            Must::Succeed => "it must succeed".to_string(),
            Must::Fail(errors) => format!("it must fail with one of {errors:?}"),
            Must::Either(errors) => format!("it may succeed or fail with one of {errors:?}"),
        };
        let inodes: Vec<InodeRef> = match &event.attempt {
            Attempt::Lookup { dir, name } => [*dir].into_iter().chain(self.child(*dir, name)).collect(),
            Attempt::Create { dir, .. } | Attempt::List { dir } => vec![*dir],
            Attempt::Unlink { dir, name } | Attempt::Rmdir { dir, name } => {
                [*dir].into_iter().chain(self.child(*dir, name)).collect()
            }
            Attempt::Link { inode, dir, .. } => vec![*inode, *dir],
            Attempt::Rename { from, to, .. } => {
                [from.0, to.0].into_iter().chain(self.child(from.0, &from.1)).chain(self.child(to.0, &to.1)).collect()
            }
            Attempt::Touch { inode }
            | Attempt::Attributes { inode }
            | Attempt::SetPermissions { inode, .. }
            | Attempt::Readlink { inode }
            | Attempt::Open { inode }
            | Attempt::Release { inode } => vec![*inode],
        };
        let described: Vec<String> = inodes.iter().map(|inode| self.describe_inode(*inode)).collect();
        format!("{must}; {}", described.join("; "))
    }
}

impl fmt::Display for TreeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> ", self.by, self.attempt)?;
        match &self.outcome {
            Ok(answer) => write!(f, "{answer}"),
            Err(error) => write!(f, "error: {error}"),
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attempt::Lookup { dir, name } => write!(f, "lookup {}/{name}", dir.number.0),
            Attempt::Touch { inode } => write!(f, "use of inode {}", inode.number.0),
            Attempt::Attributes { inode } => write!(f, "stat of inode {}", inode.number.0),
            Attempt::SetPermissions { inode, permissions } => {
                write!(f, "chmod {permissions:o} of inode {}", inode.number.0)
            }
            Attempt::Create { dir, name, kind, .. } => write!(f, "create {kind:?} {}/{name}", dir.number.0),
            Attempt::Readlink { inode } => write!(f, "readlink of inode {}", inode.number.0),
            Attempt::Link { inode, dir, name } => {
                write!(f, "link inode {} to {}/{name}", inode.number.0, dir.number.0)
            }
            Attempt::Unlink { dir, name } => write!(f, "unlink {}/{name}", dir.number.0),
            Attempt::Rmdir { dir, name } => write!(f, "rmdir {}/{name}", dir.number.0),
            Attempt::Rename { from, to, mode } => {
                write!(f, "rename {}/{} to {}/{} ({mode:?})", from.0.number.0, from.1, to.0.number.0, to.1)
            }
            Attempt::List { dir } => write!(f, "list directory {}", dir.number.0),
            Attempt::Open { inode } => write!(f, "open inode {}", inode.number.0),
            Attempt::Release { inode } => write!(f, "close inode {}", inode.number.0),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Done => write!(f, "done"),
            Answer::Seen(seen) => write!(
                f,
                "inode {} generation {}: {:?}, mode {:o}, {} links",
                seen.inode.number.0, seen.inode.generation, seen.kind, seen.permissions, seen.links
            ),
            Answer::Named(inode) => write!(f, "inode {}", inode.number.0),
            Answer::Missing => write!(f, "missing"),
            Answer::Target(target) => write!(f, "{}", target.escape_ascii()),
            Answer::Names(names) => {
                let names = names.iter().map(|(name, number, _)| format!("{name}={}", number.0));
                write!(f, "{{{}}}", names.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

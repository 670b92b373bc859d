//! What a check found: facts with a block, what was expected there and what was found.

use std::fmt;

/// Findings that are kept; the number of all is counted.
pub const FINDINGS_MAX: usize = 10_000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// A state that a healthy filesystem passes through: nothing is wrong.
    Notice,
    /// The filesystem contradicts itself.
    Error,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Superblock,
    /// The list of resource groups.
    ResourceIndex,
    /// Header or counters of a resource group.
    ResourceGroup,
    /// A block's state in the bitmap is not what the inodes say.
    Bitmap,
    /// A block belongs to two owners, or twice to one.
    SharedBlock,
    /// A pointer to where no block can be.
    Pointer,
    /// A block is not of the type that its place asks for.
    Header,
    Dinode,
    Directory,
    /// An entry does not fit the inode it names.
    Entry,
    LinkCount,
    ExtendedAttribute,
    /// An inode without a name that is not marked as unlinked.
    Unreachable,
    /// The counters of free blocks and inodes.
    Statfs,
    Journal,
    /// A system file or directory is missing or is not what it should be.
    SystemFile,
    /// Notice: a journal holds changes that are not in place yet.
    DirtyJournal,
    /// Notice: an inode without a name that waits for its last user, or for somebody to free it.
    Unlinked,
}

impl Kind {
    /// How bad findings of this kind are.
    pub fn severity(self) -> Severity {
        match self {
            Kind::DirtyJournal | Kind::Unlinked => Severity::Notice,
            _ => Severity::Error,
        }
    }
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// Filesystem block it is about.
    pub block: u64,
    /// Inode that the block belongs to, if that is known and another block.
    pub inode: Option<u64>,
    pub expected: String,
    pub found: String,
}

impl Finding {
    pub fn severity(&self) -> Severity {
        self.kind.severity()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: block {}", self.kind, self.block)?;
        if let Some(inode) = self.inode {
            write!(f, " (inode {inode})")?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

/// State of one journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalState {
    pub index: u32,
    /// Dinode.
    pub inode: u64,
    /// Length of the log in blocks.
    pub blocks: u64,
    /// The newest header: its sequence, its block in the log, and the tail it names.
    pub sequence: u64,
    pub head: u32,
    pub tail: u32,
    pub clean: bool,
}

/// Totals of what was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks that the bitmaps describe.
    pub blocks: u64,
    pub free: u64,
    /// Inodes with a name, system files included, and those without.
    pub dinodes: u64,
    pub unlinked: u64,
    pub directories: u64,
}

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of discovery, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings beyond those kept.
    pub omitted: u64,
    pub journals: Vec<JournalState>,
    pub counts: Counts,
}

impl Report {
    /// Whether there is no error; notices may be there.
    pub fn is_consistent(&self) -> bool {
        self.omitted == 0 && self.errors().next().is_none()
    }

    /// The findings that mean damage.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity() == Severity::Error)
    }

    /// Adds a finding.
    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.omitted += 1;
        }
    }

    /// Adds a finding about a block that is, or has, no inode of interest.
    pub(crate) fn note(&mut self, kind: Kind, block: u64, expected: impl fmt::Display, found: impl fmt::Display) {
        self.add(Finding { kind, block, inode: None, expected: expected.to_string(), found: found.to_string() });
    }

    /// Adds a finding about a block of an inode.
    pub(crate) fn note_of(
        &mut self,
        kind: Kind,
        inode: u64,
        block: u64,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) {
        let inode = (inode != block).then_some(inode);
        self.add(Finding { kind, block, inode, expected: expected.to_string(), found: found.to_string() });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        if self.omitted > 0 {
            writeln!(f, "and {} more", self.omitted)?;
        }
        let errors = self.errors().count() as u64 + self.omitted;
        write!(f, "{errors} errors, {} notices", self.findings.len() as u64 + self.omitted - errors)
    }
}

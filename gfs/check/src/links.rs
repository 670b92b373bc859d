//! From the two roots through all names: every inode reached once, every entry fitting its inode,
//! every link counted. What no name leads to is looked at last.

use gfs_format::BlockState;

use crate::directories::{Entry, text};
use crate::report::Kind;
use crate::source::CheckError;
use crate::walk::{Inode, Named, Walk};

const DT_DIR: u16 = 4;

impl Walk<'_> {
    /// Walks everything below a root directory, which is its own parent.
    pub(crate) async fn root(&mut self, address: u64, formal: u64) -> Result<(), CheckError> {
        let Some(root) = self.inode(address, BlockState::Dinode).await? else { return Ok(()) };
        if root.dinode.number.formal.get() != formal || !root.is_directory() {
            let expected = format!("a directory with formal number {formal}");
            let found = format!("mode 0{:o}, number {}", root.dinode.mode.get(), root.dinode.number.formal.get());
            self.report.note(Kind::Dinode, address, expected, found);
        }
        if root.is_directory() {
            self.below(root, address).await?;
        }
        Ok(())
    }

    /// Walks a directory and all that it names.
    pub(crate) async fn below(&mut self, top: Inode, parent: u64) -> Result<(), CheckError> {
        self.set_parent(top.address, parent);
        let mut pending = vec![top];
        while let Some(directory) = pending.pop() {
            let entries = self.entries(&directory).await?;
            self.check_dots(&directory, &entries);
            for entry in entries {
                let is_dot = matches!(&entry.name[..], b"." | b"..");
                if !is_dot
                    && !self.inodes.contains_key(&entry.address)
                    && let Some(inode) = self.inode(entry.address, BlockState::Dinode).await?
                    && inode.is_directory()
                {
                    self.set_parent(inode.address, directory.address);
                    pending.push(inode);
                }
                self.count(&directory, &entry, is_dot);
            }
        }
        Ok(())
    }

    fn set_parent(&mut self, address: u64, parent: u64) {
        if let Some(named) = self.inodes.get_mut(&address) {
            named.parent = parent;
        }
    }

    /// `.` and `..` are there and lead where they should.
    fn check_dots(&mut self, directory: &Inode, entries: &[Entry]) {
        let parent = self.inodes.get(&directory.address).map_or(0, |named| named.parent);
        for (name, expected) in [(&b"."[..], directory.address), (b"..", parent)] {
            let found = entries.iter().find(|entry| entry.name == name).map(|entry| entry.address);
            if found == Some(expected) {
                continue;
            }
            let found = found.map_or("none".into(), |address| format!("inode {address}"));
            let expected = format!("{} leading to inode {expected}", text(name));
            self.report.note(Kind::Directory, directory.address, expected, found);
        }
    }

    /// Counts a link and compares the entry with the inode that it names.
    fn count(&mut self, directory: &Inode, entry: &Entry, is_dot: bool) {
        let Some(named) = self.inodes.get_mut(&entry.address) else {
            // `..` of a root's unreadable parent, or an inode that has been found faulty.
            let found = format!("{} with none at block {}", text(&entry.name), entry.address);
            self.report.note_of(Kind::Entry, directory.address, entry.block, "an inode behind each name", found);
            return;
        };
        named.counted = named.counted.saturating_add(1);
        let Named { formal, kind, parent, .. } = *named;
        if !is_dot && let Some(tracker) = &mut self.tracker {
            tracker.named(entry.address, kind == DT_DIR, directory.address, &entry.name);
        }
        if formal != entry.formal {
            let expected = format!("formal number {formal} of inode {} for {}", entry.address, text(&entry.name));
            self.report.note_of(Kind::Entry, directory.address, entry.block, expected, entry.formal);
        }
        if kind != entry.kind {
            let expected = format!("type {kind} of inode {} for {}", entry.address, text(&entry.name));
            self.report.note_of(Kind::Entry, directory.address, entry.block, expected, entry.kind);
        }
        if !is_dot && kind == DT_DIR && parent != directory.address {
            let expected = format!("each directory in one place (inode {} is in {parent})", entry.address);
            self.report.note_of(Kind::Entry, directory.address, entry.block, expected, text(&entry.name));
        }
    }

    /// Inodes that no name led to: unlinked ones are a notice, others an error. Either way what
    /// they own is claimed, so that one lost inode is one finding.
    pub(crate) async fn nameless(&mut self) -> Result<(), CheckError> {
        for (address, state) in self.groups.unclaimed_inodes() {
            // Claimed meanwhile as part of another one.
            if self.inodes.contains_key(&address) {
                continue;
            }
            let Some(inode) = self.inode(address, state).await? else { continue };
            self.inodes.remove(&address);
            let links = inode.dinode.link_count.get();
            if state == BlockState::Dinode {
                let found = format!("an inode with {links} links and no name");
                self.report.note(Kind::Unreachable, address, "a name for each inode", found);
            } else if links != 0 {
                self.report.note(Kind::LinkCount, address, "0 links in an unlinked inode", links);
            } else {
                let found = format!("one of {} blocks", inode.dinode.blocks.get());
                self.report.note(Kind::Unlinked, address, "no unlinked inode", found);
            }
        }
        Ok(())
    }

    /// Compares the links that were counted with those that the inodes state.
    pub(crate) fn compare_links(&mut self) {
        for (address, named) in &self.inodes {
            if named.stated != named.counted {
                self.report.note(Kind::LinkCount, *address, format_args!("{} links", named.counted), named.stated);
            }
        }
    }
}

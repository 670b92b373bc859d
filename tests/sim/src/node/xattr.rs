//! System calls on extended attributes. A kernel keeps none of them.

use bytes::Bytes;
use gfs_core::{Error, InodeRef, XattrName, XattrWrite};

use super::Process;
use crate::checkers::attributes::AttributeOperation;
use crate::checkers::tree::{Attempt, Name};

impl Process {
    pub async fn set_xattr(&self, inode: InodeRef, name: &Name, value: Bytes, mode: XattrWrite) -> Result<(), Error> {
        let _own = self.own(inode).await;
        let _change = self.change(&[inode]);
        let started = self.start("setxattr", inode);
        let outcome = self.node.fs.set_xattr(inode, &spelt(name), &value, mode).await;
        match &outcome {
            Ok(()) | Err(Error::Exists | Error::NoXattr) => {
                let operation = AttributeOperation::Set { name: name.clone(), value, mode, outcome: outcome.clone() };
                self.node.history.attributes(started, inode, operation);
                outcome
            }
            Err(error) => self.refused(started, Attempt::Touch { inode }, error.clone()),
        }
    }

    pub async fn remove_xattr(&self, inode: InodeRef, name: &Name) -> Result<(), Error> {
        let _own = self.own(inode).await;
        let _change = self.change(&[inode]);
        let started = self.start("removexattr", inode);
        let outcome = self.node.fs.remove_xattr(inode, &spelt(name)).await;
        match &outcome {
            Ok(()) | Err(Error::NoXattr) => {
                let operation = AttributeOperation::Remove { name: name.clone(), outcome: outcome.clone() };
                self.node.history.attributes(started, inode, operation);
                outcome
            }
            Err(error) => self.refused(started, Attempt::Touch { inode }, error.clone()),
        }
    }

    pub async fn get_xattr(&self, inode: InodeRef, name: &Name) -> Result<(), Error> {
        let started = self.start("getxattr", inode);
        let value = match self.node.fs.get_xattr(inode, &spelt(name)).await {
            Ok(value) => Some(value.into()),
            Err(Error::NoXattr) => None,
            Err(error) => return self.refused(started, Attempt::Touch { inode }, error),
        };
        self.node.history.attributes(started, inode, AttributeOperation::Get { name: name.clone(), value });
        Ok(())
    }

    pub async fn list_xattrs(&self, inode: InodeRef) -> Result<Vec<Name>, Error> {
        let started = self.start("listxattr", inode);
        match self.node.fs.list_xattrs(inode).await {
            Ok(found) => {
                let text = |name: XattrName| Name::from(String::from_utf8_lossy(&name.name));
                let mut names: Vec<Name> = found.into_iter().map(text).collect();
                names.sort();
                self.node.history.attributes(started, inode, AttributeOperation::List { names: names.clone() });
                Ok(names)
            }
            Err(error) => self.refused(started, Attempt::Touch { inode }, error),
        }
    }
}

fn spelt(name: &Name) -> XattrName {
    XattrName::parse(format!("user.{name}").as_bytes()).expect("invariant: workloads use short names")
}

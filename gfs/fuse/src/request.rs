//! A request of the kernel, typed. Frames are hostile: whatever does not fit is an error, never a
//! panic and never a read past the end.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::wire::{self, opcode};

/// One request, borrowing from its frame.
#[derive(Debug)]
pub struct Request<'a> {
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    /// Thread id of the caller as this mount's pid namespace sees it; 0 if it does not.
    pub pid: u32,
    pub operation: Operation<'a>,
}

/// What is asked.
#[derive(Debug)]
pub enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        lookups: u64,
    },
    BatchForget {
        nodes: Vec<wire::ForgetOne>,
    },
    GetAttributes {
        handle: Option<u64>,
    },
    SetAttributes(Box<wire::SetattrIn>),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MakeNode {
        name: &'a [u8],
        mode: u32,
        device: u32,
        umask: u32,
    },
    MakeDirectory {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RemoveDirectory {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_directory: u64,
        new_name: &'a [u8],
        /// `RENAME_*`.
        flags: u32,
    },
    Link {
        node: u64,
        new_name: &'a [u8],
    },
    Open {
        /// `O_*`.
        flags: u32,
        kills_suid: bool,
    },
    Create {
        name: &'a [u8],
        flags: u32,
        mode: u32,
        umask: u32,
        kills_suid: bool,
    },
    Read {
        handle: u64,
        offset: u64,
        len: u32,
        /// By a system call with direct I/O; else the page cache fills locked pages.
        is_direct: bool,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        is_direct: bool,
        /// Write-back of dirty mapped pages.
        is_write_back: bool,
        kills_suid: bool,
    },
    Statfs,
    Release {
        handle: u64,
        is_directory: bool,
    },
    Flush {
        handle: u64,
    },
    Fsync {
        handle: u64,
        data_only: bool,
        is_directory: bool,
    },
    OpenDirectory,
    ReadDirectory {
        handle: u64,
        offset: u64,
        len: u32,
    },
    Access {
        mask: u32,
    },
    GetXattr {
        name: &'a [u8],
        /// Room for the answer; 0 asks for the size.
        len_max: u32,
    },
    ListXattrs {
        len_max: u32,
    },
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        /// `XATTR_*`.
        flags: u32,
        /// An access control list takes set-group-id away.
        kills_sgid: bool,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    /// A file without a name, open at once.
    CreateUnnamed {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Ioctl {
        /// Of `wire::ioctl`.
        command: u32,
        input: &'a [u8],
        /// Room for the output.
        len_max: u32,
    },
    Seek {
        handle: u64,
        offset: u64,
        /// `SEEK_*`.
        whence: u32,
    },
    Interrupt {
        unique: u64,
    },
    Init(Box<wire::InitIn>),
    Destroy,
    Fallocate {
        handle: u64,
        offset: u64,
        len: u64,
        mode: u32,
    },
    /// One this layer does not know.
    Unknown {
        opcode: u32,
    },
}

/// Why a frame is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// Shorter than a header, or than its header says: there is nobody to answer.
    Truncated { len: usize },
    /// The body does not fit its opcode.
    BadBody { opcode: u32, unique: u64 },
}

impl<'a> Request<'a> {
    /// Reads one frame as the kernel delivered it.
    pub fn parse(frame: &'a [u8]) -> Result<Request<'a>, BadFrame> {
        let (header, _) =
            wire::InHeader::read_from_prefix(frame).map_err(|_| BadFrame::Truncated { len: frame.len() })?;
        let len = header.len as usize;
        if len < size_of::<wire::InHeader>() || len > frame.len() {
            return Err(BadFrame::Truncated { len: frame.len() });
        }
        let bad = BadFrame::BadBody { opcode: header.opcode, unique: header.unique };
        let extensions = usize::from(header.total_extlen) * 8;
        let body_len = len.checked_sub(size_of::<wire::InHeader>() + extensions).ok_or(bad)?;
        let mut body = Body(&frame[size_of::<wire::InHeader>()..][..body_len]);
        let operation = operation(header.opcode, &mut body).ok_or(bad)?;
        Ok(Request {
            unique: header.unique,
            node: header.nodeid,
            uid: header.uid,
            gid: header.gid,
            pid: header.pid,
            operation,
        })
    }
}

/// The rest of a frame's body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take<T: FromBytes + Immutable + KnownLayout>(&mut self) -> Option<T> {
        let (value, rest) = T::read_from_prefix(self.0).ok()?;
        self.0 = rest;
        Some(value)
    }

    /// A string up to its NUL; empty ones are refused.
    fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        (!name.is_empty()).then_some(name)
    }
}

fn operation<'a>(code: u32, body: &mut Body<'a>) -> Option<Operation<'a>> {
    Some(match code {
        opcode::LOOKUP => Operation::Lookup { name: body.name()? },
        opcode::FORGET => Operation::Forget { lookups: body.take::<wire::ForgetIn>()?.nlookup },
        opcode::BATCH_FORGET => {
            let count = body.take::<wire::BatchForgetIn>()?.count as usize;
            // The count is believed only as far as the frame goes.
            let mut nodes = Vec::with_capacity(count.min(body.0.len() / size_of::<wire::ForgetOne>()));
            for _ in 0..count {
                nodes.push(body.take()?);
            }
            Operation::BatchForget { nodes }
        }
        opcode::GETATTR => {
            let asked: wire::GetattrIn = body.take()?;
            Operation::GetAttributes { handle: (asked.getattr_flags & wire::GETATTR_FH != 0).then_some(asked.fh) }
        }
        opcode::SETATTR => Operation::SetAttributes(Box::new(body.take()?)),
        opcode::READLINK => Operation::ReadLink,
        opcode::SYMLINK => Operation::Symlink { name: body.name()?, target: body.name()? },
        opcode::MKNOD => {
            let asked: wire::MknodIn = body.take()?;
            Operation::MakeNode { name: body.name()?, mode: asked.mode, device: asked.rdev, umask: asked.umask }
        }
        opcode::MKDIR => {
            let asked: wire::MkdirIn = body.take()?;
            Operation::MakeDirectory { name: body.name()?, mode: asked.mode, umask: asked.umask }
        }
        opcode::UNLINK => Operation::Unlink { name: body.name()? },
        opcode::RMDIR => Operation::RemoveDirectory { name: body.name()? },
        opcode::RENAME => {
            let asked: wire::RenameIn = body.take()?;
            Operation::Rename { new_directory: asked.newdir, name: body.name()?, new_name: body.name()?, flags: 0 }
        }
        opcode::RENAME2 => {
            let asked: wire::Rename2In = body.take()?;
            Operation::Rename {
                new_directory: asked.newdir,
                name: body.name()?,
                new_name: body.name()?,
                flags: asked.flags,
            }
        }
        opcode::LINK => Operation::Link { node: body.take::<wire::LinkIn>()?.oldnodeid, new_name: body.name()? },
        opcode::OPEN => {
            let asked: wire::OpenIn = body.take()?;
            Operation::Open { flags: asked.flags, kills_suid: asked.open_flags & wire::OPEN_KILL_SUIDGID != 0 }
        }
        opcode::CREATE => {
            let asked: wire::CreateIn = body.take()?;
            Operation::Create {
                name: body.name()?,
                flags: asked.flags,
                mode: asked.mode,
                umask: asked.umask,
                kills_suid: asked.open_flags & wire::OPEN_KILL_SUIDGID != 0,
            }
        }
        opcode::READ => {
            let asked: wire::ReadIn = body.take()?;
            Operation::Read {
                handle: asked.fh,
                offset: asked.offset,
                len: asked.size,
                is_direct: asked.read_flags & wire::READ_LOCKOWNER != 0,
            }
        }
        opcode::WRITE => {
            let asked: wire::WriteIn = body.take()?;
            Operation::Write {
                handle: asked.fh,
                offset: asked.offset,
                data: body.0.get(..asked.size as usize)?,
                is_direct: asked.write_flags & wire::write_flags::LOCKOWNER != 0,
                is_write_back: asked.write_flags & wire::write_flags::CACHE != 0,
                kills_suid: asked.write_flags & wire::write_flags::KILL_SUIDGID != 0,
            }
        }
        opcode::STATFS => Operation::Statfs,
        opcode::RELEASE | opcode::RELEASEDIR => {
            Operation::Release { handle: body.take::<wire::ReleaseIn>()?.fh, is_directory: code == opcode::RELEASEDIR }
        }
        opcode::FLUSH => Operation::Flush { handle: body.take::<wire::FlushIn>()?.fh },
        opcode::FSYNC | opcode::FSYNCDIR => {
            let asked: wire::FsyncIn = body.take()?;
            Operation::Fsync {
                handle: asked.fh,
                data_only: asked.fsync_flags & wire::FSYNC_DATA_ONLY != 0,
                is_directory: code == opcode::FSYNCDIR,
            }
        }
        opcode::OPENDIR => Operation::OpenDirectory,
        opcode::READDIR => {
            let asked: wire::ReadIn = body.take()?;
            Operation::ReadDirectory { handle: asked.fh, offset: asked.offset, len: asked.size }
        }
        opcode::ACCESS => Operation::Access { mask: body.take::<wire::AccessIn>()?.mask },
        opcode::GETXATTR => {
            let len_max = body.take::<wire::GetxattrIn>()?.size;
            Operation::GetXattr { name: body.name()?, len_max }
        }
        opcode::LISTXATTR => Operation::ListXattrs { len_max: body.take::<wire::GetxattrIn>()?.size },
        opcode::SETXATTR => set_xattr(body)?,
        opcode::REMOVEXATTR => Operation::RemoveXattr { name: body.name()? },
        opcode::TMPFILE => {
            let asked: wire::CreateIn = body.take()?;
            Operation::CreateUnnamed { flags: asked.flags, mode: asked.mode, umask: asked.umask }
        }
        opcode::IOCTL => {
            let asked: wire::IoctlIn = body.take()?;
            let input = body.0.get(..asked.in_size as usize)?;
            Operation::Ioctl { command: asked.cmd, input, len_max: asked.out_size }
        }
        opcode::LSEEK => {
            let asked: wire::LseekIn = body.take()?;
            Operation::Seek { handle: asked.fh, offset: asked.offset, whence: asked.whence }
        }
        opcode::INTERRUPT => Operation::Interrupt { unique: body.take::<wire::InterruptIn>()?.unique },
        opcode::INIT => Operation::Init(Box::new(init(body)?)),
        opcode::DESTROY => Operation::Destroy,
        opcode::FALLOCATE => {
            let asked: wire::FallocateIn = body.take()?;
            Operation::Fallocate { handle: asked.fh, offset: asked.offset, len: asked.length, mode: asked.mode }
        }
        other => Operation::Unknown { opcode: other },
    })
}

/// A kernel without the extension sends the name where the rest of the struct would be. The last
/// word of the struct is zero, and that of a name that starts with a namespace is not.
fn set_xattr<'a>(body: &mut Body<'a>) -> Option<Operation<'a>> {
    let (mut asked, _) = wire::SetxattrIn::read_from_prefix(body.0).ok()?;
    if asked.padding == 0 {
        body.0 = &body.0[size_of::<wire::SetxattrIn>()..];
    } else {
        body.0 = &body.0[wire::SETXATTR_OLD_LEN..];
        asked.setxattr_flags = 0;
    }
    Some(Operation::SetXattr {
        name: body.name()?,
        value: body.0.get(..asked.size as usize)?,
        flags: asked.flags,
        kills_sgid: asked.setxattr_flags & wire::SETXATTR_ACL_KILL_SGID != 0,
    })
}

/// INIT grew at 7.36; what an older kernel does not send is zero.
fn init(body: &mut Body<'_>) -> Option<wire::InitIn> {
    const OLD_LEN: usize = 16;
    if body.0.len() < OLD_LEN {
        return None;
    }
    let mut padded = [0; size_of::<wire::InitIn>()];
    let len = body.0.len().min(padded.len());
    padded[..len].copy_from_slice(&body.0[..len]);
    wire::InitIn::read_from_bytes(&padded).ok()
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn frame(code: u32, body: &[u8]) -> Vec<u8> {
        let len = (size_of::<wire::InHeader>() + body.len()) as u32;
        let header = wire::InHeader { len, opcode: code, unique: 6, nodeid: 1, ..Default::default() };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn names_end_at_their_nul() {
        let bytes = frame(opcode::SYMLINK, b"link\0target\0");
        let request = Request::parse(&bytes).expect("fits");
        assert!(
            matches!(request.operation, Operation::Symlink { name: b"link", target: b"target" }),
            "{:?}",
            request.operation
        );
    }

    #[test]
    fn a_write_that_promises_more_than_it_brings_is_refused() {
        let head = wire::WriteIn { size: 5, ..Default::default() };
        let bytes = frame(opcode::WRITE, &[head.as_bytes(), b"1234"].concat());
        assert_eq!(Request::parse(&bytes).expect_err("short"), BadFrame::BadBody { opcode: opcode::WRITE, unique: 6 });
    }

    #[test]
    fn an_attribute_is_understood_with_and_without_the_extension() {
        let head = wire::SetxattrIn { size: 2, flags: 1, setxattr_flags: 1, padding: 0 };
        for (head, kills) in [(head.as_bytes(), true), (&head.as_bytes()[..wire::SETXATTR_OLD_LEN], false)] {
            let bytes = frame(opcode::SETXATTR, &[head, b"user.a\0", b"vw"].concat());
            let request = Request::parse(&bytes).expect("fits");
            let Operation::SetXattr { name: b"user.a", value: b"vw", flags: 1, kills_sgid } = request.operation else {
                panic!("{:?}", request.operation)
            };
            assert_eq!(kills_sgid, kills);
        }
    }

    #[test]
    fn every_opcode_survives_every_truncation_and_a_lying_header() {
        for code in 0..64 {
            let whole = frame(code, &[0xff; 96]);
            for len in 0..=whole.len() {
                let _ = Request::parse(&whole[..len]);
                let mut honest = whole[..len].to_vec();
                if len >= 4 {
                    honest[..4].copy_from_slice(&(len as u32).to_le_bytes());
                }
                let _ = Request::parse(&honest);
                if len >= 40 {
                    honest[36..38].copy_from_slice(&[0xff, 0xff]);
                    assert!(Request::parse(&honest).is_err(), "extensions longer than the frame");
                }
            }
        }
    }
}

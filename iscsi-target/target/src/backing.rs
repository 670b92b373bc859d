//! The file or block device below a unit: looked at before anything is made, then opened (and made), and made larger
//! while it is in use.
//!
//! A start that fails leaves no file behind and changes none: first every unit is looked at ([`check`]), then files are
//! made, and what was made is undone unless all of the start succeeds ([`Made`]).

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_core::{BlockDevice, ByteLen};
use block_file::{FileDevice, OpenOptions};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::config::LunOptions;
use crate::kept::{seal, unseal};
use crate::reservations::write_whole;

/// Format of the file that keeps a size that was changed while the unit was in use.
const GROWN_FORMAT: &str = "corral-grown-1";

/// An open file or device.
pub struct Backing {
    device: Arc<FileDevice>,
    path: PathBuf,
    is_full: bool,
    is_read_only: bool,
    /// Where a size is kept that is not the one of the options any more.
    grown: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grown {
    bytes: u64,
    /// What it had until then: a loss of power in between leaves this.
    before: u64,
}

/// Files that a start has made; they go again when this is dropped, unless they are to stay.
#[derive(Default)]
pub struct Made {
    files: Vec<PathBuf>,
    /// Files that were there and empty.
    filled: Vec<PathBuf>,
}

impl Made {
    pub fn keep(mut self) {
        self.files.clear();
        self.filled.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Whatever cannot be undone is told by the error that led here, or not at all.
        for path in &self.files {
            let _ = fs::remove_file(path);
        }
        for path in &self.filled {
            let _ = File::options().write(true).open(path).and_then(|file| file.set_len(0));
        }
    }
}

/// Looks whether a unit can be opened, without changing anything. `grown`: see [`Backing::open`].
pub fn check(options: &LunOptions, grown: &Path) -> Result<(), String> {
    let path = &options.file;
    let tell = |what: String| format!("{}: {what}", path.display());
    let rights = match options.is_read_only {
        true => AccessFlags::R_OK,
        false => AccessFlags::R_OK | AccessFlags::W_OK,
    };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(tell("it is a directory".to_owned())),
        Ok(found) => {
            access(path, rights).map_err(|error| {
                let wanted = if options.is_read_only { "read" } else { "written" };
                tell(format!("it cannot be {wanted}: {}", io::Error::from(error)))
            })?;
            if found.is_file() && found.len() > 0 {
                return check_size(options, grown, found.len()).map_err(tell);
            }
            if !found.is_file() && !found.file_type().is_block_device() {
                return Err(tell("it is neither a regular file nor a block device".to_owned()));
            }
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if options.size.is_none() || options.is_read_only {
                return Err(tell("there is no such file or device; with size=… it is made".to_owned()));
            }
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            access(folder, AccessFlags::W_OK)
                .map_err(|error| tell(format!("it cannot be made in {}: {}", folder.display(), io::Error::from(error))))
        }
        Err(error) => Err(tell(error.to_string())),
    }
}

/// Refuses a size that is not the one asked for, nor the one it has grown to.
fn check_size(options: &LunOptions, grown: &Path, found: u64) -> Result<(), String> {
    if !found.is_multiple_of(u64::from(options.block)) {
        return Err(format!("its {found} bytes are not a multiple of the block length {}", options.block));
    }
    let Some(wanted) = options.size.filter(|wanted| *wanted != found) else { return Ok(()) };
    match fs::read(grown) {
        Ok(content) => {
            let kept: Grown = unseal(GROWN_FORMAT, &content)
                .map_err(|what| format!("the size it has grown to, {}: {what}", grown.display()))?;
            if found == kept.bytes || found == kept.before {
                return Ok(());
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(format!("the size it has grown to, {}: {error}", grown.display())),
    }
    Err(format!("it has {found} bytes, but size={wanted} was given; leave size out to use it as it is"))
}

impl Backing {
    /// Opens, and makes the file if it is not there. `grown` is the file in the state directory in which a size is kept
    /// that was changed while the unit was in use, so that the size in the options need not follow.
    pub fn open(options: &LunOptions, grown: PathBuf, made: &mut Made) -> Result<Self, String> {
        check(options, &grown)?;
        let path = &options.file;
        let found = fs::metadata(path).ok();
        if let (Some(size), false) = (options.size, options.is_read_only) {
            match &found {
                None => {
                    let file = File::options().write(true).create_new(true).open(path);
                    let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
                    made.files.push(path.clone());
                    if !options.is_thin {
                        allocate(&file, size).map_err(|error| format!("{}: {error}", path.display()))?;
                    }
                }
                Some(found) if found.is_file() && found.len() == 0 => made.filled.push(path.clone()),
                Some(_) => {}
            }
        }
        let open = OpenOptions {
            read_only: options.is_read_only,
            create_size: options.size.map(ByteLen),
            sector: options.block,
            direct: options.is_direct,
            ..OpenOptions::default()
        };
        let device = FileDevice::open(path, open).map_err(|error| error.to_string())?;
        let geometry = device.geometry();
        if geometry.sector != options.block {
            let path = path.display();
            return Err(format!("{path}: its blocks have {} bytes, not {}", geometry.sector, options.block));
        }
        check_size(options, &grown, geometry.size().0).map_err(|what| format!("{}: {what}", path.display()))?;
        let (path, is_full, is_read_only) = (path.clone(), !options.is_thin, options.is_read_only);
        Ok(Self { device, path, is_full, is_read_only, grown })
    }

    pub fn device(&self) -> Arc<FileDevice> {
        self.device.clone()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file larger, or takes the size that it or the device has by now (`None`). Gives the sizes before and
    /// after, in bytes. What is new is durable, and kept, before anybody is told.
    pub fn grow(&self, size: Option<u64>) -> Result<(u64, u64), String> {
        let tell = |what: String| format!("{}: {what}", self.path.display());
        let geometry = self.device.geometry();
        let (before, block) = (geometry.size().0, u64::from(geometry.sector));
        let Some(size) = size else {
            let after = self.device.refresh().map_err(|error| tell(error.to_string()))?.size().0;
            self.keep(before, after).map_err(tell)?;
            return Ok((before, after));
        };
        if !size.is_multiple_of(block) {
            return Err(tell(format!("{size} bytes are not a multiple of the block length {block}")));
        }
        if size < before {
            return Err(tell(format!("it has {before} bytes, and a unit in use never becomes smaller")));
        }
        if self.is_read_only && size > before {
            return Err(tell("it is read-only here; make it larger elsewhere, then grow without a size".to_owned()));
        }
        // Kept first: after a loss of power the file may have either size.
        self.keep(before, size).map_err(tell)?;
        let after = self.device.grow(ByteLen(size), self.is_full).map_err(|error| tell(error.to_string()))?.size().0;
        match after == size {
            true => Ok((before, after)),
            false => Err(tell(format!("it has {after} bytes; a device is made larger elsewhere"))),
        }
    }

    fn keep(&self, before: u64, bytes: u64) -> Result<(), String> {
        write_whole(&self.grown, seal(GROWN_FORMAT, &Grown { bytes, before }).as_bytes())
            .map_err(|error| format!("the new size cannot be kept in {}: {error}", self.grown.display()))
    }
}

/// Gives a new file all its space.
fn allocate(file: &File, size: u64) -> Result<(), String> {
    let length = i64::try_from(size).map_err(|_| format!("{size} bytes are too many"))?;
    fallocate(file.as_fd(), FallocateFlags::empty(), 0, length)
        .map_err(|error| format!("no room for {size} bytes: {error}"))
}

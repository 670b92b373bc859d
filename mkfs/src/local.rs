//! A file or block device as a block device, with plain blocking calls.
//!
//! A program that only makes a filesystem waits for its disk anyway, so requests are carried out
//! where they are made.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Geometry, IoFuture};
use bytes::Bytes;

/// An open file or block device.
pub struct LocalDevice {
    file: Arc<File>,
    geometry: Geometry,
}

impl LocalDevice {
    /// Takes an open file of `size` bytes.
    pub fn open(path: &Path) -> io::Result<LocalDevice> {
        use std::io::Seek;
        let mut file = File::options().read(true).write(true).open(path)?;
        let size = file.seek(io::SeekFrom::End(0))?;
        Ok(LocalDevice { file: Arc::new(file), geometry: Geometry { sector: 512, sectors: size / 512 } })
    }
}

fn failed(at: ByteOffset, error: io::Error) -> BlockError {
    match error.kind() {
        io::ErrorKind::StorageFull => BlockError::NoSpace,
        _ => BlockError::Io { at, what: error.to_string() },
    }
}

impl BlockDevice for LocalDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        let (file, checked) = (self.file.clone(), self.geometry.check(at, len));
        Box::pin(async move {
            checked?;
            let mut bytes = vec![0; len.0 as usize];
            file.read_exact_at(&mut bytes, at.0).map_err(|error| failed(at, error))?;
            Ok(bytes.into())
        })
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, _: Durability) -> IoFuture<()> {
        let len = data.iter().map(Bytes::len).sum::<usize>() as u64;
        let (file, checked) = (self.file.clone(), self.geometry.check(at, ByteLen(len)));
        Box::pin(async move {
            checked?;
            let mut offset = at.0;
            for bytes in data {
                file.write_all_at(&bytes, offset).map_err(|error| failed(at, error))?;
                offset += bytes.len() as u64;
            }
            Ok(())
        })
    }

    fn flush(&self) -> IoFuture<()> {
        let file = self.file.clone();
        Box::pin(async move { file.sync_data().map_err(|error| failed(ByteOffset(0), error)) })
    }
}

//! Images that the kernel made, read by the library behind `corral fs` and compared with what the kernel said of them:
//! inode numbers, modes, owners, links, sizes, blocks, times, targets, devices, attributes and content. Dirty images are
//! looked at as they would be after a replay.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use block_core::{BlockDevice, Image, MemoryDevice};
use gfs_check::inspect::{Inode, Volume};
use gfs_check::journal::{Journals, Log, Plan, Replayed};
use serde_json::Value;

/// Content up to so many bytes is compared.
const CONTENT_MAX: u64 = 16 << 20;

/// A file of tests/golden; `None`, loudly, when it cannot be unpacked.
fn golden(name: &str) -> Option<Vec<u8>> {
    let packed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/{name}.zst"));
    match Command::new("zstd").arg("-qdc").arg(&packed).output() {
        Ok(output) if output.status.success() => Some(output.stdout),
        other => {
            eprintln!("SKIPPED: zstd cannot unpack {}: {other:?}", packed.display());
            None
        }
    }
}

/// Paths that are not plain text are percent-encoded in manifests.
fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let code = (*byte == b'%').then(|| behind.get(..2)).flatten();
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*byte));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

fn sha256(content: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("coreutils");
    child.stdin.take().expect("it is piped").write_all(content).expect("it reads");
    let out = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&out.stdout).split_whitespace().next().unwrap_or_default().to_string()
}

/// What differs between an inode and its entry in the manifest.
async fn differences(volume: &Volume, inode: &Inode, entry: &Value) -> Vec<String> {
    let d = &inode.dinode;
    let mut found = Vec::new();
    let mut same = |what: &str, ours: u64, key: &str| {
        if let Some(theirs) = entry[key].as_u64()
            && ours != theirs
        {
            found.push(format!("{what}: {ours}, not {theirs}"));
        }
    };
    same("inode", inode.address, "ino");
    same("uid", d.uid.get().into(), "uid");
    same("gid", d.gid.get().into(), "gid");
    same("links", d.link_count.get().into(), "nlink");
    same("size", d.size.get(), "size");
    same("blocks of 512 bytes", d.blocks.get() * (volume.block_size().bytes() / 512), "blocks");
    same("mtime", d.mtime.get() * 1_000_000_000 + u64::from(d.mtime_nanos.get()), "mtime_ns");
    let mode = format!("{:04o}", d.mode.get() & 0o7777);
    if entry["mode"].as_str() != Some(&mode) {
        found.push(format!("mode: {mode}, not {}", entry["mode"]));
    }
    if let Some(target) = entry["target"].as_str() {
        let ours = inode.body().get(..d.size.get() as usize).unwrap_or_default();
        if ours != decoded(target) {
            found.push(format!("target: {}", ours.escape_ascii()));
        }
    }
    if let Some(device) = entry["rdev"].as_array() {
        let ours = [u64::from(d.device_major.get()), d.device_minor.get().into()];
        if device.iter().filter_map(Value::as_u64).ne(ours) {
            found.push(format!("device: {ours:?}, not {device:?}"));
        }
    }
    let attributes = volume.attributes(inode).await.expect("sound attributes");
    let ours: BTreeSet<_> = attributes
        .iter()
        .map(|a| (a.full_name(), a.value_len))
        .filter(|(name, _)| !name.contains("posix_acl"))
        .collect();
    let theirs: BTreeSet<_> = entry["xattrs"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let hex = value["hex"].as_str().map(|hex| hex.len() as u64 / 2);
            (name.clone(), value["size"].as_u64().or(hex).unwrap_or_default() as u32)
        })
        .collect();
    if ours != theirs {
        found.push(format!("attributes: {ours:?}, not {theirs:?}"));
    }
    for (key, name) in [("acl", "system.posix_acl_access"), ("default_acl", "system.posix_acl_default")] {
        if entry[key].is_array() != attributes.iter().any(|attribute| attribute.full_name() == name) {
            found.push(format!("{name}: {}", entry[key]));
        }
    }
    if let Some(theirs) = entry["sha256"].as_str()
        && d.size.get() <= CONTENT_MAX
    {
        let ours = sha256(&volume.content(inode).await.expect("sound content"));
        if ours != theirs {
            found.push(format!("content: {ours}, not {theirs}"));
        }
    }
    found
}

#[test]
fn what_corral_fs_reads_is_what_the_kernel_says() {
    for name in ["clean-4k", "clean-1k", "jdata-4k", "dirty-j0", "dirty-j0-j1"] {
        let (Some(image), Some(manifest)) = (golden(&format!("{name}.img")), golden(&format!("{name}.json"))) else {
            return;
        };
        let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
        let entries = manifest["entries"].as_array().expect("entries");
        let device: Arc<dyn BlockDevice> = MemoryDevice::from_image(Image::from_bytes(512, &image));
        let result = tools::device::block_on(async {
            let journals = Journals::open(device.clone()).await.expect("journals");
            let mut plans = Vec::new();
            for journal in &journals.list {
                let log = Log::read(&journals, journal).await.expect("a log");
                if !log.is_clean() {
                    plans.push(Plan::of(&journals, &log).expect("a plan"));
                }
            }
            assert_eq!(plans.is_empty(), !name.starts_with("dirty"));
            let replayed = Replayed::new(device, &journals, &plans).await.expect("a view");
            let volume = Volume::open(Arc::new(replayed)).await.expect("a filesystem");
            let mut wrong = Vec::new();
            for entry in entries {
                let path = entry["path"].as_str().expect("a path");
                match volume.lookup(&decoded(path)).await {
                    Ok(inode) => {
                        let found = differences(&volume, &inode, entry).await;
                        wrong.extend(found.into_iter().map(|what| format!("{path}: {what}")));
                    }
                    Err(error) => wrong.push(format!("{path}: {error}")),
                }
            }
            wrong
        });
        let wrong = result.expect("a runtime");
        assert!(wrong.is_empty(), "{name}: {} of {} entries: {wrong:#?}", wrong.len(), entries.len());
        assert!(entries.len() > 20, "{name}");
    }
}

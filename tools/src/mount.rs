//! `corral mount` and `corral umount`, and the arguments that mount(8) hands to `mount.gfs2`.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::mounts::{MOUNT_PROGRAM, Mount};
use crate::record::Record;
use crate::sibling;

/// Options of fstab that are for mount(8) and systemd, not for a filesystem.
const FOR_MOUNT_ONLY: [&str; 12] =
    ["defaults", "auto", "noauto", "_netdev", "nofail", "user", "nouser", "users", "owner", "group", "loop", "async"];

/// Becomes the mount program. Returns only on failure, with the message.
pub fn mount(foreground: bool, options: &[String], device: OsString, dir: OsString) -> String {
    let mut arguments: Vec<OsString> = Vec::new();
    if foreground {
        arguments.push("-f".into());
    }
    let options = options.join(",");
    if !options.is_empty() {
        arguments.extend(["-o".into(), options.into()]);
    }
    arguments.extend([device, dir]);
    sibling::become_program(MOUNT_PROGRAM, arguments)
}

/// What mount(8) asks of a helper: `mount.gfs2 DEV DIR [-sfnv] [-N ns] [-t type] [-o options]`.
#[derive(Debug, PartialEq, Eq)]
pub struct HelperCall {
    pub device: OsString,
    pub dir: OsString,
    pub options: Vec<String>,
    /// `-f`: check the arguments and mount nothing.
    pub pretend: bool,
}

impl HelperCall {
    /// From the arguments behind the program's name.
    pub fn parse(arguments: &[OsString]) -> Result<Self, String> {
        let (mut options, mut plain, mut pretend) = (Vec::new(), Vec::new(), false);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let text = argument.to_string_lossy();
            match text.as_ref() {
                "-o" => {
                    let list = rest.next().ok_or("option -o needs a list")?.to_string_lossy().into_owned();
                    options.extend(list.split(',').filter(|o| is_for_filesystem(o)).map(str::to_string));
                }
                "-t" | "-N" => {
                    rest.next().ok_or_else(|| format!("option {text} needs a value"))?;
                }
                flags if flags.len() > 1 && flags.starts_with('-') => {
                    for flag in flags.chars().skip(1) {
                        match flag {
                            'f' => pretend = true,
                            'r' => options.push("ro".into()),
                            's' | 'n' | 'v' | 'w' => {}
                            other => return Err(format!("unknown option -{other}")),
                        }
                    }
                }
                _ => plain.push(argument.clone()),
            }
        }
        let count = plain.len();
        let [device, dir] =
            <[OsString; 2]>::try_from(plain).map_err(|_| format!("needs DEV and DIR, was given {count} of them"))?;
        Ok(Self { device, dir, options, pretend })
    }
}

fn is_for_filesystem(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or(option);
    !(name.is_empty() || FOR_MOUNT_ONLY.contains(&name) || name.starts_with("x-") || name == "comment")
}

/// Unmounts `dir` and waits until its mount process has ended.
pub fn umount(dir: &Path, bound: Duration) -> Result<(), String> {
    let shown = dir.display();
    let mount = match Mount::at(dir) {
        Ok(Some(mount)) => mount,
        Ok(None) => return Err(nothing_there(dir)),
        Err(e) => return Err(format!("{shown}: {e}")),
    };
    let server = mount.server();
    mount.end(bound, &|what| eprintln!("corral: {what}")).map_err(|e| format!("{shown}: {e}"))?;
    let record = Record::of(mount.connection, server.as_ref());
    match record.as_ref().and_then(|record| Some((record, record.trouble()?))) {
        None => Ok(()),
        Some((record, why)) => {
            record.forget();
            Err(format!("{shown}: unmounted, but not cleanly: {why}. {WHAT_NOW}"))
        }
    }
}

const WHAT_NOW: &str = "What was not synced may be lost; the next mount replays the journal";

/// There is no mount to end; perhaps one ended badly before.
fn nothing_there(dir: &Path) -> String {
    let path = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let path = path.canonicalize().unwrap_or(path);
    let found = Record::left_behind().into_iter().find(|record| record.mountpoint == path);
    let Some(record) = found else { return format!("{}: no Corral mount there", dir.display()) };
    record.forget();
    let why = record.trouble().unwrap_or_else(|| "its process ended without a word".to_owned());
    format!("{}: no Corral mount there any more; the last did not end cleanly: {why}. {WHAT_NOW}", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<HelperCall, String> {
        HelperCall::parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_helper_call_keeps_only_the_filesystems_options() {
        let call = parse(&["/dev/sdb", "/m", "-sn", "-o", "rw,_netdev,noauto,x-systemd.automount,acl"]).expect("good");
        assert_eq!(call.options, ["rw", "acl"]);
        assert!(!call.pretend);
    }

    #[test]
    fn a_helper_call_without_a_folder_says_what_is_missing() {
        assert_eq!(parse(&["/dev/sdb"]), Err("needs DEV and DIR, was given 1 of them".into()));
        assert_eq!(parse(&["-Q", "/dev/sdb", "/m"]), Err("unknown option -Q".into()));
    }
}

//! Takes secrets out of a program's arguments, which everybody on the machine can read.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use block_core::IscsiUrl;

use crate::secrets;

/// If a URL among the arguments holds a secret, starts this program anew, in the same process, with the secrets in its
/// environment ([`secrets::HIDDEN_VARIABLE`]) and out of its arguments; then it does not return. For programs to call
/// first. The error says why it could not; going on would show the secret for as long as the program runs.
pub fn hide_secrets() -> io::Result<()> {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let Some((arguments, hidden)) = without_secrets(arguments) else { return Ok(()) };
    let already = std::env::var(secrets::HIDDEN_VARIABLE).unwrap_or_default();
    let mut again = Command::new(std::env::current_exe()?);
    again.arg0(called).args(arguments).env(secrets::HIDDEN_VARIABLE, hidden + &already);
    Err(again.exec())
}

/// The arguments without secrets, and these as lines of a secrets file; `None` if there are none.
fn without_secrets(arguments: impl Iterator<Item = OsString>) -> Option<(Vec<OsString>, String)> {
    let mut hidden = String::new();
    let mut shown = Vec::new();
    for argument in arguments {
        match argument.to_str().and_then(|text| IscsiUrl::parse(text).ok()).filter(IscsiUrl::has_secret) {
            Some(url) => {
                hidden.push_str(&secrets::lines_of(&url));
                shown.push(url.without_secrets().into());
            }
            None => shown.push(argument),
        }
    }
    (!hidden.is_empty()).then_some((shown, hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(arguments: &[&str]) -> Option<(Vec<OsString>, String)> {
        without_secrets(arguments.iter().map(OsString::from))
    }

    #[test]
    fn only_secrets_leave_the_arguments() {
        assert_eq!(split(&["-q", "iscsi://joe@h/iqn.2026-11.x:y/0", "/dev/sdb"]), None);
        let (shown, hidden) = split(&["-q", "iscsi://joe%hush@h/iqn.2026-11.x:y/0"]).expect("there is one");
        assert_eq!(shown, ["-q", "iscsi://joe@h:3260/iqn.2026-11.x:y/0"]);
        assert_eq!(hidden, "\"iqn.2026-11.x:y\" login \"joe\" \"hush\"\n");
    }
}

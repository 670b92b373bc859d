//! The background process, and how the caller learns that the mount is usable.
//!
//! The program starts itself again with `-f` and waits for a line on a pipe. The new process's
//! command line names device and directory but no secret: the device as given goes through its
//! standard input.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use block_core::dev::DevName;

use super::arguments::Arguments;

/// Set for a process that reads its device from standard input.
const DEVICE_ON_STDIN: &str = "CORRAL_MOUNT_DEVICE_ON_STDIN";
/// Set for a process that was started by another that waits.
pub const TELLS_READY: &str = "CORRAL_MOUNT_TELLS_READY";
/// What it says on standard output when the mount is usable.
const READY: &str = "ready";

/// What this process is.
pub enum Role {
    /// The one the user called, to start the other.
    Caller,
    /// The one that mounts.
    Server(Server),
}

/// How the serving process tells that it is ready.
pub struct Server {
    tells_ready: bool,
}

/// Finds out what this process is, and puts the device's full name back into the arguments.
pub fn role(arguments: &mut Arguments) -> io::Result<Role> {
    if env::var_os(DEVICE_ON_STDIN).is_some() {
        let mut device = String::new();
        BufReader::new(io::stdin()).read_line(&mut device)?;
        arguments.device = device.trim_end_matches('\n').to_owned();
        return Ok(Role::Server(Server { tells_ready: env::var_os(TELLS_READY).is_some() }));
    }
    let has_secret = shown_device(&arguments.device) != arguments.device;
    if arguments.is_foreground && !has_secret {
        return Ok(Role::Server(Server { tells_ready: false }));
    }
    Ok(Role::Caller)
}

/// Starts the serving process. In the background: waits until it is ready, and gives the exit code
/// to end with. In the foreground: becomes it.
pub fn start(arguments: &Arguments) -> io::Result<u8> {
    let (input, mut give) = io::pipe()?;
    writeln!(give, "{}", arguments.device)?;
    drop(give);
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(env::args_os().next().unwrap_or_else(|| "corral-mount".into()))
        .arg("-f")
        .args(option_arguments(arguments))
        .arg(absolute(&shown_device(&arguments.device)))
        .arg(arguments.directory.canonicalize().unwrap_or_else(|_| arguments.directory.clone()))
        .env(DEVICE_ON_STDIN, "1")
        .stdin(Stdio::from(input));
    if arguments.is_foreground {
        return Err(command.exec());
    }
    let mut child = command.env(TELLS_READY, "1").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut said)?;
    }
    if said.trim_end() == READY {
        return Ok(0);
    }
    let mut why = String::new();
    if let Some(mut errors) = child.stderr.take() {
        errors.read_to_string(&mut why)?;
    }
    let status = child.wait()?;
    io::stderr().write_all(why.as_bytes())?;
    if why.is_empty() {
        eprintln!("corral-mount: the mount process ended ({status}) and said nothing");
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1))
}

impl Server {
    /// The mount is usable: lets the caller go, and leaves its terminal and session.
    pub fn ready(&self) -> io::Result<()> {
        if !self.tells_ready {
            return Ok(());
        }
        // Already a leader if nobody is there to be left.
        let _ = nix::unistd::setsid();
        env::set_current_dir("/")?;
        println!("{READY}");
        io::stdout().flush()?;
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        nix::unistd::dup2_stdin(&nothing)?;
        nix::unistd::dup2_stdout(&nothing)?;
        nix::unistd::dup2_stderr(&nothing)?;
        Ok(())
    }
}

/// The device without its secret. What cannot be parsed is shown as it is.
pub fn shown_device(device: &str) -> String {
    match DevName::parse(device, Path::exists) {
        Ok(DevName::Iscsi(url)) if url.has_secret() => url.to_string(),
        _ => device.to_owned(),
    }
}

fn absolute(device: &str) -> OsString {
    let path = Path::new(device);
    match path.canonicalize() {
        Ok(whole) if path.exists() => whole.into(),
        _ => device.into(),
    }
}

fn option_arguments(arguments: &Arguments) -> Vec<OsString> {
    if arguments.option_text.is_empty() { Vec::new() } else { vec!["-o".into(), arguments.option_text.clone().into()] }
}

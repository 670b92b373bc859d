//! `corral target`: asks a running `corral-target` through the socket in its state directory.
//!
//! The socket carries lines of JSON (docs/target.md); only root and the user who runs the target may use it. Exit codes:
//! 0 done, 1 failed, 2 wrong usage.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::clock::human;
use crate::output::{Table, print, print_json};

/// The version of the vocabulary that is spoken.
const VERSION: u64 = 1;
/// The socket's name in the state directory.
const SOCKET: &str = "admin.sock";

/// What follows `corral target`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The target's state directory (also CORRAL_STATE)
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    /// As one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Targets, units, portals, fences
    Status,
    /// Who is logged in
    Sessions,
    /// Registrations and reservations of every unit
    Reservations,
    /// End an initiator's sessions at once and shut it out, also across restarts of the target, until unfence.
    ///
    /// Returns when none of its writes can land any more. Exit code 1: it is shut out, but that is not yet so.
    Fence {
        /// An iSCSI name, or an address or range (10.0.0.7, 10.0.0.0/24)
        #[arg(value_name = "INITIATOR")]
        initiator: String,
        /// Wait this many seconds at most for requests that the disks still have
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Let an initiator in again
    Unfence {
        #[arg(value_name = "INITIATOR")]
        initiator: String,
    },
    /// Make a unit larger while it is in use; the initiators are told
    Grow {
        #[arg(value_name = "TARGET")]
        target: String,
        #[arg(value_name = "LUN")]
        lun: u16,
        /// New size with K, M, G or T; without it, the size that the file or device has by now
        #[arg(value_name = "SIZE")]
        size: Option<String>,
    },
}

/// Why a request was not done.
enum Trouble {
    Usage(String),
    Failed(String),
}

/// Does the command; `state` is what stood before `target` on the command line.
pub fn run(arguments: &Arguments, state: Option<PathBuf>) -> ExitCode {
    let state = arguments.state.clone().or(state).or_else(|| std::env::var_os("CORRAL_STATE").map(PathBuf::from));
    let (what, code) = match request(&arguments.what).and_then(|request| ask(state.as_deref(), &request)) {
        Ok(answer) if arguments.json => {
            print_json(&answer);
            return ExitCode::SUCCESS;
        }
        Ok(answer) => {
            print(&text(&arguments.what, &answer));
            return ExitCode::SUCCESS;
        }
        Err(Trouble::Failed(what)) => (what, 1),
        Err(Trouble::Usage(what)) => (what, 2),
    };
    eprintln!("corral target: {what}");
    ExitCode::from(code)
}

fn request(what: &What) -> Result<Value, Trouble> {
    Ok(match what {
        What::Status => json!("status"),
        What::Sessions => json!("sessions"),
        What::Reservations => json!("reservations"),
        What::Fence { initiator, timeout } => {
            json!({ "fence": { "initiator": initiator, "timeout_seconds": timeout } })
        }
        What::Unfence { initiator } => json!({ "unfence": { "initiator": initiator } }),
        What::Grow { target, lun, size } => {
            let size = size.as_deref().map(parse_size).transpose()?;
            json!({ "grow": { "target": target, "lun": lun, "size": size } })
        }
    })
}

/// A size with a suffix K, M, G or T (powers of 1024), in bytes.
fn parse_size(text: &str) -> Result<u64, Trouble> {
    let bad = || Trouble::Usage(format!("{text}: a size is a number with K, M, G or T behind it"));
    let (digits, factor) = match text.find(|c: char| !c.is_ascii_digit()).map(|at| text.split_at(at)) {
        None => (text, 1),
        Some((digits, suffix)) => match suffix {
            "K" | "k" => (digits, 1u64 << 10),
            "M" | "m" => (digits, 1 << 20),
            "G" | "g" => (digits, 1 << 30),
            "T" | "t" => (digits, 1 << 40),
            _ => return Err(bad()),
        },
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|size| *size > 0).ok_or_else(bad)
}

/// Sends a request and waits for its answer.
fn ask(state: Option<&Path>, request: &Value) -> Result<Value, Trouble> {
    let state = state.ok_or_else(|| Trouble::Usage("which target? Give --state DIR or set CORRAL_STATE".to_owned()))?;
    let tell = |what: String| Trouble::Failed(format!("{}: {what}", state.join(SOCKET).display()));
    let mut stream = connect(state).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            Trouble::Failed(format!("no corral-target is running with the state directory {}", state.display()))
        }
        _ => tell(error.to_string()),
    })?;
    let line = format!("{}\n", json!({ "version": VERSION, "request": request }));
    stream.write_all(line.as_bytes()).map_err(|error| tell(error.to_string()))?;
    let mut waited = 0;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|error| tell(error.to_string()))?;
        let mut answered: Value = serde_json::from_str(&line).map_err(|error| tell(error.to_string()))?;
        let answer = &mut answered["answer"];
        let what = |answer: &Value| answer["what"].as_str().unwrap_or("no reason was given").to_owned();
        if let Some(waiting) = answer.get("waiting") {
            waited += 1;
            let time = human(Duration::from_secs(waited));
            let known = waiting["under_way"].as_u64().filter(|count| *count > 0);
            let known = known.map(|count| format!(" ({count} are known)")).unwrap_or_default();
            eprintln!("corral target: cut; waiting since {time} for the disks to end its requests{known}");
        } else if let Some(failed) = answer.get("failed") {
            return Err(Trouble::Failed(what(failed)));
        } else if let Some(refused) = answer.get("refused") {
            return Err(Trouble::Usage(what(refused)));
        } else if let Some(done) = answer.get_mut("done") {
            return Ok(done.take());
        }
    }
    Err(tell("the target ended before it answered; what was asked may be done or not".to_owned()))
}

fn connect(state: &Path) -> std::io::Result<UnixStream> {
    // A socket's name has 107 bytes at most; through the open directory it is short whatever the directory's is.
    let directory = File::open(state)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

fn text(what: &What, answer: &Value) -> String {
    match what {
        What::Status => status(answer),
        What::Sessions => sessions(answer),
        What::Reservations => reservations(answer),
        What::Fence { .. } => {
            let again = if answer["changed"] == json!(true) { "" } else { " already" };
            format!("{} is shut out{again}, {} sessions ended\n", word(&answer["initiator"]), answer["sessions_ended"])
        }
        What::Unfence { .. } => match answer["changed"] == json!(true) {
            true => format!("{} is let in again\n", word(&answer["initiator"])),
            false => format!("{} was not shut out\n", word(&answer["initiator"])),
        },
        What::Grow { .. } => format!(
            "{} LUN {}: {} bytes, before {}\n",
            word(&answer["target"]),
            answer["lun"],
            answer["bytes"],
            answer["bytes_before"]
        ),
    }
}

fn status(answer: &Value) -> String {
    let portals: Vec<_> = list(&answer["portals"]).map(word).collect();
    let mut out = format!(
        "{}, pid {}, on {}\n{} connections, {} of them in login; {} were refused\n",
        word(&answer["program"]),
        answer["pid"],
        portals.join(" "),
        answer["connections"],
        answer["logins_under_way"],
        answer["connections_refused"]
    );
    let mut units = Table::new(&["TARGET", "LUN", "BYTES", "BLOCK", "FLAGS", "SERIAL", "BACKING"]);
    for target in list(&answer["targets"]) {
        let name = word(&target["name"]);
        for unit in list(&target["units"]) {
            let flags = [("read_only", "ro"), ("thin", "thin"), ("write_cache", "cache")];
            let flags: Vec<_> =
                flags.iter().filter(|(key, _)| unit[*key] == json!(true)).map(|(_, flag)| *flag).collect();
            let number = |key: &str| unit[key].to_string();
            let (serial, backing) = (word(&unit["serial"]), word(&unit["backing"]));
            units.row(vec![
                name.clone(),
                number("lun"),
                number("bytes"),
                number("block_length"),
                flags.join(","),
                serial,
                backing,
            ]);
        }
        if list(&target["units"]).next().is_none() {
            units.row(vec![name]);
        }
    }
    out += &units.text();
    let mut fences = Table::new(&["SHUT OUT", "SINCE"]);
    for fence in list(&answer["fences"]) {
        fences.row(vec![word(&fence["initiator"]), ago(&fence["seconds"])]);
    }
    if !fences.is_empty() {
        out += &fences.text();
    }
    out
}

fn sessions(answer: &Value) -> String {
    let mut table = Table::new(&["INITIATOR", "ADDRESS", "KIND", "TARGET", "ISID", "SINCE"]);
    for session in list(&answer["sessions"]) {
        let kind = match session["ending_with_requests"].as_u64() {
            Some(0) => format!("{}, ending", word(&session["kind"])),
            Some(count) => format!("{}, ending ({count} requests)", word(&session["kind"])),
            None => word(&session["kind"]),
        };
        let cell = |key: &str| word(&session[key]);
        table.row(vec![
            cell("initiator"),
            cell("address"),
            kind,
            cell("target"),
            cell("isid"),
            ago(&session["seconds"]),
        ]);
    }
    table.text()
}

fn reservations(answer: &Value) -> String {
    let mut table = Table::new(&["TARGET", "LUN", "INITIATOR", "ISID", "KEY", "HOLDS", "KEPT"]);
    for unit in list(&answer["units"]) {
        let (held, kept) = (&unit["reservation"], &unit["survives_restart"]);
        let kept = if *kept == json!(true) { "yes" } else { "no" }.to_owned();
        for registrant in list(&unit["registrants"]) {
            let holder = &held["holder"];
            let holds = holder.is_null()
                || holder["isid"] == registrant["isid"] && holder["initiator"] == registrant["initiator"];
            let holds = if holds { word(&held["type"]) } else { String::new() };
            let cell = |key: &str| word(&registrant[key]);
            let row =
                vec![word(&unit["target"]), unit["lun"].to_string(), cell("initiator"), cell("isid"), cell("key")];
            table.row(row.into_iter().chain([holds, kept.clone()]).collect());
        }
        if let Some(port) = unit.get("reserve_6").filter(|port| !port.is_null()) {
            let row =
                vec![word(&unit["target"]), unit["lun"].to_string(), word(&port["initiator"]), word(&port["isid"])];
            table.row(row.into_iter().chain([String::new(), "RESERVE (6)".to_owned(), "no".to_owned()]).collect());
        }
    }
    table.text()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Text as it is, anything else as JSON, nothing for null. What strangers chose (an initiator's name) cannot reach the
/// terminal with control characters.
fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        other => other.to_string(),
    }
}

fn ago(seconds: &Value) -> String {
    seconds.as_u64().map(|seconds| format!("{} ago", human(Duration::from_secs(seconds)))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes_and_nonsense_is_refused() {
        assert!(matches!(parse_size("4G"), Ok(4_294_967_296)));
        assert!(matches!(parse_size("512"), Ok(512)));
        for wrong in ["", "0", "G", "4X", "-1", "4GB", "99999999T"] {
            assert!(matches!(parse_size(wrong), Err(Trouble::Usage(_))), "{wrong} was taken");
        }
    }

    #[test]
    fn without_a_target_it_is_said_how_to_name_one() {
        assert!(matches!(ask(None, &json!("status")), Err(Trouble::Usage(said)) if said.contains("--state")));
        let nowhere = ask(Some(Path::new("/nonexistent")), &json!("status"));
        assert!(matches!(nowhere, Err(Trouble::Failed(said)) if said.contains("no corral-target is running")));
    }

    #[test]
    fn names_of_strangers_reach_the_terminal_without_control_characters() {
        let answer =
            json!({ "sessions": [{ "initiator": "iqn.a:\u{1b}[2J", "kind": "login", "address": "1.2.3.4:5" }] });
        assert!(!sessions(&answer).contains('\u{1b}'));
    }

    #[test]
    fn every_registrant_holds_a_reservation_of_all_and_only_the_holder_another() {
        let registrant = |isid: &str| json!({ "initiator": "iqn.a:b", "isid": isid, "key": "0x1" });
        let unit = |holder: Value| {
            let held = json!({ "type": "T", "holder": holder });
            json!({ "units": [{ "target": "iqn.t:t", "lun": 0, "registrants": [registrant("1"), registrant("2")], "reservation": held }] })
        };
        assert_eq!(reservations(&unit(Value::Null)).matches(" T ").count(), 2);
        assert_eq!(reservations(&unit(registrant("2"))).matches(" T ").count(), 1);
    }
}

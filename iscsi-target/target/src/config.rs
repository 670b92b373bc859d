//! Options of the command line, checked while they are read.
//!
//! What follows a `--target` belongs to it: `--lun`, `--allow-initiator`, `--allow-address`, `--chap`. So their places on
//! the command line matter, which clap tells beside their values.

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use iscsi_target_proto::chap::ChapPolicy;

use crate::access::{Access, AddressRange, check_initiator_name};
use crate::guests::CONNECTIONS_MAX;
pub use crate::lun_options::LunOptions;
use crate::plan::{Plan, PlanError, TargetPlan, UnitPlan};
use crate::targets_conf;

/// Where the state is if nobody says, and there is a configuration file.
const STATE: &str = "/var/lib/corral-target";
/// iSCSI's own port, on every address, as tgt does it; the second where there is no IPv6.
const EVERYWHERE: [&str; 2] = ["[::]:3260", "0.0.0.0:3260"];

/// Export files and block devices over iSCSI.
#[derive(Debug, Parser)]
#[command(name = "corral-target", version, about)]
pub struct Options {
    /// Where to listen; may be given several times. Nothing else is listened on. With --config it may be left out: then
    /// on port 3260 of every address.
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_address)]
    listen: Vec<SocketAddr>,
    /// Directory for what must survive a restart. With --config it may be left out: then /var/lib/corral-target.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A target's iSCSI name; may be given several times, each followed by what belongs to it.
    #[arg(long = "target", value_name = "IQN", value_parser = parse_name)]
    targets: Vec<String>,
    /// A logical unit: file=F,size=S[,ro][,thin][,block=512|4096][,cache=on|off][,serial=S][,lun=N][,direct]. The first of a
    /// target is LUN 0. The file is created if it is missing; with `thin` it takes space only where it is written.
    #[arg(long = "lun", value_name = "OPTIONS")]
    luns: Vec<LunOptions>,
    /// An initiator that may use the target; without any, all may.
    #[arg(long = "allow-initiator", value_name = "NAME", value_parser = check_initiator_name)]
    names: Vec<String>,
    /// An address or range (10.0.0.0/24) that the target may be used from; without any, from everywhere.
    #[arg(long = "allow-address", value_name = "RANGE")]
    addresses: Vec<AddressRange>,
    /// A file that only its owner may read, with lines `incominguser NAME SECRET` and `outgoinguser NAME SECRET`: what
    /// initiators must prove, and what the target proves to them (CHAP).
    #[arg(long = "chap", value_name = "FILE")]
    chap: Vec<PathBuf>,
    /// The same for discovery sessions.
    #[arg(long = "discovery-chap", value_name = "FILE")]
    discovery_chap: Option<PathBuf>,
    /// Targets from a file in the format of tgt's targets.conf.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Connections at once: a quarter of them for one address at most, a quarter in login.
    #[arg(long, value_name = "NUMBER", default_value_t = CONNECTIONS_MAX as u16, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Say what would be served, and end. No file of a LUN is looked at.
    #[arg(long)]
    check: bool,
}

/// A command line that makes sense.
#[derive(Debug)]
pub struct Settings {
    /// The first of each that can be listened on.
    pub listen: Vec<Vec<SocketAddr>>,
    pub state: PathBuf,
    pub plan: Plan,
    pub connections_max: usize,
    pub is_check: bool,
}

/// Something that belongs to the target before it.
enum Of<'a> {
    Target(&'a str),
    Lun(&'a LunOptions),
    Name(&'a str),
    Address(AddressRange),
    Chap(&'a Path),
}

/// Why a command line cannot be served.
#[derive(Debug)]
pub enum OptionsError {
    /// Says itself what is wrong; also help and version.
    Clap(clap::Error),
    Plan(PlanError),
}

impl From<PlanError> for OptionsError {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

/// Reads the command line and the files that it names.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Settings, OptionsError> {
    let matches = Options::command().try_get_matches_from(arguments).map_err(OptionsError::Clap)?;
    let options = Options::from_arg_matches(&matches).map_err(OptionsError::Clap)?;
    let mut plan = Plan::default();
    for file in &options.config {
        targets_conf::read(file, &mut plan)?;
    }
    plan.targets.extend(on_the_command_line(&options, &matches)?);
    if let Some(file) = &options.discovery_chap {
        plan.discovery = Some(read_chap(file)?);
    }
    if plan.targets.is_empty() && options.config.is_empty() {
        return Err(usage("--target and --lun, or --config, say what to serve").into());
    }
    plan.check()?;
    let with_config = !options.config.is_empty();
    let listen = match options.listen.is_empty() {
        true if with_config => vec![EVERYWHERE.iter().filter_map(|address| address.parse().ok()).collect()],
        true => return Err(usage("--listen ADDR:PORT is missing").into()),
        false => options.listen.iter().map(|address| vec![*address]).collect(),
    };
    let state = match options.state {
        Some(state) => state,
        None if with_config => PathBuf::from(STATE),
        None => return Err(usage("--state DIR is missing").into()),
    };
    let connections_max = usize::from(options.connections);
    Ok(Settings { listen, state, plan, connections_max, is_check: options.check })
}

fn usage(what: impl Into<String>) -> PlanError {
    PlanError::Usage(what.into())
}

/// The targets that are given by options, in their order.
fn on_the_command_line(options: &Options, matches: &ArgMatches) -> Result<Vec<TargetPlan>, PlanError> {
    let places = |id: &str| matches.indices_of(id).into_iter().flatten();
    let mut given: Vec<(usize, Of<'_>)> = Vec::new();
    given.extend(places("targets").zip(options.targets.iter().map(|name| Of::Target(name))));
    given.extend(places("luns").zip(options.luns.iter().map(Of::Lun)));
    given.extend(places("names").zip(options.names.iter().map(|name| Of::Name(name))));
    given.extend(places("addresses").zip(options.addresses.iter().map(|range| Of::Address(*range))));
    given.extend(places("chap").zip(options.chap.iter().map(|file| Of::Chap(file))));
    given.sort_by_key(|(place, _)| *place);
    // One target may also come last, as there is no doubt what belongs to it.
    if let (1, Some(index)) = (options.targets.len(), given.iter().position(|(_, of)| matches!(of, Of::Target(_)))) {
        let only = given.remove(index);
        given.insert(0, only);
    }
    let mut targets: Vec<TargetPlan> = Vec::new();
    for (_, of) in given {
        if let Of::Target(name) = of {
            targets.push(TargetPlan {
                name: name.to_owned(),
                place: format!("--target {name}"),
                units: Vec::new(),
                access: Access::default(),
                authentication: None,
            });
            continue;
        }
        let Some(target) = targets.last_mut() else {
            return Err(usage(
                "--lun, --allow-initiator, --allow-address and --chap come after the --target they belong to",
            ));
        };
        match of {
            Of::Target(_) => {}
            Of::Lun(options) => {
                let number = match options.number {
                    Some(number) => number,
                    None => target.units.iter().map(|unit| unit.number.saturating_add(1)).max().unwrap_or(0),
                };
                let place = format!("--lun file={}", options.file.display());
                target.units.push(UnitPlan { number, place, options: options.clone() });
            }
            Of::Name(name) => target.access.names.push(name.to_owned()),
            Of::Address(range) => target.access.addresses.push(range),
            Of::Chap(_) if target.authentication.is_some() => {
                return Err(usage(format!("{}: --chap is there twice", target.place)));
            }
            Of::Chap(file) => target.authentication = Some(read_chap(file)?),
        }
    }
    match targets.iter().find(|target| target.units.is_empty()) {
        Some(target) => Err(usage(format!("{}: it has no --lun", target.place))),
        None => Ok(targets),
    }
}

/// Who may log in, from a file that nobody else may read.
fn read_chap(file: &Path) -> Result<Arc<ChapPolicy>, PlanError> {
    if targets_conf::is_readable_by_others(file) {
        return Err(PlanError::Unusable(format!(
            "{}: it holds secrets, and others may read it; chmod 600 it first",
            file.display()
        )));
    }
    targets_conf::read_users(file)
}

/// An iSCSI name (RFC 7143 §4.2.7).
fn parse_name(text: &str) -> Result<String, String> {
    let has_type = ["iqn.", "eui.", "naa."].iter().any(|kind| text.starts_with(kind));
    let is_plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b));
    if !has_type || !is_plain || text.len() < 5 || text.len() > 223 {
        return Err("it begins with iqn., eui. or naa. and has up to 223 of a-z 0-9 - . :".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("not an ADDR:PORT ({error})"))?;
    found.next().ok_or_else(|| "the host has no address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &str) -> Result<Settings, OptionsError> {
        let common = ["corral-target", "--listen", "127.0.0.1:0", "--state", "/s"];
        read(common.into_iter().chain(words.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn what_follows_a_target_belongs_to_it() {
        let settings = read_words(
            "--target iqn.a:a --lun file=/x/a --lun file=/x/b,lun=5 --lun file=/x/c --allow-initiator iqn.i:I \
             --target iqn.a:b --allow-address 10.0.0.0/8 --lun file=/x/d",
        );
        let targets = settings.expect("it makes sense").plan.targets;
        let numbers = |index: usize| targets[index].units.iter().map(|unit| unit.number).collect::<Vec<_>>();
        assert_eq!((numbers(0), numbers(1)), (vec![0, 5, 6], vec![0]));
        assert_eq!(targets[0].access.names, ["iqn.i:i"]);
        assert!(targets[1].access.names.is_empty() && targets[1].access.addresses.len() == 1);
    }

    #[test]
    fn a_single_target_may_come_last() {
        let settings = read_words("--lun file=/x/a --target iqn.a:a").expect("it makes sense");
        assert_eq!(settings.plan.targets[0].units.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "",
            "--target iqn.a:a",
            "--lun file=/x/a",
            "--lun file=/x/a --target iqn.a:a --target iqn.a:b --lun file=/x/b",
            "--target iqn.a:a --lun file=/x/a --target iqn.a:a --lun file=/x/b",
            "--target iqn.a:a --lun file=/x/a --lun file=/x/a",
            "--target iqn.a:a --lun file=/x/a,lun=1 --lun file=/x/b,lun=1",
            "--target iqn.a:a --lun file=/x/a,lun=65535 --lun file=/x/b",
            "--target iqn.a:a --lun file=/x/a --allow-address 10.0.0.0/40",
            "--target iqn.a:a --lun file=/x/a --allow-initiator node1",
            "--target IQN.a:a --lun file=/x/a",
        ] {
            assert!(read_words(wrong).is_err(), "{wrong} was taken");
        }
    }
}

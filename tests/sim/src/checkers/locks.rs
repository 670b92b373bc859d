//! The judge of lock managers: a table of who holds what, kept from what clients ask and are told.
//!
//! A client holds a mode from the moment it learns of the grant until the moment it asks for less.
//! Both lie inside of the time in which the lock manager must protect it, so two clients that hold
//! incompatible modes here have been granted them wrongly, however messages were delayed. While a
//! conversion is under way the client may have either mode and is charged with neither alone.
//!
//! The tables here are typed in from the published ones, not taken from the code under test.

use std::collections::BTreeMap;
use std::fmt;

use base::Instant;
use dlm_api::{Granted, LockError, Mode, ValueBlock};

/// A client of the lock manager: it has one lock at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client {
    pub node: u32,
    pub task: u32,
}

/// Number of a resource.
pub type Resource = usize;

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// `None`: to be rid of the lock.
    pub mode: Option<Mode>,
    /// VALBLK.
    pub with_value: bool,
    /// What to write if the request writes.
    pub value: Option<ValueBlock>,
}

/// The judge of one run.
#[derive(Default)]
pub struct LockJudge {
    locks: BTreeMap<Client, Lock>,
    values: BTreeMap<Resource, Vec<Write>>,
    values_are_kept: bool,
    position: u64,
}

struct Lock {
    resource: Resource,
    held: Option<Mode>,
    asked: Option<(Asked, Instant)>,
    /// Position of the request under way.
    asked_at: u64,
    /// The modes it has been told to be in the way of, since its last grant.
    told: Vec<Mode>,
}

/// A write of a resource's value by a holder of PW or EX.
struct Write {
    value: ValueBlock,
    from: Mode,
    /// `None` while it is under way.
    end: Option<u64>,
    by: Client,
}

impl LockJudge {
    /// `values_are_kept` if each resource has a lock at any time: only then must its value be kept.
    pub fn new(values_are_kept: bool) -> LockJudge {
        LockJudge { values_are_kept, ..LockJudge::default() }
    }

    pub fn keeps_values(&self) -> bool {
        self.values_are_kept
    }

    /// A client asks for a new lock.
    pub fn request(&mut self, client: Client, resource: Resource, asked: Asked, now: Instant) {
        self.position += 1;
        let lock = Lock { resource, held: None, asked: Some((asked, now)), asked_at: self.position, told: Vec::new() };
        self.locks.insert(client, lock);
    }

    /// A client asks for another mode, or to be rid of its lock.
    pub fn change(&mut self, client: Client, asked: Asked, now: Instant) {
        self.position += 1;
        let lock = self.locks.get_mut(&client).expect("invariant: workloads change locks that they have");
        lock.asked = Some((asked, now));
        lock.asked_at = self.position;
        let from = lock.held.expect("invariant: workloads change granted locks");
        if let Some(value) = asked.value.filter(|_| asked.with_value && writes(from, asked.mode)) {
            let write = Write { value, from, end: None, by: client };
            self.values.entry(lock.resource).or_default().push(write);
        }
    }

    /// The lock manager tells a client that it is in the way.
    pub fn told(&mut self, client: Client, mode: Mode) {
        if let Some(lock) = self.locks.get_mut(&client) {
            lock.told.push(mode);
        }
    }

    /// A request for a mode has ended.
    pub fn answered(&mut self, client: Client, answer: &Result<Granted, LockError>) -> Result<(), String> {
        self.position += 1;
        let lock = self.locks.get_mut(&client).ok_or(format!("{client} was answered and had asked nothing"))?;
        let (asked, _) = lock.asked.take().ok_or(format!("{client} was answered and had asked nothing"))?;
        let wanted = asked.mode.expect("invariant: the end of an unlock is reported by `unlocked`");
        let (resource, held_before, asked_at) = (lock.resource, lock.held, lock.asked_at);
        match answer {
            Ok(granted) if granted.mode != wanted => {
                return Err(format!(
                    "{client} asked for {wanted} on resource {resource} and was granted {}",
                    granted.mode
                ));
            }
            Ok(_) => {
                lock.held = Some(wanted);
                lock.told.clear();
            }
            Err(_) if held_before.is_none() => {
                self.locks.remove(&client);
                return Ok(());
            }
            Err(_) => return Ok(()),
        }
        self.end_write(client, resource);
        self.check_compatible(client, resource, wanted)?;
        let Ok(granted) = answer else { return Ok(()) };
        self.check_value(client, resource, held_before, wanted, asked, asked_at, granted)
    }

    /// A client is rid of its lock.
    pub fn unlocked(&mut self, client: Client) {
        self.position += 1;
        if let Some(lock) = self.locks.remove(&client) {
            self.end_write(client, lock.resource);
        }
    }

    /// Every request that has not ended, with who is in its way: none may be left when the load has
    /// stopped and everybody has let go who was told to.
    pub fn unanswered(&self, now: Instant) -> Vec<String> {
        let waiting = self.locks.iter().filter_map(|(client, lock)| lock.asked.map(|asked| (client, lock, asked)));
        waiting
            .map(|(client, lock, (asked, since))| {
                let wish = asked.mode.map_or("an unlock".to_string(), |mode| mode.to_string());
                let millis = now.saturating_since(since).as_millis();
                let resource = lock.resource;
                let mut text = format!("{client} has waited {millis} ms for {wish} on resource {resource}");
                for (other, holder) in &self.locks {
                    let Some(held) = holder.held.filter(|_| other != client && holder.resource == resource) else {
                        continue;
                    };
                    let told = if holder.told.is_empty() { "never told" } else { "told" };
                    text += &format!(", {other} holds {held} ({told} that it is in the way)");
                }
                text
            })
            .collect()
    }

    fn check_compatible(&self, client: Client, resource: Resource, mode: Mode) -> Result<(), String> {
        for (other, lock) in self.locks.iter().filter(|(other, lock)| **other != client && lock.resource == resource) {
            let Some(held) = lock.held else { continue };
            let is_certain = match lock.asked {
                None => true,
                Some((Asked { mode: None, .. }, _)) => false,
                Some((Asked { mode: Some(wanted), .. }, _)) => !compatible(wanted, mode),
            };
            if is_certain && !compatible(held, mode) {
                return Err(format!("{client} was granted {mode} on resource {resource} while {other} holds {held}"));
            }
        }
        Ok(())
    }

    fn check_value(
        &self,
        client: Client,
        resource: Resource,
        held: Option<Mode>,
        mode: Mode,
        asked: Asked,
        asked_at: u64,
        granted: &Granted,
    ) -> Result<(), String> {
        if !asked.with_value || !reads(held, mode) || !self.values_are_kept {
            return Ok(());
        }
        let Some(value) = granted.value else {
            return Err(format!("{client} asked for the value of resource {resource} with {mode} and got none"));
        };
        if !granted.is_value_valid {
            return Err(format!(
                "{client} was told that the value of resource {resource} is lost, but nobody has died"
            ));
        }
        let writes = self.values.get(&resource).map_or(&[][..], Vec::as_slice);
        // Writers exclude one another, so they wrote in the order in which they asked to.
        let is_before = |write: &Write| write.end.is_some_and(|end| end < asked_at) || !compatible(write.from, mode);
        let oldest = writes.iter().rposition(is_before);
        let mut possible: Vec<ValueBlock> = writes[oldest.unwrap_or(0)..].iter().map(|write| write.value).collect();
        if oldest.is_none() {
            possible.push(ValueBlock::default());
        }
        if possible.contains(&value) {
            return Ok(());
        }
        let origin = writes.iter().find(|write| write.value == value);
        let origin = origin.map_or("nobody wrote it".into(), |write| format!("{} wrote it earlier", write.by));
        Err(format!("{client} was given an old or wrong value of resource {resource} with {mode}: {origin}"))
    }

    fn end_write(&mut self, client: Client, resource: Resource) {
        let position = self.position;
        let writes = self.values.entry(resource).or_default();
        if let Some(write) = writes.iter_mut().rfind(|write| write.by == client && write.end.is_none()) {
            write.end = Some(position);
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}.{}", self.node, self.task)
    }
}

/// "VAXcluster Principles", chapter 6; rows and columns are NL CR CW PR PW EX.
fn compatible(held: Mode, asked: Mode) -> bool {
    const ROWS: [&[u8; 6]; 6] = [b"yyyyyy", b"yyyyy-", b"yyy---", b"yy-y--", b"yy----", b"y-----"];
    ROWS[held as usize][asked as usize] == b'y'
}

/// Whether a grant gives the value to the client: the VMS manual's table of $ENQ.
fn reads(held: Option<Mode>, granted: Mode) -> bool {
    const ROWS: [&[u8; 6]; 6] = [b"rrrrrr", b"-rrrrr", b"--rrrr", b"---rrr", b"-----r", b"------"];
    held.is_none_or(|held| ROWS[held as usize][granted as usize] == b'r')
}

/// Whether a way down, or out, writes the value.
fn writes(held: Mode, wanted: Option<Mode>) -> bool {
    match held {
        Mode::Exclusive => true,
        Mode::ProtectedWrite => wanted != Some(Mode::Exclusive),
        Mode::Null | Mode::ConcurrentRead | Mode::ConcurrentWrite | Mode::ProtectedRead => false,
    }
}

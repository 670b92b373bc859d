//! Every connection as the rest of the program sees it: who it is, how to make it leave, when nothing of it is under
//! way any more. And how many there may be: unauthenticated strangers must not take the memory or the places of those
//! who have work to do.
//!
//! A [`Guest`] is held by its connection to the very end, past the last request that a device has: whoever waits for
//! it to be gone knows that nothing of that connection lands afterwards.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::watch;

use crate::access::neighbourhood;

/// Connections at once, in login or logged in, if the administrator wants no other number.
pub const CONNECTIONS_MAX: usize = 512;

/// How many connections there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_address: usize,
    /// Of those that have not finished their login.
    pub logins: usize,
    pub logins_per_address: usize,
}

impl Limits {
    /// One address gets a quarter of the connections, logins a quarter, and logins of one address a quarter of that.
    fn of(connections: usize) -> Self {
        let part = |divisor: usize| (connections / divisor).max(1);
        Self { connections, connections_per_address: part(4), logins: part(4), logins_per_address: part(16) }
    }
}

/// All connections.
pub struct Guests {
    pub limits: Limits,
    table: Arc<Mutex<Table>>,
    /// Connections that were closed at once.
    refused: AtomicU64,
}

#[derive(Default)]
struct Table {
    by_number: BTreeMap<u64, Entry>,
    last_number: u64,
    /// Of each neighbourhood that is there: connections, and those in login.
    by_address: HashMap<IpAddr, (usize, usize)>,
    in_login: usize,
}

struct Entry {
    peer: SocketAddr,
    is_in_login: bool,
    /// As it says; known from its first login request on.
    initiator: Option<String>,
    session: Option<Session>,
    leave: Arc<Leave>,
    /// To cut it even while it waits for a device.
    stream: Option<TcpStream>,
    /// Closed when the guest is gone.
    gone: watch::Receiver<()>,
}

/// What a connection has logged in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `None` for a discovery session.
    pub target: Option<String>,
    pub isid: [u8; 6],
    /// 0 for a discovery session.
    pub tsih: u16,
    /// Seconds since 1970.
    pub since: u64,
}

/// A connection for people.
#[derive(Clone, Debug)]
pub struct Seen {
    pub peer: SocketAddr,
    pub initiator: Option<String>,
    /// `None` in login.
    pub session: Option<Session>,
    /// Whether it was told to leave.
    pub is_leaving: bool,
    /// Requests that the devices still have although the connection is being ended.
    pub under_way: u64,
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The same initiator port has logged in anew.
    Replaced,
    /// Its initiator was shut out.
    Fenced,
}

/// Tells a connection to end.
#[derive(Default)]
pub struct Leave {
    why: OnceLock<Why>,
    waker: Mutex<Option<Waker>>,
    /// See [`Seen::under_way`].
    under_way: AtomicU64,
}

impl Leave {
    /// Tells it. The first reason stays.
    pub fn tell(&self, why: Why) {
        let _ = self.why.set(why);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once the connection has to end.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Why> {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match self.why.get() {
            Some(why) => Poll::Ready(*why),
            None => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// As a future.
    pub async fn told(&self) -> Why {
        poll_fn(|context| self.poll(context)).await
    }

    /// While the connection ends: how many requests the devices still have.
    pub fn set_under_way(&self, count: usize) {
        self.under_way.store(count as u64, Ordering::Relaxed);
    }
}

/// A connection's place; given back when it is dropped.
pub struct Guest {
    table: Arc<Mutex<Table>>,
    number: u64,
    pub peer: SocketAddr,
    pub leave: Arc<Leave>,
    _gone: watch::Sender<()>,
}

/// Connections that were told to leave.
pub struct Leaving {
    gone: Vec<watch::Receiver<()>>,
    leaves: Vec<Arc<Leave>>,
    /// How many of them had logged in to a target.
    pub sessions: usize,
}

impl Guests {
    pub fn new(connections_max: usize) -> Self {
        Self { limits: Limits::of(connections_max), table: Arc::default(), refused: AtomicU64::new(0) }
    }

    /// A place for a new connection, if there is one.
    pub fn enter(&self, peer: SocketAddr) -> Option<Guest> {
        let mut table = lock(&self.table);
        let address = neighbourhood(peer.ip());
        let (of_address, logins_of_address) = table.by_address.get(&address).copied().unwrap_or_default();
        let is_full = table.by_number.len() >= self.limits.connections
            || of_address >= self.limits.connections_per_address
            || table.in_login >= self.limits.logins
            || logins_of_address >= self.limits.logins_per_address;
        if is_full {
            drop(table);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        table.last_number += 1;
        let number = table.last_number;
        table.by_address.insert(address, (of_address + 1, logins_of_address + 1));
        table.in_login += 1;
        let leave = Arc::new(Leave::default());
        let (sender, gone) = watch::channel(());
        let entry =
            Entry { peer, is_in_login: true, initiator: None, session: None, leave: leave.clone(), stream: None, gone };
        table.by_number.insert(number, entry);
        Some(Guest { table: self.table.clone(), number, peer, leave, _gone: sender })
    }

    /// How many connections were closed at once because there was no place.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn all(&self) -> Vec<Seen> {
        let table = lock(&self.table);
        let seen = |entry: &Entry| Seen {
            peer: entry.peer,
            initiator: entry.initiator.clone(),
            session: entry.session.clone(),
            is_leaving: entry.leave.why.get().is_some(),
            under_way: entry.leave.under_way.load(Ordering::Relaxed),
        };
        table.by_number.values().map(seen).collect()
    }

    /// Tells all that `is_meant` is true for to leave; it is given the initiator's name, if it is known, and address.
    pub fn expel(&self, why: Why, is_meant: impl Fn(Option<&str>, IpAddr) -> bool) -> Leaving {
        let table = lock(&self.table);
        let mut leaving = Leaving { gone: Vec::new(), leaves: Vec::new(), sessions: 0 };
        for entry in table.by_number.values() {
            if is_meant(entry.initiator.as_deref(), entry.peer.ip()) {
                entry.leave.tell(why);
                if let (Why::Fenced, Some(stream)) = (why, &entry.stream) {
                    // It may have ended by itself.
                    let _ = stream.shutdown(Shutdown::Both);
                }
                leaving.gone.push(entry.gone.clone());
                leaving.leaves.push(entry.leave.clone());
                leaving.sessions += usize::from(entry.session.as_ref().is_some_and(|session| session.target.is_some()));
            }
        }
        leaving
    }
}

impl Leaving {
    /// Waits until nothing of any of them is under way.
    pub async fn wait(&mut self) {
        for gone in &mut self.gone {
            // An error is what is waited for: the sender is gone.
            while gone.changed().await.is_ok() {}
        }
    }

    /// Requests that the devices still have.
    pub fn under_way(&self) -> u64 {
        self.leaves.iter().map(|leave| leave.under_way.load(Ordering::Relaxed)).sum()
    }
}

impl Guest {
    /// Takes a second handle of its stream, by which it can be cut whatever its thread does.
    pub fn hold(&self, stream: TcpStream) {
        if let Some(entry) = lock(&self.table).by_number.get_mut(&self.number) {
            entry.stream = Some(stream);
        }
    }

    /// Notes who it says it is. Before the fences are asked about it: then a fence either finds it here or is found.
    pub fn introduce(&self, initiator: &str) {
        if let Some(entry) = lock(&self.table).by_number.get_mut(&self.number) {
            entry.initiator = Some(initiator.to_owned());
        }
    }

    /// Notes that the login has succeeded.
    pub fn settle(&self, session: Session) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.by_number.get_mut(&self.number) {
            entry.session = Some(session);
        }
        table.end_login(self.number);
    }
}

impl Table {
    fn end_login(&mut self, number: u64) {
        let Some(entry) = self.by_number.get_mut(&number).filter(|entry| entry.is_in_login) else { return };
        entry.is_in_login = false;
        self.in_login -= 1;
        if let Some((_, logins)) = self.by_address.get_mut(&neighbourhood(entry.peer.ip())) {
            *logins -= 1;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        table.end_login(self.number);
        let Some(entry) = table.by_number.remove(&self.number) else { return };
        let address = neighbourhood(entry.peer.ip());
        if let Some((connections, _)) = table.by_address.get_mut(&address) {
            *connections -= 1;
            if *connections == 0 {
                table.by_address.remove(&address);
            }
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1))
    }

    const SESSION: Session = Session { target: None, isid: [0; 6], tsih: 0, since: 0 };

    #[test]
    fn a_flood_of_half_open_logins_from_one_address_leaves_room_for_others() {
        let guests = Guests::new(CONNECTIONS_MAX);
        let flood: Vec<_> = (0..1000).filter_map(|_| guests.enter(peer(1))).collect();
        assert_eq!(flood.len(), guests.limits.logins_per_address);
        assert_eq!(guests.refused(), (1000 - guests.limits.logins_per_address) as u64);
        let other = guests.enter(peer(2)).expect("another address has its own share");
        other.settle(SESSION);
        drop(flood);
        assert!(guests.enter(peer(1)).is_some());
        assert_eq!(guests.all().len(), 1);
    }

    #[test]
    fn connections_are_limited_by_address_and_in_all() {
        let guests = Guests::new(CONNECTIONS_MAX);
        let mut inside = Vec::new();
        for last in 0..8 {
            for _ in 0..200 {
                if let Some(guest) = guests.enter(peer(last)) {
                    guest.settle(SESSION);
                    inside.push(guest);
                }
            }
        }
        assert_eq!(inside.len(), CONNECTIONS_MAX);
        assert_eq!(inside.iter().filter(|guest| guest.peer == peer(0)).count(), guests.limits.connections_per_address);
        inside.clear();
        assert!(lock(&guests.table).by_address.is_empty());
        assert_eq!(lock(&guests.table).in_login, 0);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_guest_to_leave_waits_for_its_end() {
        let guests = Guests::new(CONNECTIONS_MAX);
        let guest = guests.enter(peer(1)).expect("there is room");
        guest.introduce("iqn.2026-11.test:a");
        let _other = guests.enter(peer(2)).expect("there is room");
        let mut leaving = guests.expel(Why::Fenced, |name, _| name == Some("iqn.2026-11.test:a"));
        assert_eq!(guest.leave.told().await, Why::Fenced);
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut wait = std::pin::pin!(leaving.wait());
            assert!(wait.as_mut().poll(&mut context).is_pending());
            drop(guest);
            assert!(wait.as_mut().poll(&mut context).is_ready());
        }
    }
}

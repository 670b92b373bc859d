//! Messages between simulated nodes: late, badly ordered, repeated or lost as the seed has it.
//!
//! A link joins two nodes while it is up; what is under way when it goes down is lost. In calm
//! weather a link delivers in the order of sending, like TCP; in bad weather it promises nothing.
//! Different links are never ordered with one another.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Instant;

use crate::dice::Dice;
use crate::executor::{Sim, lock};
use crate::trace::Who;

/// What the network of a run is like.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Least time on the way.
    pub delay_least: Duration,
    /// Most time on the way, for most messages.
    pub delay_most: Duration,
    /// Per cent of messages that take up to ten times as long.
    pub slow_percent: u64,
    /// Per cent of messages that arrive twice.
    pub twice_percent: u64,
    /// Per cent of messages that do not arrive.
    pub lost_percent: u64,
    /// Whether a link may deliver a later message first.
    pub order: LinkOrder,
}

/// What a link promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkOrder {
    AsSent,
    Any,
}

impl Weather {
    /// The weather of a seed: calm, as on TCP connections that hold, in half of them.
    pub fn of(dice: &mut Dice) -> Weather {
        let calm = Weather {
            delay_least: Duration::from_micros(20),
            delay_most: Duration::from_micros(*dice.pick(&[50, 200, 2000])),
            slow_percent: *dice.pick(&[0, 5, 20]),
            twice_percent: 0,
            lost_percent: 0,
            order: LinkOrder::AsSent,
        };
        if dice.percent(50) {
            return calm;
        }
        Weather {
            twice_percent: *dice.pick(&[0, 5, 20]),
            lost_percent: *dice.pick(&[0, 2, 10]),
            order: LinkOrder::Any,
            ..calm
        }
    }
}

type Receiver<M> = Arc<dyn Fn(u32, M) + Send + Sync>;

/// The network between the nodes of a run.
pub struct Net<M> {
    sim: Sim,
    weather: Weather,
    state: Mutex<State<M>>,
}

struct State<M> {
    receivers: BTreeMap<u32, Receiver<M>>,
    /// Number of the connection of each pair (lower node first) that has one.
    connections: BTreeMap<(u32, u32), u64>,
    connections_made: u64,
    /// When the last message of each ordered direction arrives.
    last_arrival: BTreeMap<(u32, u32), Instant>,
}

impl<M: Clone + Display + Send + 'static> Net<M> {
    pub fn new(sim: &Sim, weather: Weather) -> Arc<Net<M>> {
        let state = State {
            receivers: BTreeMap::new(),
            connections: BTreeMap::new(),
            connections_made: 0,
            last_arrival: BTreeMap::new(),
        };
        Arc::new(Net { sim: sim.clone(), weather, state: Mutex::new(state) })
    }

    /// Says who takes the messages to `node`; called with the sender and the message.
    pub fn attach(&self, node: u32, receiver: Receiver<M>) {
        lock(&self.state).receivers.insert(node, receiver);
    }

    /// Forgets the receivers, which may hold the network in turn.
    pub fn tear_down(&self) {
        let receivers = std::mem::take(&mut lock(&self.state).receivers);
        drop(receivers);
    }

    /// Puts a new connection between two nodes.
    pub fn connect(&self, one: u32, other: u32) {
        let mut state = lock(&self.state);
        state.connections_made += 1;
        let number = state.connections_made;
        state.connections.insert(pair(one, other), number);
    }

    /// Ends the connection of two nodes; what is under way on it is lost.
    pub fn cut(&self, one: u32, other: u32) {
        lock(&self.state).connections.remove(&pair(one, other));
    }

    /// Sends `message` on its way, if there is one.
    pub fn send(self: &Arc<Self>, from: u32, to: u32, message: M) {
        let Some(connection) = lock(&self.state).connections.get(&pair(from, to)).copied() else { return };
        let weather = self.weather;
        let times = self.sim.roll(|dice| match () {
            () if dice.percent(weather.lost_percent) => 0,
            () if dice.percent(weather.twice_percent) => 2,
            () => 1,
        });
        for _ in 0..times {
            let at = self.arrival(from, to);
            let (net, message) = (self.clone(), message.clone());
            self.sim.call_at(at, move || net.deliver(connection, from, to, message));
        }
    }

    fn arrival(&self, from: u32, to: u32) -> Instant {
        let weather = self.weather;
        let nanos = self.sim.roll(|dice| {
            let most = weather.delay_most.as_nanos() as u64 * if dice.percent(weather.slow_percent) { 10 } else { 1 };
            let least = weather.delay_least.as_nanos() as u64;
            dice.between(least, most.max(least))
        });
        let at = self.sim.now() + Duration::from_nanos(nanos);
        if weather.order == LinkOrder::Any {
            return at;
        }
        let mut state = lock(&self.state);
        let last = state.last_arrival.entry((from, to)).or_default();
        *last = at.max(*last + Duration::from_nanos(1));
        *last
    }

    fn deliver(&self, connection: u64, from: u32, to: u32, message: M) {
        let receiver = {
            let state = lock(&self.state);
            let is_current = state.connections.get(&pair(from, to)) == Some(&connection);
            state.receivers.get(&to).filter(|_| is_current).cloned()
        };
        if let Some(receiver) = receiver {
            self.sim.event(Who::Node(to), format_args!("<- node {from}: {message}"));
            receiver(from, message);
        }
    }
}

fn pair(one: u32, other: u32) -> (u32, u32) {
    (one.min(other), one.max(other))
}

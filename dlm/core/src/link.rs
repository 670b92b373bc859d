//! One peer: makes messages arrive once and in order over connections that lose, repeat, delay and
//! reorder frames, and that break and come back.
//!
//! Each message has a number, from 1 in each pair of lives. It is kept until the peer has
//! acknowledged it; what is not acknowledged is sent again when a connection comes (back) and after a
//! while. Numbers that have arrived already are dropped, numbers that come too early wait. Bounds:
//! what is kept to be sent again is bounded by the locks of this member and the peer (one request a
//! lock); what waits for its turn by `EARLY_COUNT_MAX`, and beyond that is dropped, to be sent again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base::{Incarnation, Instant, NodeId, ViewId};
use bytes::Bytes;

use crate::Config;
use crate::codec::{FRAME_LENGTH_MAX, FRAME_MESSAGES_MAX, Frame, encode_message};
use crate::message::Message;

pub(crate) struct Link {
    peer: NodeId,
    /// The life of the peer that the numbers belong to; unknown before the first connection.
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) is_up: bool,
    pub(crate) last_heard: Instant,
    last_sent: Instant,
    /// Not yet acknowledged, in order; the first has the number `unacknowledged_first`.
    unacknowledged: VecDeque<Bytes>,
    unacknowledged_first: u64,
    /// Number of the next message to put in a frame on this connection.
    send_next: u64,
    resend_at: Option<Instant>,
    resend_wait: Duration,
    /// Number of the next message to take in.
    expected: u64,
    early: BTreeMap<u64, (ViewId, Message)>,
    acknowledge_at: Option<Instant>,
    acknowledged: u64,
    /// In order, to be acted upon.
    pub(crate) inbox: VecDeque<(ViewId, Message)>,
}

impl Link {
    pub(crate) fn new(peer: NodeId, now: Instant) -> Link {
        Link {
            peer,
            incarnation: None,
            is_up: false,
            last_heard: now,
            last_sent: now,
            unacknowledged: VecDeque::new(),
            unacknowledged_first: 1,
            send_next: 1,
            resend_at: None,
            resend_wait: Duration::ZERO,
            expected: 1,
            early: BTreeMap::new(),
            acknowledge_at: None,
            acknowledged: 1,
            inbox: VecDeque::new(),
        }
    }

    /// A connection has come. Another life than before starts from nothing.
    pub(crate) fn up(&mut self, incarnation: Incarnation, now: Instant) {
        if self.incarnation.is_some_and(|known| known != incarnation) {
            *self = Link::new(self.peer, now);
        }
        self.incarnation = Some(incarnation);
        self.is_up = true;
        self.last_heard = now;
        self.last_sent = now;
        self.send_next = self.unacknowledged_first;
        self.resend_at = None;
        // Tell the peer at once what has arrived, so that it sends only the rest again.
        self.acknowledge_at = (self.expected > 1).then_some(now);
    }

    /// The view has the peer in this life: forget an earlier one.
    pub(crate) fn expect_life(&mut self, incarnation: Incarnation, now: Instant) {
        if self.incarnation.is_some_and(|known| known < incarnation) {
            *self = Link::new(self.peer, now);
        }
    }

    pub(crate) fn down(&mut self) {
        self.is_up = false;
        self.resend_at = None;
    }

    pub(crate) fn push(&mut self, view: ViewId, message: &Message) {
        self.unacknowledged.push_back(encode_message(view, message));
    }

    /// True if the peer has all that was ever sent to it.
    pub(crate) fn is_drained(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    pub(crate) fn unacknowledged_count(&self) -> usize {
        self.unacknowledged.len()
    }

    /// The next frame to send, if there is reason for one.
    pub(crate) fn poll_frame(&mut self, config: &Config, now: Instant) -> Option<Bytes> {
        let incarnation = self.incarnation.filter(|_| self.is_up)?;
        let skip = usize::try_from(self.send_next - self.unacknowledged_first).expect("invariant: within the queue");
        let mut length = 0;
        let mut count = 0;
        for message in self.unacknowledged.iter().skip(skip) {
            if count > 0 && (length + message.len() > FRAME_CLOSED_AT || count == FRAME_MESSAGES_MAX) {
                break;
            }
            length += message.len();
            count += 1;
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_quiet = config.keepalive.is_some_and(|every| now - self.last_sent >= every);
        if count == 0 && !is_due(self.acknowledge_at) && !is_quiet {
            return None;
        }
        let frame = Frame {
            sender: config.me,
            sender_incarnation: config.incarnation,
            receiver_incarnation: incarnation,
            acknowledged: self.expected,
            first: self.send_next,
            messages: Vec::new(),
        };
        self.unacknowledged.make_contiguous();
        let bytes = frame.encode_around(&self.unacknowledged.as_slices().0[skip..skip + count]);
        self.send_next += count as u64;
        self.acknowledged = self.expected;
        self.acknowledge_at = None;
        self.last_sent = now;
        if count > 0 && self.resend_at.is_none() {
            self.resend_wait = config.resend_after;
            self.resend_at = Some(now + self.resend_wait);
        }
        Some(bytes)
    }

    /// Takes a frame in; its messages come to `inbox` in their turn. The error says what the peer did wrong.
    pub(crate) fn receive(
        &mut self,
        frame: Frame,
        config: &Config,
        takes_any_order: bool,
        now: Instant,
    ) -> Result<(), String> {
        let unacknowledged_end = self.unacknowledged_first + self.unacknowledged.len() as u64;
        if frame.acknowledged > unacknowledged_end || frame.acknowledged == 0 {
            return Err(format!("it acknowledges message {}, not yet sent", frame.acknowledged));
        }
        if frame.first == 0 || frame.first.checked_add(frame.messages.len() as u64).is_none() {
            return Err(format!("a message cannot have number {}", frame.first));
        }
        self.last_heard = now;
        if frame.acknowledged > self.unacknowledged_first {
            while self.unacknowledged_first < frame.acknowledged {
                self.unacknowledged.pop_front();
                self.unacknowledged_first += 1;
            }
            self.send_next = self.send_next.max(self.unacknowledged_first);
            self.resend_wait = config.resend_after;
            self.resend_at = (self.send_next > self.unacknowledged_first).then_some(now + self.resend_wait);
        }
        for (number, message) in (frame.first..).zip(frame.messages) {
            if takes_any_order {
                self.inbox.push_back(message);
                self.expected = self.expected.max(number + 1);
            } else if number < self.expected {
                // The peer does not know that it has arrived.
                self.acknowledge_at = Some(now);
                continue;
            } else if number == self.expected {
                self.inbox.push_back(message);
                self.expected += 1;
                while let Some(message) = self.early.remove(&self.expected) {
                    self.inbox.push_back(message);
                    self.expected += 1;
                }
            } else if number - self.expected < EARLY_COUNT_MAX {
                self.early.insert(number, message);
            }
            if self.acknowledge_at.is_none() {
                self.acknowledge_at = Some(now + config.acknowledge_after);
            }
        }
        if self.expected - self.acknowledged >= ACKNOWLEDGE_COUNT {
            self.acknowledge_at = Some(now);
        }
        Ok(())
    }

    /// Marks what must be sent again by now.
    pub(crate) fn tick(&mut self, config: &Config, now: Instant) {
        if self.is_up && self.resend_at.is_some_and(|at| at <= now) {
            self.send_next = self.unacknowledged_first;
            self.resend_wait = (self.resend_wait * 2).min(config.resend_after * 16);
            self.resend_at = (!self.unacknowledged.is_empty()).then_some(now + self.resend_wait);
        }
    }

    pub(crate) fn next_deadline(&self, config: &Config) -> Option<Instant> {
        if !self.is_up {
            return None;
        }
        let keepalive = config.keepalive.map(|every| self.last_sent + every);
        [self.resend_at, self.acknowledge_at, keepalive].into_iter().flatten().min()
    }
}

/// Messages that came before their turn.
const EARLY_COUNT_MAX: u64 = 65_536;
/// Messages after which an acknowledgement no longer waits for company.
const ACKNOWLEDGE_COUNT: u64 = 64;
/// A frame that would become longer than this is closed before.
const FRAME_CLOSED_AT: usize = 64 << 10;
const _: () = assert!(FRAME_CLOSED_AT < FRAME_LENGTH_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn config(me: u32) -> Config {
        Config { keepalive: None, ..Config::new(NodeId(me), Incarnation(u64::from(me)), vec![NodeId(1), NodeId(2)]) }
    }

    fn message(number: u64) -> Message {
        Message::Ready { view: ViewId(number) }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn pair() -> (Link, Link) {
        let mut links = (Link::new(NodeId(2), at(0)), Link::new(NodeId(1), at(0)));
        links.0.up(Incarnation(2), at(0));
        links.1.up(Incarnation(1), at(0));
        links
    }

    fn take(link: &mut Link) -> Vec<Message> {
        link.inbox.drain(..).map(|(_, message)| message).collect()
    }

    #[test]
    fn repeated_and_reordered_frames_give_each_message_once_and_in_order() {
        let (mut one, mut two) = pair();
        let mut frames = Vec::new();
        for number in 1..=5 {
            one.push(ViewId(0), &message(number));
            frames.push(one.poll_frame(&config(1), at(0)).expect("a frame"));
        }
        for index in [4, 1, 1, 0, 3, 2, 0, 4] {
            let frame = Frame::decode(&frames[index]).expect("a frame");
            two.receive(frame, &config(2), false, at(1)).expect("a right frame");
        }
        assert_eq!(take(&mut two), (1..=5).map(message).collect::<Vec<_>>());
    }

    #[test]
    fn a_lost_frame_is_sent_again_until_it_is_acknowledged() {
        let (mut one, mut two) = pair();
        one.push(ViewId(0), &message(1));
        assert!(one.poll_frame(&config(1), at(0)).is_some(), "lost");
        one.tick(&config(1), at(499));
        assert!(one.poll_frame(&config(1), at(499)).is_none());
        one.tick(&config(1), at(500));
        let again = one.poll_frame(&config(1), at(500)).expect("a frame");
        two.receive(Frame::decode(&again).expect("a frame"), &config(2), false, at(501)).expect("right");
        assert_eq!(take(&mut two), [message(1)]);
        assert!(two.poll_frame(&config(2), at(502)).is_none(), "the acknowledgement waits for company");
        let acknowledgement = two.poll_frame(&config(2), at(521)).expect("a frame");
        one.receive(Frame::decode(&acknowledgement).expect("a frame"), &config(1), false, at(522)).expect("right");
        assert!(one.is_drained());
        assert_eq!(one.next_deadline(&config(1)), None);
    }

    #[test]
    fn a_broken_connection_resumes_where_it_was_and_a_new_life_starts_from_nothing() {
        let (mut one, mut two) = pair();
        one.push(ViewId(0), &message(1));
        assert!(one.poll_frame(&config(1), at(0)).is_some(), "lost");
        one.down();
        one.push(ViewId(0), &message(2));
        assert!(one.poll_frame(&config(1), at(1)).is_none());
        one.up(Incarnation(2), at(2));
        let both = one.poll_frame(&config(1), at(2)).expect("a frame");
        two.receive(Frame::decode(&both).expect("a frame"), &config(2), false, at(3)).expect("right");
        assert_eq!(take(&mut two), [message(1), message(2)]);
        one.up(Incarnation(3), at(4));
        assert!(one.is_drained());
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_refused() {
        let (mut one, _) = pair();
        let frame = Frame {
            sender: NodeId(2),
            sender_incarnation: Incarnation(2),
            receiver_incarnation: Incarnation(1),
            acknowledged: 2,
            first: 1,
            messages: Vec::new(),
        };
        assert!(one.receive(frame, &config(1), false, at(0)).is_err());
    }
}

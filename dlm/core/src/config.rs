//! What a member is told about itself, its peers and its patience.

use std::time::Duration;

use base::{Incarnation, NodeId};

/// Settings of one member of one lockspace. The members are those of the static view: who may ever
/// take part. Who does now is the view, which the members agree on.
#[derive(Clone, Debug)]
pub struct Config {
    pub me: NodeId,
    /// Higher than in any earlier life of this member.
    pub incarnation: Incarnation,
    /// Every member of the static view, this one too; the same everywhere.
    pub members: Vec<NodeId>,
    /// How long an acknowledgement waits for a frame to travel on.
    pub acknowledge_after: Duration,
    /// How long an unacknowledged message waits before it is sent again; doubles up to 16 times this.
    pub resend_after: Duration,
    /// A silent link carries an empty frame this often. `None`: never, and silence means nothing
    /// (a simulator that says itself who is lost).
    pub keepalive: Option<Duration>,
    /// A member of the view that was silent this long is lost.
    pub lost_after: Duration,
    /// How long a name without locks stays mastered here.
    pub unused_after: Duration,
    /// At most this many names without locks stay mastered here; the oldest go first.
    pub unused_count_max: usize,
}

impl Config {
    /// With the default patience.
    pub fn new(me: NodeId, incarnation: Incarnation, members: Vec<NodeId>) -> Config {
        Config {
            me,
            incarnation,
            members,
            acknowledge_after: Duration::from_millis(20),
            resend_after: Duration::from_millis(500),
            keepalive: Some(Duration::from_secs(1)),
            lost_after: Duration::from_secs(10),
            unused_after: Duration::from_secs(10),
            unused_count_max: 100_000,
        }
    }
}

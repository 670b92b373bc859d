//! The whole vocabulary between a [`TargetSession`](super::TargetSession) and its shell.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::chap::ChapDemand;
use crate::error::WireError;
use crate::negotiate::{Negotiated, Willing};
use crate::pdu::{LoginStatus, LunField, TaskFunction, TaskManagementResponse};
use crate::scsi::{Cdb, Sense, Status};

/// Limits of a session.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    pub willing: Willing,
    /// Commands that an initiator may have in flight.
    pub queue_depth: u32,
    /// Most data of writes that is asked for and not yet written, in bytes, over the session's commands together.
    pub solicited_data_max: u32,
    pub login_timeout: Duration,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            willing: Willing::default(),
            queue_depth: 128,
            solicited_data_max: 32 * 1024 * 1024,
            login_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(15),
        }
    }
}

/// Who wants to log in, to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginIdentity {
    pub initiator_name: String,
    /// Together with the name it is the initiator port.
    pub isid: [u8; 6],
    /// Not 0: the session that the connection is to be added to.
    pub tsih: u16,
    pub connection_id: u16,
    /// `None` for a discovery session.
    pub target_name: Option<String>,
}

/// Whether a login may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginDecision {
    Accept { portal_group: u16, authentication: Authentication },
    Refuse(LoginStatus),
}

/// What an initiator must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing (AuthMethod=None).
    None,
    /// That it knows the secret of one of the users of a [`ChapPolicy`](crate::chap::ChapPolicy): the target's for a
    /// normal session, discovery's own for a discovery session. A wrong or missing proof ends the login with
    /// status 0201 (authentication failure), and the initiator learns nothing else.
    Chap(ChapDemand),
}

/// Names a task within its session; never used twice. The default one names none.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    pub(super) tag: u32,
    pub(super) sequence: u64,
}

/// Which way the initiator lets data go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    None,
    /// To the initiator.
    In,
    /// To the target.
    Out,
    /// Both; none of our commands does this.
    Both,
}

/// A SCSI command for the shell to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    pub task: TaskId,
    pub lun: LunField,
    pub cdb: Cdb,
    pub direction: Direction,
    /// Bytes that the initiator expects to move.
    pub expected: u32,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskResult {
    pub status: Status,
    /// With CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Data for the initiator; what is longer than it expected is cut.
    pub data: Bytes,
    /// Bytes that the command is about, whatever the initiator expected: the residual count comes from it.
    pub transfer_length: u64,
}

impl TaskResult {
    /// GOOD, with data for the initiator.
    pub fn data(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self { status: Status::Good, sense: None, transfer_length: data.len() as u64, data }
    }

    /// GOOD, after `transfer_length` bytes were (or should have been) taken from the initiator.
    pub fn good(transfer_length: u64) -> Self {
        Self { status: Status::Good, sense: None, data: Bytes::new(), transfer_length }
    }

    /// Any other status, without data.
    pub fn status(status: Status) -> Self {
        Self { status, ..Self::good(0) }
    }
}

impl From<Sense> for TaskResult {
    fn from(sense: Sense) -> Self {
        Self { sense: Some(sense), ..Self::status(Status::CheckCondition) }
    }
}

/// A target and its portals, for SendTargets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortalTarget {
    pub name: String,
    /// `host:port,group`.
    pub addresses: Vec<String>,
}

/// What the shell tells the session.
#[derive(Clone, Debug)]
pub enum Input {
    /// Bytes were appended to [`receive_buffer`](super::TargetSession::receive_buffer).
    Received,
    /// [`next_deadline`](super::TargetSession::next_deadline) has come; harmless at any other time.
    Timer,
    /// The stream ended or failed.
    StreamEnded { what: String },
    /// Answer to [`Output::LoginStarted`].
    LoginDecided(LoginDecision),
    /// Answer to [`Output::LoginEnding`]: the new session's handle (not 0), or why there is no room for it.
    Established(Result<u16, LoginStatus>),
    /// The command takes this many bytes from the initiator (at most what it expected): [`Output::DataReady`] follows.
    WantData { task: TaskId, length: u32 },
    /// The command ended.
    Finished { task: TaskId, result: TaskResult },
    /// Answer to [`Output::TaskManagement`].
    TaskManagementDone { task: TaskId, response: TaskManagementResponse },
    /// Answer to [`Output::SendTargets`].
    Targets { task: TaskId, targets: Vec<PortalTarget> },
}

/// What the session tells the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Somebody wants to log in.
    LoginStarted(LoginIdentity),
    /// The login is about to succeed; end the initiator port's older session first.
    LoginEnding(LoginIdentity),
    /// The full feature phase has begun.
    LoggedIn { negotiated: Negotiated },
    /// Execute this.
    Command(Command),
    /// The data that a command wanted, in order.
    DataReady { task: TaskId, data: Vec<Bytes> },
    /// End this task as soon as it can be; nobody waits for its result.
    Aborted { task: TaskId },
    /// The session's own tasks that this function concerns have ended; now those of other sessions, if it concerns
    /// them.
    TaskManagement { task: TaskId, function: TaskFunction, lun: LunField },
    /// `which`: `All`, a target's name, or empty for the session's own target.
    SendTargets { task: TaskId, which: String },
    /// The last output.
    Closed(CloseReason),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The initiator logged out.
    LoggedOut,
    /// The login was refused.
    LoginRefused { status: LoginStatus, why: String },
    /// The login did not end in time.
    LoginTimedOut,
    /// The initiator gives no sign of life.
    PeerSilent,
    /// The stream ended or failed.
    StreamEnded { what: String },
    /// The initiator sent bytes that make no sense.
    PeerMisbehaved(WireError),
}

impl From<WireError> for CloseReason {
    fn from(error: WireError) -> Self {
        Self::PeerMisbehaved(error)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoggedOut => write!(f, "logged out"),
            Self::LoginRefused { status, why } => write!(f, "login refused with {status}: {why}"),
            Self::LoginTimedOut => write!(f, "the login did not end in time"),
            Self::PeerSilent => write!(f, "the initiator gives no sign of life"),
            Self::StreamEnded { what } => write!(f, "the connection is gone: {what}"),
            Self::PeerMisbehaved(error) => write!(f, "the initiator misbehaved: {error}"),
        }
    }
}

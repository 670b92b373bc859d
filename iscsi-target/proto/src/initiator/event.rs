//! The whole vocabulary between an [`InitiatorSession`](super::InitiatorSession) and its shell.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::chap::{CHALLENGE_LENGTH, ChapIdentity};
use crate::error::{ProtocolError, WireError};
use crate::negotiate::{Negotiated, Willing};
use crate::pdu::{LoginStatus, TaskManagementResponse};
use crate::scsi::{Completion, ScsiCommand};

/// How to log in.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    /// `iqn.…` or `eui.…` or `naa.…`.
    pub initiator_name: String,
    /// `None` for a discovery session.
    pub target_name: Option<String>,
    /// Identifies the session among those of this initiator name; kept over reconnects.
    pub isid: [u8; 6],
    pub credentials: Credentials,
    pub willing: Willing,
    pub login_timeout: Duration,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
}

impl InitiatorConfig {
    /// A normal session with the usual limits. `qualifier` makes the ISID differ between sessions of one initiator
    /// name (24 bits, random type: RFC 7143 §11.12.5).
    pub fn new(initiator_name: &str, target_name: Option<&str>, qualifier: u32) -> Self {
        let [_, a, b, c] = qualifier.to_be_bytes();
        Self {
            initiator_name: initiator_name.to_owned(),
            target_name: target_name.map(str::to_owned),
            isid: [0x80, a, b, c, 0, 0],
            credentials: Credentials::None,
            // A read of up to this much comes in one PDU and is not copied.
            willing: Willing { max_recv_data_segment_length: 1024 * 1024, ..Willing::default() },
            login_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

/// Who the initiator can prove to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// AuthMethod=None only.
    #[default]
    None,
    /// CHAP, and mutual CHAP if the identity says what the target has to prove. `random` comes from the operating
    /// system's generator, fresh for each session.
    Chap { identity: Arc<ChapIdentity>, random: [u8; CHALLENGE_LENGTH + 1] },
}

/// The shell's number for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandToken(pub u64);

/// What the shell tells the session.
#[derive(Clone, Debug)]
pub enum Input {
    /// Bytes were appended to [`receive_buffer`](super::InitiatorSession::receive_buffer).
    Received,
    /// [`next_deadline`](super::InitiatorSession::next_deadline) has come; harmless at any other time.
    Timer,
    /// The stream ended or failed.
    StreamEnded { what: String },
    /// Carry out a command.
    Command { token: CommandToken, command: ScsiCommand },
    /// ABORT TASK for a command: answered by [`Output::TaskManaged`]. If it completes the command itself is never
    /// answered; if it does not (the task was already done), the command's own answer has come or is on its way.
    Abort { token: CommandToken },
    /// LOGICAL UNIT RESET: every task of the unit, of all initiators, is ended. Answered by [`Output::TaskManaged`];
    /// commands of this session that were sent to the unit before it are then never answered.
    ResetLun { token: CommandToken, lun: u16 },
    /// NOP-Out with an answer: [`Output::Pong`].
    Ping { token: CommandToken },
    /// Ask for the target's targets (a discovery session): answered by [`Output::Targets`].
    SendTargets,
    /// End the session when the commands that were handed in so far are done.
    Logout,
}

/// What the session tells the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The login has ended; commands flow.
    LoggedIn { negotiated: Negotiated, tsih: u16 },
    /// A command was answered.
    Completed { token: CommandToken, completion: Completion },
    /// The target refused to look at a command (Reject); it was not carried out.
    Rejected { token: CommandToken, reason: u8 },
    /// Answer to [`Input::Abort`] or [`Input::ResetLun`].
    TaskManaged { token: CommandToken, response: TaskManagementResponse },
    /// Answer to [`Input::Ping`].
    Pong { token: CommandToken },
    /// Answer to [`Input::SendTargets`].
    Targets { targets: Vec<DiscoveredTarget> },
    /// The target asks for a logout within this many seconds; the session has begun it.
    LogoutRequested { within_seconds: u16 },
    /// The last output.
    Closed(CloseReason),
}

/// A target and the portals it can be reached at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredTarget {
    pub name: String,
    /// `host:port,group`, as the target sent it.
    pub addresses: Vec<String>,
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// As asked for by [`Input::Logout`] or by the target.
    LoggedOut,
    /// The target refused the login; [`LoginStatus::is_transient`] says whether trying again may help.
    LoginRefused { status: LoginStatus, redirect: Option<String> },
    /// The target wants an authentication that was not offered.
    AuthenticationImpossible { wanted: String },
    /// The target was to prove who it is (mutual CHAP), and does not.
    TargetUnproven { why: &'static str },
    /// The login did not end in time.
    LoginTimedOut,
    /// The target did not answer a sign of life.
    PeerSilent,
    /// The stream ended or failed.
    StreamEnded { what: String },
    /// The target announced that it drops the session.
    DroppedByTarget,
    /// The target sent bytes that make no sense.
    PeerMisbehaved(WireError),
}

impl From<WireError> for CloseReason {
    fn from(error: WireError) -> Self {
        Self::PeerMisbehaved(error)
    }
}

impl CloseReason {
    pub(super) fn misbehaved(at_byte: u64, cause: ProtocolError) -> Self {
        Self::PeerMisbehaved(WireError { at_byte, cause })
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoggedOut => write!(f, "logged out"),
            Self::LoginRefused { status, redirect: None } => write!(f, "login refused: {status}"),
            Self::LoginRefused { status, redirect: Some(to) } => write!(f, "login refused: {status}, go to {to}"),
            Self::AuthenticationImpossible { wanted } => {
                write!(f, "the target asks for authentication by {wanted}, which is not configured")
            }
            Self::TargetUnproven { why } => write!(f, "the target does not prove who it is: {why}"),
            Self::LoginTimedOut => write!(f, "the login did not end in time"),
            Self::PeerSilent => write!(f, "the target gives no sign of life"),
            Self::StreamEnded { what } => write!(f, "the connection is gone: {what}"),
            Self::DroppedByTarget => write!(f, "the target dropped the session"),
            Self::PeerMisbehaved(error) => write!(f, "the target misbehaved: {error}"),
        }
    }
}

impl std::error::Error for CloseReason {}

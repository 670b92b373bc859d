//! The target's side of one iSCSI session, sans-IO: no socket, clock, thread, device or random source.
//!
//! [`TargetSession`] is one session over one connection (MaxConnections=1, ErrorRecoveryLevel 0). The shell accepts
//! connections, knows which targets and units exist, and executes commands:
//!
//! ```text
//! let mut session = TargetSession::new(config, now);
//! loop {
//!     while let Some(output) = session.poll_output() { … }     // decisions and work for the shell; Closed is the last
//!     write session.transmit() to the socket                   // it is a bytes::Buf
//!     wait for the first of:
//!       session.wants_input() and the socket is readable → read into session.receive_buffer(), handle(Received)
//!       end of stream or error                           → handle(StreamEnded)
//!       session.next_deadline()                          → handle(Timer)
//!       a command ended                                  → handle(Finished { task, … })
//!       the socket is writable and transmit is not empty → write again
//! }
//! ```
//!
//! Rules for the shell:
//! 1. [`Output::LoginStarted`] is answered with [`Input::LoginDecided`], [`Output::LoginEnding`] with
//!    [`Input::Established`]. Before the latter every task of an older session of the same initiator port has ended
//!    (session reinstatement): nothing of it lands afterwards.
//! 2. Each [`Output::Command`] is answered by exactly one [`Input::Finished`], in any order. A command that takes data
//!    first asks for it ([`Input::WantData`]) and gets [`Output::DataReady`]. Until then it holds no more than its
//!    unsolicited data, and requests for data are only made while the session's data is below a limit.
//! 3. After [`Output::Aborted`] the task is finished all the same (its result is thrown away), as soon as nothing of
//!    it is under way any more: the initiator is told of the abort only then.
//! 4. After [`Output::Closed`] write what `transmit` holds, as far as the peer takes it, and end what is under way.
//! 5. Do not read while [`TargetSession::wants_input`] is false: the peer does not read its answers, and the queue of
//!    answers must not grow without bound.

mod event;
mod login;
mod receive;
mod respond;
mod session;
mod tasks;

pub use event::{
    Authentication, CloseReason, Command, Direction, Input, LoginDecision, LoginIdentity, Output, PortalTarget,
    TargetConfig, TaskId, TaskResult,
};
pub use session::TargetSession;

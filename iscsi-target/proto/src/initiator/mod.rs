//! The initiator's side of one iSCSI session, sans-IO: no socket, clock, thread or random source.
//!
//! [`InitiatorSession`] is one session over one connection, from the first byte to the last. The shell moves bytes and
//! time and decides when to connect again; everything that RFC 7143 says happens in here. How to drive it:
//!
//! ```text
//! let mut session = InitiatorSession::new(config, now);            // queues the first login request
//! loop {
//!     while let Some(output) = session.poll_output() { … }         // LoggedIn, Completed, …, Closed (the last)
//!     write session.transmit() to the socket                       // it is a bytes::Buf: try_write_vectored + advance
//!     wait for the first of:
//!       the socket is readable  → read into session.receive_buffer() (append!),  handle(Input::Received, now)
//!       end of stream or error  → handle(Input::StreamEnded { what }, now)
//!       session.next_deadline() → handle(Input::Timer, now)
//!       somebody wants I/O      → handle(Input::Command { token, command }, now)
//!       the socket is writable and session.transmit() is not empty → write again
//! }
//! ```
//!
//! Rules for the shell:
//! 1. After every `handle`, drain `poll_output` and write what `transmit` holds. Commands may be handed in at any time,
//!    before the login has ended too: they wait inside, in order, for the login and for room in the target's command
//!    window. Waiting commands are not bounded here; the shell bounds them ([`InitiatorSession::unanswered`]).
//! 2. `token` is the shell's own number for a command and comes back in [`Output::Completed`] exactly once, unless the
//!    session closes first. Commands are answered in any order. Two commands in flight that overlap are the caller's
//!    concern, as with any disk.
//! 3. [`Output::Closed`] is the last output; it says why. Every command that was not answered until then is *lost*: it
//!    may or may not have been carried out. The shell still has them and may send them again in a new session with the
//!    same ISID, once that session's login has ended: the target finishes or drops the old session's tasks before it
//!    answers (session reinstatement). A closed session takes no further input; make a new one.
//! 4. A write's buffers are kept (not copied) until it is answered. Read data is a slice of the receive buffer where
//!    one Data-In PDU brought all of it, else it is put together once.
//! 5. After `Output::Closed` flush `transmit` on a best-effort basis and close the socket.
//!
//! Times: the login must end within [`InitiatorConfig::login_timeout`]; when nothing came from the target for
//! [`InitiatorConfig::ping_interval`] it is asked for a sign of life, and without one within
//! [`InitiatorConfig::ping_timeout`] the session closes with [`CloseReason::PeerSilent`]. There is no time limit for a
//! single command: that is policy, and [`Input::Abort`] its tool.

mod event;
mod login;
mod receive;
mod send;
mod session;
mod tasks;

pub use event::{CloseReason, CommandToken, Credentials, DiscoveredTarget, InitiatorConfig, Input, Output};
pub use session::InitiatorSession;

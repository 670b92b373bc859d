//! Moves bytes and time between one TCP connection and its session, until the session closes.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use base::Instant;
use iscsi_target_proto::initiator::{CloseReason, Input};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::clock;
use crate::queue::{Shared, Turn};

/// Runs the connection that was attached to `shared`; ends with why it is over.
pub async fn drive(shared: &Shared, mut reader: OwnedReadHalf, writer: Arc<OwnedWriteHalf>) -> CloseReason {
    let mut armed: Option<Instant> = None;
    let mut timer = pin!(clock::sleep_until(clock::now()));
    let mut input = None;
    loop {
        let (wants_write, deadline) = match shared.with(|core| core.turn(input.take())) {
            Turn::Closed(reason) => return reason,
            Turn::Wait { wants_write, deadline } => (wants_write, deadline),
        };
        // Deadlines mostly move away. A timer that fires too early costs one turn, resetting it costs at every one.
        if let Some(deadline) = deadline
            && armed.is_none_or(|armed| deadline < armed)
        {
            timer.as_mut().reset(clock::to_tokio(deadline));
            armed = Some(deadline);
        }
        tokio::select! {
            biased;
            read = read_once(shared, &mut reader) => input = Some(match read {
                Ok(0) => Input::StreamEnded { what: "the target closed the connection".to_owned() },
                Ok(_) => Input::Received,
                Err(error) => Input::StreamEnded { what: error.to_string() },
            }),
            () = shared.wake.notified() => {}
            result = writer.writable(), if wants_write => {
                if let Err(error) = result {
                    input = Some(Input::StreamEnded { what: error.to_string() });
                }
            }
            () = timer.as_mut(), if armed.is_some() => armed = None,
        }
    }
}

/// Reads into the session's own buffer; the lock is held only for the system call.
async fn read_once(shared: &Shared, reader: &mut OwnedReadHalf) -> io::Result<usize> {
    poll_fn(|context| {
        let mut core = shared.lock();
        let Some(session) = core.session() else { return std::task::Poll::Ready(Ok(0)) };
        let read = pin!(reader.read_buf(session.receive_buffer()));
        std::future::Future::poll(read, context)
    })
    .await
}

//! One connection: moves bytes, time and results between socket, session and devices. Decides nothing about iSCSI.
//!
//! One thread owns all of it, so nothing is locked and nobody else is woken for it. In each round it takes what the
//! devices finished, reads once, lets the session work, and writes everything that came of it with one call; then it sleeps
//! until the socket, a device or somebody else has something for it (`park.rs`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, IoSlice, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base::{BoxFuture, Instant};
use bytes::Buf;
use iscsi_target_proto::pdu::{LoginStatus, TaskFunction, TaskManagementResponse};
use iscsi_target_proto::scsi::{AdditionalSense, Status};
use iscsi_target_proto::target::{
    CloseReason, Command, Input, Output, TargetConfig, TargetSession, TaskId, TaskResult,
};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::attention::Attentions;
use crate::execute::{self, Job, ReadPlan, Step, WritePlan};
use crate::guests::{Guest, Why};
use crate::inflight::InFlight;
use crate::park::Parker;
use crate::registry::Membership;
use crate::server::Server;
use crate::system;

/// Most slices in one write.
const SLICES_MAX: usize = 64;
/// Reads are begun while their data, and what waits to be written, is below this many bytes.
const READ_MEMORY_MAX: u64 = 32 * 1024 * 1024;
/// Turns of work, one read of the socket each, before a busy connection looks whether others want something.
const TURNS_MAX: usize = 32;
/// Bytes that the socket takes before they are read by an initiator on this host; the kernel doubles it for its own needs.
const SEND_BUFFER: usize = 256 * 1024;
/// How long a closed session's last answers may take to be written.
const FAREWELL: Duration = Duration::from_secs(2);

/// One initiator's connection.
pub struct Connection {
    stream: TcpStream,
    /// Given back last of all: then nothing of the connection is under way any more.
    guest: Guest,
    server: Arc<Server>,
    session: TargetSession,
    in_flight: InFlight,
    /// Writes that wait for their data.
    writes: HashMap<TaskId, WritePlan>,
    /// Reads that wait for memory, oldest first.
    reads: VecDeque<(TaskId, ReadPlan)>,
    /// Task management that waits for the end of writes of other sessions.
    managements: HashSet<TaskId>,
    /// Buffers of reads that were begun and not answered, in bytes.
    read_memory: u64,
    establishing: Option<BoxFuture<'static, Result<Option<Membership>, LoginStatus>>>,
    /// `None` in login and in a discovery session.
    membership: Option<Membership>,
    /// What others may want of the connection; looked at when a waker was called.
    calls: Vec<BoxFuture<'static, Call>>,
    clock: Clock,
    /// The socket may have something to read.
    is_readable: bool,
    /// The socket took less than there was.
    is_full: bool,
    /// There is something to do already.
    is_busy: bool,
    /// Nothing more is sent.
    is_cut: bool,
    who: String,
}

/// What somebody else wants of a connection.
enum Call {
    /// To end, and why.
    End(&'static str),
    /// To end without a further byte.
    Cut(&'static str),
    /// To end what waits here and was ended by another session.
    EndAborted,
}

/// Completes when tasks of the session were ended by others.
fn ended_by_others(attentions: Arc<Attentions>) -> BoxFuture<'static, Call> {
    Box::pin(async move {
        attentions.tasks_aborted().await;
        Call::EndAborted
    })
}

impl Connection {
    pub fn new(stream: TcpStream, guest: Guest, server: Arc<Server>, mut stop: watch::Receiver<()>) -> Self {
        let clock = Clock::new();
        let session = TargetSession::new(TargetConfig::default(), clock.now());
        let stopped = async move {
            // Its sender is dropped when the program is to stop.
            let _ = stop.changed().await;
            Call::End("the target stops")
        };
        let leave = guest.leave.clone();
        let told_to_leave = async move {
            match leave.told().await {
                Why::Replaced => Call::End("replaced by a new session of the same initiator port"),
                Why::Fenced => Call::Cut("the initiator was shut out"),
            }
        };
        Self {
            stream,
            guest,
            server,
            session,
            in_flight: InFlight::default(),
            writes: HashMap::new(),
            reads: VecDeque::new(),
            managements: HashSet::new(),
            read_memory: 0,
            establishing: None,
            membership: None,
            calls: vec![Box::pin(stopped), Box::pin(told_to_leave)],
            clock,
            is_readable: true,
            is_full: false,
            is_busy: false,
            is_cut: false,
            who: String::from("?"),
        }
    }

    /// Serves the connection to its end, on the caller's thread; returns when nothing of it is under way any more.
    pub fn run(mut self) {
        let prepared = self.stream.set_nonblocking(true).and_then(|()| self.stream.set_nodelay(true));
        let parker = match prepared.and_then(|()| Parker::new()) {
            Ok(parker) => parker,
            Err(error) => return debug!(peer = %self.guest.peer, %error, "a connection cannot be served"),
        };
        self.bound_send_buffer();
        let waker = parker.waker();
        let mut context = Context::from_waker(&waker);
        // A fault in this program ends one connection; what the devices have of it is waited for all the same.
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(&parker, &mut context)));
        let reason = served.unwrap_or_else(|_| {
            self.is_cut = true;
            "a fault in this program".to_owned()
        });
        info!(peer = %self.guest.peer, initiator = %self.who, "session ended: {reason}");
        self.say_farewell(&parker);
        let Self { stream, mut in_flight, membership, guest, .. } = self;
        // The initiator sees the end now, whatever the devices still have. It may have gone before.
        let _ = stream.shutdown(Shutdown::Both);
        while !in_flight.is_empty() {
            guest.leave.set_under_way(in_flight.count());
            // Taken in vain: nobody waits for it.
            if in_flight.poll_finished(&mut context).is_pending()
                && let Err(error) = parker.sleep(&stream, false, false, FAREWELL)
            {
                debug!(%error, "a wait failed");
            }
        }
        drop(stream);
        drop(membership);
        drop(guest);
    }

    /// Between two programs of one host the kernel lets megabytes pile up in the socket, out of every cache, and both
    /// sides take turns instead of working together: large reads had a sixth of their rate. On a network the kernel's own
    /// measure is better.
    fn bound_send_buffer(&self) {
        let is_own_host = self.stream.local_addr().is_ok_and(|own| own.ip() == self.guest.peer.ip());
        if is_own_host && let Err(error) = setsockopt(&self.stream, SndBuf, &SEND_BUFFER) {
            debug!(peer = %self.guest.peer, %error, "the send buffer keeps its size");
        }
    }

    /// Works until the session is over; gives the reason.
    fn serve(&mut self, parker: &Parker, context: &mut Context<'_>) -> String {
        let mut is_called = true;
        loop {
            if is_called && let Some(reason) = self.answer_calls(context) {
                return reason;
            }
            if let Some(reason) = self.round(context) {
                return reason;
            }
            let read = self.session.wants_input();
            let at_most = if self.is_busy { Duration::ZERO } else { self.until_deadline() };
            match parker.sleep(&self.stream, read, self.is_full, at_most) {
                Ok(woken) => {
                    self.is_readable |= woken.is_readable;
                    self.is_full &= !woken.is_writable;
                    is_called = woken.is_called;
                }
                Err(error) => return error.to_string(),
            }
        }
    }

    fn answer_calls(&mut self, context: &mut Context<'_>) -> Option<String> {
        let mut index = 0;
        while let Some(call) = self.calls.get_mut(index) {
            match call.as_mut().poll(context) {
                Poll::Ready(Call::End(why)) => return Some(why.to_owned()),
                Poll::Ready(Call::Cut(why)) => {
                    self.is_cut = true;
                    return Some(why.to_owned());
                }
                Poll::Ready(Call::EndAborted) => {
                    if let Some(membership) = &self.membership {
                        self.calls[index] = ended_by_others(membership.attentions.clone());
                    }
                    self.end_aborted();
                }
                Poll::Pending => index += 1,
            }
        }
        if let Some(establishing) = &mut self.establishing
            && let Poll::Ready(result) = establishing.as_mut().poll(context)
        {
            self.establishing = None;
            let tsih = result.map(|membership| self.join(membership));
            self.handle(Input::Established(tsih));
            // What they wait for from now on.
            return self.answer_calls(context);
        }
        None
    }

    /// Notes the session's place in the registry, if it has one; gives its handle.
    fn join(&mut self, membership: Option<Membership>) -> u16 {
        if let Some(membership) = &membership {
            self.calls.push(ended_by_others(membership.attentions.clone()));
        }
        self.membership = membership;
        self.server.settle(&self.guest, self.membership.as_ref())
    }

    /// Works until there is nothing to do, or it is time to look whether others want something; gives the reason once
    /// the session is over.
    fn round(&mut self, context: &mut Context<'_>) -> Option<String> {
        self.is_busy = true;
        for _ in 0..TURNS_MAX {
            let mut is_idle = true;
            while let Poll::Ready((task, memory, result)) = self.in_flight.poll_finished(context) {
                self.read_memory -= memory;
                self.finish(task, result);
                is_idle = false;
            }
            if self.is_readable && self.session.wants_input() {
                self.receive();
                is_idle = false;
            }
            if self.session.next_deadline().is_some_and(|deadline| deadline <= self.clock.now()) {
                self.handle(Input::Timer);
                is_idle = false;
            }
            if let Some(reason) = self.follow_outputs() {
                return Some(reason.to_string());
            }
            if self.establishing.is_some() {
                if let Some(reason) = self.answer_calls(context) {
                    return Some(reason);
                }
                is_idle &= self.establishing.is_some();
            }
            is_idle &= !self.send();
            self.begin_reads();
            if is_idle {
                self.is_busy = false;
                break;
            }
        }
        None
    }

    fn handle(&mut self, input: Input) {
        self.session.handle(input, self.clock.now());
    }

    /// Does what the session asks for; gives the reason if it is over.
    fn follow_outputs(&mut self) -> Option<CloseReason> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::LoginStarted(identity) => {
                    self.who.clone_from(&identity.initiator_name);
                    let decision = self.server.decide(&self.guest, &identity);
                    self.handle(Input::LoginDecided(decision));
                }
                Output::LoginEnding(identity) => {
                    let leave = self.guest.leave.clone();
                    self.establishing = Some(Box::pin(self.server.clone().establish(leave, identity)));
                }
                Output::LoggedIn { negotiated } => {
                    info!(peer = %self.guest.peer, initiator = %self.who, "logged in: {negotiated}");
                }
                Output::Command(command) => self.begin(&command),
                Output::DataReady { task, data } => {
                    if let Some(plan) = self.writes.remove(&task) {
                        self.start(task, 0, plan.begin(data));
                    }
                }
                Output::Aborted { task } => {
                    // What the device has already is waited for.
                    let was_read = self.reads.iter().position(|(waiting, _)| *waiting == task);
                    let is_parked = match was_read {
                        Some(index) => self.reads.remove(index).is_some(),
                        None => self.writes.remove(&task).is_some(),
                    };
                    if is_parked {
                        self.finish(task, TaskResult::good(0));
                    }
                }
                Output::TaskManagement { task, function, lun } => {
                    debug!(initiator = %self.who, ?function, "task management");
                    self.manage(task, function, lun.number());
                }
                Output::SendTargets { task, which } => {
                    let own = self.membership.as_ref().map(|membership| &*membership.target);
                    let reached = self.stream.local_addr().ok();
                    let targets = self.server.visible_targets(&self.guest, &self.who, own, &which, reached);
                    self.handle(Input::Targets { task, targets });
                }
                Output::Closed(reason) => return Some(reason),
            }
        }
        None
    }

    fn begin(&mut self, command: &Command) {
        let task = command.task;
        // The login made it a member; no command comes before that, nor in a discovery session.
        let Some(Membership { target, port, attentions, .. }) = &self.membership else { return };
        let context = execute::From { target, nexus: port, attentions };
        match execute::begin(&context, command) {
            Step::Done(result) => self.finish(task, result),
            Step::Run(job) => self.start(task, 0, job),
            Step::Write(plan) => {
                let length = plan.length();
                self.writes.insert(task, plan);
                self.handle(Input::WantData { task, length });
            }
            Step::Read(plan) => {
                self.reads.push_back((task, plan));
                self.begin_reads();
            }
        }
    }

    /// Begins reads that wait, while there is memory; one at least, whatever its size.
    fn begin_reads(&mut self) {
        while let Some((_, plan)) = self.reads.front() {
            let held = self.read_memory + self.session.transmit().len() as u64;
            if held > 0 && held + plan.length > READ_MEMORY_MAX {
                return;
            }
            let Some((task, plan)) = self.reads.pop_front() else { return };
            let memory = plan.length;
            self.start(task, memory, plan.begin());
        }
    }

    fn start(&mut self, task: TaskId, memory: u64, job: Job) {
        match self.in_flight.start(task, memory, job) {
            Some(result) => self.finish(task, result),
            None => self.read_memory += memory,
        }
    }

    /// The part of task management that concerns other sessions. It is answered when the last write that it ends has
    /// ended.
    fn manage(&mut self, task: TaskId, function: TaskFunction, lun: Option<u16>) {
        let own = self.membership.as_ref().map(|membership| (membership.target.clone(), &membership.port));
        let unit = own.as_ref().and_then(|(target, _)| target.unit(lun?).cloned());
        let (Some(unit), Some((target, nexus))) = (unit, own) else {
            return self.handle(Input::TaskManagementDone { task, response: TaskManagementResponse::NoSuchLun });
        };
        match function {
            TaskFunction::ClearTaskSet => target.abort_tasks(unit.number, nexus),
            TaskFunction::LogicalUnitReset => {
                target.abort_tasks(unit.number, nexus);
                unit.reservations.end_reserve_6(None);
                target.raise_attention(unit.number, AdditionalSense::BUS_DEVICE_RESET, None);
            }
            // The session's own tasks have ended already; the others are not served.
            _ => return self.handle(Input::TaskManagementDone { task, response: TaskManagementResponse::Complete }),
        }
        self.managements.insert(task);
        self.start(task, 0, execute::writes_ended(unit));
    }

    /// Ends what waits here and was ended by another session.
    fn end_aborted(&mut self) {
        let writes = self.writes.iter().filter(|(_, plan)| plan.is_aborted()).map(|(task, _)| *task);
        let reads = self.reads.iter().filter(|(_, plan)| plan.is_aborted()).map(|(task, _)| *task);
        let ended: Vec<TaskId> = writes.chain(reads).collect();
        self.reads.retain(|(_, plan)| !plan.is_aborted());
        for task in ended {
            self.writes.remove(&task);
            self.finish(task, TaskResult::status(Status::TaskAborted));
        }
    }

    fn finish(&mut self, task: TaskId, result: TaskResult) {
        if self.managements.remove(&task) {
            return self.handle(Input::TaskManagementDone { task, response: TaskManagementResponse::Complete });
        }
        self.handle(Input::Finished { task, result });
    }

    /// Reads once.
    fn receive(&mut self) {
        let input = match system::receive(&self.stream, self.session.receive_buffer()) {
            Ok((0, _)) => Input::StreamEnded { what: "closed by the initiator".to_owned() },
            Ok((_, is_all_room)) => {
                // What comes after a short read is told by the next sleep.
                self.is_readable = is_all_room;
                Input::Received
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                return;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            Err(error) => Input::StreamEnded { what: error.to_string() },
        };
        self.handle(input);
    }

    /// Writes once, unless the socket is full; says whether something was written, or failed.
    fn send(&mut self) -> bool {
        let transmit = self.session.transmit();
        if transmit.is_empty() || self.is_full {
            return false;
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = transmit.chunks_vectored(&mut slices);
        match self.stream.write_vectored(&slices[..count]) {
            Ok(written) => transmit.advance(written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_full = true;
                return false;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => self.handle(Input::StreamEnded { what: error.to_string() }),
        }
        true
    }

    /// Sends the last answers, as far as the peer takes them; a failure changes nothing any more.
    fn say_farewell(&mut self, parker: &Parker) {
        let end = self.clock.now() + FAREWELL;
        self.is_full = false;
        while !self.is_cut && !self.session.transmit().is_empty() {
            let now = self.clock.now();
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let transmit = self.session.transmit();
            let count = transmit.chunks_vectored(&mut slices);
            match self.stream.write_vectored(&slices[..count]) {
                Ok(written) => transmit.advance(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && now < end => {
                    let left = Duration::from_nanos(end.as_nanos() - now.as_nanos());
                    if parker.sleep(&self.stream, false, true, left).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn until_deadline(&self) -> Duration {
        let Some(deadline) = self.session.next_deadline() else { return FAREWELL };
        Duration::from_nanos(deadline.as_nanos().saturating_sub(self.clock.now().as_nanos()))
    }
}

/// Time since the connection began, as the session counts it.
struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

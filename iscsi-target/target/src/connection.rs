//! One connection: moves bytes, time and results between socket, session and devices. Decides nothing about iSCSI.
//!
//! One task owns all of it, so nothing is locked. In each round it takes what the devices finished, reads once, lets
//! the session work, and writes everything that came of it with one call.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{IoSlice, Result as IoResult};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::{BoxFuture, Instant};
use bytes::Buf;
use iscsi_target_proto::pdu::{LoginStatus, TaskFunction, TaskManagementResponse};
use iscsi_target_proto::scsi::AdditionalSense;
use iscsi_target_proto::target::{
    CloseReason, Command, Input, Output, PortalTarget, TargetConfig, TargetSession, TaskId, TaskResult,
};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Sleep;
use tracing::{debug, info};

use crate::execute::{self, Job, ReadPlan, Step, WritePlan};
use crate::inflight::InFlight;
use crate::registry::{Membership, PORTAL_GROUP, Target};

/// Most slices in one write.
const SLICES_MAX: usize = 64;
/// Reads are begun while their data, and what waits to be written, is below this many bytes.
const READ_MEMORY_MAX: u64 = 32 * 1024 * 1024;
/// How long a closed session's last answers may take to be written.
const FAREWELL: Duration = Duration::from_secs(2);

/// One initiator's connection.
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    target: Arc<Target>,
    portals: Arc<[SocketAddr]>,
    session: TargetSession,
    in_flight: InFlight,
    /// Writes that wait for their data.
    writes: HashMap<TaskId, WritePlan>,
    /// Reads that wait for memory, oldest first.
    reads: VecDeque<(TaskId, ReadPlan)>,
    /// Buffers of reads that were begun and not answered, in bytes.
    read_memory: u64,
    establishing: Option<BoxFuture<'static, Result<Membership, LoginStatus>>>,
    membership: Option<Membership>,
    clock: Clock,
    timer: Pin<Box<Sleep>>,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// Dropped when the program is to stop.
    stop: watch::Receiver<()>,
    who: String,
}

impl Connection {
    pub fn new(
        stream: TcpStream,
        peer: SocketAddr,
        target: Arc<Target>,
        portals: Arc<[SocketAddr]>,
        stop: watch::Receiver<()>,
    ) -> Self {
        let clock = Clock::new();
        let session = TargetSession::new(TargetConfig::default(), clock.now());
        Self {
            stream,
            peer,
            target,
            portals,
            session,
            in_flight: InFlight::default(),
            writes: HashMap::new(),
            reads: VecDeque::new(),
            read_memory: 0,
            establishing: None,
            membership: None,
            timer: Box::pin(tokio::time::sleep_until(clock.to_tokio(clock.now()))),
            clock,
            armed: None,
            stop,
            who: String::from("?"),
        }
    }

    /// Serves the connection to its end; returns when nothing of it is under way any more.
    pub async fn run(mut self) {
        if let Err(error) = self.stream.set_nodelay(true) {
            debug!(peer = %self.peer, %error, "cannot set TCP_NODELAY");
        }
        let mut stop = self.stop.clone();
        let leave = Arc::new(tokio::sync::Notify::new());
        let reason = loop {
            let leaves = self.membership.as_ref().map_or(&leave, |membership| &membership.leave).clone();
            let had_membership = self.membership.is_some();
            let why = tokio::select! {
                biased;
                ended = poll_fn(|context| self.poll_round(context, had_membership)) => ended,
                () = leaves.notified() => Some("replaced by a new session of the same initiator port".to_owned()),
                _ = stop.changed() => Some("the target stops".to_owned()),
            };
            if let Some(why) = why {
                break why;
            }
        };
        info!(peer = %self.peer, initiator = %self.who, "session ended: {reason}");
        // Its last answers, as far as the peer takes them; a failure changes nothing any more.
        let _ = tokio::time::timeout(FAREWELL, poll_fn(|context| self.poll_write_all(context))).await;
        let Self { stream, mut in_flight, membership, .. } = self;
        drop(stream);
        while !in_flight.is_empty() {
            poll_fn(|context| in_flight.poll_finished(context)).await;
        }
        drop(membership);
    }

    /// Works until there is nothing to do. Ready with the reason once the session is over, and with `None` when a
    /// membership was gained.
    fn poll_round(&mut self, context: &mut Context<'_>, had_membership: bool) -> Poll<Option<String>> {
        loop {
            let mut is_idle = true;
            while let Poll::Ready((task, memory, result)) = self.in_flight.poll_finished(context) {
                self.read_memory -= memory;
                self.finish(task, result);
                is_idle = false;
            }
            if let Some(establishing) = &mut self.establishing
                && let Poll::Ready(result) = establishing.as_mut().poll(context)
            {
                self.establishing = None;
                let tsih = result.map(|membership| self.membership.insert(membership).tsih);
                self.handle(Input::Established(tsih));
                is_idle = false;
            }
            if self.session.wants_input() {
                let read = pin!(self.stream.read_buf(self.session.receive_buffer())).poll(context);
                if let Poll::Ready(read) = read {
                    self.handle(match read {
                        Ok(0) => Input::StreamEnded { what: "closed by the initiator".to_owned() },
                        Ok(_) => Input::Received,
                        Err(error) => Input::StreamEnded { what: error.to_string() },
                    });
                    is_idle = false;
                }
            }
            if self.poll_timer(context) {
                self.handle(Input::Timer);
                is_idle = false;
            }
            if let Some(reason) = self.follow_outputs() {
                return Poll::Ready(Some(reason.to_string()));
            }
            match self.poll_write(context) {
                Poll::Ready(Ok(written)) => is_idle &= written == 0,
                Poll::Ready(Err(error)) => {
                    self.handle(Input::StreamEnded { what: error.to_string() });
                    is_idle = false;
                }
                Poll::Pending => {}
            }
            self.begin_reads();
            if self.membership.is_some() && !had_membership {
                return Poll::Ready(None);
            }
            if is_idle {
                return Poll::Pending;
            }
        }
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
                    let decision = self.target.decide(&identity);
                    self.handle(Input::LoginDecided(decision));
                }
                Output::LoginEnding(identity) => {
                    self.establishing = Some(Box::pin(self.target.clone().establish(identity)));
                }
                Output::LoggedIn { negotiated } => {
                    info!(peer = %self.peer, initiator = %self.who, "logged in: {negotiated}");
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
                    let response = match lun.number().filter(|number| self.target.unit(*number).is_some()) {
                        Some(number) => {
                            if function == TaskFunction::LogicalUnitReset {
                                if let Some(unit) = self.target.unit(number) {
                                    unit.reservations.end_reserve_6(None);
                                }
                                self.target.raise_attention(number, AdditionalSense::BUS_DEVICE_RESET, None);
                            }
                            TaskManagementResponse::Complete
                        }
                        None => TaskManagementResponse::NoSuchLun,
                    };
                    self.handle(Input::TaskManagementDone { task, response });
                }
                Output::SendTargets { task, which } => {
                    let targets = self.visible_targets(&which);
                    self.handle(Input::Targets { task, targets });
                }
                Output::Closed(reason) => return Some(reason),
            }
        }
        None
    }

    fn begin(&mut self, command: &Command) {
        let task = command.task;
        // The login made it a member, and no command comes before that.
        let Some(membership) = &self.membership else { return };
        // Nor does a discovery session have commands.
        let Some(nexus) = &membership.port else { return };
        let context = execute::From { target: &self.target, nexus, attentions: &membership.attentions };
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

    fn finish(&mut self, task: TaskId, result: TaskResult) {
        self.handle(Input::Finished { task, result });
    }

    /// The answer to SendTargets: every portal of the one target, the one that was reached first. An address that
    /// listens on all interfaces is told as the one the initiator came to.
    fn visible_targets(&self, which: &str) -> Vec<PortalTarget> {
        if !which.is_empty() && which != "All" && which != self.target.name {
            return Vec::new();
        }
        let reached = self.stream.local_addr().ok();
        let concrete = self.portals.iter().map(|portal| match reached {
            Some(reached) if portal.ip().is_unspecified() => SocketAddr::new(reached.ip(), portal.port()),
            _ => *portal,
        });
        let mut addresses: Vec<SocketAddr> = concrete.collect();
        addresses.sort_by_key(|address| Some(*address) != reached);
        addresses.dedup();
        let addresses = addresses.iter().map(|address| format!("{address},{PORTAL_GROUP}")).collect();
        vec![PortalTarget { name: self.target.name.clone(), addresses }]
    }

    /// Writes once; gives the number of bytes, 0 if there was nothing to write.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<IoResult<usize>> {
        let transmit = self.session.transmit();
        if transmit.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = transmit.chunks_vectored(&mut slices);
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &slices[..count]))?;
        transmit.advance(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_all(&mut self, context: &mut Context<'_>) -> Poll<IoResult<()>> {
        while ready!(self.poll_write(context))? > 0 {}
        Poll::Ready(Ok(()))
    }

    /// Whether the session's deadline has come. The timer is moved only when it must fire earlier, or has fired.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> bool {
        let Some(deadline) = self.session.next_deadline() else { return false };
        loop {
            if self.armed.is_none_or(|armed| deadline < armed) {
                self.timer.as_mut().reset(self.clock.to_tokio(deadline));
                self.armed = Some(deadline);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return false;
            }
            let fired = self.armed.take();
            if fired.is_some_and(|fired| fired >= deadline) {
                return true;
            }
        }
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

    fn to_tokio(&self, at: Instant) -> tokio::time::Instant {
        self.origin + Duration::from_nanos(at.as_nanos())
    }
}

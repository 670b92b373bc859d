//! Two iSCSI sessions, real machines on both sides, and a cable that changes bytes. Neither may panic, whatever arrives; each may
//! end the session.

use base::Instant;
use bytes::{Buf, Bytes};
use iscsi_target_proto::initiator::{self, CommandToken, InitiatorConfig, InitiatorSession};
use iscsi_target_proto::target::{
    self, Authentication, Direction, LoginDecision, TargetConfig, TargetSession, TaskResult,
};

use crate::random::Random;

/// How often bytes move before a round ends.
const TURNS: usize = 24;

/// One round: log in, send pings and ask for targets, with the cable's changes.
pub fn round(random: &mut Random) {
    let now = Instant::from_nanos(1);
    let name = (random.below(4) > 0).then_some("iqn.2026-11.org.corral:fuzz");
    let mut own = InitiatorSession::new(InitiatorConfig::new("iqn.2026-11.org.corral:i", name, 1), now);
    let mut peer = TargetSession::new(TargetConfig::default(), now);
    // Most rounds leave the login alone, so that the full feature phase is reached.
    let clean_turns = random.below(8);
    for turn in 0..TURNS {
        let is_clean = turn < clean_turns;
        if turn == 4 {
            own.handle(initiator::Input::Ping { token: CommandToken(1) }, now);
            own.handle(initiator::Input::SendTargets, now);
        }
        let sent = cable(own.transmit().copy_to_bytes_all(), is_clean, random);
        peer.receive_buffer().extend_from_slice(&sent);
        peer.handle(target::Input::Received, now);
        serve(&mut peer, now);
        let answered = cable(peer.transmit().copy_to_bytes_all(), is_clean, random);
        own.receive_buffer().extend_from_slice(&answered);
        own.handle(initiator::Input::Received, now);
        while own.poll_output().is_some() {}
    }
}

/// The target's shell: accepts everybody, and does every command with zeroes.
fn serve(peer: &mut TargetSession, now: Instant) {
    while let Some(output) = peer.poll_output() {
        let answer = match output {
            target::Output::LoginStarted(_) => target::Input::LoginDecided(LoginDecision::Accept {
                portal_group: 1,
                authentication: Authentication::None,
            }),
            target::Output::LoginEnding(_) => target::Input::Established(Ok(1)),
            target::Output::Command(command) => {
                let data = match command.direction {
                    Direction::In => Bytes::from(vec![0; 512]),
                    _ => Bytes::new(),
                };
                target::Input::Finished { task: command.task, result: TaskResult::data(data) }
            }
            target::Output::SendTargets { task, .. } => target::Input::Targets { task, targets: Vec::new() },
            target::Output::TaskManagement { task, .. } => target::Input::TaskManagementDone {
                task,
                response: iscsi_target_proto::pdu::TaskManagementResponse::Complete,
            },
            _ => continue,
        };
        peer.handle(answer, now);
    }
}

fn cable(bytes: Bytes, is_clean: bool, random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if !is_clean && !bytes.is_empty() && random.below(3) == 0 {
        random.mutate(&mut bytes);
    }
    bytes
}

/// Everything that waits to be sent.
trait Everything: Buf {
    fn copy_to_bytes_all(&mut self) -> Bytes {
        let count = self.remaining();
        self.copy_to_bytes(count)
    }
}

impl<T: Buf> Everything for T {}

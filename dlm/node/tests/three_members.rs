//! Three members on loopback, in one process, over real connections: what users of locks see.

use std::net::TcpListener;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::NodeId;
use dlm_api::{Flags, Granted, LockError, LockFuture, LockManager, Mode, ResourceName, ValueBlock};
use dlm_node::{JoinError, JoinOptions, Member, MemberAddress, View};

const PATIENCE: Duration = Duration::from_secs(30);

fn name(text: &str) -> ResourceName {
    ResourceName::new(text.as_bytes()).expect("a name")
}

fn free_view(cluster: &str, count: u32) -> View {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let members = (1..)
        .zip(&listeners)
        .map(|(id, listener)| MemberAddress { id: NodeId(id), address: listener.local_addr().expect("an address") });
    View::on_loopback(cluster, members.collect()).expect("a right view")
}

/// Joins all members at once, as their nodes would.
fn join_all(view: &View) -> Vec<Arc<Member>> {
    let threads: Vec<_> = view
        .members
        .iter()
        .map(|member| {
            let (view, id) = (view.clone(), member.id);
            std::thread::spawn(move || {
                let options = JoinOptions { within: Some(PATIENCE), ..JoinOptions::default() };
                Member::join_with(&view, id, "fs0", options).unwrap_or_else(|error| panic!("{id}: {error}"))
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("joined")).collect()
}

/// Waits for a request's end, with a limit.
fn wait<T: Send + 'static>(future: LockFuture<T>) -> Result<T, LockError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("an answer in time") })
}

fn is_ready<T>(future: &mut LockFuture<T>) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    pin!(future).poll(&mut context).is_ready()
}

fn told() -> (dlm_api::BlockingCallback, Receiver<Mode>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    (Arc::new(move |mode| sender.lock().expect("not poisoned").send(mode).unwrap_or(())), receiver)
}

fn nobody() -> dlm_api::BlockingCallback {
    Arc::new(|_| ())
}

fn leave_all(members: &[Arc<Member>]) {
    let threads: Vec<_> = members
        .iter()
        .map(|member| {
            let member = Arc::clone(member);
            std::thread::spawn(move || member.leave(PATIENCE).unwrap_or_else(|error| panic!("{error}")))
        })
        .collect();
    for thread in threads {
        thread.join().expect("left");
    }
}

#[test]
fn an_exclusive_lock_and_its_value_are_handed_from_member_to_member() {
    let members = join_all(&free_view("handoff", 3));
    let resource = name("       2            1a3f");
    let (blocking, told) = told();
    let (first, granted) = members[0].lock(resource.clone(), Mode::Exclusive, Flags::VALBLK, blocking);
    assert_eq!(wait(granted).expect("granted").value, Some(ValueBlock::default()));
    let (second, mut waits) = members[1].lock(resource.clone(), Mode::Exclusive, Flags::VALBLK, nobody());
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Mode::Exclusive));
    assert!(!is_ready(&mut waits));
    let value = ValueBlock([7; 32]);
    let down = members[0].convert(first, Mode::Null, Flags::VALBLK, Some(value));
    assert_eq!(wait(down).expect("down").mode, Mode::Null);
    let granted: Granted = wait(waits).expect("granted");
    assert_eq!((granted.mode, granted.value), (Mode::Exclusive, Some(value)));
    let (_, refused) = members[2].lock(resource, Mode::ProtectedRead, Flags::NOQUEUE, nobody());
    assert_eq!(wait(refused), Err(LockError::WouldBlock));
    wait(members[1].unlock(second, None)).expect("unlocked");
    wait(members[0].unlock(first, None)).expect("unlocked");
    leave_all(&members);
}

#[test]
fn a_lock_whose_master_is_here_is_answered_within_the_call() {
    let members = join_all(&free_view("local", 3));
    for number in 0..20 {
        let resource = name(&format!("local {number}"));
        let (lock, granted) = members[0].lock(resource, Mode::Null, Flags::NONE, nobody());
        wait(granted).expect("granted");
        for mode in [Mode::Exclusive, Mode::ProtectedRead, Mode::Null] {
            assert!(is_ready(&mut members[0].convert(lock, mode, Flags::NONE, None)));
        }
        assert!(is_ready(&mut members[0].unlock(lock, None)));
    }
    leave_all(&members);
}

/// A counter beside the locks that is only right if the lock is exclusive, and the value block
/// carries the count.
#[test]
fn all_members_count_under_one_exclusive_lock() {
    const ROUNDS: u32 = 200;
    let members = join_all(&free_view("count", 3));
    let inside = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = members
        .iter()
        .map(|member| {
            let (member, inside) = (Arc::clone(member), Arc::clone(&inside));
            std::thread::spawn(move || {
                let (lock, granted) = member.lock(name("counter"), Mode::Null, Flags::VALBLK, nobody());
                wait(granted).expect("granted");
                for _ in 0..ROUNDS {
                    let granted = wait(member.convert(lock, Mode::Exclusive, Flags::VALBLK, None)).expect("granted");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
                    let mut bytes = granted.value.expect("a value").0;
                    let count = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) + 1;
                    bytes[..4].copy_from_slice(&count.to_le_bytes());
                    inside.fetch_sub(1, Ordering::SeqCst);
                    let value = Some(ValueBlock(bytes));
                    wait(member.convert(lock, Mode::Null, Flags::VALBLK, value)).expect("down");
                }
                lock
            })
        })
        .collect();
    let locks: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("done")).collect();
    let granted = wait(members[0].convert(locks[0], Mode::ProtectedRead, Flags::VALBLK, None)).expect("granted");
    let bytes = granted.value.expect("a value").0;
    assert_eq!(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), 3 * ROUNDS);
    leave_all(&members);
}

/// Masters and directories go; whoever stays goes on, with the locks it has and with new ones.
#[test]
fn members_leave_in_any_order_and_the_others_go_on() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let members = join_all(&free_view("leave", 3));
        let names: Vec<_> = (0..200).map(|number| name(&format!("many {number}"))).collect();
        let mut locks = Vec::new();
        for (index, resource) in names.iter().enumerate() {
            // Each name is first used, so mastered, by another member, and then held by all.
            for turn in 0..3 {
                let member = (index + turn) % 3;
                let (lock, granted) =
                    members[member].lock(resource.clone(), Mode::ProtectedRead, Flags::NONE, nobody());
                wait(granted).expect("granted");
                locks.push((member, lock));
            }
        }
        for (gone, leaver) in order.into_iter().enumerate() {
            for (_, lock) in locks.extract_if(.., |(member, _)| *member == leaver) {
                wait(members[leaver].unlock(lock, None)).expect("unlocked");
            }
            members[leaver].leave(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
            for stayer in &order[gone + 1..] {
                for resource in names.iter().take(20) {
                    let (lock, granted) =
                        members[*stayer].lock(resource.clone(), Mode::ProtectedRead, Flags::NONE, nobody());
                    wait(granted).expect("granted");
                    wait(members[*stayer].unlock(lock, None)).expect("unlocked");
                }
                let fresh = name(&format!("fresh {gone} {stayer}"));
                let (_, granted) = members[*stayer].lock(fresh, Mode::Exclusive, Flags::NONE, nobody());
                wait(granted).expect("granted");
            }
        }
    }
}

#[test]
fn a_member_that_left_comes_back_while_the_others_work() {
    let view = free_view("return", 3);
    let mut members = join_all(&view);
    let resource = name("shared");
    let (first, granted) = members[0].lock(resource.clone(), Mode::Exclusive, Flags::NONE, nobody());
    wait(granted).expect("granted");
    members[1].leave(PATIENCE).expect("left");
    members[1] = Member::join(&view, NodeId(2), "fs0").expect("joined again");
    let (_, mut waits) = members[1].lock(resource, Mode::ProtectedRead, Flags::NONE, nobody());
    assert!(!is_ready(&mut waits));
    wait(members[0].unlock(first, None)).expect("unlocked");
    wait(waits).expect("granted");
    leave_all(&members);
}

#[test]
fn a_lost_member_ends_what_involves_it_with_an_error_that_names_it() {
    let mut view = free_view("lost", 3);
    view.lost_after = Duration::from_millis(500);
    let mut members = join_all(&view);
    let resource = name("held by the lost");
    let (_, granted) = members[2].lock(resource.clone(), Mode::Exclusive, Flags::NONE, nobody());
    wait(granted).expect("granted");
    let (_, waits) = members[0].lock(resource.clone(), Mode::ProtectedRead, Flags::NONE, nobody());
    drop(members.pop());
    let error = wait(waits).expect_err("never granted");
    assert!(error.to_string().contains("node 3 is lost"), "{error}");
    assert!(members[0].lost().contains_key(&NodeId(3)));
    assert!(members[0].status().to_string().contains("LOST"), "{}", members[0].status());
    let (_, refused) = members[1].lock(resource, Mode::ProtectedRead, Flags::NONE, nobody());
    assert!(matches!(wait(refused), Err(LockError::Unavailable { .. })));
    let error = members[0].leave(PATIENCE).expect_err("it cannot leave in order");
    assert!(error.to_string().contains("node 3 is lost"), "{error}");
}

#[test]
fn a_member_of_another_lockspace_or_view_is_refused_with_the_reason() {
    let view = free_view("refuse", 2);
    let mut other = view.clone();
    other.generation = 2;
    let options = || JoinOptions { within: Some(PATIENCE), ..JoinOptions::default() };
    for (view_of_two, lockspace, expected) in
        [(view.clone(), "other", "has the lockspace"), (other, "fs0", "another view file")]
    {
        let two = std::thread::spawn(move || Member::join_with(&view_of_two, NodeId(2), lockspace, options()).err());
        let one = Member::join_with(&view, NodeId(1), "fs0", options()).err();
        let error = two.join().expect("ended").expect("refused");
        assert!(matches!(&error, JoinError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(matches!(one, Some(JoinError::Refused { .. })));
    }
}

#[test]
fn joining_says_whom_it_waits_for() {
    let view = free_view("wait", 3);
    let (sender, said) = channel();
    let progress = Box::new(move |text: &str| drop(sender.send(text.to_owned())));
    let options =
        JoinOptions { within: Some(Duration::from_secs(2)), progress: Some(progress), ..JoinOptions::default() };
    let error = Member::join_with(&view, NodeId(1), "fs0", options).err().expect("alone");
    assert_eq!(error.to_string(), "waiting for node 2, 3");
    assert_eq!(said.recv().as_deref(), Ok("waiting for node 2, 3"));
}

#[test]
fn hostile_bytes_end_their_connection_and_nothing_else() {
    use std::io::{Read, Write};
    let view = free_view("hostile", 2);
    let members = join_all(&view);
    let address = view.address_of(NodeId(1)).expect("an address");
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"CorralLM\x01\x00\xff\xff", b"CorralLM\x09\x00\x00\x00"] {
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.write_all(bytes).expect("sent");
        let mut answer = Vec::new();
        // Closed or reset, but not held open.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }
    let (_, granted) = members[0].lock(name("still there"), Mode::Exclusive, Flags::NONE, nobody());
    wait(granted).expect("granted");
    leave_all(&members);
}

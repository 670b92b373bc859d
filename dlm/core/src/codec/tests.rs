use super::*;

fn about() -> About {
    About { name: ResourceName::new(b"       2            1a3f").expect("a name"), lock: LockId(7), sequence: 3 }
}

/// One message of every kind, with every optional field once there and once not.
fn messages() -> Vec<Message> {
    let name = about().name;
    let value = Some(ValueBlock([9; 32]));
    let holder = |node, lock| Holder { node: NodeId(node), lock: LockId(lock) };
    let request = |mode, value| Some(Request { mode, flags: Flags::VALBLK, value });
    let entry = |key, granted, request| Entry { key, sequence: 5, granted, request, told: 2 };
    let queues = Queues {
        granted: vec![entry(holder(1, 2), Some(Mode::ConcurrentRead), None)],
        converting: [entry(holder(2, 2), Some(Mode::Null), request(Mode::Exclusive, value))].into(),
        waiting: [entry(holder(3, 9), None, request(Mode::ProtectedRead, None))].into(),
        value: ValueBlock([1; 32]),
        value_sequence: 8,
        is_value_valid: true,
    };
    let life = Life { node: NodeId(2), incarnation: Incarnation(99) };
    let view = ViewId(4);
    vec![
        Message::Request { about: about(), mode: Mode::Exclusive, flags: Flags::NOQUEUE },
        Message::Convert { about: about(), mode: Mode::Null, flags: Flags::VALBLK, value },
        Message::Convert { about: about(), mode: Mode::Null, flags: Flags::NONE, value: None },
        Message::Unlock { about: about(), value },
        Message::Cancel { about: about() },
        Message::Granted { about: about(), mode: Mode::ProtectedWrite, value, is_value_valid: true },
        Message::Refused { about: about(), refusal: Refusal::Deadlock },
        Message::Unlocked { about: about() },
        Message::Blocking { lock: LockId(1), mode: Mode::ConcurrentWrite },
        Message::NotMaster { about: about() },
        Message::Lookup { name: name.clone() },
        Message::MasterIs { name: name.clone(), master: NodeId(3) },
        Message::Remove { name: name.clone() },
        Message::Removed { name: name.clone() },
        Message::Transfer { name: name.clone(), queues: Box::new(queues) },
        Message::Transferred { name: name.clone() },
        Message::Redirect { name: name.clone(), master: NodeId(1) },
        Message::Redirected { name: name.clone() },
        Message::Moved { name: name.clone(), master: NodeId(1) },
        Message::Entries { view, entries: vec![(name.clone(), NodeId(1)), (name, NodeId(2))] },
        Message::EntriesDone { view },
        Message::EntriesTaken { view },
        Message::Join,
        Message::Leave,
        Message::Prepare { view, members: vec![life], previous: vec![NodeId(1), NodeId(2)] },
        Message::Ready { view },
        Message::Commit { view },
        Message::Abandon { view },
        Message::ViewIs { view, members: vec![life, life] },
    ]
}

fn frame() -> Frame {
    Frame {
        sender: NodeId(1),
        sender_incarnation: Incarnation(10),
        receiver_incarnation: Incarnation(20),
        acknowledged: 5,
        first: 77,
        messages: messages().into_iter().map(|message| (ViewId(3), message)).collect(),
    }
}

#[test]
fn every_message_comes_back_as_it_was() {
    let bytes = frame().encode();
    assert_eq!(frame_length(&bytes), Ok(Some(bytes.len())));
    assert_eq!(Frame::decode(&bytes), Ok(frame()));
}

#[test]
fn a_frame_with_one_wrong_bit_is_refused() {
    let bytes = frame().encode();
    for bit in 0..bytes.len() * 8 {
        let mut broken = bytes.to_vec();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::decode(&broken).is_err(), "bit {bit}");
    }
}

#[test]
fn a_message_cut_at_any_byte_is_refused_and_so_is_one_with_a_byte_too_many() {
    for message in messages() {
        let whole = encode_message(ViewId(1), &message);
        for length in 0..whole.len() - 4 {
            let mut reader = Reader { rest: &whole[4..4 + length] };
            assert!(reader.message().is_err(), "{message:?} cut to {length}");
        }
        let mut long = whole.to_vec();
        long.push(0);
        let count = long.len() - 4;
        long[..4].copy_from_slice(&u32::try_from(count).expect("short").to_le_bytes());
        let mut frame = Frame { messages: Vec::new(), ..frame() }.encode_around(&[long.into()]).to_vec();
        assert_eq!(Frame::decode(&frame), Err(CodecError::Trailing { count: 1 }));
        frame.pop();
        assert!(matches!(Frame::decode(&frame), Err(CodecError::Length { .. })));
    }
}

/// Bytes changed at random behind a checksum that is right: no panic, and no memory beyond the frame's.
#[test]
fn any_bytes_with_a_right_checksum_are_a_frame_or_an_error() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let bytes = frame().encode();
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut broken = bytes.to_vec();
        for _ in 0..=random() % 3 {
            let at = 8 + usize::try_from(random() % (bytes.len() as u64 - 8)).expect("small");
            broken[at] = random().to_le_bytes()[0];
        }
        let checksum = crc32c::crc32c(&broken[8..]);
        broken[4..8].copy_from_slice(&checksum.to_le_bytes());
        accepted += u32::from(Frame::decode(&broken).is_ok());
    }
    assert!(accepted > 0);
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut bytes = frame().encode().to_vec();
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(Frame::decode(&bytes), Err(CodecError::Version { found: 2 }));
}

#[test]
fn a_length_that_no_frame_has_is_refused_before_it_is_read() {
    assert_eq!(frame_length(&[1, 2]), Ok(None));
    assert_eq!(frame_length(&[0, 0, 0, 0]), Err(CodecError::Length { length: 0 }));
    assert_eq!(frame_length(&[255, 255, 255, 255, 1]), Err(CodecError::Length { length: 0xffff_ffff }));
}

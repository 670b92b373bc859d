//! Writes that were answered and not flushed yet: what a target that dies may lose.
//!
//! Owns the newest content of every byte written since the last flush, as references to the callers' buffers; written
//! zeroes are only counted.
//! Invariant: the pieces do not overlap, so they may be sent again in any order.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Answered writes, by byte offset.
#[derive(Debug, Default)]
pub struct Kept {
    pieces: BTreeMap<u64, Piece>,
    bytes: u64,
    /// Counts answers; a piece has the number of the answer that brought it.
    answers: u64,
}

#[derive(Clone, Debug)]
struct Piece {
    content: Content,
    answer: u64,
}

#[derive(Clone, Debug)]
enum Content {
    Data(Bytes),
    /// So many zeroes; they take no memory.
    Zeroes(u64),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeroes(len) => *len,
        }
    }

    /// Bytes of memory.
    fn held(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeroes(_) => 0,
        }
    }

    fn slice(&self, from: u64, to: u64) -> Self {
        match self {
            Self::Data(data) => Self::Data(data.slice(from as usize..to as usize)),
            Self::Zeroes(_) => Self::Zeroes(to - from),
        }
    }
}

/// One command's worth of what to send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    Data { at: u64, buffers: Vec<Bytes> },
    Zeroes { at: u64, len: u64 },
}

/// More pieces than this are flushed away, however little they hold.
pub const PIECES_MAX: usize = 1 << 17;

impl Kept {
    /// Bytes of data kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pieces kept.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Everything answered so far; a flush that is sent now covers it.
    pub fn mark(&self) -> u64 {
        self.answers
    }

    /// A cached write was answered.
    pub fn insert(&mut self, mut at: u64, buffers: &[Bytes]) {
        self.remove(at, buffers.iter().map(|data| data.len() as u64).sum());
        self.answers += 1;
        for data in buffers.iter().filter(|data| !data.is_empty()) {
            self.put(at, Piece { content: Content::Data(data.clone()), answer: self.answers });
            at += data.len() as u64;
        }
    }

    /// Zeroes were written, and that was answered.
    pub fn insert_zeroes(&mut self, at: u64, len: u64) {
        self.remove(at, len);
        self.answers += 1;
        if len > 0 {
            self.put(at, Piece { content: Content::Zeroes(len), answer: self.answers });
        }
    }

    /// Whether anything is kept of a range.
    pub fn overlaps(&self, from: u64, len: u64) -> bool {
        let last = self.pieces.range(..from + len).next_back();
        last.is_some_and(|(at, piece)| at + piece.content.len() > from)
    }

    /// Something newer that is durable lies here.
    pub fn remove(&mut self, from: u64, len: u64) {
        let to = from + len;
        // The piece before may reach in; the others begin inside.
        let first = self.pieces.range(..from).next_back().map(|(at, piece)| (*at, at + piece.content.len()));
        let inside: Vec<u64> = self.pieces.range(from..to).map(|(at, _)| *at).collect();
        for at in first.filter(|(_, end)| *end > from).map(|(at, _)| at).into_iter().chain(inside) {
            let Piece { content, answer } = self.pieces.remove(&at).expect("invariant: the key was just read");
            self.bytes -= content.held();
            let end = at + content.len();
            if at < from {
                self.put(at, Piece { content: content.slice(0, from - at), answer });
            }
            if end > to {
                self.put(to, Piece { content: content.slice(to - at, end - at), answer });
            }
        }
    }

    /// A flush was answered that was sent at `mark`.
    pub fn flushed(&mut self, mark: u64) {
        let bytes = &mut self.bytes;
        self.pieces.retain(|_, piece| {
            let stays = piece.answer > mark;
            if !stays {
                *bytes -= piece.content.held();
            }
            stays
        });
    }

    /// What to send again: runs of adjoining data, each at most `run_max` bytes unless a single piece is longer, and
    /// runs of zeroes as long as they were written.
    pub fn runs(&self, run_max: u64) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let (mut end, mut len) = (0, 0);
        for (&at, piece) in &self.pieces {
            let size = piece.content.len();
            match (&piece.content, runs.last_mut()) {
                (Content::Zeroes(len), _) => runs.push(Run::Zeroes { at, len: *len }),
                (Content::Data(data), Some(Run::Data { buffers, .. })) if at == end && len + size <= run_max => {
                    buffers.push(data.clone());
                    len += size;
                }
                (Content::Data(data), _) => {
                    runs.push(Run::Data { at, buffers: vec![data.clone()] });
                    len = size;
                }
            }
            end = at + size;
        }
        runs
    }

    fn put(&mut self, at: u64, piece: Piece) {
        self.bytes += piece.content.held();
        let before = self.pieces.insert(at, piece);
        debug_assert!(before.is_none(), "pieces do not overlap");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: u8, count: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![value; count])]
    }

    /// How zeroes that are kept look in the model, where 0 is "nothing is kept".
    const ZERO: u8 = 255;

    fn content(kept: &Kept, size: usize) -> Vec<u8> {
        let mut out = vec![0; size];
        for run in kept.runs(u64::MAX) {
            let (at, run) = match run {
                Run::Data { at, buffers } => (at as usize, buffers.concat()),
                Run::Zeroes { at, len } => (at as usize, vec![ZERO; len as usize]),
            };
            out[at..at + run.len()].copy_from_slice(&run);
        }
        out
    }

    #[test]
    fn kept_writes_equal_a_plain_buffer_whatever_overlaps() {
        let (mut kept, mut model) = (Kept::default(), vec![0u8; 64]);
        let mut state = 12345u64;
        for round in 1..=2000u32 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (at, len) = ((state >> 33) as usize % 60, 1 + (state >> 50) as usize % 12);
            let len = len.min(64 - at);
            if round % 7 == 0 {
                kept.remove(at as u64, len as u64);
                model[at..at + len].fill(0);
            } else if round % 5 == 0 {
                kept.insert_zeroes(at as u64, len as u64);
                model[at..at + len].fill(ZERO);
            } else {
                let value = (round % 254 + 1) as u8;
                kept.insert(at as u64, &bytes(value, len));
                model[at..at + len].fill(value);
            }
            assert_eq!(content(&kept, 64), model, "round {round}");
            assert_eq!(kept.bytes(), model.iter().filter(|byte| ![0, ZERO].contains(byte)).count() as u64);
            assert_eq!(kept.overlaps(at as u64, len as u64), model[at..at + len].iter().any(|byte| *byte != 0));
        }
    }

    #[test]
    fn a_flush_forgets_what_was_answered_before_it_was_sent_and_no_more() {
        let mut kept = Kept::default();
        kept.insert(0, &bytes(1, 8));
        let mark = kept.mark();
        kept.insert(4, &bytes(2, 8));
        kept.flushed(mark);
        assert_eq!(content(&kept, 12), [0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2]);
        kept.flushed(kept.mark());
        assert_eq!((kept.bytes(), kept.runs(1).len()), (0, 0));
    }

    #[test]
    fn runs_join_what_adjoins_up_to_the_limit() {
        let mut kept = Kept::default();
        for at in [0, 4, 8, 20] {
            kept.insert(at, &bytes(1, 4));
        }
        let runs = kept.runs(8);
        let short = |run: &Run| match run {
            Run::Data { at, buffers } => (*at, buffers.len()),
            Run::Zeroes { at, .. } => (*at, 0),
        };
        assert_eq!(runs.iter().map(short).collect::<Vec<_>>(), [(0, 2), (8, 1), (20, 1)]);
        kept.insert_zeroes(4, 4);
        assert_eq!(kept.runs(8).iter().map(short).collect::<Vec<_>>(), [(0, 1), (4, 0), (8, 1), (20, 1)]);
    }
}

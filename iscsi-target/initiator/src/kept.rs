//! Writes that were answered and not flushed yet: what a target that dies may lose.
//!
//! Owns the newest content of every byte written since the last flush, as references to the callers' buffers.
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

#[derive(Debug)]
struct Piece {
    data: Bytes,
    answer: u64,
}

impl Kept {
    /// Bytes kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
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
            self.put(at, Piece { data: data.clone(), answer: self.answers });
            at += data.len() as u64;
        }
    }

    /// Something newer that is durable lies here.
    pub fn remove(&mut self, from: u64, len: u64) {
        let to = from + len;
        // The piece before may reach in; the others begin inside.
        let first = self.pieces.range(..from).next_back().map(|(at, piece)| (*at, at + piece.data.len() as u64));
        let inside: Vec<u64> = self.pieces.range(from..to).map(|(at, _)| *at).collect();
        for at in first.filter(|(_, end)| *end > from).map(|(at, _)| at).into_iter().chain(inside) {
            let piece = self.pieces.remove(&at).expect("invariant: the key was just read");
            self.bytes -= piece.data.len() as u64;
            let end = at + piece.data.len() as u64;
            if at < from {
                self.put(at, Piece { data: piece.data.slice(..(from - at) as usize), answer: piece.answer });
            }
            if end > to {
                self.put(to, Piece { data: piece.data.slice((to - at) as usize..), answer: piece.answer });
            }
        }
    }

    /// A flush was answered that was sent at `mark`.
    pub fn flushed(&mut self, mark: u64) {
        let bytes = &mut self.bytes;
        self.pieces.retain(|_, piece| {
            let stays = piece.answer > mark;
            if !stays {
                *bytes -= piece.data.len() as u64;
            }
            stays
        });
    }

    /// What to send again: runs of adjoining pieces, each at most `run_max` bytes unless a single piece is longer.
    pub fn runs(&self, run_max: u64) -> Vec<(u64, Vec<Bytes>)> {
        let mut runs: Vec<(u64, Vec<Bytes>)> = Vec::new();
        let (mut end, mut len) = (0, 0);
        for (&at, piece) in &self.pieces {
            let size = piece.data.len() as u64;
            match runs.last_mut() {
                Some((_, run)) if at == end && len + size <= run_max => {
                    run.push(piece.data.clone());
                    len += size;
                }
                Some(_) | None => {
                    runs.push((at, vec![piece.data.clone()]));
                    len = size;
                }
            }
            end = at + size;
        }
        runs
    }

    fn put(&mut self, at: u64, piece: Piece) {
        self.bytes += piece.data.len() as u64;
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

    fn content(kept: &Kept, size: usize) -> Vec<u8> {
        let mut out = vec![0; size];
        for (at, run) in kept.runs(u64::MAX) {
            let run: Vec<u8> = run.concat();
            out[at as usize..at as usize + run.len()].copy_from_slice(&run);
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
            } else {
                let value = (round % 255 + 1) as u8;
                kept.insert(at as u64, &bytes(value, len));
                model[at..at + len].fill(value);
            }
            assert_eq!(content(&kept, 64), model, "round {round}");
            assert_eq!(kept.bytes(), model.iter().filter(|byte| **byte != 0).count() as u64);
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
        assert_eq!(runs.iter().map(|(at, run)| (*at, run.len())).collect::<Vec<_>>(), [(0, 2), (8, 1), (20, 1)]);
    }
}

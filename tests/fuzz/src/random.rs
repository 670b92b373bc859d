//! A small seeded generator and what it does to bytes.

/// splitmix64: every seed is good, nothing to set up.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of one round of one seed.
    pub fn new(seed: u64, round: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % bound as u64).expect("invariant: below a usize")
    }

    /// One to four changes: a bit, a byte that decoders stumble over, a length field, a cut, a repeated piece.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                bytes.push(self.bits() as u8);
                continue;
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => {
                    let value = [0, 1, 0x7fff_ffff, u32::MAX, self.bits() as u32][self.below(5)];
                    let spelled = if self.below(2) == 0 { value.to_be_bytes() } else { value.to_le_bytes() };
                    for (to, from) in bytes[at..].iter_mut().zip(spelled) {
                        *to = from;
                    }
                }
                3 => bytes.truncate(at),
                4 => {
                    let piece = bytes[at..].iter().copied().take(self.below(64) + 1).collect::<Vec<u8>>();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ => bytes[at] = self.bits() as u8,
            }
        }
    }
}

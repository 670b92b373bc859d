//! Pure search in a bitmap of two bits a block.

use gfs_format::{BlockState, bitmap};

/// First run of free blocks at or after `from` of at most `max` blocks; `is_usable` can refuse
/// blocks that the bitmap calls free. Returns its start and length.
pub fn free_run(
    map: &[u8],
    blocks: usize,
    from: usize,
    max: usize,
    is_usable: impl Fn(usize) -> bool,
) -> Option<(usize, usize)> {
    let mut index = from;
    while index < blocks {
        if index.is_multiple_of(4) && is_full_byte(map[index / 4]) {
            index += 4;
            continue;
        }
        if is_free(map, index) && is_usable(index) {
            let mut length = 1;
            while length < max && index + length < blocks && is_free(map, index + length) && is_usable(index + length) {
                length += 1;
            }
            return Some((index, length));
        }
        index += 1;
    }
    None
}

fn is_free(map: &[u8], index: usize) -> bool {
    bitmap::get(map, index) == BlockState::Free
}

/// Whether none of the four blocks of a byte is free.
fn is_full_byte(byte: u8) -> bool {
    (byte | byte >> 1) & 0x55 == 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_at_a_used_block_at_the_limit_and_at_an_unusable_one() {
        let mut map = vec![0u8; 4];
        bitmap::set(&mut map, 0, BlockState::Used);
        bitmap::set(&mut map, 5, BlockState::Dinode);
        assert_eq!(free_run(&map, 16, 0, 100, |_| true), Some((1, 4)));
        assert_eq!(free_run(&map, 16, 0, 2, |_| true), Some((1, 2)));
        assert_eq!(free_run(&map, 16, 5, 100, |_| true), Some((6, 10)));
        assert_eq!(free_run(&map, 16, 6, 100, |i| i > 7 && i < 12), Some((8, 4)));
        assert_eq!(free_run(&[0xff, 0x55, 0xaa], 12, 0, 1, |_| true), None);
    }
}

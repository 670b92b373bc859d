//! Lock value blocks and which way they travel.

use crate::Mode;

/// 32 bytes that travel with a resource: written by a holder of PW or EX on its way down, read by
/// whoever comes after. A cache of what the lock protects, never the only copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueBlock(pub [u8; 32]);

/// What a grant does with the value block when VALBLK was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueDirection {
    /// The resource's value goes to the lock's owner.
    ToOwner,
    /// The owner's value becomes the resource's.
    ToResource,
    /// Neither.
    Nothing,
}

/// The direction by the mode held before (`None`: a new lock) and the mode granted now. $ENQ in the
/// OpenVMS System Services manual has the table; Linux's fs/dlm has the same.
pub fn value_direction(held: Option<Mode>, granted: Mode) -> ValueDirection {
    match held {
        None => ValueDirection::ToOwner,
        Some(held) if held >= Mode::ProtectedWrite && granted <= held => ValueDirection::ToResource,
        Some(held) if granted >= held => ValueDirection::ToOwner,
        Some(_) => ValueDirection::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direction_is_as_published_for_every_pair() {
        // Rows: mode held, NL to EX; columns: mode granted. r: to the owner, w: to the resource.
        let published = ["rrrrrr", "-rrrrr", "--rrrr", "---rrr", "wwwwwr", "wwwwww"];
        for (held, row) in Mode::ALL.iter().zip(published) {
            for (granted, cell) in Mode::ALL.iter().zip(row.chars()) {
                let expected = match cell {
                    'r' => ValueDirection::ToOwner,
                    'w' => ValueDirection::ToResource,
                    _ => ValueDirection::Nothing,
                };
                assert_eq!(value_direction(Some(*held), *granted), expected, "{held} to {granted}");
            }
        }
        for granted in Mode::ALL {
            assert_eq!(value_direction(None, granted), ValueDirection::ToOwner);
        }
    }
}

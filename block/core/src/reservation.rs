//! Persistent reservations (SPC-4 §5.13): the words in which a node shuts others out of a disk.
//!
//! Two things are kept on a disk: who has *registered* which key, and at most one *reservation*, which says what
//! those without a registration may not do. Fencing a node is [`ReservationChange::PreemptAndAbort`] of its key.

use std::fmt;
use std::num::NonZeroU64;

/// A registration key; a node makes it unique. Zero means "none" on the wire and cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationKey(NonZeroU64);

impl ReservationKey {
    /// `None` for zero.
    pub fn new(key: u64) -> Option<Self> {
        NonZeroU64::new(key).map(Self)
    }

    /// As the wire has it.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ReservationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

/// What a reservation forbids, and to whom. The numbers are SPC-4's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReservationKind {
    /// Others than the holder do not write.
    WriteExclusive = 1,
    /// Others than the holder neither read nor write.
    ExclusiveAccess = 3,
    /// Who is not registered does not write; the reservation ends with its holder's registration.
    WriteExclusiveRegistrants = 5,
    /// Who is not registered neither reads nor writes; the reservation ends with its holder's registration.
    ExclusiveAccessRegistrants = 6,
    /// Who is not registered does not write; every registrant holds it, so it ends with the last.
    WriteExclusiveAll = 7,
    /// Who is not registered neither reads nor writes; every registrant holds it, so it ends with the last.
    ExclusiveAccessAll = 8,
}

impl ReservationKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrants,
        Self::ExclusiveAccessRegistrants,
        Self::WriteExclusiveAll,
        Self::ExclusiveAccessAll,
    ];

    /// By SPC-4's number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether every registrant holds it.
    pub fn is_held_by_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Whether a registration is enough to be let through.
    pub fn lets_registrants_through(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether reading is forbidden too.
    pub fn forbids_reading(self) -> bool {
        matches!(self, Self::ExclusiveAccess | Self::ExclusiveAccessRegistrants | Self::ExclusiveAccessAll)
    }
}

impl fmt::Display for ReservationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteExclusive => "Write Exclusive",
            Self::ExclusiveAccess => "Exclusive Access",
            Self::WriteExclusiveRegistrants => "Write Exclusive, Registrants Only",
            Self::ExclusiveAccessRegistrants => "Exclusive Access, Registrants Only",
            Self::WriteExclusiveAll => "Write Exclusive, All Registrants",
            Self::ExclusiveAccessAll => "Exclusive Access, All Registrants",
        })
    }
}

/// Whether registrations and reservation survive the device's loss of power (APTPL). It holds for all of them, and the
/// last registration decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    Volatile,
    SurvivesPowerLoss,
}

/// What to change. `own` is the key that this node has registered; with another one the answer is
/// [`ReservationOutcome::Conflict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationChange {
    /// Registers `new` in the place of `own`. Without `own`: this node must not be registered yet. Without `new`: ends
    /// the registration.
    Register { own: Option<ReservationKey>, new: Option<ReservationKey>, persistence: Persistence },
    /// As `Register`, whatever this node has registered. Never a way back in for a node that may have been fenced.
    RegisterIgnoring { new: Option<ReservationKey>, persistence: Persistence },
    /// Takes the reservation; taking it again is no error for who holds it.
    Reserve { own: ReservationKey, kind: ReservationKind },
    /// Gives the reservation back; the registration stays.
    Release { own: ReservationKey, kind: ReservationKind },
    /// Ends the registrations of `victim`; if that held the reservation, it becomes ours with `kind`.
    Preempt { own: ReservationKey, victim: ReservationKey, kind: ReservationKind },
    /// As `Preempt`, and is answered only when nothing of the victim is under way any more.
    PreemptAndAbort { own: ReservationKey, victim: ReservationKey, kind: ReservationKind },
    /// Ends the reservation and every registration.
    Clear { own: ReservationKey },
}

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReservationOutcome {
    Done,
    /// Refused, and nothing was changed: `own` is not registered by this node, the reservation is another's, or the
    /// victim's key is not registered.
    Conflict,
    /// The answer was lost, or something came in between. Whether it was done is for the caller to read.
    Unknown {
        what: String,
    },
}

/// Every registered key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredKeys {
    /// Counts changes to the registrations.
    pub generation: u32,
    pub keys: Vec<ReservationKey>,
}

/// A reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// `None` where every registrant holds it.
    pub holder: Option<ReservationKey>,
    pub kind: ReservationKind,
}

/// The reservation, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldReservation {
    pub generation: u32,
    pub reservation: Option<Reservation>,
}

/// A registration, as the full status has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub key: ReservationKey,
    /// With which kind, if this registrant holds the reservation.
    pub holds: Option<ReservationKind>,
    /// The registrant, as the device names it: for iSCSI the initiator's name and session identifier.
    pub who: String,
}

/// Who has registered what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationStatus {
    pub generation: u32,
    pub registrations: Vec<Registration>,
}

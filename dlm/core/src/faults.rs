//! Deliberate bugs, for the simulator only: each must be caught by its checker.
//!
//! `Lockspace::with_faults` is the only way in; a member made by `Lockspace::new` has none.

use dlm_api::queues::Mistakes;

/// Which bugs to have. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A master does not tell the last of the holders in the way: somebody waits for ever.
    pub skip_blocking: bool,
    /// A master grants a new request although the first holder is in its way.
    pub grant_past_holder: bool,
    /// A master grants a conversion although the first other holder is in its way.
    pub convert_past_holder: bool,
    /// A master forgets the value that a writer leaves: the next holder sees an old one.
    pub lose_value: bool,
    /// Frames are taken as they arrive: reordered and repeated messages have their effect.
    pub accept_out_of_order: bool,
    /// A directory does not note whom it made master: a second one is made.
    pub forget_directory_entry: bool,
    /// A master goes on using a name whose removal it has sent: a second one is made.
    pub reuse_before_removed: bool,
    /// A leaver goes on granting after it has sent the state away: two masters.
    pub grant_while_moving: bool,
    /// A leaver does not hand its directory share over: two masters.
    pub drop_directory_share: bool,
}

/// A fault's name, and what plants it.
pub type Plant = (&'static str, fn(&mut Faults));

impl Faults {
    /// Every fault by name, for a simulator's list of plants.
    pub const ALL: [Plant; 9] = [
        ("skip-blocking", |faults| faults.skip_blocking = true),
        ("grant-past-holder", |faults| faults.grant_past_holder = true),
        ("convert-past-holder", |faults| faults.convert_past_holder = true),
        ("lose-value", |faults| faults.lose_value = true),
        ("accept-out-of-order", |faults| faults.accept_out_of_order = true),
        ("forget-directory-entry", |faults| faults.forget_directory_entry = true),
        ("reuse-before-removed", |faults| faults.reuse_before_removed = true),
        ("grant-while-moving", |faults| faults.grant_while_moving = true),
        ("drop-directory-share", |faults| faults.drop_directory_share = true),
    ];

    /// One fault by its name.
    pub fn by_name(name: &str) -> Option<Faults> {
        let (_, plant) = Self::ALL.iter().find(|(known, _)| *known == name)?;
        let mut faults = Faults::default();
        plant(&mut faults);
        Some(faults)
    }

    pub(crate) fn mistakes(&self) -> Mistakes {
        Mistakes {
            grant_past_holder: self.grant_past_holder,
            convert_past_holder: self.convert_past_holder,
            skip_blocking: self.skip_blocking,
            lose_value: self.lose_value,
        }
    }
}

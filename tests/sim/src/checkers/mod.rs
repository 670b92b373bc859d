//! The judges: they see what clients asked and were told, and never look inside the code they judge.

pub mod attributes;
pub mod content;
pub mod history;
pub mod linear;
pub mod locks;
pub mod tree;

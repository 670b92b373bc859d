//! Units behind the target's own execution of commands, over devices whose requests can be held and whose power can be cut: no
//! socket and no file between the test and what it is about.

mod ending;
mod power;
mod world;

//! The only door to the machine: clock, entropy, durable files, bounded subprocesses, loop devices.
//!
//! The clock and the entropy source are traits, so that tests and simulation can decide both.

pub mod clock;
pub mod dialogue;
pub mod direct;
pub mod durable;
pub mod entropy;
pub mod helper;
pub mod in_use;
pub mod loopback;
pub mod nearby;
pub mod page_cache;
pub mod private;
pub mod run;

pub use clock::{Clock, SystemClock};
pub use entropy::{Entropy, SystemEntropy};

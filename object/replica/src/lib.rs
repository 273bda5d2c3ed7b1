//! How copies agree: quorum writes and reads, newest-wins merge, sync planning.
//!
//! The machines here decide and do nothing else: a shell sends what they name and tells them what came back. They
//! know no socket and no clock; a time limit is one more thing the shell tells them.
#![forbid(unsafe_code)]

pub mod get;
pub mod merge;
pub mod put;
pub mod quorum;
pub mod sync_plan;

pub use get::{Answer, Get, GetStep};
pub use put::{Consistency, Failure, Outcome, Put, PutStep, Reply};
pub use quorum::Quorum;
pub use sync_plan::{Duty, Handover};

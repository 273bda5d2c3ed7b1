//! The front door: route by ring, run quorum, stream.
//!
//! [`Proxy`] answers the public port. It holds no state that matters: rings and secrets come from files, tokens are
//! verified with the cluster's keys, and everything else is asked of the storage nodes.
#![forbid(unsafe_code)]

mod access;
mod account;
mod assembly;
mod cache;
mod calls;
mod capabilities;
mod clock;
mod cluster;
mod container;
mod driver;
mod fault;
mod filling;
mod gate;
mod heat;
mod middleware;
mod object;
pub mod options;
mod policy_totals;
mod project_domain;
mod proxy;
mod relay;
mod rings;
mod roster;
mod subrequest;

pub use options::{Options, Parts, SyncOptions};
pub use proxy::Proxy;
pub use rings::RingsError;

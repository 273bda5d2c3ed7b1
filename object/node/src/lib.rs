//! A storage node: three backend servers and their daemons.
//!
//! One listener serves the objects, containers and accounts of the node's devices to proxies and other nodes, and to
//! nobody else ([`server`]). Beside it run the [`updater`], which tells containers and accounts what a crash or a peer's
//! absence left untold, the [`replicator`], which pushes what peers lack and brings handoffs home, the [`auditor`],
//! which reads every body again, the [`expirer`], which deletes objects whose date has come, the [`reaper`], which
//! deletes what is in deleted accounts, and once after the start the [`sweeper`]. The [`reconciler`] moves objects to the
//! policy of their container, and [`dark_data`] looks for objects that no container lists. Where it is
//! configured, [`container_sync`] sends containers to other clusters. [`progress`] says what they have done, to anybody.

mod account;
pub mod auditor;
mod compare;
mod container;
pub mod container_sync;
pub mod dark_data;
mod disks;
pub mod expirer;
mod given;
mod holds;
mod link;
pub mod machine;
mod moves;
mod object;
pub mod options;
mod pace;
mod passes;
pub mod progress;
mod push;
mod quick;
mod quorum;
mod reading;
pub mod reaper;
mod receive;
pub mod reconciler;
pub mod replicator;
mod reservation;
mod respond;
pub mod rings;
mod rosters;
pub mod run;
pub mod server;
mod settle;
pub mod sweeper;
pub mod updater;
mod upload;

#[cfg(test)]
mod tests;

pub use machine::Machine;
pub use options::Options;
pub use progress::NodeStatus;
pub use run::{RunError, run, serve};
pub use server::Node;

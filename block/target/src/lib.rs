//! Sockets and media around the iSCSI and SCSI cores: the data plane.
//!
//! ```text
//! portal ── accepts ──> driver (a data thread owns its connections) ──bytes──> peer ──commands──> unit ──jobs──> medium
//!                           ▲ mailbox: results of media_pool, orders to cut                     │ what may wait: media_pool
//! control ──> registry (exports, durable in store) ── sessions (who is logged in) ─────────────┘
//! ```
//!
//! - A data thread never waits for a disk: reads that miss the page cache and flushes go to the media threads.
//! - Sessions share no lock in the data path: a unit's state is copied to the session and valid until its generation
//!   changes.
//! - **B1** lives in `unit` (flushes), **B2** and **B3** in `onggi-block-iscsi`.

mod access;
pub mod control;
pub mod copying;
mod driver;
mod export;
mod kept;
mod mailbox;
mod media_pool;
mod medium;
pub mod opening;
mod options;
mod peer;
mod portal;
mod redirect;
mod registry;
mod sessions;
mod store;
mod target;
mod unit;

pub use control::{Client, ClientError, RefusalCode};
pub use export::{Access, ChapPair, ExportSpec, ExportStatus, PortalStatus, SessionStatus};
pub use onggi_block_iscsi::login::ChapPolicy;
pub use options::{Limits, Options, PortalGroup};
pub use store::StoreError;
pub use target::{Target, TargetError, run};

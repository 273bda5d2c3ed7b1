//! The control socket: one JSON request line in, one JSON answer line out.
//!
//! The control plane puts, grants, revokes and removes exports over it; every change is durable and in force when the
//! answer comes. All requests may be repeated: doing again what is done changes nothing.

mod client;
mod server;

pub use client::{Client, ClientError};
pub(crate) use server::ControlServer;

use crate::export::{Access, ExportSpec, ExportStatus, PortalStatus, SessionStatus};
use onggi_block_medium::MediumSpec;
use onggi_common_units::Uuid;
use serde::{Deserialize, Serialize};

/// The longest line on the socket: a spec of the most scattered volume that is still served is shorter.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// What is asked of the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Export this volume, or change the export of this name to be so. Sessions of attachments that lose their access
    /// are cut.
    PutExport {
        /// How it should be.
        export: ExportSpec,
    },
    /// Stop exporting: sessions are cut and the medium is closed before the answer.
    RemoveExport {
        /// The target's name.
        iqn: String,
    },
    /// Give an attachment access, or change the access it has.
    Grant {
        /// The target's name.
        iqn: String,
        /// The access.
        access: Access,
    },
    /// Take an attachment's access away: its sessions are cut before the answer.
    Revoke {
        /// The target's name.
        iqn: String,
        /// The attachment.
        attachment: Uuid,
    },
    /// The volume has grown (or moved): serve it by this map from now on; initiators hear of the new size.
    Resize {
        /// The target's name.
        iqn: String,
        /// Where its bytes are now.
        medium: MediumSpec,
    },
    /// Refuse all I/O on this export from now on: its bytes may belong to somebody else (the volume group was changed
    /// behind our back). Putting or resizing it with a fresh map serves it again.
    Fence {
        /// The target's name.
        iqn: String,
    },
    /// Take no new sessions at this export, or at any: their initiators are sent to another address, or told to come
    /// again. Those that are logged in are asked to log out, and cut when they have not by then; the answer comes when
    /// they are gone. In force until `Serve` or a restart.
    Drain {
        /// The target's name; absent, all of them.
        iqn: Option<String>,
        /// The TargetAddress they are sent to: `host:port` or `host:port,group`.
        to: Option<String>,
        /// Seconds they have to log out, at most 30.
        within: u16,
    },
    /// Take sessions again.
    Serve {
        /// The target's name; absent, all of them.
        iqn: Option<String>,
    },
    /// Which exports there are.
    ListExports,
    /// Which sessions there are.
    Sessions,
    /// Where the target listens.
    Portals,
}

/// What the target says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It is done and durable.
    Done,
    /// The exports.
    Exports {
        /// In order of name.
        exports: Vec<ExportStatus>,
    },
    /// The sessions.
    Sessions {
        /// In no order.
        sessions: Vec<SessionStatus>,
    },
    /// The portals.
    Portals {
        /// As configured.
        portals: Vec<PortalStatus>,
    },
    /// It was not done.
    Refused {
        /// What kind of trouble.
        code: RefusalCode,
        /// What was wrong, for people.
        message: String,
    },
}

/// Why a request was not carried out, as far as callers act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The line is no request, or the spec in it cannot be served.
    Invalid,
    /// There is no export of that name.
    NotFound,
    /// The name is taken by another volume.
    Conflict,
    /// The medium cannot be opened.
    Medium,
    /// Sessions did not end in time; the request may be repeated.
    Busy,
    /// The state could not be made durable; the request may be repeated.
    Internal,
}

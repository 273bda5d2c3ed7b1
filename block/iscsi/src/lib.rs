//! What iSCSI bytes mean (RFC 7143): PDU codec, text negotiation, login, CHAP, connection machines of both sides.
//!
//! There is no socket, clock or entropy here. A shell hands bytes and the time in, and takes PDUs and events out:
//!
//! - [`connection::Connection`] is the target's side of one connection,
//! - [`initiator::Initiator`] is the initiator's side of one connection,
//! - [`pdu::PduDecoder`] and [`pdu::PduEncoder`] turn bytes into PDUs and back.
//!
//! ErrorRecoveryLevel is 0 and a session has one connection: any protocol or digest error ends the connection, and
//! the initiator logs in again.
#![forbid(unsafe_code)]

pub mod chap;
pub mod connection;
pub mod digest;
pub mod initiator;
pub mod login;
pub mod name;
pub mod pdu;
pub mod serial;
pub mod text;
pub mod window;

pub use connection::{
    AccessAnswer, AccessRequest, CloseReason, Command, Completion, Connection, Event, Grant,
    SessionKind, TargetConfig, TaskId, TaskManagement,
};
pub use initiator::Initiator;
pub use login::Negotiated;
pub use name::{Cid, IscsiName, Isid, LunField, NameError, Tsih};
pub use pdu::{Pdu, PduDecoder, PduEncoder, PduError};
pub use serial::{CmdSn, DataSn, Serial32, StatSn};
pub use window::CommandWindow;

//! Protocol data units (RFC 7143 §11): typed structs for every opcode, and the bytes they are.
//!
//! | bytes | what |
//! |---|---|
//! | 0–47 | basic header segment: opcode, flags, lengths, LUN, task tag, fields by opcode |
//! | … | additional header segments, 4-byte words counted in byte 4 (SCSI Command only) |
//! | 4 | header digest, when agreed |
//! | … | data segment, length in bytes 5–7, padded to a word |
//! | 4 | data digest, when agreed and there is data |
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod bhs;
mod data;
mod decoder;
mod encoder;
mod login;
mod request;
mod response;
mod scsi;
mod task_management;
#[cfg(test)]
pub(crate) mod tests;

pub use bhs::BHS_BYTES;
pub use data::{DataIn, DataInStatus, DataOut, R2t};
pub use decoder::{AHS_BYTES_MAX, PduDecoder};
pub use encoder::{EncodedPdu, LentData, PduEncoder};
pub use login::{LoginRequest, LoginResponse};
pub use request::{LogoutReason, LogoutRequest, NopOut, RequestSn, SnackRequest, TextRequest};
pub use response::{
    AsyncEvent, AsyncMessage, LogoutResponse, LogoutResponseCode, NopIn, Reject, RejectReason,
    ResponseSn, TextResponse,
};
pub use scsi::{CdbBytes, Residual, ScsiCommand, ScsiResponse, TaskAttribute};
pub use task_management::{
    TaskManagementFunction, TaskManagementRequest, TaskManagementResponse,
    TaskManagementResponseCode,
};

use crate::serial::StatSn;
use bhs::Bhs;
use bytes::Bytes;

/// The longest data segment the 24-bit length can tell.
pub const DATA_SEGMENT_BYTES_MAX: u32 = 0x00ff_ffff;

/// What both ends agreed about the form of PDUs, seen from one end's receiver or sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// Whether headers carry a CRC32C.
    pub has_header_digest: bool,
    /// Whether data segments carry a CRC32C.
    pub has_data_digest: bool,
    /// The longest data segment (MaxRecvDataSegmentLength of the receiver).
    pub data_segment_bytes_max: u32,
}

impl Framing {
    /// What holds during login: no digests, data segments of at most 8 KiB (RFC 7143 §6.1).
    pub const LOGIN: Self = Self {
        has_header_digest: false,
        has_data_digest: false,
        data_segment_bytes_max: 8192,
    };
}

/// Login stages (RFC 7143 §11.12.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginStage {
    /// Proving who one is.
    Security,
    /// Agreeing on parameters.
    Operational,
    /// Login is over.
    FullFeature,
}

impl LoginStage {
    const fn code(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code & 3 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _ => None,
        }
    }
}

/// One protocol data unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pdu {
    /// 00h
    NopOut(NopOut),
    /// 01h
    ScsiCommand(ScsiCommand),
    /// 02h
    TaskManagementRequest(TaskManagementRequest),
    /// 03h
    LoginRequest(LoginRequest),
    /// 04h
    TextRequest(TextRequest),
    /// 05h
    DataOut(DataOut),
    /// 06h
    LogoutRequest(LogoutRequest),
    /// 10h
    SnackRequest(SnackRequest),
    /// 20h
    NopIn(NopIn),
    /// 21h
    ScsiResponse(ScsiResponse),
    /// 22h
    TaskManagementResponse(TaskManagementResponse),
    /// 23h
    LoginResponse(LoginResponse),
    /// 24h
    TextResponse(TextResponse),
    /// 25h
    DataIn(DataIn),
    /// 26h
    LogoutResponse(LogoutResponse),
    /// 31h
    R2t(R2t),
    /// 32h
    AsyncMessage(AsyncMessage),
    /// 3fh
    Reject(Reject),
}

/// Why bytes are no PDU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// The opcode is none of RFC 7143's.
    #[error("opcode {opcode:02x}h is unknown")]
    UnknownOpcode {
        /// The six opcode bits.
        opcode: u8,
    },
    /// The data segment is longer than was agreed.
    #[error("a data segment of {bytes} bytes, at most {bytes_max} were agreed")]
    DataSegmentTooLong {
        /// Its length.
        bytes: u32,
        /// What was agreed.
        bytes_max: u32,
    },
    /// The additional header segments make no sense.
    #[error("malformed additional header segment")]
    BadAhs,
    /// A field has a value that it cannot have.
    #[error("field {field} of opcode {opcode:02x}h has an invalid value")]
    BadField {
        /// The opcode.
        opcode: u8,
        /// The field.
        field: &'static str,
    },
    /// The header digest does not match.
    #[error("header digest does not match")]
    HeaderDigest,
    /// The data digest does not match.
    #[error("data digest does not match")]
    DataDigest,
}

/// Opcodes, without the immediate bit.
pub(crate) mod opcode {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const SCSI_COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT_REQUEST: u8 = 0x02;
    pub(crate) const LOGIN_REQUEST: u8 = 0x03;
    pub(crate) const TEXT_REQUEST: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT_REQUEST: u8 = 0x06;
    pub(crate) const SNACK_REQUEST: u8 = 0x10;
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const SCSI_RESPONSE: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const TEXT_RESPONSE: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const R2T: u8 = 0x31;
    pub(crate) const ASYNC_MESSAGE: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
}

impl Pdu {
    /// The sequence numbers of a request that has a place in the order.
    pub(crate) const fn request_sn(&self) -> Option<RequestSn> {
        match self {
            Self::NopOut(pdu) => Some(pdu.sn),
            Self::ScsiCommand(pdu) => Some(pdu.sn),
            Self::TaskManagementRequest(pdu) => Some(pdu.sn),
            Self::TextRequest(pdu) => Some(pdu.sn),
            Self::LogoutRequest(pdu) => Some(pdu.sn),
            _ => None,
        }
    }

    /// What an initiator says of the statuses that have arrived.
    pub(crate) fn exp_stat_sn(&self) -> Option<StatSn> {
        match self {
            Self::DataOut(pdu) => Some(pdu.exp_stat_sn),
            _ => self.request_sn().map(|sn| sn.exp_stat_sn),
        }
    }

    /// Reads the fields of a header whose parts have all arrived.
    fn from_parts(bhs: &Bhs, ahs: &[u8], data: Bytes) -> Result<Self, PduError> {
        if !ahs.is_empty() && bhs.opcode != opcode::SCSI_COMMAND {
            return Err(PduError::BadAhs);
        }
        Ok(match bhs.opcode {
            opcode::NOP_OUT => Self::NopOut(NopOut::from_parts(bhs, data)),
            opcode::SCSI_COMMAND => Self::ScsiCommand(ScsiCommand::from_parts(bhs, ahs, data)?),
            opcode::TASK_MANAGEMENT_REQUEST => {
                Self::TaskManagementRequest(TaskManagementRequest::from_parts(bhs)?)
            }
            opcode::LOGIN_REQUEST => Self::LoginRequest(LoginRequest::from_parts(bhs, data)?),
            opcode::TEXT_REQUEST => Self::TextRequest(TextRequest::from_parts(bhs, data)),
            opcode::DATA_OUT => Self::DataOut(DataOut::from_parts(bhs, data)),
            opcode::LOGOUT_REQUEST => Self::LogoutRequest(LogoutRequest::from_parts(bhs)?),
            opcode::SNACK_REQUEST => Self::SnackRequest(SnackRequest::from_parts(bhs)),
            opcode::NOP_IN => Self::NopIn(NopIn::from_parts(bhs, data)),
            opcode::SCSI_RESPONSE => Self::ScsiResponse(ScsiResponse::from_parts(bhs, data)?),
            opcode::TASK_MANAGEMENT_RESPONSE => {
                Self::TaskManagementResponse(TaskManagementResponse::from_parts(bhs)?)
            }
            opcode::LOGIN_RESPONSE => Self::LoginResponse(LoginResponse::from_parts(bhs, data)?),
            opcode::TEXT_RESPONSE => Self::TextResponse(TextResponse::from_parts(bhs, data)),
            opcode::DATA_IN => Self::DataIn(DataIn::from_parts(bhs, data)),
            opcode::LOGOUT_RESPONSE => Self::LogoutResponse(LogoutResponse::from_parts(bhs)?),
            opcode::R2T => Self::R2t(R2t::from_parts(bhs)),
            opcode::ASYNC_MESSAGE => Self::AsyncMessage(AsyncMessage::from_parts(bhs, data)?),
            opcode::REJECT => Self::Reject(Reject::from_parts(bhs, data)?),
            unknown => return Err(PduError::UnknownOpcode { opcode: unknown }),
        })
    }

    /// The header (lengths not yet filled in), the additional header segments and the data segment.
    fn into_parts(self) -> (Bhs, Vec<u8>, Bytes) {
        let plain = |(bhs, data)| (bhs, Vec::new(), data);
        match self {
            Self::NopOut(pdu) => plain(pdu.into_parts()),
            Self::ScsiCommand(pdu) => pdu.into_parts(),
            Self::TaskManagementRequest(pdu) => plain((pdu.into_bhs(), Bytes::new())),
            Self::LoginRequest(pdu) => plain(pdu.into_parts()),
            Self::TextRequest(pdu) => plain(pdu.into_parts()),
            Self::DataOut(pdu) => plain(pdu.into_parts()),
            Self::LogoutRequest(pdu) => plain((pdu.into_bhs(), Bytes::new())),
            Self::SnackRequest(pdu) => plain((pdu.into_bhs(), Bytes::new())),
            Self::NopIn(pdu) => plain(pdu.into_parts()),
            Self::ScsiResponse(pdu) => plain(pdu.into_parts()),
            Self::TaskManagementResponse(pdu) => plain((pdu.into_bhs(), Bytes::new())),
            Self::LoginResponse(pdu) => plain(pdu.into_parts()),
            Self::TextResponse(pdu) => plain(pdu.into_parts()),
            Self::DataIn(pdu) => plain(pdu.into_parts()),
            Self::LogoutResponse(pdu) => plain((pdu.into_bhs(), Bytes::new())),
            Self::R2t(pdu) => plain((pdu.into_bhs(), Bytes::new())),
            Self::AsyncMessage(pdu) => plain(pdu.into_parts()),
            Self::Reject(pdu) => plain(pdu.into_parts()),
        }
    }
}

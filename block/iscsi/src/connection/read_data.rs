//! The data of a read on its way out, in hand or lent.

use super::outbox::Outbox;
use crate::pdu::{DataIn, LentData, Pdu};
use bytes::Bytes;

/// What a read gives.
#[derive(Debug)]
pub(super) enum ReadData {
    Held(Bytes),
    Lent(LentData),
}

impl ReadData {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Held(data) => data.is_empty(),
            Self::Lent(lent) => lent.length() == 0,
        }
    }

    /// Its beginning, and how long that is.
    pub(super) fn split_to(&mut self, bytes_max: u32) -> (Self, u32) {
        match self {
            Self::Held(data) => {
                let length = u32::try_from(data.len()).unwrap_or(u32::MAX).min(bytes_max);
                let part = data.split_to(usize::try_from(length).unwrap_or(data.len()));
                (Self::Held(part), length)
            }
            Self::Lent(lent) => {
                let part = lent.split_to(bytes_max);
                let length = part.length();
                (Self::Lent(part), length)
            }
        }
    }

    pub(super) fn send(self, header: DataIn, out: &mut Outbox) {
        match self {
            Self::Held(data) => out.send(Pdu::DataIn(DataIn { data, ..header })),
            Self::Lent(lent) => out.send_lent(header, lent),
        }
    }
}

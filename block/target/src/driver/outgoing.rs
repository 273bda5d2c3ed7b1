//! What a connection's queue has to send next: bytes in hand, gathered, or bytes that are lent.

use crate::medium::Loan;
use onggi_block_iscsi::pdu::EncodedPdu;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;

/// The next thing to send.
#[derive(Debug)]
pub(super) enum Next<'a> {
    /// Bytes in hand; with `more` something lent follows that belongs to them.
    Held {
        slices: Vec<IoSlice<'a>>,
        more: bool,
    },
    /// So many bytes of a loan, from here on.
    Lent {
        loan: &'a Loan,
        at: u64,
        length: usize,
    },
    /// A loan that this target has not made: a bug.
    Foreign,
}

impl<'a> Next<'a> {
    /// What comes first of these PDUs, of the first of which so many bytes are sent.
    pub(super) fn of(queue: &'a VecDeque<EncodedPdu>, sent_bytes: usize) -> Self {
        let mut slices = Vec::with_capacity(queue.len() * 2);
        let mut skip = sent_bytes;
        let push = |slice: &'a [u8], slices: &mut Vec<IoSlice<'a>>, skip: &mut usize| {
            let skipped = (*skip).min(slice.len());
            *skip -= skipped;
            if slice.len() > skipped {
                slices.push(IoSlice::new(&slice[skipped..]));
            }
        };
        for pdu in queue {
            let [head, payload, padding, digest] = pdu.slices();
            push(head, &mut slices, &mut skip);
            if let Some(lent) = pdu.lent() {
                let length = usize::try_from(lent.length()).unwrap_or(usize::MAX);
                let skipped = skip.min(length);
                skip -= skipped;
                if skipped < length {
                    if !slices.is_empty() {
                        return Self::Held { slices, more: true };
                    }
                    let Some(loan) = lent.source().downcast_ref::<Loan>() else {
                        return Self::Foreign;
                    };
                    return Self::Lent {
                        loan,
                        at: lent.offset() + u64::try_from(skipped).unwrap_or(u64::MAX),
                        length: length - skipped,
                    };
                }
            }
            for slice in [payload, padding, digest] {
                push(slice, &mut slices, &mut skip);
            }
        }
        Self::Held {
            slices,
            more: false,
        }
    }

    /// Hands it to the socket, as much as that takes.
    pub(super) fn send(self, socket: impl AsFd) -> io::Result<Sent> {
        let (wanted, sent) = match self {
            Self::Held { slices, more } => {
                let wanted = slices.iter().map(|slice| slice.len()).sum();
                let flags = if more {
                    SendFlags::MORE
                } else {
                    SendFlags::empty()
                };
                let mut nothing = SendAncillaryBuffer::default();
                (wanted, sendmsg(socket, &slices, &mut nothing, flags))
            }
            Self::Lent { loan, at, length } => (length, loan.send(socket, at, length)),
            Self::Foreign => return Err(io::ErrorKind::InvalidData.into()),
        };
        match sent {
            Ok(count) => Ok(Sent {
                count,
                is_whole: count == wanted,
            }),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Sent {
                count: 0,
                is_whole: false,
            }),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What the socket took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) count: usize,
    pub(super) is_whole: bool,
}

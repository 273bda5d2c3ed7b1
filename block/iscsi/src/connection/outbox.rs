//! What a connection has to say: PDUs for the wire, events for the shell.

use super::event::{Event, TaskId};
use crate::pdu::{
    BHS_BYTES, DataIn, EncodedPdu, Framing, LentData, Pdu, PduEncoder, Reject, RejectReason,
    ResponseSn,
};
use crate::serial::{DataSn, StatSn};
use crate::window::CommandWindow;
use bytes::Bytes;
use std::collections::VecDeque;

/// With so many reads whose data was lent and whose arrival the initiator has not told, nothing more is lent.
const LOANS_MAX: usize = 256;

/// PDUs are encoded as they are queued, so that what was agreed in between holds only for what comes after.
#[derive(Debug)]
pub(super) struct Outbox {
    encoder: PduEncoder,
    pdus: VecDeque<EncodedPdu>,
    backlog_bytes: usize,
    events: VecDeque<Event>,
    /// Lent data that the initiator may still be taking, until it acknowledges the status that came with it.
    loans: VecDeque<(StatSn, LentData)>,
    has_sent: bool,
    /// The header of the PDU that is being taken, for a Reject.
    pub(super) last_bhs: [u8; BHS_BYTES],
    /// The StatSN of the next status.
    pub(super) stat_sn: StatSn,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            encoder: PduEncoder::new(Framing::LOGIN),
            pdus: VecDeque::new(),
            backlog_bytes: 0,
            events: VecDeque::new(),
            loans: VecDeque::new(),
            has_sent: false,
            last_bhs: [0; BHS_BYTES],
            stat_sn: StatSn::default(),
        }
    }

    pub(super) const fn set_framing(&mut self, framing: Framing) {
        self.encoder.set_framing(framing);
    }

    pub(super) fn send(&mut self, pdu: Pdu) {
        self.queue(self.encoder.encode(pdu));
    }

    /// Whether a PDU's data may be lent: nothing is said about its bytes.
    pub(super) fn can_lend(&self) -> bool {
        !self.encoder.framing().has_data_digest && self.loans.len() < LOANS_MAX
    }

    pub(super) fn send_lent(&mut self, header: DataIn, lent: LentData) {
        if let Some(status) = &header.status {
            self.loans.push_back((status.stat_sn, lent.clone()));
        }
        self.queue(self.encoder.encode_lent(Pdu::DataIn(header), lent));
    }

    /// All statuses before this one have arrived, and so has what came before them.
    pub(super) fn acknowledged(&mut self, exp_stat_sn: StatSn) {
        while let Some((stat_sn, _)) = self.loans.front()
            && *stat_sn < exp_stat_sn
        {
            self.loans.pop_front();
        }
    }

    fn queue(&mut self, encoded: EncodedPdu) {
        self.backlog_bytes = self.backlog_bytes.saturating_add(encoded.len());
        self.has_sent = true;
        self.pdus.push_back(encoded);
    }

    /// The numbers of a response that uses up a StatSN.
    pub(super) const fn take_sn(&mut self, window: &CommandWindow) -> ResponseSn {
        let stat_sn = self.stat_sn.take();
        ResponseSn {
            stat_sn,
            exp_cmd_sn: window.expected(),
            max_cmd_sn: window.last(),
        }
    }

    /// The numbers of a response that carries the next StatSN without using it up.
    pub(super) const fn peek_sn(&self, window: &CommandWindow) -> ResponseSn {
        let stat_sn = self.stat_sn;
        ResponseSn {
            stat_sn,
            exp_cmd_sn: window.expected(),
            max_cmd_sn: window.last(),
        }
    }

    /// Refuses the PDU that is being taken.
    pub(super) fn reject(&mut self, reason: RejectReason, window: &CommandWindow) {
        let sn = self.take_sn(window);
        let header = Bytes::copy_from_slice(&self.last_bhs);
        self.send(Pdu::Reject(Reject {
            sn,
            reason,
            data_sn: DataSn::default(),
            header,
        }));
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Takes commands back that the shell has not taken yet: they are void.
    pub(super) fn drop_commands(&mut self, is_void: impl Fn(TaskId) -> bool) {
        self.events
            .retain(|event| !matches!(event, Event::Command(command) if is_void(command.task)));
    }

    pub(super) fn poll_transmit(&mut self) -> Option<EncodedPdu> {
        let encoded = self.pdus.pop_front()?;
        self.backlog_bytes = self.backlog_bytes.saturating_sub(encoded.len());
        Some(encoded)
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) const fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    pub(super) fn event_count(&self) -> usize {
        self.events.len()
    }

    /// Whether anything was ever sent.
    pub(super) const fn has_sent(&self) -> bool {
        self.has_sent
    }
}

//! Text exchanges in the full feature phase: SendTargets, whose answer may be longer than a data segment.

use super::event::{
    CloseReason, Event, SendTargets, SendTargetsId, SessionKind, TargetFilter, TargetRecord,
};
use super::outbox::Outbox;
use crate::login::keys;
use crate::name::{InitiatorTaskTag, LunField, TargetTransferTag};
use crate::pdu::{Pdu, RejectReason, TextRequest, TextResponse};
use crate::text::{Text, TextAssembly};
use crate::window::CommandWindow;
use bytes::Bytes;

/// The one transfer tag of text exchanges: there is at most one at a time.
const TRANSFER_TAG: TargetTransferTag = TargetTransferTag(0x7465_7874);

/// What an answer must fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyForm {
    pub(super) window: CommandWindow,
    /// The longest data segment the initiator takes.
    pub(super) segment_bytes_max: u32,
}

/// Which request is answered.
#[derive(Debug, Clone, Copy)]
struct Asker {
    tag: InitiatorTaskTag,
    /// F: the initiator has said all. Only then may the answer be the last.
    is_final: bool,
}

/// How an answer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    /// It does not.
    Nothing,
    /// C: the text itself goes on.
    Text,
    /// The initiator has more to say.
    Request,
}

#[derive(Debug, Default)]
pub(super) struct Exchange {
    assembly: TextAssembly,
    state: State,
    declared_segment_bytes: Option<u32>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// The initiator goes on.
    Receiving,
    /// The shell is asked.
    Asking {
        id: SendTargetsId,
        asker: Asker,
        response: Text,
    },
    /// The rest of the answer; the initiator asks for it.
    Sending(Bytes),
}

impl Exchange {
    pub(super) fn is_waiting_for(&self, wanted: SendTargetsId) -> bool {
        matches!(&self.state, State::Asking { id, .. } if *id == wanted)
    }

    /// The longest data segment the initiator takes from now on, if it has said so.
    pub(super) const fn take_declared_segment_bytes(&mut self) -> Option<u32> {
        self.declared_segment_bytes.take()
    }

    /// Takes a text request.
    pub(super) fn request(
        &mut self,
        request: &TextRequest,
        reply: ReplyForm,
        session: (SendTargetsId, &SessionKind),
        out: &mut Outbox,
    ) -> Result<(), CloseReason> {
        let is_continuing = request.transfer_tag != TargetTransferTag::NONE;
        let asker = Asker {
            tag: request.tag,
            is_final: request.is_final,
        };
        match core::mem::take(&mut self.state) {
            State::Sending(rest) if is_continuing => {
                self.send(rest, asker, reply, out);
                return Ok(());
            }
            State::Asking { .. } => {
                return Err(CloseReason::Protocol {
                    why: "a second text request",
                });
            }
            // A request without the tag begins anew.
            State::Receiving | State::Sending(_) | State::Idle if !is_continuing => {
                self.assembly = TextAssembly::default();
            }
            State::Receiving => {}
            State::Sending(_) | State::Idle => {
                return Err(CloseReason::Protocol {
                    why: "an unknown text transfer tag",
                });
            }
        }
        // RFC 7143 §11.10.2: a text that goes on is not the last.
        let is_contradictory = request.is_continued && request.is_final;
        if is_contradictory || self.assembly.push(&request.data).is_err() {
            self.reject(reply, out);
            return Ok(());
        }
        if request.is_continued {
            self.state = State::Receiving;
            respond(Bytes::new(), More::Request, request.tag, reply, out);
            return Ok(());
        }
        match self.assembly.finish() {
            Ok(text) => self.take_text(&text, asker, reply, session, out),
            Err(_malformed) => self.reject(reply, out),
        }
        Ok(())
    }

    fn take_text(
        &mut self,
        text: &Text,
        asker: Asker,
        reply: ReplyForm,
        (id, kind): (SendTargetsId, &SessionKind),
        out: &mut Outbox,
    ) {
        let mut response = Text::new();
        let mut filter = None;
        if text
            .iter()
            .any(|(_, value)| keys::is_reserved_answer(value))
        {
            return self.reject(reply, out);
        }
        for (key, value) in text.iter() {
            match (key, value, kind) {
                ("SendTargets", "All", SessionKind::Discovery) => filter = Some(TargetFilter::All),
                // RFC 7143 Appendix C: in a normal session an empty value means the session's own target.
                ("SendTargets", "", SessionKind::Normal { target }) => {
                    filter = Some(TargetFilter::One(target.clone()));
                }
                ("SendTargets", name, _) => match name.parse() {
                    Ok(name) => filter = Some(TargetFilter::One(name)),
                    Err(_no_name) => response.push(key, "Reject"),
                },
                ("MaxRecvDataSegmentLength", ..) => match keys::segment_bytes(value) {
                    Some(bytes) => self.declared_segment_bytes = Some(bytes),
                    None => response.push(key, "Reject"),
                },
                ("InitiatorAlias", ..) => {}
                // Nothing else that was agreed at login is agreed anew.
                _ if keys::is_operational(key) => response.push(key, "Reject"),
                _ => response.push(key, "NotUnderstood"),
            }
        }
        match filter {
            Some(filter) => {
                self.state = State::Asking {
                    id,
                    asker,
                    response,
                };
                out.event(Event::SendTargets(SendTargets { id, filter }));
            }
            None => self.send(response.to_bytes(), asker, reply, out),
        }
    }

    /// Sends the shell's answer.
    pub(super) fn answer(&mut self, targets: &[TargetRecord], reply: ReplyForm, out: &mut Outbox) {
        let State::Asking {
            asker,
            mut response,
            ..
        } = core::mem::take(&mut self.state)
        else {
            return;
        };
        for target in targets {
            response.push("TargetName", target.name.as_str());
            for (address, group) in &target.portals {
                response.push("TargetAddress", format!("{address},{group}"));
            }
        }
        self.send(response.to_bytes(), asker, reply, out);
    }

    fn send(&mut self, mut rest: Bytes, asker: Asker, reply: ReplyForm, out: &mut Outbox) {
        let limit = usize::try_from(reply.segment_bytes_max).unwrap_or(usize::MAX);
        let part = rest.split_to(rest.len().min(limit));
        let more;
        (self.state, more) = match (rest.is_empty(), asker.is_final) {
            (true, true) => (State::Idle, More::Nothing),
            (true, false) => (State::Receiving, More::Request),
            (false, _) => (State::Sending(rest), More::Text),
        };
        respond(part, more, asker.tag, reply, out);
    }

    fn reject(&mut self, reply: ReplyForm, out: &mut Outbox) {
        *self = Self::default();
        out.reject(RejectReason::ProtocolError, &reply.window);
    }
}

/// A part of an answer; with a transfer tag it goes on.
fn respond(data: Bytes, more: More, tag: InitiatorTaskTag, reply: ReplyForm, out: &mut Outbox) {
    let is_final = more == More::Nothing;
    let is_continued = more == More::Text;
    let transfer_tag = if is_final {
        TargetTransferTag::NONE
    } else {
        TRANSFER_TAG
    };
    let (lun, sn) = (LunField::default(), out.take_sn(&reply.window));
    let response = TextResponse {
        sn,
        is_final,
        is_continued,
        lun,
        tag,
        transfer_tag,
        data,
    };
    out.send(Pdu::TextResponse(response));
}

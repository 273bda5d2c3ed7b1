//! The end of a session that somebody wants: logout, and what the target tells an initiator that should go.

use super::{FullFeature, Outcome};
use crate::connection::event::{CloseReason, Event};
use crate::connection::outbox::Outbox;
use crate::name::LunField;
use crate::pdu::{
    AsyncEvent, AsyncMessage, LogoutReason, LogoutRequest, LogoutResponse, LogoutResponseCode, Pdu,
};
use bytes::Bytes;
use core::time::Duration;

impl FullFeature {
    pub(super) fn logout(&mut self, request: &LogoutRequest, out: &mut Outbox) -> Outcome {
        let is_own = request.reason == LogoutReason::CloseSession || request.cid == self.cid;
        let response = match request.reason {
            LogoutReason::RemoveForRecovery => LogoutResponseCode::RecoveryNotSupported,
            LogoutReason::CloseSession | LogoutReason::CloseConnection if is_own => {
                LogoutResponseCode::Closed
            }
            LogoutReason::CloseSession | LogoutReason::CloseConnection => {
                LogoutResponseCode::CidNotFound
            }
        };
        let seconds = |value| u16::try_from(value).unwrap_or(u16::MAX);
        let sn = out.take_sn(&self.window);
        out.send(Pdu::LogoutResponse(LogoutResponse {
            sn,
            tag: request.tag,
            response,
            time_to_wait: seconds(self.agreed.time_to_wait),
            time_to_retain: seconds(self.agreed.time_to_retain),
        }));
        if response != LogoutResponseCode::Closed {
            return Ok(());
        }
        out.event(Event::Logout);
        Err(CloseReason::Logout)
    }

    pub(in crate::connection) fn request_logout(&mut self, within: Duration, out: &mut Outbox) {
        if core::mem::replace(&mut self.is_logging_out, true) {
            return;
        }
        let within = u16::try_from(within.as_secs()).unwrap_or(u16::MAX);
        self.tell(AsyncEvent::LogoutRequest { within }, out);
    }

    pub(in crate::connection) fn drop_session(&mut self, out: &mut Outbox) {
        let seconds = |value| u16::try_from(value).unwrap_or(u16::MAX);
        let event = AsyncEvent::DropSession {
            time_to_wait: seconds(self.agreed.time_to_wait),
            time_to_retain: seconds(self.agreed.time_to_retain),
        };
        self.tell(event, out);
    }

    fn tell(&self, event: AsyncEvent, out: &mut Outbox) {
        let sn = out.take_sn(&self.window);
        let (lun, data) = (LunField::default(), Bytes::new());
        out.send(Pdu::AsyncMessage(AsyncMessage {
            sn,
            lun,
            event,
            data,
        }));
    }
}

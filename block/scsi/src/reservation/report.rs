//! PERSISTENT RESERVE IN: what is told of registrations and the reservation (SPC-4 §6.15).

use super::{InAction, Reservations, transport_id};
use crate::wire::{Builder, length32};

impl Reservations {
    /// PERSISTENT RESERVE IN.
    pub(crate) fn persistent_in(&self, action: InAction) -> Vec<u8> {
        match action {
            InAction::ReadKeys => {
                let mut keys = Builder::new();
                self.registrations.values().for_each(|key| {
                    keys.u64(*key);
                });
                self.with_generation(&keys.finish())
            }
            InAction::ReadReservation => self.with_generation(&self.reservation_descriptor()),
            InAction::ReportCapabilities => self.capabilities(),
            InAction::ReadFullStatus => self.with_generation(&self.full_status()),
        }
    }

    fn with_generation(&self, body: &[u8]) -> Vec<u8> {
        let mut data = Builder::new();
        data.u32(self.generation).u32(length32(body)).bytes(body);
        data.finish()
    }

    fn reservation_descriptor(&self) -> Vec<u8> {
        let Some(reservation) = &self.reservation else {
            return Vec::new();
        };
        // SPC-4 §6.15.3.3: the key of an all-registrants reservation is zero.
        let key = if reservation.kind.is_all_registrants() {
            0
        } else {
            self.registrations
                .get(&reservation.holder)
                .copied()
                .unwrap_or(0)
        };
        let mut data = Builder::new();
        data.u64(key)
            .u32(0)
            .u8(0)
            .u8(reservation.kind.code())
            .u16(0);
        data.finish()
    }

    fn full_status(&self) -> Vec<u8> {
        let mut data = Builder::new();
        for (nexus, key) in &self.registrations {
            let holds = self.is_holder(nexus);
            let kind = self
                .reservation
                .as_ref()
                .filter(|_| holds)
                .map_or(0, |held| held.kind.code());
            let transport_id = transport_id::encode(nexus);
            data.u64(*key)
                .u32(0)
                .u8(u8::from(holds))
                .u8(kind)
                .u32(0)
                .u16(nexus.port);
            data.u32(length32(&transport_id)).bytes(&transport_id);
        }
        data.finish()
    }

    fn capabilities(&self) -> Vec<u8> {
        // SIP_C, ATP_C, PTPL_C: all that REGISTER may ask for is there; not CRH.
        const CAPABLE: u8 = 0x08 | 0x04 | 0x01;
        // TMV: the mask of types that follows, which are all six (SPC-4 table 177), is meant.
        const TYPES_VALID: u8 = 0x80;
        let persists = u8::from(self.persists);
        vec![0, 8, CAPABLE, TYPES_VALID | persists, 0xea, 0x01, 0, 0]
    }
}

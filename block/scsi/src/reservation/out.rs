//! PERSISTENT RESERVE OUT: what each service action does (SPC-4 §5.13).

use super::parameters::{Basic, Move};
use super::transport_id::Named;
use super::{
    Notices, OutAction, OutRequest, PersistentReservation, REGISTRATIONS_MAX, Refusal,
    ReservationType, Reservations,
};
use crate::attention::UnitAttention;
use crate::logical_unit::Nexus;
use crate::sense::Sense;

/// What was done by a service action, for others to act on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Who must hear of it.
    pub(crate) notices: Notices,
    /// Whose commands end (PREEMPT AND ABORT).
    pub(crate) aborted: Vec<Nexus>,
    /// Whether what is kept on stable storage is no longer true.
    pub(crate) must_save: bool,
}

/// Who else there is.
pub(crate) struct Around<'a> {
    /// The nexuses of an initiator name that have been seen.
    pub(crate) known: &'a dyn Fn(&str) -> Vec<Nexus>,
    /// The target ports.
    pub(crate) ports: &'a [u16],
}

impl Around<'_> {
    // The ports a registration is for: with ALL_TG_PT all of them, else the one the command came through.
    fn ports(&self, nexus: &Nexus, all_ports: bool) -> Vec<u16> {
        let mut ports = vec![nexus.port];
        if all_ports {
            ports.extend(self.ports.iter().filter(|port| **port != nexus.port));
        }
        ports
    }
}

impl Reservations {
    /// PERSISTENT RESERVE OUT.
    pub(crate) fn persistent_out(
        &mut self,
        nexus: &Nexus,
        request: OutRequest,
        data: &[u8],
        around: &Around<'_>,
    ) -> Result<Changes, Refusal> {
        let before = self.saved();
        let mut aborted = Vec::new();
        let notices = match request.action {
            OutAction::Register => {
                let list = Basic::parse(request, data)?;
                self.register_with_others(nexus, list, around)?
            }
            OutAction::RegisterAndIgnore => {
                let list = Basic::parse(request, data)?;
                self.register_through(nexus, None, &list, around)?
            }
            OutAction::Reserve => {
                let key = Basic::parse(request, data)?.key;
                self.reserve(nexus, key, request)?
            }
            OutAction::Release => {
                let key = Basic::parse(request, data)?.key;
                self.release(nexus, key, request)?
            }
            OutAction::Clear => self.clear(nexus, Basic::parse(request, data)?.key)?,
            OutAction::Preempt => {
                self.preempt(nexus, &Basic::parse(request, data)?, request)?
                    .0
            }
            OutAction::PreemptAndAbort => {
                let (notices, victims) =
                    self.preempt(nexus, &Basic::parse(request, data)?, request)?;
                aborted = victims;
                notices
            }
            OutAction::RegisterAndMove => {
                self.register_and_move(nexus, &Move::parse(request, data)?, around)?;
                Notices::new()
            }
        };
        let must_save = self.saved() != before;
        Ok(Changes {
            notices,
            aborted,
            must_save,
        })
    }

    // SPC-4 §5.13.7, table 58: with SPEC_I_PT an unregistered nexus registers itself and those it names, all or none.
    fn register_with_others(
        &mut self,
        nexus: &Nexus,
        list: Basic,
        around: &Around<'_>,
    ) -> Result<Notices, Refusal> {
        const INVALID: Sense = Sense::INVALID_FIELD_IN_PARAMETERS;
        let mut others = Vec::new();
        let ports = around.ports(nexus, list.all_ports);
        if let Some(named) = &list.others {
            if self.is_registered(nexus) || list.service_key == 0 {
                return Err(Sense::INVALID_FIELD_IN_CDB.into());
            }
            for one in named {
                match one {
                    Named::Port(initiator) => {
                        others.extend(ports.iter().map(|port| initiator.through(*port)));
                    }
                    Named::Device(name) => {
                        let known = (around.known)(name);
                        let mut seen = known
                            .into_iter()
                            .filter(|other| ports.contains(&other.port))
                            .peekable();
                        if seen.peek().is_none() {
                            return Err(INVALID.into());
                        }
                        others.extend(seen.filter(|other| other != nexus));
                    }
                }
            }
            if others
                .iter()
                .any(|other| other == nexus || self.is_registered(other))
            {
                return Err(INVALID.into());
            }
            let wanted = others.len().saturating_add(ports.len());
            if self.registrations.len().saturating_add(wanted) > REGISTRATIONS_MAX {
                return Err(Sense::INSUFFICIENT_REGISTRATIONS.into());
            }
        }
        let notices = self.register_through(nexus, Some(list.key), &list, around)?;
        for other in others {
            self.registrations.insert(other, list.service_key);
        }
        Ok(notices)
    }

    // With ALL_TG_PT the other target ports' registrations of this initiator port follow its own.
    fn register_through(
        &mut self,
        nexus: &Nexus,
        key: Option<u64>,
        list: &Basic,
        around: &Around<'_>,
    ) -> Result<Notices, Refusal> {
        let ports = around.ports(nexus, list.all_ports);
        let registers = list.service_key != 0;
        let new = ports
            .iter()
            .filter(|port| !self.is_registered(&nexus.through(**port)))
            .count();
        if registers && self.registrations.len().saturating_add(new) > REGISTRATIONS_MAX {
            return Err(Sense::INSUFFICIENT_REGISTRATIONS.into());
        }
        let before = self.generation;
        let mut notices = self.register(nexus, key, list.service_key)?;
        for port in ports.into_iter().skip(1) {
            notices.extend(self.register(&nexus.through(port), None, list.service_key)?);
        }
        // SPC-4 §6.15.2: PRGENERATION counts commands, through however many ports they act.
        if self.generation != before {
            self.generation = before.wrapping_add(1);
        }
        self.persists = list.persists;
        Ok(notices)
    }

    // SPC-4 §5.13.8.
    fn register_and_move(
        &mut self,
        nexus: &Nexus,
        list: &Move,
        around: &Around<'_>,
    ) -> Result<(), Refusal> {
        const INVALID: Sense = Sense::INVALID_FIELD_IN_PARAMETERS;
        self.check_key(nexus, list.key)?;
        let Named::Port(to) = &list.to else {
            return Err(INVALID.into());
        };
        let to = &to.through(list.target_port);
        if list.service_key == 0 || !around.ports.contains(&to.port) || to == nexus {
            return Err(INVALID.into());
        }
        let kind = match &self.reservation {
            Some(held) if held.kind.is_all_registrants() => return Err(Refusal::Conflict),
            Some(held) if held.holder == *nexus => held.kind,
            Some(_) | None => return Err(Sense::INVALID_FIELD_IN_CDB.into()),
        };
        if !self.is_registered(to) && self.registrations.len() >= REGISTRATIONS_MAX {
            return Err(Sense::INSUFFICIENT_REGISTRATIONS.into());
        }
        self.registrations.insert(to.clone(), list.service_key);
        self.reservation = Some(PersistentReservation {
            holder: to.clone(),
            kind,
        });
        if list.unregisters {
            self.registrations.remove(nexus);
        }
        self.persists = list.persists;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    fn check_key(&self, nexus: &Nexus, key: u64) -> Result<(), Refusal> {
        if self.registrations.get(nexus) == Some(&key) {
            Ok(())
        } else {
            Err(Refusal::Conflict)
        }
    }

    fn others(&self, nexus: &Nexus, attention: UnitAttention) -> Notices {
        let others = self.registrations.keys().filter(|other| *other != nexus);
        others.map(|other| (other.clone(), attention)).collect()
    }

    fn register(
        &mut self,
        nexus: &Nexus,
        key: Option<u64>,
        service_key: u64,
    ) -> Result<Notices, Refusal> {
        let registered = self.registrations.get(nexus).copied();
        if key.is_some_and(|key| key != registered.unwrap_or(0)) {
            return Err(Refusal::Conflict);
        }
        let notices = match (registered, service_key) {
            (None, 0) => return Ok(Notices::new()),
            (Some(_), 0) => self.unregister(nexus),
            (None, _) if self.registrations.len() >= REGISTRATIONS_MAX => {
                return Err(Sense::INSUFFICIENT_REGISTRATIONS.into());
            }
            (_, service_key) => {
                self.registrations.insert(nexus.clone(), service_key);
                Notices::new()
            }
        };
        self.generation = self.generation.wrapping_add(1);
        Ok(notices)
    }

    // SPC-4 §5.13.11.3: only a registrants-only reservation that ends this way is announced, and to the others alone.
    fn unregister(&mut self, nexus: &Nexus) -> Notices {
        self.registrations.remove(nexus);
        let Some(reservation) = &self.reservation else {
            return Notices::new();
        };
        let ends = if reservation.kind.is_all_registrants() {
            self.registrations.is_empty()
        } else {
            reservation.holder == *nexus
        };
        if !ends {
            return Notices::new();
        }
        let announced = reservation.kind.lets_registrants_in();
        self.reservation = None;
        if announced {
            self.others(nexus, UnitAttention::ReservationsReleased)
        } else {
            Notices::new()
        }
    }

    fn reserve(
        &mut self,
        nexus: &Nexus,
        key: u64,
        request: OutRequest,
    ) -> Result<Notices, Refusal> {
        let kind = reservation_type(request)?;
        self.check_key(nexus, key)?;
        match &self.reservation {
            Some(reservation) if self.is_holder(nexus) && reservation.kind == kind => {}
            Some(_) => return Err(Refusal::Conflict),
            None => {
                self.reservation = Some(PersistentReservation {
                    holder: nexus.clone(),
                    kind,
                })
            }
        }
        Ok(Notices::new())
    }

    fn release(
        &mut self,
        nexus: &Nexus,
        key: u64,
        request: OutRequest,
    ) -> Result<Notices, Refusal> {
        self.check_key(nexus, key)?;
        if !self.is_holder(nexus) {
            return Ok(Notices::new());
        }
        let Some(reservation) = &self.reservation else {
            return Ok(Notices::new());
        };
        let held = reservation.kind;
        if request.scope != 0 || request.kind != held.code() {
            return Err(Sense::INVALID_RELEASE.into());
        }
        self.reservation = None;
        Ok(if held.lets_registrants_in() {
            self.others(nexus, UnitAttention::ReservationsReleased)
        } else {
            Notices::new()
        })
    }

    fn clear(&mut self, nexus: &Nexus, key: u64) -> Result<Notices, Refusal> {
        self.check_key(nexus, key)?;
        let notices = self.others(nexus, UnitAttention::ReservationsPreempted);
        self.registrations.clear();
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        Ok(notices)
    }

    fn preempt(
        &mut self,
        nexus: &Nexus,
        parameters: &Basic,
        request: OutRequest,
    ) -> Result<(Notices, Vec<Nexus>), Refusal> {
        self.check_key(nexus, parameters.key)?;
        let victim = parameters.service_key;
        let held = self.reservation.as_ref().map(|reservation| {
            (
                reservation.kind,
                self.registrations.get(&reservation.holder).copied(),
            )
        });
        let takes_over = match held {
            Some((kind, _)) if kind.is_all_registrants() => victim == 0,
            Some((_, key)) => key == Some(victim),
            None => false,
        };
        if victim == 0 && !takes_over {
            return Err(Sense::INVALID_FIELD_IN_PARAMETERS.into());
        }
        let kind = if takes_over {
            Some(reservation_type(request)?)
        } else {
            None
        };
        let removed: Vec<Nexus> = self
            .registrations
            .iter()
            .filter(|(other, key)| *other != nexus && (victim == 0 || **key == victim))
            .map(|(other, _)| other.clone())
            .collect();
        if removed.is_empty() && !takes_over && parameters.key != victim {
            return Err(Refusal::Conflict);
        }
        for gone in &removed {
            self.registrations.remove(gone);
        }
        let mut notices: Notices = removed
            .iter()
            .map(|gone| (gone.clone(), UnitAttention::RegistrationsPreempted))
            .collect();
        if let Some(kind) = kind {
            if held.is_some_and(|(before, _)| before != kind) {
                notices.extend(self.others(nexus, UnitAttention::ReservationsReleased));
            }
            self.reservation = Some(PersistentReservation {
                holder: nexus.clone(),
                kind,
            });
        } else if self.registrations.is_empty() {
            self.reservation = None;
        }
        self.generation = self.generation.wrapping_add(1);
        Ok((notices, removed))
    }
}

fn reservation_type(request: OutRequest) -> Result<ReservationType, Sense> {
    if request.scope != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    ReservationType::from_code(request.kind).ok_or(Sense::INVALID_FIELD_IN_CDB)
}

//! A logical unit: commands in, responses or media operations out.
//!
//! One order holds for every command: pending unit attentions first, then whether the command is one at all, then
//! reservations, then the unit's readiness, then its fields. [`View`] answers the same for commands on the medium as
//! long as its [`LogicalUnit::generation`] is the unit's: everything that could change the answer changes that number.

mod other;
mod plan;

use crate::alua::PortGroups;
use crate::attention::{Pending, UnitAttention};
use crate::cdb::{Cdb, CdbBytes, DataLength};
use crate::copy::{CopyProgress, CopyStatus};
use crate::inquiry::{self, Identity};
use crate::media::{MediaOp, Provisioning};
use crate::mode::ModePages;
use crate::opcodes;
use crate::range::{Capacity, Lun};
use crate::report;
use crate::reservation::{Notices, Refusal, Reservations, Rule, SavedError, SavedReservations};
use crate::sanitize::SanitizeState;
use crate::sense::{Response, Sense, Status};
use crate::wire::cut;
use plan::Geometry;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many initiator ports a unit remembers; of those that are gone the registered ones are kept.
pub const NEXUSES_MAX: usize = 1_024;

/// An initiator port that reaches the unit through a target port: an I_T nexus.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nexus {
    /// The initiator's name.
    pub initiator: Arc<str>,
    /// The initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// The target port: the tag of its portal group.
    pub port: u16,
}

impl Nexus {
    /// The nexus of this initiator port and this target port.
    #[must_use]
    pub fn new(initiator: &str, isid: [u8; 6], port: u16) -> Self {
        Self {
            initiator: Arc::from(initiator),
            isid,
            port,
        }
    }

    /// The same initiator port through another target port.
    pub(crate) fn through(&self, port: u16) -> Self {
        Self {
            port,
            ..self.clone()
        }
    }
}

/// What a unit is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who it is.
    pub identity: Identity,
    /// How large it is.
    pub capacity: Capacity,
    /// Whether space can be given back.
    pub provisioning: Provisioning,
    /// Whether writing is refused.
    pub read_only: bool,
    /// The units of its target, for REPORT LUNS.
    pub inventory: Vec<Lun>,
}

/// What comes of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has ended.
    Complete {
        /// How.
        response: Response,
        /// How many bytes it moved by its CDB.
        wanted_bytes: u64,
    },
    /// The medium has to do something; [`MediaOp::finish`] makes the response.
    Media {
        /// What.
        op: MediaOp,
        /// How many bytes the command moves by its CDB. The operation's range is shorter when less data came.
        wanted_bytes: u64,
    },
}

impl Outcome {
    fn complete(response: Response, length: DataLength) -> Self {
        let sent = u64::try_from(response.data_in.len()).unwrap_or(u64::MAX);
        let wanted_bytes = match length {
            DataLength::Out(bytes) if response.status == Status::Good => bytes,
            DataLength::Out(_) | DataLength::In(_) | DataLength::None => sent,
        };
        Self::Complete {
            response,
            wanted_bytes,
        }
    }

    /// CHECK CONDITION.
    #[must_use]
    fn check(sense: Sense, descriptor: bool) -> Self {
        Self::complete(
            Response::check_in_format(sense, descriptor),
            DataLength::None,
        )
    }
}

/// What reading and writing need to know of a unit, for one nexus at one moment.
#[derive(Debug, Clone, Copy)]
pub struct View {
    geometry: Geometry,
    may_read: bool,
    may_write: bool,
    is_quiet: bool,
}

impl View {
    /// What comes of a command on the medium; `None` when the unit itself must be asked.
    #[must_use]
    pub fn begin(&self, bytes: CdbBytes, data_length: u64) -> Option<Outcome> {
        if !self.is_quiet {
            return None;
        }
        let cdb = Cdb::parse(bytes).ok()?;
        let allowed = match cdb {
            Cdb::Read(_) | Cdb::Verify { .. } | Cdb::Prefetch { .. } => self.may_read,
            Cdb::Write { .. }
            | Cdb::WriteAndVerify { .. }
            | Cdb::WriteAtomic { .. }
            | Cdb::CompareAndWrite { .. }
            | Cdb::OrWrite { .. }
            | Cdb::SynchronizeCache { .. } => self.may_write,
            _ => false,
        };
        if allowed {
            self.geometry.plan(&cdb, data_length)
        } else {
            None
        }
    }

    /// Whether sense goes out in descriptor format.
    #[must_use]
    pub const fn descriptor_sense(&self) -> bool {
        self.geometry.descriptor_sense
    }
}

/// A logical unit.
#[derive(Debug)]
pub struct LogicalUnit {
    settings: Settings,
    mode: ModePages,
    port_groups: PortGroups,
    reservations: Reservations,
    nexuses: BTreeMap<Nexus, NexusState>,
    is_stopped: bool,
    sanitize: SanitizeState,
    generation: u64,
}

#[derive(Debug, Default)]
struct NexusState {
    pending: Pending,
    is_attached: bool,
    /// What is remembered of its copies, by list identifier.
    copies: BTreeMap<u8, CopyStatus>,
}

/// What a copy between units needs to know of one of them.
#[derive(Debug, Clone, Copy)]
pub struct CopyAccess {
    /// How large it is.
    pub capacity: Capacity,
    /// Whether the nexus may read it now.
    pub may_read: bool,
    /// Whether the nexus may write it now.
    pub may_write: bool,
    /// Whether what is written has to be durable at the end of the command.
    pub durable: bool,
}

impl LogicalUnit {
    /// A unit that has just been switched on.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            port_groups: PortGroups::new(&settings.identity.portal_groups),
            settings,
            mode: ModePages::default(),
            reservations: Reservations::default(),
            nexuses: BTreeMap::new(),
            is_stopped: false,
            sanitize: SanitizeState::None,
            generation: 0,
        }
    }

    /// The unit with the reservations that were kept when it was switched off.
    ///
    /// # Errors
    /// When they contradict themselves.
    pub fn with_reservations(self, saved: SavedReservations) -> Result<Self, SavedError> {
        Ok(Self {
            reservations: Reservations::restore(saved)?,
            ..self
        })
    }

    /// The reservations that are to be kept across a loss of power, if that was asked for (APTPL).
    #[must_use]
    pub fn saved_reservations(&self) -> Option<SavedReservations> {
        self.reservations.saved()
    }

    /// Changes whenever a [`View`] may have become wrong.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    const fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// How large the unit is.
    #[must_use]
    pub const fn capacity(&self) -> Capacity {
        self.settings.capacity
    }

    /// A session of this nexus begins.
    pub fn attach(&mut self, nexus: &Nexus) {
        if self.nexuses.len() >= NEXUSES_MAX {
            let reservations = &self.reservations;
            self.nexuses
                .retain(|known, state| state.is_attached || reservations.is_registered(known));
        }
        let attention = if self.nexuses.contains_key(nexus) {
            UnitAttention::NexusLoss
        } else {
            UnitAttention::PowerOn
        };
        let state = self.nexuses.entry(nexus.clone()).or_default();
        state.pending.raise(attention);
        state.is_attached = true;
        state.copies.clear();
        self.changed();
    }

    /// The session of this nexus has ended.
    pub fn detach(&mut self, nexus: &Nexus) {
        self.reservations.forget_nexus(nexus);
        if let Some(state) = self.nexuses.get_mut(nexus) {
            state.is_attached = false;
        }
        self.changed();
    }

    /// The unit as one that was switched off while it was sanitized.
    #[must_use]
    pub fn with_failed_sanitize(self, unrestricted_exit: bool) -> Self {
        Self {
            sanitize: SanitizeState::Failed { unrestricted_exit },
            ..self
        }
    }

    /// [`MediaOp::Sanitize`] or [`MediaOp::ExitSanitize`] has ended.
    ///
    /// [`MediaOp::Sanitize`]: crate::MediaOp::Sanitize
    /// [`MediaOp::ExitSanitize`]: crate::MediaOp::ExitSanitize
    pub fn sanitized(&mut self, is_done: bool) {
        self.sanitize = match self.sanitize {
            SanitizeState::Running { unrestricted_exit }
            | SanitizeState::Failed { unrestricted_exit }
                if !is_done =>
            {
                SanitizeState::Failed { unrestricted_exit }
            }
            SanitizeState::None | SanitizeState::Running { .. } | SanitizeState::Failed { .. } => {
                SanitizeState::None
            }
        };
        self.changed();
    }

    /// What this nexus may do to the unit as part of a copy.
    #[must_use]
    pub fn copy_access(&self, nexus: &Nexus) -> CopyAccess {
        let is_ready = !self.is_stopped && self.sanitize.is_quiet();
        let geometry = self.geometry();
        CopyAccess {
            capacity: self.settings.capacity,
            may_read: is_ready && !self.reservations.conflicts(Rule::Read, false, nexus),
            may_write: is_ready
                && !geometry.write_protected
                && !self.reservations.conflicts(Rule::Write, false, nexus),
            durable: !geometry.write_cache,
        }
    }

    /// A copy of this nexus has ended: what RECEIVE COPY RESULTS will tell.
    pub fn copied(&mut self, nexus: &Nexus, list_id: u8, progress: CopyProgress, is_whole: bool) {
        if let Some(status) = self
            .nexuses
            .get_mut(nexus)
            .and_then(|state| state.copies.get_mut(&list_id))
        {
            *status = CopyStatus::Ended { progress, is_whole };
        }
    }

    /// The unit has another size now: every nexus hears of it.
    pub fn resize(&mut self, capacity: Capacity) {
        if capacity != self.settings.capacity {
            self.settings.capacity = capacity;
            self.raise_for_others(None, UnitAttention::CapacityChanged);
            self.changed();
        }
    }

    /// Another medium of this size took the old one's place: views are stale even if the size is the same.
    pub fn replaced_medium(&mut self, capacity: Capacity) {
        self.resize(capacity);
        self.changed();
    }

    /// LOGICAL UNIT RESET or TARGET RESET: every nexus hears of it, the one that asked too (SAM-5 §6.3.3).
    pub fn reset(&mut self) {
        self.reservations.reset();
        self.mode = ModePages::default();
        self.is_stopped = false;
        self.raise_for_others(None, UnitAttention::Reset);
        self.changed();
    }

    fn raise_for_others(&mut self, by: Option<&Nexus>, attention: UnitAttention) {
        for (nexus, state) in &mut self.nexuses {
            if Some(nexus) != by {
                state.pending.raise(attention);
            }
        }
    }

    fn notify(&mut self, notices: Notices) {
        for (nexus, attention) in notices {
            self.nexuses
                .entry(nexus)
                .or_default()
                .pending
                .raise(attention);
        }
        self.changed();
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            capacity: self.settings.capacity,
            provisioning: self.settings.provisioning,
            write_protected: self.settings.read_only || self.mode.write_protect,
            write_cache: self.mode.write_cache,
            descriptor_sense: self.mode.descriptor_sense,
        }
    }

    /// What reading and writing need to know, for this nexus.
    #[must_use]
    pub fn view(&self, nexus: &Nexus) -> View {
        View {
            geometry: self.geometry(),
            may_read: !self.reservations.conflicts(Rule::Read, false, nexus),
            may_write: !self.reservations.conflicts(Rule::Write, false, nexus),
            is_quiet: !self.is_stopped
                && self.sanitize.is_quiet()
                && self
                    .nexuses
                    .get(nexus)
                    .is_none_or(|state| state.pending.is_empty()),
        }
    }

    /// Takes a command with its data: what comes of it.
    pub fn begin(&mut self, nexus: &Nexus, bytes: CdbBytes, data: &[u8]) -> Outcome {
        let descriptor = self.mode.descriptor_sense;
        let parsed = Cdb::parse(bytes);
        let hears_later = matches!(
            parsed,
            Ok(Cdb::Inquiry { .. } | Cdb::ReportLuns { .. } | Cdb::RequestSense { .. })
        );
        if !hears_later && let Some(attention) = self.take_attention(nexus) {
            return Outcome::check(attention.sense(), descriptor);
        }
        let is_known = opcodes::find(bytes).is_ok();
        if let (Err(_), true, Some(sense)) = (&parsed, is_known, self.sanitize.sense()) {
            // What is wrong with its fields can wait as well.
            return Outcome::check(sense, descriptor);
        }
        let (cdb, rule) = match parsed.and_then(|cdb| Ok((cdb, opcodes::find(bytes)?.rule))) {
            Ok(parsed) => parsed,
            Err(sense) => return Outcome::check(sense, descriptor),
        };
        let is_start = matches!(cdb, Cdb::StartStopUnit { start: true, .. });
        if self.reservations.conflicts(rule, is_start, nexus) {
            return Outcome::complete(
                Response::status(Status::ReservationConflict),
                DataLength::None,
            );
        }
        let geometry = self.geometry();
        let length = cdb.data_length(geometry.capacity.block_size());
        if self.is_stopped && needs_ready(&cdb) {
            return Outcome::check(Sense::STOPPED, descriptor);
        }
        if let Some(sense) = self.sanitize.refuses(&cdb) {
            return Outcome::check(sense, descriptor);
        }
        let data_length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if let Some(outcome) = geometry.plan(&cdb, data_length) {
            return outcome;
        }
        match self.carry_out(nexus, cdb, data) {
            Ok(Done::Response(response)) => Outcome::complete(response, length),
            Ok(Done::Media(op)) => Outcome::Media {
                op,
                wanted_bytes: length_out(length),
            },
            Err(Refusal::Check(sense)) => Outcome::check(sense, descriptor),
            Err(Refusal::Conflict) => Outcome::complete(
                Response::status(Status::ReservationConflict),
                DataLength::None,
            ),
        }
    }

    fn take_attention(&mut self, nexus: &Nexus) -> Option<UnitAttention> {
        let attention = self.nexuses.get_mut(nexus)?.pending.take()?;
        self.changed();
        Some(attention)
    }
}

enum Done {
    Response(Response),
    Media(MediaOp),
}

fn length_out(length: DataLength) -> u64 {
    match length {
        DataLength::Out(bytes) => bytes,
        DataLength::In(_) | DataLength::None => 0,
    }
}

// SBC-4 §4.20: a stopped unit still says who it is.
const fn needs_ready(cdb: &Cdb) -> bool {
    !matches!(
        cdb,
        Cdb::RequestSense { .. }
            | Cdb::Inquiry { .. }
            | Cdb::ReportLuns { .. }
            | Cdb::ModeSense(_)
            | Cdb::StartStopUnit { .. }
            | Cdb::Reserve6
            | Cdb::Release6
            | Cdb::PersistentReserveIn { .. }
            | Cdb::PersistentReserveOut(_)
            | Cdb::ReportSupportedOpcodes(_)
            | Cdb::ReportSupportedTaskManagement { .. }
            | Cdb::ReportTargetPortGroups { .. }
            | Cdb::SetTargetPortGroups { .. }
            | Cdb::CopyParameters { .. }
            | Cdb::CopyStatus { .. }
            | Cdb::LogSense(_)
    )
}

/// The answers for a logical unit number that has no unit.
#[derive(Debug, Clone, Copy)]
pub struct MissingUnit<'a> {
    /// The units the target does have.
    pub inventory: &'a [Lun],
}

impl MissingUnit<'_> {
    /// Takes a command.
    #[must_use]
    pub fn begin(&self, bytes: CdbBytes) -> Outcome {
        let answer = match Cdb::parse(bytes) {
            Ok(Cdb::Inquiry { page, allocation }) => inquiry::missing(page, allocation),
            Ok(Cdb::ReportLuns { select, allocation }) => {
                report::luns(self.inventory, select, allocation)
            }
            Ok(Cdb::RequestSense {
                descriptor,
                allocation,
            }) => Ok(cut(Sense::LUN_NOT_SUPPORTED.encode(descriptor), allocation)),
            Ok(_) | Err(_) => Err(Sense::LUN_NOT_SUPPORTED),
        };
        match answer {
            Ok(data) => Outcome::complete(Response::data(data), DataLength::None),
            Err(sense) => Outcome::check(sense, false),
        }
    }
}

#[cfg(test)]
mod tests;

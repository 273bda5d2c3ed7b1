//! Commands that are not on the medium, or need their data to say what they ask of it.

use super::plan::unmap_ranges;
use super::{Done, LogicalUnit, Nexus};
use crate::attention::UnitAttention;
use crate::cdb::{Cdb, ModeForm, SanitizeAction};
use crate::copy::{self, CopyPlan, CopyStatus};
use crate::inquiry::{self, Subject};
use crate::log::{self, Wanted};
use crate::media::MediaOp;
use crate::report;
use crate::reservation::{Around, OutRequest, Refusal, Reservations};
use crate::sanitize::{self, SanitizeState};
use crate::sense::{Response, Sense};
use crate::wire::cut;

impl LogicalUnit {
    // Everything that is not on the medium, or needs the data to say what it is.
    pub(super) fn carry_out(
        &mut self,
        nexus: &Nexus,
        cdb: Cdb,
        data: &[u8],
    ) -> Result<Done, Refusal> {
        let capacity = self.settings.capacity;
        match cdb {
            Cdb::ModeSelect { form, length } => self.mode_select(nexus, form, length, data),
            Cdb::StartStopUnit { start, no_flush } => Ok(self.start_stop(start, no_flush)),
            Cdb::Unmap { length } => self.unmap(length, data).map_err(Into::into),
            Cdb::Reserve6 => self.change(|reservations| reservations.reserve6(nexus)),
            Cdb::Release6 => self.change(|reservations| reservations.release6(nexus)),
            Cdb::PersistentReserveOut(request) => self.persistent_out(nexus, request, data),
            Cdb::Sanitize {
                action,
                immediate,
                unrestricted_exit,
                length,
            } => {
                let erasure = sanitize::erasure(action, length, data, capacity)?;
                self.sanitize(action, erasure, (immediate, unrestricted_exit))
            }
            Cdb::SetTargetPortGroups { length } => self.set_port_groups(nexus, length, data),
            Cdb::ExtendedCopy { length } => self.extended_copy(nexus, length, data),
            Cdb::LogSense(asked) => Ok(match log::sense(asked, self.settings.provisioning)? {
                Wanted::Page(page) => Done::Response(Response::data(page)),
                Wanted::Usage => Done::Media(MediaOp::Usage {
                    capacity,
                    pointer: asked.pointer,
                    allocation: asked.allocation,
                }),
            }),
            asking => Ok(Done::Response(Response::data(self.tell(nexus, asking)?))),
        }
    }

    // What only asks.
    fn tell(&mut self, nexus: &Nexus, cdb: Cdb) -> Result<Vec<u8>, Sense> {
        let capacity = self.settings.capacity;
        let provisioning = self.settings.provisioning;
        Ok(match cdb {
            Cdb::TestUnitReady => Vec::new(),
            Cdb::RequestSense {
                descriptor,
                allocation,
            } => {
                let attention = self.take_attention(nexus).map(UnitAttention::sense);
                let sense = attention.or(self.sanitize.sense()).unwrap_or(Sense::NONE);
                cut(sense.encode(descriptor), allocation)
            }
            Cdb::Inquiry { page, allocation } => {
                let subject = Subject {
                    identity: &self.settings.identity,
                    port: nexus.port,
                    capacity,
                    provisioning,
                };
                inquiry::answer(subject, page, allocation)?
            }
            Cdb::ReportLuns { select, allocation } => {
                if let Some(state) = self.nexuses.get_mut(nexus) {
                    state.pending.forget_luns();
                    self.changed();
                }
                report::luns(&self.settings.inventory, select, allocation)?
            }
            Cdb::ReadCapacity10 => report::capacity10(capacity),
            Cdb::ReadCapacity16 { allocation } => {
                report::capacity16(capacity, provisioning, allocation)
            }
            Cdb::ModeSense(asked) => self.mode.sense(asked, capacity, self.settings.read_only)?,
            Cdb::PersistentReserveIn { action, allocation } => {
                cut(self.reservations.persistent_in(action), allocation)
            }
            Cdb::CopyStatus {
                list_id,
                allocation,
            } => self.copy_status(nexus, list_id)?.answer(allocation),
            Cdb::CopyParameters { allocation } => copy::operating_parameters(allocation),
            Cdb::ReadDefectData {
                form,
                lists,
                allocation,
            } => report::defects(form, lists, allocation),
            Cdb::ReportTargetPortGroups {
                extended,
                allocation,
            } => self.port_groups.report(extended, allocation),
            Cdb::ReportSupportedOpcodes(asked) => report::opcodes(asked, provisioning)?,
            Cdb::ReportSupportedTaskManagement {
                extended,
                allocation,
            } => report::task_management(extended, allocation),
            // Those that change something, and those that the plan of the geometry answers, do not come here.
            _ => return Err(Sense::INTERNAL_FAILURE),
        })
    }

    fn sanitize(
        &mut self,
        action: SanitizeAction,
        erasure: Option<sanitize::Erasure>,
        (immediate, unrestricted_exit): (bool, bool),
    ) -> Result<Done, Refusal> {
        let Some(erasure) = erasure else {
            debug_assert_eq!(action, SanitizeAction::ExitFailureMode);
            // Without a failure there is no mode to leave, and nothing to complain of.
            return match self.sanitize {
                SanitizeState::Failed {
                    unrestricted_exit: false,
                } => Err(Sense::INVALID_FIELD_IN_CDB.into()),
                SanitizeState::Failed { .. } | SanitizeState::Running { .. } => {
                    Ok(Done::Media(MediaOp::ExitSanitize))
                }
                SanitizeState::None => Ok(Done::Response(Response::good())),
            };
        };
        if self.geometry().write_protected {
            return Err(Sense::WRITE_PROTECTED.into());
        }
        let range = self
            .settings
            .capacity
            .range(0, self.settings.capacity.blocks())?;
        self.sanitize = SanitizeState::Running { unrestricted_exit };
        self.changed();
        Ok(Done::Media(MediaOp::Sanitize {
            range,
            erasure: Box::new(erasure),
            immediate,
            unrestricted_exit,
        }))
    }

    fn set_port_groups(
        &mut self,
        nexus: &Nexus,
        length: u32,
        data: &[u8],
    ) -> Result<Done, Refusal> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let list = data.get(..length).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        if self.port_groups.set(list)? {
            self.raise_for_others(Some(nexus), UnitAttention::AccessStateChanged);
            self.changed();
        }
        Ok(Done::Response(Response::good()))
    }

    fn extended_copy(&mut self, nexus: &Nexus, length: u32, data: &[u8]) -> Result<Done, Refusal> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let list = data.get(..length).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        let Some(plan) = CopyPlan::parse(list)? else {
            return Ok(Done::Response(Response::good()));
        };
        if let Some(list_id) = plan.list_id {
            let copies = &mut self.nexuses.entry(nexus.clone()).or_default().copies;
            if copies.get(&list_id) == Some(&CopyStatus::Running) {
                return Err(Sense::OPERATION_IN_PROGRESS.into());
            }
            copies.insert(list_id, CopyStatus::Running);
        }
        Ok(Done::Media(MediaOp::Copy {
            plan: Box::new(plan),
        }))
    }

    // What has ended is told once (SPC-4 §6.18.2).
    fn copy_status(&mut self, nexus: &Nexus, list_id: u8) -> Result<CopyStatus, Sense> {
        let copies = self.nexuses.get_mut(nexus).map(|state| &mut state.copies);
        let copies = copies.ok_or(Sense::INVALID_FIELD_IN_CDB)?;
        let status = copies.get(&list_id).copied();
        let status = status.ok_or(Sense::INVALID_FIELD_IN_CDB)?;
        if status != CopyStatus::Running {
            copies.remove(&list_id);
        }
        Ok(status)
    }

    fn persistent_out(
        &mut self,
        nexus: &Nexus,
        request: OutRequest,
        data: &[u8],
    ) -> Result<Done, Refusal> {
        let nexuses = &self.nexuses;
        let known = |name: &str| {
            let named = nexuses.keys().filter(|known| *known.initiator == *name);
            named.cloned().collect()
        };
        let around = Around {
            known: &known,
            ports: &self.settings.identity.portal_groups,
        };
        let changes = self
            .reservations
            .persistent_out(nexus, request, data, &around)?;
        self.notify(changes.notices);
        let (aborted, saves) = (changes.aborted, changes.must_save);
        Ok(if aborted.is_empty() && !saves {
            Done::Response(Response::good())
        } else {
            Done::Media(MediaOp::Settle { aborted, saves })
        })
    }

    fn change(
        &mut self,
        act: impl FnOnce(&mut Reservations) -> Result<(), Refusal>,
    ) -> Result<Done, Refusal> {
        act(&mut self.reservations)?;
        self.changed();
        Ok(Done::Response(Response::good()))
    }

    fn mode_select(
        &mut self,
        nexus: &Nexus,
        form: ModeForm,
        length: u16,
        data: &[u8],
    ) -> Result<Done, Refusal> {
        let list = data
            .get(..usize::from(length))
            .ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        // A list of no length is no error and changes nothing (SPC-5 §6.15).
        if !list.is_empty() {
            let next = self.mode.select(form, list, self.settings.capacity)?;
            if next != self.mode {
                self.mode = next;
                self.raise_for_others(Some(nexus), UnitAttention::ModeParametersChanged);
                self.changed();
            }
        }
        Ok(Done::Response(Response::good()))
    }

    fn start_stop(&mut self, start: bool, no_flush: bool) -> Done {
        if self.is_stopped == start {
            self.is_stopped = !start;
            self.changed();
        }
        if start || no_flush {
            Done::Response(Response::good())
        } else {
            Done::Media(MediaOp::Flush)
        }
    }

    fn unmap(&self, length: u16, data: &[u8]) -> Result<Done, Sense> {
        if !self.settings.provisioning.frees_space() {
            return Err(Sense::INVALID_OPCODE);
        }
        if self.geometry().write_protected {
            return Err(Sense::WRITE_PROTECTED);
        }
        let list = data
            .get(..usize::from(length))
            .ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        let ranges = unmap_ranges(list, self.settings.capacity)?;
        Ok(if ranges.is_empty() {
            Done::Response(Response::good())
        } else {
            Done::Media(MediaOp::Unmap { ranges })
        })
    }
}

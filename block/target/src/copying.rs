//! EXTENDED COPY between the units an initiator may reach.
//!
//! An initiator copies between its own unit and units it is logged in to at this moment, and no others: naming a unit
//! by its world-wide name is no proof of anything (the class of CVE-2020-28374). It is the same initiator when both
//! sessions have its name and both used an access that is for this name alone, because only then the name is what the
//! control plane, or the CHAP secret made for it, vouches for. What reservations, write protection and size of each
//! unit say holds for the copy as for a READ and a WRITE.

use crate::mailbox::ConnectionId;
use crate::medium::{
    Exclusion, Finished, Medium, MediumError, ShareIndex, Ticket, aborted, failed,
};
use crate::peer::Shared;
use crate::registry::Export;
use crate::sessions::Entry;
use crate::unit::{Reach, Unit};
use onggi_block_scsi::copy::COPY_SEGMENT_BYTES_MAX;
use onggi_block_scsi::{
    CopyAccess, CopyPlan, CopyProgress, CopySegment, CopyTarget, LbaRange, MediaFailure,
    MediaResult, Nexus,
};
use std::sync::Arc;

/// Bytes go through a buffer of this size.
const STEP_BYTES: u64 = 1 << 20;

/// A unit that takes part in a copy, and as whom it is reached.
#[derive(Debug, Clone)]
pub(crate) struct Partner {
    unit: Arc<Unit>,
    nexus: Nexus,
}

/// What a copy needs besides its plan.
#[derive(Debug)]
pub(crate) struct CopyWork {
    /// Who asked.
    nexus: Nexus,
    /// The units of the plan's targets; none where there is none that may be reached.
    partners: Vec<Option<Partner>>,
}

/// One side of a copy while it runs.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) access: CopyAccess,
    pub(crate) medium: Arc<dyn Medium>,
    pub(crate) exclusion: Arc<Exclusion>,
    pub(crate) ticket: Arc<Ticket>,
}

/// Finds the units of a plan that the session of this connection may copy between.
pub(crate) fn work(shared: &Shared, id: ConnectionId, reach: &Reach, plan: &CopyPlan) -> CopyWork {
    let own = Partner {
        unit: Arc::clone(reach.unit()),
        nexus: reach.nexus().clone(),
    };
    let sessions = theirs(shared, id);
    let partner = |target: &CopyTarget| {
        let named =
            |(_, (export, _)): &(usize, &(Arc<Export>, Entry))| target.names(&export.volume());
        match sessions.iter().enumerate().find(named)? {
            (0, _) => Some(own.clone()),
            (_, (export, there)) => Some(Partner {
                unit: shared.registry.unit(export).ok()?,
                nexus: there.nexus.clone(),
            }),
        }
    };
    CopyWork {
        nexus: own.nexus.clone(),
        partners: plan.targets.iter().map(partner).collect(),
    }
}

// The session of this connection, and those its initiator has elsewhere, if its name is vouched for here and there; of
// several at one target the one by the same port comes first, because reservations are made by ports.
fn theirs(shared: &Shared, id: ConnectionId) -> Vec<(Arc<Export>, Entry)> {
    let find = |entry: Entry| Some((shared.registry.find(&entry.iqn)?, entry));
    let Some((export, own)) = shared.sessions.entry(id).and_then(find) else {
        return Vec::new();
    };
    let mut others = Vec::new();
    if is_vouched_for(&export, &own) {
        let elsewhere = shared.sessions.of(&own.nexus.initiator);
        others.extend(
            elsewhere
                .into_iter()
                .filter(|there| there.iqn != own.iqn)
                .filter_map(find)
                .filter(|(export, there)| is_vouched_for(export, there)),
        );
        others.sort_by_key(|(_, there)| (there.nexus.isid != own.nexus.isid, there.nexus.isid));
    }
    others.insert(0, (export, own));
    others
}

// Whether the access the session used is for its initiator's name alone.
fn is_vouched_for(export: &Export, session: &Entry) -> bool {
    export.vouches_for(session.attachment, &session.nexus.initiator)
}

/// Carries a copy out.
pub(crate) fn copy(unit: &Unit, plan: &CopyPlan, work: &CopyWork, share: ShareIndex) -> Finished {
    let mut progress = CopyProgress::default();
    let result = copy_all(work, plan, share, &mut progress);
    if let Some(list_id) = plan.list_id {
        let is_whole = result == MediaResult::Done;
        unit.copied(&work.nexus, list_id, progress, is_whole);
    }
    Finished::with(result)
}

type Planned = (Side, LbaRange, Side, LbaRange);

// Every segment is checked before the first byte is copied.
fn copy_all(
    work: &CopyWork,
    plan: &CopyPlan,
    share: ShareIndex,
    progress: &mut CopyProgress,
) -> MediaResult {
    let mut planned = Vec::new();
    for segment in &plan.segments {
        match prepare(work, segment) {
            Ok(one) => planned.push(one),
            Err(failure) => return MediaResult::Failed(failure),
        }
    }
    for one in planned {
        match copy_one(&one, share, progress) {
            Ok(true) => progress.segments = progress.segments.saturating_add(1),
            Ok(false) => return aborted().result,
            Err(error) => {
                tracing::warn!(%error, "a copy failed");
                return failed(&error);
            }
        }
    }
    MediaResult::Done
}

fn prepare(work: &CopyWork, segment: &CopySegment) -> Result<Planned, MediaFailure> {
    let side = |place: usize| {
        let partner = work.partners.get(place).and_then(Option::as_ref);
        let partner = partner.ok_or(MediaFailure::CopyUnreachable)?;
        Ok(partner.unit.side(&partner.nexus))
    };
    let (source, destination) = (side(segment.source)?, side(segment.destination)?);
    if !source.access.may_read || !destination.access.may_write {
        return Err(MediaFailure::Copy);
    }
    let counted = if segment.counts_destination {
        &destination
    } else {
        &source
    };
    let block = u64::from(counted.access.capacity.block_size().bytes());
    let bytes = u64::from(segment.blocks) * block;
    if bytes > u64::from(COPY_SEGMENT_BYTES_MAX) {
        return Err(MediaFailure::Copy);
    }
    let range = |side: &Side, first: u64| {
        let size = side.access.capacity.block_size();
        let range = side.access.capacity.range(first, size.blocks_in(bytes));
        match range {
            // Half a block cannot be copied.
            Ok(range) if range.byte_length() == bytes => Ok(range),
            Ok(_) | Err(_) => Err(MediaFailure::Copy),
        }
    };
    let from = range(&source, segment.source_first)?;
    let to = range(&destination, segment.destination_first)?;
    Ok((source, from, destination, to))
}

// False when others have ended the command on either side.
fn copy_one(
    (source, from, destination, to): &Planned,
    share: ShareIndex,
    progress: &mut CopyProgress,
) -> Result<bool, MediumError> {
    let mut done = 0;
    while done < from.byte_length() {
        let count = STEP_BYTES.min(from.byte_length() - done);
        let length = usize::try_from(count).unwrap_or(usize::MAX);
        let bytes = source.medium.read(from.byte_offset() + done, length)?;
        let _guard = destination.exclusion.shared(share);
        if source.ticket.is_void() || destination.ticket.is_void() {
            return Ok(false);
        }
        let at = to.byte_offset() + done;
        // Holes stay holes.
        if destination.medium.frees_space() && bytes.iter().all(|byte| *byte == 0) {
            destination.medium.zero(at, count, true)?;
        } else {
            destination.medium.write(at, &bytes)?;
        }
        done += count;
        progress.bytes = progress.bytes.saturating_add(count);
    }
    if destination.access.durable {
        destination.medium.flush()?;
    }
    Ok(true)
}

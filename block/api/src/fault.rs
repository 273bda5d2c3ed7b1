//! From the manager's errors to faults: the one place where an error becomes a status.

use onggi_block_cinder::{Fault, FaultKind};
use onggi_block_manager::{AttachmentError, CatalogError, VolumeError};
use onggi_block_volume::{QuotaExceeded, QuotaResource, TransitionError, VolumeState};

/// What Cinder says when a volume cannot be deleted as it is.
const NOT_DELETABLE: &str = "Volume status must be available or error or error_restoring or error_extending or \
    error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be \
    disassociated from snapshots after volume transfer.";

/// The fault of something asked of a volume.
pub(crate) fn of_volume(error: VolumeError) -> Fault {
    match error {
        VolumeError::NotFound { id } => Fault::not_found("Volume", &id.to_string()),
        VolumeError::Transition(error) => of_transition(&error),
        VolumeError::Attached { .. } => Fault::invalid_volume(NOT_DELETABLE),
        VolumeError::Quota(exceeded) => of_quota(&exceeded),
        VolumeError::NoPool(_) => Fault::new(
            FaultKind::ConflictingRequest,
            format!("No valid backend was found. {error}"),
        ),
        VolumeError::PoolUnreadable { .. } => unavailable(&error),
        VolumeError::UnknownType { name } => Fault::not_found("Volume type with name", &name),
        VolumeError::UnknownZone { name } => {
            let name: String = name.chars().take(64).collect();
            Fault::invalid_input(format!("Availability zone '{name}' is invalid."))
        }
        VolumeError::Shrink { from, to } => {
            let sizes = format!("(current: {}, extended: {})", from.gib(), to.gib());
            Fault::invalid_input(format!(
                "New size for extend must be greater than current size. {sizes}."
            ))
        }
        VolumeError::Busy { .. } => Fault::new(FaultKind::ConflictingRequest, error.to_string()),
        VolumeError::Catalog(error) => of_catalog(&error),
    }
}

/// The fault of something asked of an attachment.
pub(crate) fn of_attachment(error: AttachmentError) -> Fault {
    match error {
        AttachmentError::NotFound { id } => Fault::not_found("Volume attachment", &id.to_string()),
        AttachmentError::Volume(error) => of_volume(error),
        AttachmentError::Transition(error) => {
            Fault::bad_request(format!("Invalid volume attachment: {error}."))
        }
        AttachmentError::Connection { .. } | AttachmentError::Pending { .. } => unavailable(&error),
        AttachmentError::Seal(error) => internal(&error),
    }
}

fn of_transition(error: &TransitionError<VolumeState>) -> Fault {
    let state = error.state;
    match error.operation {
        "delete" => Fault::invalid_volume(NOT_DELETABLE),
        "extend" => Fault::invalid_volume(format!(
            "Volume status must be available or in-use to extend, but it is {state}."
        )),
        "reserve" => Fault::invalid_volume(format!(
            "Volume status must be available to reserve, but the current status is {state}."
        )),
        operation => Fault::invalid_volume(format!(
            "cannot {operation} it while its status is {state}."
        )),
    }
}

fn of_quota(exceeded: &QuotaExceeded) -> Fault {
    let QuotaExceeded {
        limit,
        in_use,
        requested,
        ..
    } = exceeded;
    // The class names are part of what Cinder says.
    let message = match exceeded.resource {
        QuotaResource::Volumes => {
            format!(
                "VolumeLimitExceeded: Maximum number of volumes allowed ({limit}) exceeded for quota 'volumes'."
            )
        }
        QuotaResource::Gigabytes => format!(
            "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. \
             Requested {requested}G, quota is {limit}G and {in_use}G has been consumed."
        ),
        QuotaResource::PerVolumeGigabytes => format!(
            "VolumeSizeExceedsLimit: Requested volume size {requested}G is larger than maximum allowed limit {limit}G."
        ),
    };
    Fault::new(FaultKind::OverLimit, message)
}

fn of_catalog(error: &CatalogError) -> Fault {
    match error {
        CatalogError::Conflict => Fault::new(FaultKind::ConflictingRequest, error.to_string()),
        CatalogError::Write { .. } | CatalogError::Read(_) => internal(error),
    }
}

/// 503: a part is out of reach for now. Logged, because the operator must look.
fn unavailable(error: &dyn core::fmt::Display) -> Fault {
    tracing::warn!(%error, "a request could not be carried out");
    Fault::new(FaultKind::ServiceUnavailable, error.to_string())
}

/// 500: what went wrong is for the log, not for the client.
fn internal(error: &dyn core::fmt::Display) -> Fault {
    tracing::error!(%error, "a request failed");
    let message = "The server could not carry the request out: the operator finds the reason in its log by the request id.";
    Fault::new(FaultKind::ComputeFault, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(resource: QuotaResource) -> Fault {
        of_quota(&QuotaExceeded {
            resource,
            limit: 10,
            in_use: 10,
            requested: 1,
        })
    }

    #[test]
    fn quota_faults_say_what_cinder_says() {
        let fault = quota(QuotaResource::Volumes);
        assert_eq!(fault.code(), 413);
        let expected = "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota 'volumes'.";
        assert_eq!(fault.message(), expected);
        let gigabytes = quota(QuotaResource::Gigabytes);
        assert!(
            gigabytes
                .message()
                .ends_with("Requested 1G, quota is 10G and 10G has been consumed."),
            "{gigabytes}"
        );
    }

    #[test]
    fn a_state_that_forbids_deleting_gets_cinders_sentence() {
        let error = TransitionError {
            operation: "delete",
            state: VolumeState::InUse,
        };
        let fault = of_volume(VolumeError::Transition(error));
        assert_eq!(
            (
                fault.code(),
                fault
                    .message()
                    .starts_with("Invalid volume: Volume status must be available or error")
            ),
            (400, true)
        );
    }

    #[test]
    fn a_conflict_is_a_409() {
        assert_eq!(of_catalog(&CatalogError::Conflict).code(), 409);
    }
}

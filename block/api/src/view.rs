//! From the manager's types to what the API shows, and back.

use onggi_block_cinder::attachment::{Connector as SentConnector, IscsiConnection, Path};
use onggi_block_cinder::capacity::PoolView;
use onggi_block_cinder::quota::{Quota, QuotaSet};
use onggi_block_cinder::service::ServiceView;
use onggi_block_cinder::volume::AttachedView;
use onggi_block_cinder::volume_type::VolumeTypeView;
use onggi_block_cinder::{
    AttachMode, AttachmentView, CreateVolume, Fault, MessageView, VolumeView,
};
use onggi_block_manager::{
    AttachmentDetail, ConnectionInfo, PoolStatus, ServiceStatus, VolumeDetail,
};
use onggi_block_volume::{
    AccessMode, Attachment, AttachmentState, Connector, NewVolume, PoolReport, QuotaLimits,
    QuotaUsage, SizeGib, VolumeState, VolumeType,
};
use onggi_common_units::ByteCount;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Snapshots, backups and groups a project may have once they can be made; Cinder's own defaults.
const SNAPSHOTS_MAX: i64 = 10;
const BACKUPS_MAX: i64 = 10;
const BACKUP_GIGABYTES_MAX: i64 = 1_000;
const GROUPS_MAX: i64 = 10;

/// A volume with its attachments.
pub(crate) fn volume(detail: VolumeDetail, types: &[VolumeType]) -> VolumeView {
    let VolumeDetail {
        volume,
        attachments,
    } = detail;
    // Cinder shows those that are complete.
    let complete = attachments
        .iter()
        .filter(|attachment| attachment.state == AttachmentState::Attached);
    let volume_type = types.iter().find(|entry| entry.name == volume.volume_type);
    VolumeView {
        id: volume.id.0,
        status: volume.state.as_str().to_owned(),
        size: u64::from(volume.size.gib()),
        name: volume.name,
        description: volume.description,
        project_id: volume.project.into(),
        user_id: volume.user.into(),
        availability_zone: volume.availability_zone,
        created_at: volume.created_at,
        updated_at: volume.updated_at,
        volume_type_id: volume_type.map(|entry| entry.id),
        volume_type: Some(volume.volume_type),
        snapshot_id: None,
        source_volid: None,
        metadata: volume.metadata,
        bootable: volume.bootable,
        multiattach: volume.multiattach,
        attachments: complete.map(attached).collect(),
        host: (volume.state != VolumeState::Creating).then(|| volume.pool.to_string()),
        service_uuid: None,
        message: volume.fault.map(|fault| MessageView {
            volume: volume.id.0,
            operation: fault.operation,
            reason: fault.message,
            created_at: fault.at,
        }),
    }
}

fn attached(attachment: &Attachment) -> AttachedView {
    AttachedView {
        attachment_id: attachment.id.0,
        server_id: attachment.instance,
        host_name: attachment.host().map(str::to_owned),
        device: attachment.mountpoint().map(str::to_owned),
        attached_at: attachment.attached_at,
    }
}

/// An attachment, with how to connect once that is known.
pub(crate) fn attachment(detail: AttachmentDetail) -> AttachmentView {
    let attachment = &detail.attachment;
    AttachmentView {
        id: attachment.id.0,
        volume_id: attachment.volume.0,
        instance: attachment.instance,
        status: attachment.state.as_str().to_owned(),
        mode: Some(mode(attachment.mode)),
        attached_at: attachment.attached_at,
        detached_at: None,
        connection_info: detail.connection.map(connection).unwrap_or_default(),
    }
}

/// A mode in the API's words.
pub(crate) const fn mode(mode: AccessMode) -> AttachMode {
    match mode {
        AccessMode::ReadWrite => AttachMode::Rw,
        AccessMode::ReadOnly => AttachMode::Ro,
    }
}

/// A mode in the manager's words.
pub(crate) const fn access(mode: Option<AttachMode>) -> AccessMode {
    match mode {
        Some(AttachMode::Ro) => AccessMode::ReadOnly,
        Some(AttachMode::Rw) | None => AccessMode::ReadWrite,
    }
}

/// A connector for the manager.
pub(crate) fn connector(sent: &SentConnector) -> Result<Connector, Fault> {
    let text = |key: &str| {
        sent.raw
            .get(key)
            .and_then(Value::as_str)
            .map(|text| text.chars().take(255).collect())
    };
    let initiator = sent.initiator.as_deref().unwrap_or("");
    let mut connector =
        Connector::new(initiator).map_err(|error| Fault::invalid_input(error.to_string()))?;
    connector.host = sent.host.clone();
    connector.ip = sent.ip.clone();
    connector.multipath = sent.multipath;
    connector.mountpoint = sent.mountpoint.clone();
    connector.platform = text("platform");
    connector.os_type = text("os_type");
    Ok(connector)
}

/// A size that was read within the API's bounds.
pub(crate) fn size(gib: u64) -> Result<SizeGib, Fault> {
    let narrow = u32::try_from(gib).unwrap_or(0);
    SizeGib::try_from(narrow).map_err(|error| Fault::invalid_input(error.to_string()))
}

/// A volume that is asked for; what it would be made of has been dealt with.
pub(crate) fn new_volume(request: CreateVolume, size: SizeGib) -> NewVolume {
    NewVolume {
        size,
        name: request.name,
        description: request.description,
        availability_zone: request.availability_zone,
        volume_type: request.volume_type,
        metadata: request.metadata,
    }
}

/// A volume type.
pub(crate) fn volume_type(entry: VolumeType) -> VolumeTypeView {
    VolumeTypeView {
        id: entry.id,
        name: entry.name,
        description: entry.description,
        is_public: entry.is_public,
        extra_specs: BTreeMap::new(),
    }
}

/// A project's quota.
pub(crate) fn quota(limits: &QuotaLimits, usage: QuotaUsage) -> QuotaSet {
    let limit = |limit: Option<u64>| {
        limit.map_or(Quota::UNLIMITED, |limit| {
            i64::try_from(limit).unwrap_or(i64::MAX)
        })
    };
    let none = |limit| Quota { limit, in_use: 0 };
    QuotaSet {
        volumes: Quota {
            limit: limit(limits.volumes),
            in_use: usage.volumes,
        },
        gigabytes: Quota {
            limit: limit(limits.gigabytes),
            in_use: usage.gigabytes,
        },
        snapshots: none(SNAPSHOTS_MAX),
        backups: none(BACKUPS_MAX),
        backup_gigabytes: none(BACKUP_GIGABYTES_MAX),
        groups: none(GROUPS_MAX),
        per_volume_gigabytes: limit(limits.per_volume_gigabytes),
    }
}

/// A pool; one that cannot be read has no room and is down.
pub(crate) fn pool(status: &PoolStatus) -> PoolView {
    let service = status.address.service();
    let report = status.report.as_ref().ok();
    let room = |of: fn(&PoolReport) -> ByteCount| report.map_or(ByteCount::ZERO, of);
    PoolView {
        name: status.address.to_string(),
        backend_name: service
            .split_once('@')
            .map_or("", |(_, backend)| backend)
            .to_owned(),
        total: room(|report| report.total),
        free: room(|report| report.free),
        provisioned: room(|report| report.provisioned),
        allocated: status.allocated,
        volume_count: u64::try_from(status.volume_count).unwrap_or(u64::MAX),
        thin: report.is_some_and(|report| report.is_thin),
        oversubscription_percent: report.map_or(100, |report| report.over_subscription_percent),
        reserved_percentage: 0,
        up: report.is_some(),
        measured_at: status.measured_at,
    }
}

/// A service.
pub(crate) fn service(status: ServiceStatus) -> ServiceView {
    let has_backend = status.host.contains('@');
    ServiceView {
        binary: status.binary.to_owned(),
        host: status.host,
        zone: status.zone,
        enabled: true,
        up: status.is_up,
        updated_at: Some(status.updated_at),
        disabled_reason: status.reason,
        backend_up: has_backend.then_some(status.is_up),
    }
}

/// How to connect, for whoever may.
pub(crate) fn connection(info: ConnectionInfo) -> Map<String, Value> {
    let path = |portal: &SocketAddr| Path {
        portal: portal.to_string(),
        iqn: info.iqn.clone(),
        lun: u64::from(info.lun),
    };
    let connection = IscsiConnection {
        volume_id: info.volume.0,
        attachment_id: info.attachment.0,
        paths: info.portals.iter().map(path).collect(),
        chap: Some((info.chap_user, info.chap_secret)),
        mode: mode(info.mode),
        multipath: info.multipath,
    };
    connection.flat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_block_cinder::Connector as Sent;
    use serde_json::json;

    #[test]
    fn a_connector_without_an_initiator_is_refused() {
        let sent = Sent::parse(&json!({"host": "h"})).unwrap().unwrap();
        let fault = connector(&sent).unwrap_err();
        assert_eq!(fault.code(), 400);
        let whole = json!({"host": "h", "initiator": "iqn.1993-08.org.debian:01:abc", "platform": "x86_64"});
        let sent = Sent::parse(&whole).unwrap().unwrap();
        assert_eq!(
            connector(&sent).unwrap().platform.as_deref(),
            Some("x86_64")
        );
    }

    #[test]
    fn sizes_past_32_bits_are_refused() {
        assert_eq!(size(u64::MAX).unwrap_err().code(), 400);
        assert_eq!(size(7).unwrap().gib(), 7);
    }
}

//! Paths: which resource a request means, with and without the project in front.

use http::Method;
use percent_encoding::percent_decode_str;

/// What a path below `/v3` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resource {
    Volumes,
    VolumesDetail,
    VolumesSummary,
    Volume(String),
    VolumeMetadata(String),
    VolumeMetadataItem(String, String),
    VolumeAction(String),
    VolumeEncryption(String),
    Attachments,
    AttachmentsDetail,
    Attachment(String),
    AttachmentAction(String),
    Types,
    DefaultType,
    Type(String),
    TypeExtraSpecs(String),
    AvailabilityZones,
    Limits,
    QuotaSet(String),
    QuotaDefaults(String),
    Services,
    Pools,
    Extensions,
    FilterNames,
    Messages,
    Message(String),
    /// A collection this service keeps nothing in yet: its name in answers, the noun of one thing.
    EmptyCollection(Kept),
    /// One thing of such a collection, which cannot exist.
    Absent(Kept, String),
}

/// Collections of the API that are always empty here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The key of its listing.
    pub(crate) plural: &'static str,
    /// One of it, as Cinder's messages say it.
    pub(crate) noun: &'static str,
    /// What making one would be, in words.
    pub(crate) making: &'static str,
}

const SNAPSHOTS: Kept = Kept {
    plural: "snapshots",
    noun: "Snapshot",
    making: "make snapshots",
};
const BACKUPS: Kept = Kept {
    plural: "backups",
    noun: "Backup",
    making: "make backups",
};
const TRANSFERS: Kept = Kept {
    plural: "transfers",
    noun: "Transfer",
    making: "transfer volumes",
};
const GROUPS: Kept = Kept {
    plural: "groups",
    noun: "Group",
    making: "make volume groups",
};
const GROUP_TYPES: Kept = Kept {
    plural: "group_types",
    noun: "Group type",
    making: "make group types",
};
const GROUP_SNAPSHOTS: Kept = Kept {
    plural: "group_snapshots",
    noun: "Group snapshot",
    making: "make group snapshots",
};
const QOS_SPECS: Kept = Kept {
    plural: "qos_specs",
    noun: "QoS specs",
    making: "limit the speed of volumes",
};
const CLUSTERS: Kept = Kept {
    plural: "clusters",
    noun: "Cluster",
    making: "make clusters",
};

/// A path below `/v3`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Routed {
    /// The project the path names.
    pub(crate) project: Option<String>,
    /// What it names there.
    pub(crate) resource: Resource,
}

/// Takes a path apart; `None` when it leads nowhere.
pub(crate) fn resolve(path: &str) -> Option<Routed> {
    let below = path.strip_prefix("/v3/")?;
    let below = below.strip_suffix('/').unwrap_or(below);
    let decode = |part: &str| {
        percent_decode_str(part)
            .decode_utf8()
            .ok()
            .map(|text| text.into_owned())
    };
    let segments: Vec<String> = below.split('/').map(decode).collect::<Option<_>>()?;
    let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (project, rest) = match texts.split_first() {
        Some((first, rest)) if is_project(first) => (Some((*first).to_owned()), rest),
        Some(_) | None => (None, texts.as_slice()),
    };
    Some(Routed {
        project,
        resource: resource(rest)?,
    })
}

/// Thirty-two hexadecimal digits, or a UUID: what no resource is named.
fn is_project(segment: &str) -> bool {
    segment.parse::<onggi_common_units::Uuid>().is_ok()
}

fn resource(segments: &[&str]) -> Option<Resource> {
    let owned = |text: &&str| (*text).to_owned();
    Some(match segments {
        ["volumes", rest @ ..] => return volumes(rest),
        ["attachments"] => Resource::Attachments,
        ["attachments", "detail"] => Resource::AttachmentsDetail,
        ["attachments", id] => Resource::Attachment(owned(id)),
        ["attachments", id, "action"] => Resource::AttachmentAction(owned(id)),
        ["types"] => Resource::Types,
        ["types", "default"] => Resource::DefaultType,
        ["types", id] => Resource::Type(owned(id)),
        ["types", id, "extra_specs"] => Resource::TypeExtraSpecs(owned(id)),
        ["messages"] => Resource::Messages,
        ["messages", id] => Resource::Message(owned(id)),
        ["os-availability-zone"] => Resource::AvailabilityZones,
        ["limits"] => Resource::Limits,
        ["os-quota-sets", project] => Resource::QuotaSet(owned(project)),
        ["os-quota-sets", project, "defaults"] => Resource::QuotaDefaults(owned(project)),
        ["os-services"] => Resource::Services,
        ["scheduler-stats", "get_pools"] => Resource::Pools,
        ["extensions"] => Resource::Extensions,
        ["resource_filters"] => Resource::FilterNames,
        [collection, rest @ ..] => return kept(collection, rest),
        [] => return None,
    })
}

fn volumes(segments: &[&str]) -> Option<Resource> {
    let owned = |text: &&str| (*text).to_owned();
    Some(match segments {
        [] => Resource::Volumes,
        ["detail"] => Resource::VolumesDetail,
        ["summary"] => Resource::VolumesSummary,
        [id] => Resource::Volume(owned(id)),
        [id, "metadata"] => Resource::VolumeMetadata(owned(id)),
        [id, "metadata", key] => Resource::VolumeMetadataItem(owned(id), owned(key)),
        [id, "action"] => Resource::VolumeAction(owned(id)),
        [id, "encryption"] => Resource::VolumeEncryption(owned(id)),
        _ => return None,
    })
}

fn kept(collection: &str, rest: &[&str]) -> Option<Resource> {
    let kept = match collection {
        "snapshots" => SNAPSHOTS,
        "backups" => BACKUPS,
        "volume-transfers" | "os-volume-transfer" => TRANSFERS,
        "groups" => GROUPS,
        "group_types" => GROUP_TYPES,
        "group_snapshots" => GROUP_SNAPSHOTS,
        "qos-specs" => QOS_SPECS,
        "clusters" => CLUSTERS,
        _ => return None,
    };
    Some(match rest {
        [] | ["detail"] => Resource::EmptyCollection(kept),
        [id] | [id, "metadata" | "action"] => Resource::Absent(kept, (*id).to_owned()),
        _ => return None,
    })
}

impl Resource {
    /// The methods a resource knows.
    pub(crate) fn methods(&self) -> &'static [Method] {
        const GET: Method = Method::GET;
        const POST: Method = Method::POST;
        const PUT: Method = Method::PUT;
        const DELETE: Method = Method::DELETE;
        match self {
            Self::Volumes | Self::Attachments | Self::EmptyCollection(_) | Self::Types => {
                &[GET, POST]
            }
            Self::Volume(_)
            | Self::Attachment(_)
            | Self::VolumeMetadataItem(..)
            | Self::Type(_) => &[GET, PUT, DELETE],
            Self::Message(_) => &[GET, DELETE],
            Self::VolumeMetadata(_) => &[GET, POST, PUT],
            Self::VolumeAction(_) | Self::AttachmentAction(_) => &[POST],
            Self::QuotaSet(_) => &[GET, PUT, DELETE],
            Self::TypeExtraSpecs(_) => &[GET, POST],
            Self::Absent(..) => &[GET, PUT, POST, DELETE],
            Self::VolumesDetail
            | Self::VolumesSummary
            | Self::Messages
            | Self::VolumeEncryption(_)
            | Self::AttachmentsDetail
            | Self::DefaultType
            | Self::AvailabilityZones
            | Self::Limits
            | Self::QuotaDefaults(_)
            | Self::Services
            | Self::Pools
            | Self::Extensions
            | Self::FilterNames => &[GET],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn both_forms_of_a_path_lead_to_the_same_thing() {
        for (path, resource) in [
            ("volumes", Resource::Volumes),
            ("volumes/", Resource::Volumes),
            ("volumes/detail", Resource::VolumesDetail),
            ("volumes/x", Resource::Volume("x".to_owned())),
            (
                "volumes/x/metadata/a%2Fb",
                Resource::VolumeMetadataItem("x".to_owned(), "a/b".to_owned()),
            ),
            (
                "attachments/x/action",
                Resource::AttachmentAction("x".to_owned()),
            ),
            ("types/default", Resource::DefaultType),
            ("messages", Resource::Messages),
            ("messages/x", Resource::Message("x".to_owned())),
            ("snapshots/detail", Resource::EmptyCollection(SNAPSHOTS)),
            ("backups/y", Resource::Absent(BACKUPS, "y".to_owned())),
        ] {
            let plain = resolve(&format!("/v3/{path}")).unwrap();
            assert_eq!(
                (plain.project, &plain.resource),
                (None, &resource),
                "{path}"
            );
            let with_project = resolve(&format!("/v3/{PROJECT}/{path}")).unwrap();
            assert_eq!(
                (with_project.project.as_deref(), with_project.resource),
                (Some(PROJECT), resource)
            );
        }
    }

    #[test]
    fn other_paths_lead_nowhere() {
        for path in [
            "/",
            "/v3",
            "/v2/volumes",
            "/v3/x",
            "/v3/volumes/a/b/c/d",
            "/v3//volumes",
            "/v3/%ff",
            "/v3/volumes/../x/y",
        ] {
            assert_eq!(resolve(path), None, "{path}");
        }
        assert_eq!(resolve(&format!("/v3/{PROJECT}")), None);
    }

    #[test]
    fn every_resource_knows_a_method() {
        assert_eq!(Resource::Pools.methods(), [Method::GET]);
        assert!(!Resource::Volumes.methods().contains(&Method::DELETE));
    }
}

//! Volumes: what a client may ask for, and what it is shown per microversion.

use crate::list::Filter;
use crate::microversion::since;
use crate::schema::Fields;
use crate::{Fault, Links, MessageView, Microversion};
use core::cmp::Ordering;
use onggi_common_units::{UtcTime, Uuid};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A parsed `POST /volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateVolume {
    /// GiB; absent when a source gives it.
    pub size: Option<u64>,
    /// Its name.
    pub name: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// A type's name or id.
    pub volume_type: Option<String>,
    /// Where it should be.
    pub availability_zone: Option<String>,
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
    /// What it is made of.
    pub source: Option<VolumeSource>,
}

/// What a volume's first bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A snapshot.
    Snapshot(Uuid),
    /// Another volume.
    Volume(Uuid),
    /// A backup.
    Backup(Uuid),
    /// An image of an image service.
    Image(String),
}

const CREATE_KEYS: [&str; 16] = [
    "name",
    "description",
    "display_name",
    "display_description",
    "volume_type",
    "metadata",
    "snapshot_id",
    "source_volid",
    "consistencygroup_id",
    "size",
    "availability_zone",
    "multiattach",
    "image_id",
    "imageRef",
    "group_id",
    "backup_id",
];

impl CreateVolume {
    /// Reads a request body.
    ///
    /// # Errors
    /// 400 with Cinder's message when a field is not what the schema allows.
    pub fn parse(body: &Value, version: Microversion) -> Result<Self, Fault> {
        let fields = Fields::of(body, "volume")?;
        if version >= since::STRICT_VOLUME {
            fields.only(&CREATE_KEYS)?;
        }
        let size = fields.size("size")?;
        let source = source(&fields, version)?;
        if size.is_none() && source.is_none() {
            let message = "Invalid volume size provided for create request: None (size argument must be an \
                           integer (or string representation of an integer) and greater than zero).";
            return Err(Fault::invalid_input(message));
        }
        if fields.boolean("multiattach")? == Some(true) {
            let message = "multiattach parameter has been removed. The default behavior is to use multiattach \
                           enabled volume types. Contact your administrator to create a multiattach enabled \
                           volume type and use it to create multiattach volumes.";
            return Err(Fault::bad_request(message));
        }
        no_groups(&fields)?;
        Ok(Self {
            size,
            name: named(&fields, "name", "display_name", "name")?,
            description: named(&fields, "description", "display_description", "description")?,
            volume_type: fields.text("volume_type")?.filter(|text| !text.is_empty()),
            availability_zone: fields.label("availability_zone", "availability_zone")?,
            metadata: fields.metadata("metadata")?.unwrap_or_default(),
            source,
        })
    }
}

fn named(
    fields: &Fields<'_>,
    key: &str,
    old_key: &str,
    noun: &str,
) -> Result<Option<String>, Fault> {
    let old = fields.label(old_key, noun)?;
    Ok(fields.label(key, noun)?.or(old))
}

fn no_groups(fields: &Fields<'_>) -> Result<(), Fault> {
    for key in ["consistencygroup_id", "group_id"] {
        if let Some(id) = fields.text(key)?.filter(|id| !id.is_empty()) {
            return Err(Fault::not_found("Group", &id));
        }
    }
    Ok(())
}

fn source(fields: &Fields<'_>, version: Microversion) -> Result<Option<VolumeSource>, Fault> {
    let image = fields
        .text("imageRef")?
        .or(fields.text("image_id")?)
        .filter(|id| !id.is_empty());
    let backup = if version >= since::FROM_BACKUP {
        fields.uuid("backup_id")?
    } else {
        None
    };
    let sources: Vec<VolumeSource> = [
        fields.uuid("snapshot_id")?.map(VolumeSource::Snapshot),
        fields.uuid("source_volid")?.map(VolumeSource::Volume),
        backup.map(VolumeSource::Backup),
        image.map(VolumeSource::Image),
    ]
    .into_iter()
    .flatten()
    .collect();
    if sources.len() > 1 {
        let message =
            "May specify only one of snapshot, image, backup or source volume for the volume.";
        return Err(Fault::invalid_input(message));
    }
    Ok(sources.into_iter().next())
}

/// A parsed `PUT /volumes/{id}`: what is present changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpdateVolume {
    /// The new name; `Some(None)` takes it away.
    pub name: Option<Option<String>>,
    /// The new description; `Some(None)` takes it away.
    pub description: Option<Option<String>>,
    /// The metadata that replaces the old.
    pub metadata: Option<BTreeMap<String, String>>,
}

impl UpdateVolume {
    /// Reads a request body.
    ///
    /// # Errors
    /// 400 with Cinder's message when a field is not what the schema allows.
    pub fn parse(body: &Value, version: Microversion) -> Result<Self, Fault> {
        const KEYS: [&str; 5] = [
            "name",
            "description",
            "display_name",
            "display_description",
            "metadata",
        ];
        let fields = Fields::of(body, "volume")?;
        let changes = KEYS.iter().any(|key| fields.has(key));
        if version >= since::STRICT_VOLUME {
            fields.only(&KEYS)?;
            if !changes {
                let whole = Value::Object(fields.map().clone());
                let problem = format!(
                    "{} is not valid under any of the given schemas",
                    crate::schema::representation(&whole)
                );
                return Err(crate::schema::invalid("volume", &whole, &problem));
            }
        }
        let change = |key: &str, old_key: &str| {
            let value = named(&fields, key, old_key, key)?;
            Ok::<_, Fault>((fields.has(key) || fields.has(old_key)).then_some(value))
        };
        Ok(Self {
            name: change("name", "display_name")?,
            description: change("description", "display_description")?,
            metadata: fields.metadata("metadata")?,
        })
    }
}

/// An attachment as its volume shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedView {
    /// The attachment.
    pub attachment_id: Uuid,
    /// The server it is attached to.
    pub server_id: Option<Uuid>,
    /// The host, which only admins see.
    pub host_name: Option<String>,
    /// The device the server said it is.
    pub device: Option<String>,
    /// Since when.
    pub attached_at: Option<UtcTime>,
}

/// Everything the API can show of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its id.
    pub id: Uuid,
    /// Its status, in Cinder's spelling.
    pub status: String,
    /// GiB.
    pub size: u64,
    /// Its name.
    pub name: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// Its project.
    pub project_id: String,
    /// Who made it.
    pub user_id: String,
    /// Where it is.
    pub availability_zone: String,
    /// When it was made.
    pub created_at: UtcTime,
    /// When it was last changed.
    pub updated_at: Option<UtcTime>,
    /// The name of its type.
    pub volume_type: Option<String>,
    /// The id of its type.
    pub volume_type_id: Option<Uuid>,
    /// The snapshot it was made of.
    pub snapshot_id: Option<Uuid>,
    /// The volume it was made of.
    pub source_volid: Option<Uuid>,
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
    /// Whether a server can start from it.
    pub bootable: bool,
    /// Whether several servers may have it at a time.
    pub multiattach: bool,
    /// Where it is attached.
    pub attachments: Vec<AttachedView>,
    /// `host@backend#pool`, once it has been placed.
    pub host: Option<String>,
    /// The service that holds it.
    pub service_uuid: Option<Uuid>,
    /// What last went wrong with it; shown as a message, not as part of the volume.
    pub message: Option<MessageView>,
}

/// For whom a view is rendered.
#[derive(Debug, Clone)]
pub struct Rendering {
    /// The microversion the client speaks.
    pub version: Microversion,
    /// Whether the caller is an admin.
    pub is_admin: bool,
    /// Where the client reached the service.
    pub links: Links,
}

fn moment(time: Option<UtcTime>) -> Value {
    time.map_or(Value::Null, |time| json!(time.iso_naive()))
}

/// The filters every volume listing has.
pub const FILTERS: [&str; 14] = [
    "name",
    "display_name",
    "status",
    "metadata",
    "bootable",
    "migration_status",
    "availability_zone",
    "group_id",
    "size",
    "created_at",
    "updated_at",
    "consumes_quota",
    "id",
    "glance_metadata",
];
/// The filters admins have besides.
pub const ADMIN_FILTERS: [&str; 4] = ["project_id", "user_id", "host", "no_migration_targets"];

impl VolumeView {
    /// The short form: id, name, links.
    #[must_use]
    pub fn summary(&self, rendering: &Rendering) -> Value {
        let id = self.id.to_string();
        json!({"id": id, "name": self.name, "links": rendering.links.of("volumes", &id)})
    }

    /// What `POST /volumes` and `PUT /volumes/{id}` answer.
    #[must_use]
    pub fn created(&self, rendering: &Rendering) -> Value {
        Value::Object(self.fields(rendering))
    }

    /// What `GET` shows: also whose it is, and for admins where it is.
    #[must_use]
    pub fn detail(&self, rendering: &Rendering) -> Value {
        let mut fields = self.fields(rendering);
        let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
        put("os-vol-tenant-attr:tenant_id", json!(self.project_id));
        if rendering.is_admin {
            put("os-vol-host-attr:host", json!(self.host));
            put("os-vol-mig-status-attr:migstat", Value::Null);
            put("os-vol-mig-status-attr:name_id", Value::Null);
        }
        Value::Object(fields)
    }

    fn fields(&self, rendering: &Rendering) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
        let id = self.id.to_string();
        put("links", rendering.links.of("volumes", &id));
        put("id", json!(id));
        put("status", json!(self.status));
        put("size", json!(self.size));
        put("availability_zone", json!(self.availability_zone));
        put("created_at", moment(Some(self.created_at)));
        put("updated_at", moment(self.updated_at));
        put("name", json!(self.name));
        put("description", json!(self.description));
        put("volume_type", json!(self.volume_type));
        put("snapshot_id", json!(self.snapshot_id));
        put("source_volid", json!(self.source_volid));
        put("metadata", json!(self.metadata));
        put("user_id", json!(self.user_id));
        put(
            "bootable",
            json!(if self.bootable { "true" } else { "false" }),
        );
        put("encrypted", json!(false));
        put("replication_status", Value::Null);
        put("consistencygroup_id", Value::Null);
        put("multiattach", json!(self.multiattach));
        let attached = |entry: &AttachedView| self.attached(entry, rendering.is_admin);
        put(
            "attachments",
            self.attachments.iter().map(attached).collect(),
        );
        self.versioned_fields(rendering, &mut fields);
        fields
    }

    fn versioned_fields(&self, rendering: &Rendering, fields: &mut Map<String, Value>) {
        let version = rendering.version;
        let mut put_if = |shown: bool, key: &str, value: Value| {
            if shown {
                drop(fields.insert(key.to_owned(), value));
            }
        };
        let is_admin = rendering.is_admin;
        put_if(is_admin, "migration_status", Value::Null);
        put_if(version >= since::GROUP_ID, "group_id", Value::Null);
        put_if(
            is_admin && version >= since::PROVIDER_ID,
            "provider_id",
            Value::Null,
        );
        // Each volume has a target of its own, so nothing is shared once it has one.
        put_if(
            version >= since::SHARED_TARGETS,
            "shared_targets",
            json!(self.host.is_none()),
        );
        put_if(
            version >= since::SHARED_TARGETS,
            "service_uuid",
            json!(self.service_uuid),
        );
        put_if(
            is_admin && version >= since::CLUSTER_NAME,
            "cluster_name",
            Value::Null,
        );
        put_if(
            version >= since::VOLUME_TYPE_ID,
            "volume_type_id",
            json!(self.volume_type_id),
        );
        put_if(
            version >= since::CONSUMES_QUOTA,
            "consumes_quota",
            json!(true),
        );
    }

    fn attached(&self, entry: &AttachedView, is_admin: bool) -> Value {
        json!({
            // It is the volume's id, not the attachment's: clients rely on it.
            "id": self.id,
            "attachment_id": entry.attachment_id,
            "volume_id": self.id,
            "server_id": entry.server_id,
            "host_name": entry.host_name.as_deref().filter(|_| is_admin),
            "device": entry.device,
            "attached_at": moment(entry.attached_at),
        })
    }

    /// Whether the volume passes a filter.
    ///
    /// # Errors
    /// 400 when the filter's value cannot be understood.
    pub fn passes(&self, filter: &Filter) -> Result<bool, Fault> {
        let text = |value: &str| filter.matches_text(Some(value));
        Ok(match filter.key.as_str() {
            "name" | "display_name" => filter.matches_text(self.name.as_deref()),
            "status" => text(&self.status),
            "id" => text(&self.id.to_string()),
            "availability_zone" => text(&self.availability_zone),
            "project_id" => text(&self.project_id),
            "user_id" => text(&self.user_id),
            "host" => filter.matches_text(self.host.as_deref()),
            "size" => text(&self.size.to_string()),
            "bootable" => filter.matches_truth(self.bootable),
            "consumes_quota" => filter.matches_truth(true),
            "metadata" => self.has_metadata(&filter.value)?,
            "created_at" => filter.matches_time(Some(&self.created_at.iso_naive()))?,
            "updated_at" => {
                filter.matches_time(self.updated_at.map(UtcTime::iso_naive).as_deref())?
            }
            // What no volume has is matched only by the wish for none.
            "migration_status" | "group_id" | "glance_metadata" => {
                matches!(filter.value.as_str(), "" | "None" | "none")
            }
            _ => true,
        })
    }

    fn has_metadata(&self, wanted: &str) -> Result<bool, Fault> {
        // Python clients send str() of a dict: the same as JSON but for its quotes.
        let parse = |text: &str| serde_json::from_str::<BTreeMap<String, String>>(text).ok();
        let wanted = parse(wanted).or_else(|| parse(&wanted.replace('\'', "\"")));
        let problem = || Fault::invalid_input("the metadata filter is no dictionary of texts");
        let wanted = wanted.ok_or_else(problem)?;
        Ok(wanted
            .iter()
            .all(|(key, value)| self.metadata.get(key) == Some(value)))
    }

    /// Compares two volumes by a sort key; `None` when there is no such key.
    #[must_use]
    pub fn compare(key: &str, a: &Self, b: &Self) -> Option<Ordering> {
        Some(match key {
            "id" => a.id.cmp(&b.id),
            "status" => a.status.cmp(&b.status),
            "size" => a.size.cmp(&b.size),
            "name" | "display_name" => a.name.cmp(&b.name),
            "availability_zone" => a.availability_zone.cmp(&b.availability_zone),
            "bootable" => a.bootable.cmp(&b.bootable),
            "created_at" => a.created_at.cmp(&b.created_at),
            "updated_at" => a.updated_at.cmp(&b.updated_at),
            "project_id" => a.project_id.cmp(&b.project_id),
            "user_id" => a.user_id.cmp(&b.user_id),
            "host" => a.host.cmp(&b.host),
            "volume_type_id" => a.volume_type_id.cmp(&b.volume_type_id),
            _ => return None,
        })
    }

    /// Newest first, the order of a listing that asks for none.
    #[must_use]
    pub fn newest_first(a: &Self, b: &Self) -> Ordering {
        b.created_at
            .cmp(&a.created_at)
            .then_with(|| b.id.cmp(&a.id))
    }
}

/// The body of `GET /volumes/summary`.
#[must_use]
pub fn summary_body(volumes: &[VolumeView], version: Microversion) -> Value {
    let total_size: u64 = volumes.iter().map(|volume| volume.size).sum();
    let mut summary = json!({"total_count": volumes.len(), "total_size": total_size});
    if version >= since::SUMMARY_METADATA {
        let mut metadata: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, value) in volumes.iter().flat_map(|volume| &volume.metadata) {
            let values = metadata.entry(key).or_default();
            if !values.contains(&value.as_str()) {
                values.push(value);
            }
        }
        summary["metadata"] = json!(metadata);
    }
    json!({"volume-summary": summary})
}

#[cfg(test)]
mod tests;

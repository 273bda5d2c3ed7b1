//! The rows identity keeps in the control store: JSON payloads in the versioned envelope of `meta::table`.

use crate::revocation::Event;
use onggi_common_meta::TableName;
use onggi_common_meta::table::{PayloadError, Record, from_json, to_json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What an entity of Keystone's is to the store.
pub(crate) trait Entity: Record + Clone {
    /// The table of its rows, by id.
    const TABLE: TableName;
    /// The table that keeps its names unique, if they are.
    const NAMES: Option<TableName>;
    /// Keystone's word for it.
    const KIND: &'static str;

    fn id(&self) -> &str;

    /// What no other may be called, as a key of `NAMES`.
    fn unique_name(&self) -> String;
}

/// The key of a name that is unique within a domain. No domain's id holds a NUL.
pub(crate) fn name_key(domain_id: &str, name: &str) -> String {
    format!("{domain_id}\0{name}")
}

macro_rules! json_record {
    ($type:ty, $name:literal) => {
        impl Record for $type {
            const NAME: &'static str = $name;
            const VERSION: u16 = 1;

            fn encode_payload(&self, payload: &mut Vec<u8>) {
                to_json(self, payload);
            }

            fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
                if version == 1 {
                    from_json(payload).map(Some)
                } else {
                    Ok(None)
                }
            }
        }
    };
}

macro_rules! entity {
    ($type:ty, $name:literal, $table:literal, $names:expr, $kind:literal, $unique:expr) => {
        json_record!($type, $name);
        impl Entity for $type {
            const TABLE: TableName = TableName::new($table);
            const NAMES: Option<TableName> = $names;
            const KIND: &'static str = $kind;

            fn id(&self) -> &str {
                &self.id
            }

            fn unique_name(&self) -> String {
                let unique: fn(&Self) -> String = $unique;
                unique(self)
            }
        }
    };
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DomainRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) enabled: bool,
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProjectRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) domain_id: String,
    pub(crate) description: String,
    pub(crate) enabled: bool,
    pub(crate) tags: Vec<String>,
    /// Attributes clients set and only they understand.
    pub(crate) extra: Map<String, Value>,
}

/// A user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) domain_id: String,
    pub(crate) enabled: bool,
    /// An argon2id hash in PHC form; without one nobody can log in with a password.
    pub(crate) password_hash: Option<String>,
    pub(crate) default_project_id: Option<String>,
    /// Attributes clients set (email, description) and only they understand.
    pub(crate) extra: Map<String, Value>,
}

impl core::fmt::Debug for UserRow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "UserRow({})", self.id)
    }
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// Ids of the roles whoever has this one has too.
    pub(crate) implies: Vec<String>,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionRow {
    pub(crate) id: String,
    pub(crate) description: String,
    pub(crate) parent_region_id: Option<String>,
}

/// A service of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceRow {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) enabled: bool,
}

/// Who an endpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Interface {
    Public,
    Internal,
    Admin,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointRow {
    pub(crate) id: String,
    pub(crate) service_id: String,
    pub(crate) interface: Interface,
    pub(crate) region_id: Option<String>,
    /// With `$(project_id)s` where a project's id goes.
    pub(crate) url: String,
    pub(crate) enabled: bool,
    /// Made from the configuration, and kept equal to it until someone changes it.
    pub(crate) is_configured: bool,
}

/// What a role is granted on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    Project(String),
    Domain(String),
    System,
}

impl Target {
    /// The scope of a token for it, as revocations name it.
    pub(crate) fn scope(&self) -> &str {
        match self {
            Self::Project(id) | Self::Domain(id) => id,
            Self::System => "system",
        }
    }

    const fn tag(&self) -> &'static str {
        match self {
            Self::Project(_) => "project",
            Self::Domain(_) => "domain",
            Self::System => "system",
        }
    }
}

/// A role granted to a user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantRow {
    pub(crate) user_id: String,
    pub(crate) target: Target,
    pub(crate) role_id: String,
}

impl GrantRow {
    pub(crate) const TABLE: TableName = TableName::new("identity_grants");

    /// User first: a login reads one user's grants.
    pub(crate) fn key(&self) -> String {
        let (tag, scope) = (self.target.tag(), self.target.scope());
        format!("{}\0{tag}\0{scope}\0{}", self.user_id, self.role_id)
    }

    pub(crate) fn prefix_of_user(user_id: &str) -> String {
        format!("{user_id}\0")
    }
}

/// The id a unique name belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameRow {
    pub(crate) id: String,
}

/// A fact about the store as a whole: that it is there says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateRow {
    pub(crate) id: String,
}

/// The table of revocations; keys begin with when they end, so that those that ended are one range.
pub(crate) const REVOCATIONS: TableName = TableName::new("identity_revocations");

json_record!(NameRow, "identity name");
json_record!(GrantRow, "grant");
json_record!(Event, "revocation");
entity!(
    DomainRow,
    "domain",
    "identity_domains",
    Some(TableName::new("identity_domain_names")),
    "domain",
    |row| row.name.clone()
);
entity!(
    ProjectRow,
    "project",
    "identity_projects",
    Some(TableName::new("identity_project_names")),
    "project",
    |row| name_key(&row.domain_id, &row.name)
);
entity!(
    UserRow,
    "user",
    "identity_users",
    Some(TableName::new("identity_user_names")),
    "user",
    |row| name_key(&row.domain_id, &row.name)
);
entity!(
    RoleRow,
    "role",
    "identity_roles",
    Some(TableName::new("identity_role_names")),
    "role",
    |row| row.name.clone()
);
entity!(
    StateRow,
    "identity state",
    "identity_state",
    None,
    "state",
    |_| String::new()
);
entity!(
    RegionRow,
    "region",
    "identity_regions",
    None,
    "region",
    |_| String::new()
);
entity!(
    ServiceRow,
    "service",
    "identity_services",
    None,
    "service",
    |_| String::new()
);
entity!(
    EndpointRow,
    "endpoint",
    "identity_endpoints",
    None,
    "endpoint",
    |_| String::new()
);

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_meta::table::decode;

    /// Rows version 1 programs wrote: they must stay readable for ever.
    #[test]
    fn the_golden_rows_of_version_1_are_still_read() {
        let envelope = |payload: &str| {
            let mut row = vec![1, 1, 0];
            row.extend(payload.as_bytes());
            let checksum = crc32c::crc32c(&row).to_le_bytes();
            row.extend(checksum);
            row
        };
        let golden: Map<String, Value> =
            serde_json::from_str(include_str!("golden_v1.json")).unwrap();
        let row = |kind: &str| envelope(&golden[kind].to_string());
        assert_eq!(decode::<DomainRow>(&row("domain")).unwrap().name, "Default");
        assert_eq!(
            decode::<ProjectRow>(&row("project")).unwrap().tags,
            ["blue"]
        );
        let user = decode::<UserRow>(&row("user")).unwrap();
        assert_eq!(user.extra["email"], "kim@example.org");
        assert_eq!(decode::<RoleRow>(&row("role")).unwrap().implies.len(), 1);
        assert_eq!(decode::<RegionRow>(&row("region")).unwrap().id, "RegionOne");
        assert_eq!(
            decode::<ServiceRow>(&row("service")).unwrap().kind,
            "object-store"
        );
        assert_eq!(
            decode::<EndpointRow>(&row("endpoint")).unwrap().interface,
            Interface::Public
        );
        let grant = decode::<GrantRow>(&row("grant")).unwrap();
        assert_eq!(
            grant.target,
            Target::Project("9a1c0000000000000000000000000001".to_owned())
        );
        assert_eq!(decode::<NameRow>(&row("name")).unwrap().id, "default");
        assert_eq!(decode::<StateRow>(&row("state")).unwrap().id, "bootstrap");
        assert_eq!(
            decode::<Event>(&row("revocation")).unwrap().ends_at,
            3_600_000_000
        );
    }

    #[test]
    fn a_user_row_does_not_print_its_hash() {
        let user = UserRow {
            id: "u".to_owned(),
            name: "n".to_owned(),
            domain_id: "default".to_owned(),
            enabled: true,
            password_hash: Some("$argon2id$planted".to_owned()),
            default_project_id: None,
            extra: Map::new(),
        };
        assert!(!format!("{user:?}").contains("planted"));
    }
}

//! Quota sets and limits: what a project may use, and uses.

use serde_json::{Map, Value, json};

/// One limit with its use. A limit of -1 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How much is allowed.
    pub limit: i64,
    /// How much is used.
    pub in_use: u64,
}

impl Quota {
    /// No limit.
    pub const UNLIMITED: i64 = -1;

    const fn unused(limit: i64) -> Self {
        Self { limit, in_use: 0 }
    }

    fn value(self, with_usage: bool) -> Value {
        if with_usage {
            // Use is counted from the rows themselves, so nothing is ever merely reserved.
            json!({"limit": self.limit, "in_use": self.in_use, "reserved": 0})
        } else {
            json!(self.limit)
        }
    }
}

/// A project's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaSet {
    /// Volumes.
    pub volumes: Quota,
    /// GiB of volumes and snapshots.
    pub gigabytes: Quota,
    /// Snapshots.
    pub snapshots: Quota,
    /// Backups.
    pub backups: Quota,
    /// GiB of backups.
    pub backup_gigabytes: Quota,
    /// Volume groups.
    pub groups: Quota,
    /// GiB one volume may have.
    pub per_volume_gigabytes: i64,
}

impl QuotaSet {
    /// The body of `GET /os-quota-sets/{project}`; `types` are the volume types' names.
    #[must_use]
    pub fn body(&self, project: &str, with_usage: bool, types: &[&str]) -> Value {
        let mut set = Map::new();
        let mut put = |key: String, quota: Quota| drop(set.insert(key, quota.value(with_usage)));
        put("volumes".to_owned(), self.volumes);
        put("gigabytes".to_owned(), self.gigabytes);
        put("snapshots".to_owned(), self.snapshots);
        put("backups".to_owned(), self.backups);
        put("backup_gigabytes".to_owned(), self.backup_gigabytes);
        put("groups".to_owned(), self.groups);
        put(
            "per_volume_gigabytes".to_owned(),
            Quota::unused(self.per_volume_gigabytes),
        );
        for name in types {
            // Types have no limits of their own; with one type, its use is the project's.
            let of_type = |quota: Quota| Quota {
                limit: Quota::UNLIMITED,
                in_use: if types.len() == 1 { quota.in_use } else { 0 },
            };
            put(format!("volumes_{name}"), of_type(self.volumes));
            put(format!("gigabytes_{name}"), of_type(self.gigabytes));
            put(format!("snapshots_{name}"), of_type(self.snapshots));
        }
        set.insert("id".to_owned(), json!(project));
        json!({"quota_set": set})
    }

    /// The body of `GET /limits`.
    #[must_use]
    pub fn limits_body(&self) -> Value {
        json!({"limits": {"rate": [], "absolute": {
            "maxTotalVolumes": self.volumes.limit,
            "maxTotalSnapshots": self.snapshots.limit,
            "maxTotalVolumeGigabytes": self.gigabytes.limit,
            "maxTotalBackups": self.backups.limit,
            "maxTotalBackupGigabytes": self.backup_gigabytes.limit,
            "totalVolumesUsed": self.volumes.in_use,
            "totalGigabytesUsed": self.gigabytes.in_use,
            "totalSnapshotsUsed": self.snapshots.in_use,
            "totalBackupsUsed": self.backups.in_use,
            "totalBackupGigabytesUsed": self.backup_gigabytes.in_use,
        }}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: QuotaSet = QuotaSet {
        volumes: Quota {
            limit: 10,
            in_use: 2,
        },
        gigabytes: Quota {
            limit: 1_000,
            in_use: 7,
        },
        snapshots: Quota {
            limit: 10,
            in_use: 0,
        },
        backups: Quota {
            limit: 10,
            in_use: 0,
        },
        backup_gigabytes: Quota {
            limit: 1_000,
            in_use: 0,
        },
        groups: Quota {
            limit: 10,
            in_use: 0,
        },
        per_volume_gigabytes: -1,
    };

    #[test]
    fn a_quota_set_is_numbers_or_numbers_with_their_use() {
        let plain = SET.body("p", false, &["T"]);
        assert_eq!(plain["quota_set"]["volumes"], 10);
        assert_eq!(plain["quota_set"]["gigabytes_T"], -1);
        let usage = SET.body("p", true, &["T"]);
        assert_eq!(
            usage["quota_set"]["gigabytes"],
            json!({"limit": 1000, "in_use": 7, "reserved": 0})
        );
        assert_eq!(usage["quota_set"]["id"], "p");
    }

    #[test]
    fn limits_name_what_is_used() {
        assert_eq!(
            SET.limits_body()["limits"]["absolute"]["totalGigabytesUsed"],
            7
        );
    }
}

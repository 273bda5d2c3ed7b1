//! Quotas of accounts and containers: a write that would go over one is 413.
//!
//! The totals are those the account and the container know now: what is written at the same time may go over.

use crate::fault::Fault;
use crate::proxy::Asking;
use crate::subrequest::{Trusted, text};
use http::request::Parts as Head;
use http::{HeaderMap, Method};
use onggi_common_service::http::{Body, Response};
use onggi_object_model::{ObjectPath, Policy, PolicyIndex, StampedMetadata};

/// Where an account's quotas are kept.
pub(crate) const ACCOUNT_BYTES: &str = "x-account-sysmeta-quota-bytes";
pub(crate) const ACCOUNT_COUNT: &str = "x-account-sysmeta-quota-count";
/// The older name of the first, which is user metadata.
const ACCOUNT_BYTES_OLD: &str = "x-account-meta-quota-bytes";
const CONTAINER_BYTES: &str = "x-container-meta-quota-bytes";
const CONTAINER_COUNT: &str = "x-container-meta-quota-count";

/// The quotas of storage policies: the header users name each by, and where it is kept.
pub(crate) fn of_policies(policies: &[Policy]) -> Vec<(String, String)> {
    let of = |policy: &Policy| {
        let name = policy.name.to_ascii_lowercase();
        ["bytes", "count"].map(|what| {
            (
                format!("x-account-quota-{what}-policy-{name}"),
                policy_quota(what, policy.index),
            )
        })
    };
    policies.iter().flat_map(of).collect()
}

fn policy_quota(what: &str, policy: PolicyIndex) -> String {
    format!("x-account-sysmeta-quota-{what}-policy-{policy}")
}

/// A quota is a number, or nothing.
pub(crate) fn check(value: &str) -> Result<(), Fault> {
    if value.is_empty()
        || (value.bytes().all(|b| b.is_ascii_digit()) && value.parse::<u64>().is_ok())
    {
        Ok(())
    } else {
        Err(Fault::BadRequest(
            "Invalid quota: a number is expected".to_owned(),
        ))
    }
}

/// Checks the quotas a container is given.
pub(crate) fn check_container(headers: &HeaderMap) -> Result<(), Fault> {
    for (name, words) in [
        (CONTAINER_BYTES, "Invalid bytes quota."),
        (CONTAINER_COUNT, "Invalid count quota."),
    ] {
        if let Some(value) = text(headers, name) {
            check(value).map_err(|_fault| Fault::BadRequest(words.to_owned()))?;
        }
    }
    Ok(())
}

fn limit(metadata: &StampedMetadata, name: &str) -> Option<u64> {
    metadata.get(name)?.parse().ok()
}

fn exceeds(limit: Option<u64>, used: u64, more: u64) -> bool {
    limit.is_some_and(|limit| used.saturating_add(more) > limit)
}

impl Asking {
    /// Refuses what would go over a quota, and passes everything else on.
    pub(crate) async fn metered(
        &self,
        path: ObjectPath,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        if head.method == Method::PUT && head.extensions.get::<Trusted>().is_none() {
            self.check_quotas(&path, &head).await?;
        }
        Box::pin(self.static_large(path, head, body)).await
    }

    pub(super) async fn check_quotas(&self, path: &ObjectPath, head: &Head) -> Result<(), Fault> {
        let length = text(&head.headers, "content-length")
            .and_then(|length| length.trim().parse::<u64>().ok())
            .unwrap_or(0);
        let container = path.container_path();
        if let Some(known) = self.core.container_info(&container).await? {
            let bytes = limit(&known.metadata, CONTAINER_BYTES);
            let count = limit(&known.metadata, CONTAINER_COUNT);
            if bytes.is_some() || count.is_some() {
                // The totals change with every write: only those of now count.
                let Some(now) = self.core.fetch_container(&container).await? else {
                    return Ok(());
                };
                let now = self.with_versions_counted(&container, now).await?;
                if exceeds(bytes, now.bytes_used, length) || exceeds(count, now.object_count, 1) {
                    return Err(Fault::OverQuota);
                }
            }
        }
        let account = self.core.account_info(&path.account).await?;
        let bytes = limit(&account.metadata, ACCOUNT_BYTES)
            .or_else(|| limit(&account.metadata, ACCOUNT_BYTES_OLD));
        let count = limit(&account.metadata, ACCOUNT_COUNT);
        // An account counts its objects under all policies together: a policy's quota holds where it is the only one.
        let policies = self.core.cluster.policies();
        let only = policies.first().filter(|_| policies.len() == 1);
        let of_policy = |what| limit(&account.metadata, &policy_quota(what, only?.index));
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        let (bytes, count) = (
            least(bytes, of_policy("bytes")),
            least(count, of_policy("count")),
        );
        let is_reseller = self
            .caller
            .as_deref()
            .is_some_and(onggi_common_identity::Caller::is_reseller_admin);
        let is_over =
            exceeds(bytes, account.bytes_used, length) || exceeds(count, account.object_count, 1);
        if is_over && !is_reseller {
            return Err(Fault::OverQuota);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_numbers_and_the_last_byte_fits() {
        assert!(check("").is_ok() && check("10").is_ok());
        for bad in ["x", "-1", "1.5", "99999999999999999999999"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(!exceeds(Some(10), 5, 5) && exceeds(Some(10), 5, 6) && !exceeds(None, 5, 6));
        assert!(exceeds(Some(10), u64::MAX, 1));
    }
}

//! An account's totals for each storage policy. They are not kept: where there is one policy they are the account's own,
//! else the lines of a small account are added up.

use crate::fault::{Fault, set_named};
use crate::proxy::Core;
use http::HeaderMap;
use onggi_object_model::{
    AccountEntry, AccountInfo, AccountName, Listing, ListingEntry, ListingQuery, Policy,
    PolicyIndex,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Containers an account may have for its lines to be added up: of larger ones nothing is said.
const CONTAINERS_MAX: usize = 1_000;

/// Containers, objects and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    containers: u64,
    objects: u64,
    bytes: u64,
}

fn added_up(page: &Listing<AccountEntry>) -> BTreeMap<PolicyIndex, Totals> {
    let mut sums: BTreeMap<PolicyIndex, Totals> = BTreeMap::new();
    for entry in &page.entries {
        if let ListingEntry::Item(AccountEntry {
            policy: Some(policy),
            count,
            bytes,
            ..
        }) = entry
        {
            let sum = sums.entry(*policy).or_default();
            sum.containers += 1;
            sum.objects = sum.objects.saturating_add(*count);
            sum.bytes = sum.bytes.saturating_add(*bytes);
        }
    }
    sums
}

impl Core {
    /// The totals of the policies that the account's containers have.
    pub(crate) async fn policy_totals(
        self: &Arc<Self>,
        account: &AccountName,
        info: &AccountInfo,
    ) -> Result<BTreeMap<PolicyIndex, Totals>, Fault> {
        let is_small =
            usize::try_from(info.container_count).is_ok_and(|count| count <= CONTAINERS_MAX);
        if info.container_count == 0 {
            return Ok(BTreeMap::new());
        }
        if let [only] = self.cluster.policies() {
            let totals = Totals {
                containers: info.container_count,
                objects: info.object_count,
                bytes: info.bytes_used,
            };
            return Ok(BTreeMap::from([(only.index, totals)]));
        }
        if !is_small {
            return Ok(BTreeMap::new());
        }
        let all = ListingQuery {
            with_reserved: true,
            ..ListingQuery::page(CONTAINERS_MAX)
        };
        let (_, page) = self.account_lines(account, all).await?;
        Ok(added_up(&page))
    }
}

/// Says them in an answer.
pub(crate) fn tell(
    headers: &mut HeaderMap,
    policies: &[Policy],
    totals: &BTreeMap<PolicyIndex, Totals>,
) {
    for policy in policies {
        let Some(sum) = totals.get(&policy.index) else {
            continue;
        };
        let name = policy.name.to_ascii_lowercase();
        for (what, count) in [
            ("container-count", sum.containers),
            ("object-count", sum.objects),
            ("bytes-used", sum.bytes),
        ] {
            let header = format!("x-account-storage-policy-{name}-{what}");
            set_named(headers, &header, &count.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::Timestamp;

    #[test]
    fn lines_are_added_up_by_policy() {
        let policy = PolicyIndex::new;
        let line = |name: &str, policy: Option<PolicyIndex>| {
            ListingEntry::Item(AccountEntry {
                name: name.to_owned(),
                count: 2,
                bytes: 30,
                last_modified: Timestamp::ZERO,
                policy,
            })
        };
        let page = Listing {
            entries: vec![
                line("a", Some(policy(0))),
                line("b", Some(policy(1))),
                line("c", Some(policy(0))),
                line("d", None),
            ],
        };
        let sums = added_up(&page);
        let sum = |containers| Totals {
            containers,
            objects: 2 * containers,
            bytes: 30 * containers,
        };
        let expected = BTreeMap::from([(policy(0), sum(2)), (policy(1), sum(1))]);
        assert_eq!(sums, expected);
    }
}

//! What versions of objects take, in the listing of an account: their containers are not listed, and their bytes are those of
//! the containers whose objects they are.

use crate::fault::Fault;
use crate::middleware::versions::HIDDEN_PREFIX;
use crate::proxy::Core;
use onggi_object_model::limits::ACCOUNT_LISTING_MAX;
use onggi_object_model::{AccountEntry, AccountName, Listing, ListingEntry, ListingQuery};
use std::collections::HashMap;

/// Pages of containers of versions that are read for one page of an account.
const HIDDEN_PAGES_MAX: usize = 4;

/// What to ask for the containers of versions that belong to a page's lines. `None`: it has no such lines.
fn hidden_query(query: &ListingQuery, page: &Listing<AccountEntry>) -> Option<ListingQuery> {
    let names = || {
        page.entries.iter().filter_map(|entry| match entry {
            ListingEntry::Item(item) => Some(item.name.as_str()),
            ListingEntry::Subdir(_) => None,
        })
    };
    let (first, last) = (names().min()?, names().max()?);
    // Markers are exclusive: a beginning of the first name, and the next name after the last.
    let mut marker = format!("{HIDDEN_PREFIX}{first}");
    marker.pop();
    Some(ListingQuery {
        marker,
        end_marker: format!("{HIDDEN_PREFIX}{last}\0"),
        prefix: format!("{HIDDEN_PREFIX}{}", query.prefix),
        delimiter: query.delimiter.clone(),
        with_reserved: true,
        ..ListingQuery::page(ACCOUNT_LISTING_MAX)
    })
}

/// Adds the bytes of versions to their containers' lines.
pub(super) fn add_bytes(page: &mut Listing<AccountEntry>, kept: &HashMap<String, u64>) {
    for entry in &mut page.entries {
        if let ListingEntry::Item(item) = entry {
            let more = kept.get(&item.name).copied().unwrap_or_default();
            item.bytes = item.bytes.saturating_add(more);
        }
    }
}

impl Core {
    /// The bytes that versions of objects take, by the container whose objects they are, of those on a page.
    pub(super) async fn bytes_of_versions(
        &self,
        account: &AccountName,
        query: &ListingQuery,
        page: &Listing<AccountEntry>,
    ) -> Result<HashMap<String, u64>, Fault> {
        let mut kept = HashMap::new();
        let Some(mut asked) = hidden_query(query, page) else {
            return Ok(kept);
        };
        // A container has at most one of versions, so a second page is seldom needed.
        for _ in 0..HIDDEN_PAGES_MAX {
            let (_, hidden) = self.account_lines(account, asked.clone()).await?;
            let is_last = hidden.entries.len() < asked.limit;
            if let Some(name) = hidden.names().last() {
                name.clone_into(&mut asked.marker);
            }
            for entry in hidden.entries {
                if let ListingEntry::Item(item) = entry
                    && let Some(name) = item.name.strip_prefix(HIDDEN_PREFIX)
                {
                    kept.insert(name.to_owned(), item.bytes);
                }
            }
            if is_last {
                break;
            }
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::Timestamp;

    fn line(name: &str, bytes: u64) -> ListingEntry<AccountEntry> {
        ListingEntry::Item(AccountEntry {
            name: name.to_owned(),
            count: 1,
            bytes,
            last_modified: Timestamp::ZERO,
            policy: None,
        })
    }

    #[test]
    fn containers_of_versions_are_asked_for_within_a_page_and_their_bytes_are_added() {
        let mut page = Listing {
            entries: vec![
                line("b", 1),
                ListingEntry::Subdir("b/".to_owned()),
                line("한", 2),
            ],
        };
        let query = ListingQuery {
            delimiter: "/".to_owned(),
            reverse: true,
            ..ListingQuery::page(3)
        };
        let asked = hidden_query(&query, &page).unwrap();
        let (low, high) = asked.bounds();
        let is_inside = |name: &str| {
            let name = format!("{HIDDEN_PREFIX}{name}");
            let name = name.as_bytes();
            low.as_slice() <= name && high.as_deref().is_none_or(|high| name < high)
        };
        assert!(is_inside("b") && is_inside("c") && is_inside("한"));
        assert!(!is_inside("한a") && asked.with_reserved && !asked.reverse);
        add_bytes(&mut page, &HashMap::from([("한".to_owned(), 40)]));
        assert_eq!(page.entries.first(), Some(&line("b", 1)));
        assert_eq!(page.entries.last(), Some(&line("한", 42)));
        let folded = Listing {
            entries: vec![ListingEntry::Subdir("b/".to_owned())],
        };
        assert_eq!(hidden_query(&query, &folded), None);
    }
}

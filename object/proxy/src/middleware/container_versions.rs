//! What versions mean for a container: its headers, listings of versions, totals, and deletion.

use super::legacy_versions::{self, HISTORY, LOCATION, MODE, STACK};
use super::versions::{
    self, DELETED, ENABLED, hidden, is_enabled, parse_version_name, version_name,
};
use crate::access::Rights;
use crate::fault::{Fault, set};
use crate::proxy::Asking;
use crate::roster::{OWNER_HEADERS, listing_faults, listing_format, listing_response, vary};
use crate::subrequest::{is_true, parameter, text};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, Method};
use onggi_common_service::http::Response;
use onggi_common_units::Timestamp;
use onggi_object_model::limits::CONTAINER_LISTING_MAX;
use onggi_object_model::listing::{Named as _, annotation};
use onggi_object_model::path::{encode_rest, encode_segment};
use onggi_object_model::{
    ContainerInfo, ContainerPath, Listing, ListingEntry, ListingFormat, ListingQuery, ObjectEntry,
    ObjectName, StampedMetadata,
};
use std::collections::HashMap;

/// Sorts after all versions of a name.
const PAST_VERSIONS: &str = "\0~";

/// The headers that say how versions are kept.
const HEADERS: [&str; 3] = [
    versions::HEADER,
    "x-versions-location",
    "x-history-location",
];

/// Shows how versions are kept.
pub(crate) fn show_versions(headers: &mut HeaderMap, metadata: &StampedMetadata) {
    if let Some(value) = metadata.get(ENABLED) {
        let shown = if is_true(value) { "True" } else { "False" };
        set(headers, HeaderName::from_static(versions::HEADER), shown);
    }
    if let Some(location) = metadata.get(LOCATION) {
        let name = if metadata.get(MODE) == Some(HISTORY) {
            "x-history-location"
        } else {
            "x-versions-location"
        };
        set(headers, HeaderName::from_static(name), location);
    }
}

/// Shows in a container's listing that an object is a link to its current version, and to which.
pub(crate) fn as_version_link(path: &ContainerPath, mut entry: ObjectEntry) -> ObjectEntry {
    let Some(version) = entry.annotations.get(annotation::VERSION) else {
        return entry;
    };
    let place = format!(
        "/v1/{}/{}/{}?version-id={version}",
        encode_segment(path.account.as_str()),
        encode_segment(path.container.as_str()),
        encode_rest(&entry.name)
    );
    // A version may be a link itself: that is the version's business.
    entry.annotations.remove(annotation::SYMLINK_ETAG);
    entry.annotations.remove(annotation::SYMLINK_BYTES);
    entry.annotations.insert(annotation::SYMLINK_PATH, place);
    entry
        .annotations
        .insert(annotation::VERSION_SYMLINK, "true");
    entry
}

fn keep(headers: &mut HeaderMap, name: &'static str, value: &str) {
    set(headers, HeaderName::from_static(name), value);
}

/// Turns the older headers into what is kept.
fn keep_location(headers: &mut HeaderMap, asked: &HeaderMap) -> Result<(), Fault> {
    let said = |name: &str| text(asked, name);
    let removes = asked.contains_key("x-remove-versions-location")
        || asked.contains_key("x-remove-history-location");
    let (stack, history) = (said("x-versions-location"), said("x-history-location"));
    if stack.is_some_and(|text| !text.is_empty()) && history.is_some_and(|text| !text.is_empty()) {
        return Err(Fault::BadRequest(
            "Only one of x-versions-location or x-history-location may be specified".to_owned(),
        ));
    }
    let chosen = [(stack, STACK), (history, HISTORY)]
        .into_iter()
        .find_map(|(value, mode)| Some((value.filter(|value| !value.is_empty())?, mode)));
    match chosen {
        Some((value, mode)) => {
            if legacy_versions::container_name(value).is_none() {
                return Err(Fault::PreconditionFailed(
                    "Container name cannot contain slashes".to_owned(),
                ));
            }
            keep(headers, LOCATION, value);
            keep(headers, MODE, mode);
        }
        None if removes || stack.is_some() || history.is_some() => {
            keep(headers, LOCATION, "");
            keep(headers, MODE, "");
        }
        None => {}
    }
    Ok(())
}

impl Asking {
    /// The headers of a container's PUT or POST, with what users name otherwise under its own name.
    pub(crate) async fn container_headers(
        &self,
        path: &ContainerPath,
        request: &Head,
        rights: Rights,
    ) -> Result<HeaderMap, Fault> {
        let mut headers = request.headers.clone();
        if !rights.is_owner {
            for name in OWNER_HEADERS.iter().chain(&HEADERS) {
                headers.remove(*name);
                headers.remove(name.replacen("x-", "x-remove-", 1).as_str());
            }
        }
        super::quota::check_container(&headers)?;
        self.check_sync_to(path, &headers).await?;
        let asked = headers.clone();
        keep_location(&mut headers, &asked)?;
        let Some(enabled) = text(&asked, versions::HEADER) else {
            return Ok(headers);
        };
        let known = self.core.fetch_container(path).await?;
        let metadata = known.as_ref().map(|known| &known.metadata);
        if !is_true(enabled) {
            let was_enabled = metadata.is_some_and(|metadata| metadata.get(ENABLED).is_some());
            if was_enabled {
                keep(&mut headers, ENABLED, "false");
            }
            return Ok(headers);
        }
        let has_location = text(&headers, LOCATION)
            .or_else(|| metadata.and_then(|metadata| metadata.get(LOCATION)))
            .is_some_and(|location| !location.is_empty());
        if has_location {
            return Err(Fault::BadRequest(
                "Cannot enable object versioning on a container that uses X-Versions-Location or X-History-Location".to_owned(),
            ));
        }
        if request.method == Method::POST && known.is_none() {
            return Err(Fault::NotFound);
        }
        self.make_hidden(path, known.as_ref(), &headers).await?;
        keep(&mut headers, ENABLED, "true");
        Ok(headers)
    }

    /// Makes the container of versions, under the policy of the one it is for.
    async fn make_hidden(
        &self,
        path: &ContainerPath,
        known: Option<&ContainerInfo>,
        asked: &HeaderMap,
    ) -> Result<(), Fault> {
        let hidden = hidden(path).ok_or_else(|| {
            Fault::BadRequest("the container's name is too long to keep versions".to_owned())
        })?;
        let policy = known.and_then(|known| self.core.cluster.policy(known.policy));
        let policy = policy
            .map(|policy| policy.name.clone())
            .or_else(|| text(asked, "x-storage-policy").map(str::to_owned));
        let mut headers = HeaderMap::new();
        if let Some(policy) = policy {
            keep(&mut headers, "x-storage-policy", &policy);
        }
        let domain = self.new_account_domain(&path.account).await?;
        match self.core.put_container(&hidden, &headers, domain).await {
            // One that is left of a container that was deleted serves as well.
            Ok(_) | Err(Fault::Conflict(_)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// The bytes of versions count as the container's own.
    pub(crate) async fn with_versions_counted(
        &self,
        path: &ContainerPath,
        mut info: ContainerInfo,
    ) -> Result<ContainerInfo, Fault> {
        if is_enabled(&info).is_some()
            && let Some(hidden) = hidden(path)
            && let Some(versions) = self.core.fetch_container(&hidden).await?
        {
            let versions = self.core.with_settled_totals(&hidden, versions).await?;
            info.bytes_used = info.bytes_used.saturating_add(versions.bytes_used);
        }
        Ok(info)
    }

    /// A container goes with its versions, and not while there are any.
    pub(crate) async fn delete_versioned_container(
        &self,
        path: &ContainerPath,
    ) -> Result<Response, Fault> {
        let known = self.core.fetch_container(path).await?;
        let is_versioned = known
            .as_ref()
            .is_some_and(|info| is_enabled(info).is_some());
        let Some(hidden) = hidden(path).filter(|_| is_versioned) else {
            return self.core.delete_container(path).await;
        };
        let all = ListingQuery {
            with_reserved: true,
            ..ListingQuery::page(1)
        };
        match self.core.page(&hidden, all).await {
            Ok((_, page)) if !page.entries.is_empty() => {
                let words = "Delete all versions before deleting container.";
                return Err(Fault::Conflict(words.to_owned()));
            }
            Ok(_) | Err(Fault::NotFound) => {}
            Err(fault) => return Err(fault),
        }
        let response = self.core.delete_container(path).await?;
        match self.core.delete_container(&hidden).await {
            Ok(_) | Err(Fault::NotFound | Fault::Conflict(_)) => Ok(response),
            Err(fault) => Err(fault),
        }
    }

    /// A listing of all versions, the newest of a name first.
    pub(crate) async fn list_versions(
        &self,
        path: &ContainerPath,
        request: &Head,
        rights: Rights,
    ) -> Result<Response, Fault> {
        let raw = request.uri.query().unwrap_or_default();
        let query = ListingQuery::parse(raw, CONTAINER_LISTING_MAX).map_err(listing_faults)?;
        // A version has no place in a plain name.
        let is_json = listing_format(request).is_ok_and(|format| format == ListingFormat::Json);
        let says_nothing = parameter(request, "format").is_none()
            && text(&request.headers, "accept").is_none_or(|accept| accept.contains("*/*"));
        if !is_json && !says_nothing {
            return Err(Fault::NotAcceptable);
        }
        let format = ListingFormat::Json;
        let after = parameter(request, "version_marker").filter(|marker| !marker.is_empty());
        if after.is_some() && query.marker.is_empty() {
            return Err(Fault::BadRequest(
                "version_marker needs a marker".to_owned(),
            ));
        }
        let (info, current) = self.core.page(path, query.clone()).await?;
        let info = self.core.with_settled_totals(path, info).await?;
        let info = self.with_versions_counted(path, info).await?;
        let mut merger = Merger::new(&query);
        merger.take_current(current);
        // Swift calls nothing the latest of a name whose listing begins after "null".
        if after.as_deref().is_some_and(|after| after != "null") {
            let one = ListingQuery {
                prefix: query.marker.clone(),
                ..ListingQuery::page(1)
            };
            let (_, page) = self.core.page(path, one).await?;
            merger.take_marked(page);
        }
        if let Some(hidden) = hidden(path).filter(|_| is_enabled(&info).is_some()) {
            let asked = hidden_query(&query, after.as_deref())?;
            match self.core.page(&hidden, asked).await {
                Ok((_, page)) => merger.take_versions(page),
                Err(Fault::NotFound) => {}
                Err(fault) => return Err(fault),
            }
        }
        let head = self.core.container_response(&info, rights);
        let root = ("container", path.container.as_str());
        let mut response = listing_response(head, &merger.finish(), format, root);
        vary(request, response.headers_mut());
        Ok(response)
    }
}

/// The same query over names of versions.
fn hidden_query(query: &ListingQuery, after: Option<&str>) -> Result<ListingQuery, Fault> {
    let past = |name: &str| format!("\0{name}{PAST_VERSIONS}");
    let before = |name: &str| format!("\0{name}\0");
    let (marker, end) = if query.reverse {
        (before(&query.marker), past(&query.end_marker))
    } else {
        (past(&query.marker), before(&query.end_marker))
    };
    let marker = match after {
        None => marker,
        // All versions of the name come after the one that has none.
        Some("null") if query.reverse => before(&query.marker),
        Some("null") => before(&query.marker),
        Some(id) => {
            let bad = || Fault::BadRequest("invalid version_marker param".to_owned());
            let stamp: Timestamp = id.parse().map_err(|_malformed| bad())?;
            let object = ObjectName::new(query.marker.clone()).map_err(|_malformed| bad())?;
            version_name(&object, stamp).ok_or_else(bad)?.to_string()
        }
    };
    // A delimiter of digits would be found in the times.
    let is_digits = query.delimiter.bytes().all(|byte| byte.is_ascii_digit());
    Ok(ListingQuery {
        limit: query.limit,
        marker: if query.marker.is_empty() {
            String::new()
        } else {
            marker
        },
        end_marker: if query.end_marker.is_empty() {
            String::new()
        } else {
            end
        },
        prefix: format!("\0{}", query.prefix),
        delimiter: if is_digits {
            String::new()
        } else {
            query.delimiter.clone()
        },
        path: None,
        reverse: query.reverse,
        with_reserved: true,
    })
}

/// One line to be, with what it is sorted by: name, then newest first; what has no version before all.
type Line = ((String, u128), ListingEntry<ObjectEntry>);

/// What versions of one name are sorted by: the newest is the least, and what has no version is 0.
fn age(id: Timestamp) -> u128 {
    u128::MAX - (u128::from(id.ticks()) << 64 | u128::from(id.offset()))
}

struct Merger {
    limit: usize,
    reverse: bool,
    lines: Vec<Line>,
    /// The version that is current, by name; none for what has no version.
    current: HashMap<String, Option<String>>,
}

impl Merger {
    fn new(query: &ListingQuery) -> Self {
        Self {
            limit: query.limit,
            reverse: query.reverse,
            lines: Vec::new(),
            current: HashMap::new(),
        }
    }

    fn take_current(&mut self, page: Listing<ObjectEntry>) {
        for entry in page.entries {
            match entry {
                ListingEntry::Subdir(name) => self.add_subdir(name),
                ListingEntry::Item(item) => self.take_current_item(item, true),
            }
        }
    }

    fn take_current_item(&mut self, mut item: ObjectEntry, is_listed: bool) {
        let version = item.annotations.get(annotation::VERSION).map(str::to_owned);
        self.current.insert(item.name.clone(), version.clone());
        if version.is_none() && is_listed {
            item.annotations.insert(annotation::VERSION_ID, "null");
            item.annotations.insert(annotation::IS_LATEST, "true");
            let key = (item.name.clone(), 0);
            self.lines.push((key, ListingEntry::Item(item)));
        }
    }

    /// The current line of the name a page begins in the middle of.
    fn take_marked(&mut self, page: Listing<ObjectEntry>) {
        if let Some(ListingEntry::Item(item)) = page.entries.into_iter().next() {
            // In reverse what has no version comes last, and is still to be listed.
            self.take_current_item(item, self.reverse);
        }
    }

    fn add_subdir(&mut self, name: String) {
        let key = (name.clone(), 0);
        if !self.lines.iter().any(|(known, _)| *known == key) {
            self.lines.push((key, ListingEntry::Subdir(name)));
        }
    }

    fn take_versions(&mut self, page: Listing<ObjectEntry>) {
        for entry in page.entries {
            match entry {
                ListingEntry::Subdir(name) => {
                    self.add_subdir(name.trim_start_matches('\0').to_owned());
                }
                ListingEntry::Item(mut item) => {
                    let Some((name, id)) = parse_version_name(item.name()) else {
                        continue;
                    };
                    let (name, shown) = (name.to_owned(), id.to_string());
                    let is_latest = match self.current.get(&name) {
                        Some(current) => current.as_deref() == Some(shown.as_str()),
                        // The object is deleted: the newest marker is what it is now.
                        None => item.content_type == DELETED && !self.has_newer(&name, id),
                    };
                    let key = (name.clone(), age(id));
                    item.name = name;
                    item.annotations.insert(annotation::VERSION_ID, shown);
                    let latest = if is_latest { "true" } else { "false" };
                    item.annotations.insert(annotation::IS_LATEST, latest);
                    self.lines.push((key, ListingEntry::Item(item)));
                }
            }
        }
        if self.reverse {
            self.settle_markers();
        }
    }

    fn has_newer(&self, name: &str, id: Timestamp) -> bool {
        let newest = age(id);
        self.lines
            .iter()
            .any(|((known, at), _)| known == name && *at < newest)
    }

    /// In reverse the older markers came first: only the newest line of a deleted name is its latest.
    fn settle_markers(&mut self) {
        let mut newest: HashMap<String, u128> = HashMap::new();
        for ((name, at), _) in &self.lines {
            let known = newest.entry(name.clone()).or_insert(*at);
            *known = (*known).min(*at);
        }
        for ((name, at), entry) in &mut self.lines {
            if let ListingEntry::Item(item) = entry
                && !self.current.contains_key(name.as_str())
                && newest.get(name.as_str()) != Some(at)
            {
                item.annotations.insert(annotation::IS_LATEST, "false");
            }
        }
    }

    fn finish(mut self) -> Listing<ObjectEntry> {
        self.lines.sort_by(|(a, _), (b, _)| a.cmp(b));
        if self.reverse {
            self.lines.reverse();
        }
        self.lines.truncate(self.limit);
        Listing {
            entries: self.lines.into_iter().map(|(_, entry)| entry).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_object_model::{Etag, Metadata};

    fn item(name: &str, version: Option<&str>) -> ListingEntry<ObjectEntry> {
        let mut annotations = Metadata::default();
        if let Some(version) = version {
            annotations.insert(annotation::VERSION, version);
        }
        ListingEntry::Item(ObjectEntry {
            name: name.to_owned(),
            hash: Etag::EMPTY,
            bytes: 0,
            content_type: String::new(),
            last_modified: Timestamp::ZERO,
            annotations,
        })
    }

    fn version(name: &str, id: &str) -> ListingEntry<ObjectEntry> {
        let object = name.parse().unwrap();
        let name = version_name(&object, id.parse().unwrap()).unwrap();
        item(name.as_str(), None)
    }

    #[test]
    fn versions_merge_with_what_has_none_and_the_current_one_is_told() {
        let id = |second: u32| format!("{second:010}.00000");
        let mut merger = Merger::new(&ListingQuery::page(10));
        merger.take_current(Listing {
            entries: vec![item("a", Some(&id(1))), item("b", None)],
        });
        merger.take_versions(Listing {
            entries: vec![
                version("a", &id(2)),
                version("a", &id(1)),
                version("b", &id(3)),
            ],
        });
        let shown: Vec<(String, String, bool)> = merger
            .finish()
            .entries
            .into_iter()
            .filter_map(|entry| match entry {
                ListingEntry::Item(item) => Some((
                    item.name.clone(),
                    item.annotations.get(annotation::VERSION_ID)?.to_owned(),
                    item.annotations.get(annotation::IS_LATEST)? == "true",
                )),
                ListingEntry::Subdir(_) => None,
            })
            .collect();
        let line = |name: &str, id: &str, latest| (name.to_owned(), id.to_owned(), latest);
        assert_eq!(
            shown,
            [
                line("a", &id(2), false),
                line("a", &id(1), true),
                line("b", "null", true),
                line("b", &id(3), false),
            ]
        );
    }

    #[test]
    fn a_listing_says_which_version_an_object_is() {
        let path = ContainerPath {
            account: "AUTH_a".parse().unwrap(),
            container: "c".parse().unwrap(),
        };
        let shown = |entry| match entry {
            ListingEntry::Item(item) => as_version_link(&path, item).annotations,
            ListingEntry::Subdir(_) => Metadata::default(),
        };
        let id = "0000000001.00000";
        let link = shown(item("o p", Some(id)));
        let place = format!("/v1/AUTH_a/c/o%20p?version-id={id}");
        assert_eq!(link.get(annotation::SYMLINK_PATH), Some(place.as_str()));
        assert_eq!(link.get(annotation::VERSION_SYMLINK), Some("true"));
        assert!(shown(item("o", None)).is_empty());
    }

    #[test]
    fn only_one_of_the_older_ways_is_chosen() {
        let ask = |pairs: &[(&'static str, &'static str)]| {
            let asked: HeaderMap = pairs
                .iter()
                .map(|(name, value)| {
                    (
                        HeaderName::from_static(name),
                        http::HeaderValue::from_static(value),
                    )
                })
                .collect();
            let mut headers = HeaderMap::new();
            keep_location(&mut headers, &asked).map(|()| {
                (
                    text(&headers, LOCATION).map(str::to_owned),
                    text(&headers, MODE).map(str::to_owned),
                )
            })
        };
        let kept = |a: &str, b: &str| Ok((Some(a.to_owned()), Some(b.to_owned())));
        assert_eq!(ask(&[("x-versions-location", "v")]), kept("v", "stack"));
        assert_eq!(ask(&[("x-history-location", "v")]), kept("v", "history"));
        assert_eq!(ask(&[("x-versions-location", "")]), kept("", ""));
        assert_eq!(ask(&[]), Ok((None, None)));
        for bad in ["a%2Fb", "%00versions%00c", "a/b"] {
            assert!(ask(&[("x-versions-location", bad)]).is_err(), "{bad}");
        }
        assert!(ask(&[("x-versions-location", "v"), ("x-history-location", "w")]).is_err());
    }
}

//! What users say about their accounts, containers and objects.
//!
//! Two shapes: an object's [`Metadata`] is replaced as a whole by each PUT and POST; an account's or container's
//! [`StampedMetadata`] is changed item by item, so each item carries the timestamp of its last change.

use crate::limits::{
    HEADER_VALUE_BYTES_MAX, META_COUNT_MAX, META_NAME_BYTES_MAX, META_OVERALL_BYTES_MAX,
    META_REMOVED_MAX, META_VALUE_BYTES_MAX,
};
use onggi_common_units::Timestamp;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Whose metadata it is; picks the header prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataKind {
    /// `X-Account-Meta-`
    Account,
    /// `X-Container-Meta-`
    Container,
    /// `X-Object-Meta-`
    Object,
}

/// Why headers are not acceptable as metadata. Each is 400; the words are Swift's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Nothing after the prefix.
    #[error("Metadata name cannot be empty")]
    EmptyName,
    /// A value that is no UTF-8.
    #[error("Metadata must be valid UTF-8")]
    NotUtf8,
    /// A name over its limit.
    #[error("Metadata name too long: {name}")]
    NameTooLong {
        /// The whole header name.
        name: String,
    },
    /// A value over its limit.
    #[error("Metadata value longer than {META_VALUE_BYTES_MAX}: {name}")]
    ValueTooLong {
        /// The whole header name.
        name: String,
    },
    /// Any header's value over its limit.
    #[error("Header value too long: {name}")]
    HeaderTooLong {
        /// The whole header name.
        name: String,
    },
    /// Too many items.
    #[error("Too many metadata items; max {META_COUNT_MAX}")]
    TooMany,
    /// Too many bytes in all.
    #[error("Total metadata too large; max {META_OVERALL_BYTES_MAX}")]
    TooLarge,
}

/// What an object keeps beside its metadata headers: these are stored as given and returned as they are.
pub const OBJECT_KEPT_HEADERS: [&str; 8] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-delete-at",
    "x-object-manifest",
    "x-robots-tag",
];

/// Marks an object whose bytes are a static large object's manifest.
pub const STATIC_LARGE_OBJECT: &str = "x-static-large-object";

/// What a container keeps beside its metadata headers.
pub const CONTAINER_KEPT_HEADERS: [&str; 4] = [
    "x-container-read",
    "x-container-write",
    "x-container-sync-key",
    "x-container-sync-to",
];

impl MetadataKind {
    /// The prefix of user metadata headers, in lower case.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Account => "x-account-meta-",
            Self::Container => "x-container-meta-",
            Self::Object => "x-object-meta-",
        }
    }

    /// The prefix of what the system keeps: no client can send or see headers of such names.
    #[must_use]
    pub const fn system_prefix(self) -> &'static str {
        match self {
            Self::Account => "x-account-sysmeta-",
            Self::Container => "x-container-sysmeta-",
            Self::Object => "x-object-sysmeta-",
        }
    }

    const fn remove_prefix(self) -> Option<&'static str> {
        match self {
            Self::Account => Some("x-remove-account-"),
            Self::Container => Some("x-remove-container-"),
            Self::Object => None,
        }
    }

    fn keeps(self, name: &str) -> bool {
        match self {
            Self::Account => name.starts_with(self.system_prefix()),
            Self::Container => {
                CONTAINER_KEPT_HEADERS.contains(&name) || name.starts_with(self.system_prefix())
            }
            Self::Object => OBJECT_KEPT_HEADERS.contains(&name),
        }
    }
}

/// Counts items against the limits.
struct Tally {
    kind: MetadataKind,
    count: usize,
    bytes: usize,
}

impl Tally {
    const fn new(kind: MetadataKind) -> Self {
        Self {
            kind,
            count: 0,
            bytes: 0,
        }
    }

    /// Counts one item; names without the user prefix are free.
    fn add(&mut self, name: &str, value: &str) -> Result<(), MetadataError> {
        let Some(bare) = name.strip_prefix(self.kind.prefix()) else {
            return Ok(());
        };
        if bare.is_empty() {
            return Err(MetadataError::EmptyName);
        }
        if bare.len() > META_NAME_BYTES_MAX {
            return Err(MetadataError::NameTooLong {
                name: name.to_owned(),
            });
        }
        let value_length = value_bytes(value).len();
        if value_length > META_VALUE_BYTES_MAX {
            return Err(MetadataError::ValueTooLong {
                name: name.to_owned(),
            });
        }
        self.count += 1;
        self.bytes += bare.len() + value_length;
        if self.count > META_COUNT_MAX {
            return Err(MetadataError::TooMany);
        }
        if self.bytes > META_OVERALL_BYTES_MAX {
            return Err(MetadataError::TooLarge);
        }
        Ok(())
    }
}

fn is_ours(kind: MetadataKind, name: &str) -> bool {
    name.starts_with(kind.prefix()) || kind.keeps(name)
}

fn text<'a>(name: &str, value: &'a [u8]) -> Result<&'a str, MetadataError> {
    if value.len() > HEADER_VALUE_BYTES_MAX {
        return Err(MetadataError::HeaderTooLong {
            name: name.to_owned(),
        });
    }
    let text = core::str::from_utf8(value).map_err(|_invalid| MetadataError::NotUtf8)?;
    if text.bytes().any(|byte| byte < 0x20 && byte != b'\t') {
        return Err(MetadataError::NotUtf8);
    }
    Ok(text.trim())
}

/// Begins a kept value that is no UTF-8: each further character is one of its bytes. No header value holds it.
const RAW: char = '\u{1}';

/// A value as its bytes were sent.
#[must_use]
pub fn value_bytes(value: &str) -> Cow<'_, [u8]> {
    match value.strip_prefix(RAW) {
        None => Cow::Borrowed(value.as_bytes()),
        Some(raw) => raw
            .chars()
            .filter_map(|c| u8::try_from(u32::from(c)).ok())
            .collect(),
    }
}

/// An object's value: it may be any bytes, as Swift's may.
fn object_text<'a>(name: &str, value: &'a [u8]) -> Result<Cow<'a, str>, MetadataError> {
    match text(name, value) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(MetadataError::NotUtf8)
            if core::str::from_utf8(value).is_err()
                && value.iter().all(|byte| *byte >= 0x20 || *byte == b'\t') =>
        {
            let bytes = value.trim_ascii().iter().map(|byte| char::from(*byte));
            Ok(Cow::Owned(core::iter::once(RAW).chain(bytes).collect()))
        }
        Err(error) => Err(error),
    }
}

/// An object's metadata: header names in lower case and their values.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Picks from a request's headers what an object keeps: `X-Object-Meta-*` and [`OBJECT_KEPT_HEADERS`].
    ///
    /// # Errors
    /// When a name or value, or all together, are over Swift's limits.
    pub fn from_headers<'a>(
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, MetadataError> {
        let kind = MetadataKind::Object;
        let mut tally = Tally::new(kind);
        let mut items = BTreeMap::new();
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            let is_user = name.starts_with(kind.prefix());
            if !is_user && !kind.keeps(&name) {
                continue;
            }
            let value = object_text(&name, value)?;
            tally.add(&name, &value)?;
            // An empty kept header means "none"; an empty user item is an item.
            if is_user || !value.is_empty() {
                items.insert(name, value.into_owned());
            }
        }
        Ok(Self(items))
    }

    /// Picks from a request's headers what the system keeps with an object's bytes. Only for requests whose
    /// headers of such names were taken away when they came in.
    #[must_use]
    pub fn system_from_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let is_system = |name: &str| {
            name.starts_with(MetadataKind::Object.system_prefix()) || name == STATIC_LARGE_OBJECT
        };
        let items = headers.into_iter().filter(|(name, _)| is_system(name));
        let text = |(name, value): (&str, &[u8])| {
            (name.to_owned(), String::from_utf8_lossy(value).into_owned())
        };
        Self(
            items
                .map(text)
                .filter(|(_, value)| !value.is_empty())
                .collect(),
        )
    }

    /// The value of a header, by its lower-case name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Sets a header by its lower-case name. For what the system itself keeps: user input goes through
    /// [`Metadata::from_headers`].
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Drops a header by its lower-case name.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The headers in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// One item and when it was last changed. An empty value is a deletion, kept so that it wins over older values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct StampedValue {
    /// When it was changed; compared first.
    pub timestamp: Timestamp,
    /// The value; empty when the item was removed.
    pub value: String,
}

/// An account's or container's metadata: lower-case header names, each with a value and its timestamp.
///
/// Merging takes the newer of each item (O2): it is commutative, associative and idempotent, so replicas agree in
/// whatever order changes reach them.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct StampedMetadata(BTreeMap<String, StampedValue>);

impl StampedMetadata {
    /// Picks from a request's headers the changes they ask for.
    ///
    /// `X-Container-Meta-Jar: brown` sets, an empty value or `X-Remove-Container-Meta-Jar: x` removes.
    ///
    /// # Errors
    /// When a name or value, or all together, are over Swift's limits.
    pub fn from_headers<'a>(
        kind: MetadataKind,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        timestamp: Timestamp,
    ) -> Result<Self, MetadataError> {
        let mut tally = Tally::new(kind);
        let mut items = BTreeMap::new();
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            let removed = kind
                .remove_prefix()
                .and_then(|prefix| name.strip_prefix(prefix))
                .map(|rest| format!("{}{rest}", kind.prefix().trim_end_matches("meta-")));
            let (name, value) = match removed {
                Some(name) => (name, ""),
                None if is_ours(kind, &name) => {
                    let value = text(&name, value)?;
                    (name, value)
                }
                None => continue,
            };
            if !is_ours(kind, &name) {
                continue;
            }
            tally.add(&name, value)?;
            items.insert(
                name,
                StampedValue {
                    timestamp,
                    value: value.to_owned(),
                },
            );
        }
        Ok(Self(items))
    }

    /// Takes each item of `other` that is newer than ours, or ours is missing.
    ///
    /// Removed user items are remembered up to [`META_REMOVED_MAX`] of them, the newest ones, so that what is kept does not
    /// grow with what is removed. A replica that sleeps through so many may bring an older item back.
    pub fn merge(&mut self, other: &Self) {
        for (name, theirs) in &other.0 {
            match self.0.get_mut(name) {
                // The value decides between two changes of one moment, so that every replica decides alike.
                Some(ours) if *ours < *theirs => *ours = theirs.clone(),
                Some(_) => {}
                None => {
                    self.0.insert(name.clone(), theirs.clone());
                }
            }
        }
        self.forget_oldest_removals();
    }

    /// Forgets the oldest removals of user items beyond [`META_REMOVED_MAX`]. Those of ACLs, and of whatever the system keeps,
    /// stay: their names are few.
    fn forget_oldest_removals(&mut self) {
        if self.0.len() <= META_REMOVED_MAX {
            return;
        }
        let is_user = |name: &str| {
            let kinds = [MetadataKind::Account, MetadataKind::Container];
            kinds.iter().any(|kind| name.starts_with(kind.prefix()))
        };
        let removed = self.0.iter();
        let mut removed: Vec<(Timestamp, String)> = removed
            .filter(|(name, item)| item.value.is_empty() && is_user(name))
            .map(|(name, item)| (item.timestamp, name.clone()))
            .collect();
        let Some(excess) = removed.len().checked_sub(META_REMOVED_MAX) else {
            return;
        };
        removed.sort_unstable();
        for (_, name) in removed.into_iter().take(excess) {
            self.0.remove(&name);
        }
    }

    /// Checks what is there in all against the limits; removed items are free.
    ///
    /// # Errors
    /// When there are too many items or bytes.
    pub fn check(&self, kind: MetadataKind) -> Result<(), MetadataError> {
        let mut tally = Tally::new(kind);
        self.iter()
            .try_for_each(|(name, value)| tally.add(name, value))
    }

    /// The present value of an item, by its lower-case header name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|item| item.value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Sets an item by its lower-case header name, for what the system itself keeps.
    pub fn insert(&mut self, name: impl Into<String>, value: StampedValue) {
        self.0.insert(name.into(), value);
    }

    /// The present items in order of their names; removed ones are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let present = self.0.iter().filter(|(_, item)| !item.value.is_empty());
        present.map(|(name, item)| (name.as_str(), item.value.as_str()))
    }

    /// All items with their timestamps, removed ones too.
    pub fn stamped(&self) -> impl Iterator<Item = (&str, &StampedValue)> {
        self.0.iter().map(|(name, item)| (name.as_str(), item))
    }

    /// Forgets everything set or removed until a moment: what it was said of has been deleted then.
    pub fn forget_until(&mut self, deleted_at: Timestamp) {
        self.0.retain(|_, item| item.timestamp > deleted_at);
    }

    /// Forgets removals older than the horizon.
    pub fn reclaim(&mut self, horizon: Timestamp) {
        self.0
            .retain(|_, item| !item.value.is_empty() || item.timestamp >= horizon);
    }

    /// Whether there is nothing, not even a removed item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;

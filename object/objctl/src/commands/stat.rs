//! `stat`: what is known about the account, a container or an object.

use crate::cli::Stat;
use crate::output::{self, printable};
use crate::store::{Name, Store};
use anyhow::Result;
use http::{HeaderMap, Method};

/// Headers with a name of their own, in the order `swift` prints them.
const KNOWN: [(&str, &str); 12] = [
    ("x-account-container-count", "Containers"),
    ("x-account-object-count", "Objects"),
    ("x-account-bytes-used", "Bytes"),
    ("x-container-object-count", "Objects"),
    ("x-container-bytes-used", "Bytes"),
    ("x-container-read", "Read ACL"),
    ("x-container-write", "Write ACL"),
    ("content-type", "Content Type"),
    ("content-length", "Content Length"),
    ("last-modified", "Last Modified"),
    ("etag", "ETag"),
    ("x-storage-policy", "Storage Policy"),
];

pub(super) async fn run(store: &Store, stat: Stat, json: bool) -> Result<()> {
    let name = Name::of(stat.container, stat.object);
    let answer = store.ask(Method::HEAD, &name, HeaderMap::new()).await?;
    let account = store
        .session()
        .storage
        .path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut rows = vec![("Account".to_owned(), account)];
    match &name {
        Name::Account => {}
        Name::Container(container) => rows.push(("Container".to_owned(), container.clone())),
        Name::Object(container, object) => {
            rows.push(("Container".to_owned(), container.clone()));
            rows.push(("Object".to_owned(), object.clone()));
        }
    }
    let is_object = matches!(name, Name::Object(..));
    for (header, title) in KNOWN {
        let is_shown =
            is_object || !matches!(header, "content-type" | "content-length" | "last-modified");
        if let Some(value) = answer.header(header).filter(|_| is_shown) {
            rows.push((title.to_owned(), value.to_owned()));
        }
    }
    for (header, _) in &answer.headers {
        for prefix in ["x-account-meta-", "x-container-meta-", "x-object-meta-"] {
            if let (Some(item), Some(value)) = (
                header.as_str().strip_prefix(prefix),
                answer.header(header.as_str()),
            ) {
                rows.push((format!("Meta {}", title(item)), value.to_owned()));
            }
        }
    }
    if let Some(value) = answer.header("x-timestamp") {
        rows.push(("X-Timestamp".to_owned(), value.to_owned()));
    }
    if json {
        let map: serde_json::Map<String, serde_json::Value> = rows
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        return output::json(&map);
    }
    let width = rows
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(22);
    for (name, value) in rows {
        output::line(&format!("{name:>width$}: {}", printable(&value)))?;
    }
    Ok(())
}

/// `jar-size` as `Jar-Size`.
fn title(name: &str) -> String {
    let mut is_first = true;
    let mut out = String::new();
    for c in name.chars() {
        out.push(if is_first { c.to_ascii_uppercase() } else { c });
        is_first = c == '-';
    }
    out
}

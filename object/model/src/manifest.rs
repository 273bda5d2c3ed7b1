//! Manifests of static large objects: what clients send, what is kept, and what readers of the manifest get.

use crate::range::{RangeHeader, Selection};
use base64::Engine as _;
use core::fmt::Write as _;

/// Bytes of a manifest.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;
/// Segments of one manifest.
pub const SEGMENTS_MAX: usize = 1_000;
/// Problems told about one manifest.
const PROBLEMS_MAX: usize = SEGMENTS_MAX;

/// A segment as a client asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Part of an object, or all of it.
    Object {
        /// `container/object` as it was written, with slashes before it or without.
        path: String,
        /// The tag it must have.
        etag: Option<String>,
        /// The length it must have.
        size: Option<u64>,
        /// Which bytes, as a `Range` header without its unit.
        range: Option<String>,
    },
    /// Bytes that stand in the manifest itself, in base64.
    Inline {
        /// The base64 text.
        text: String,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// A segment as it is kept. The names are those Swift's manifests have.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Segment {
    /// `/container/object`; empty for inline bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its tag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// The whole object's length.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// What it was said to be.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// When it was last changed, when the manifest was made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_modified: String,
    /// The bytes of it: first and last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// Whether it is a manifest itself.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub sub_slo: bool,
    /// Bytes that stand here, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Why a text is no manifest: each is 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// No JSON, or not of this form.
    #[error("Manifest must be valid JSON.\n")]
    Malformed,
    /// No list.
    #[error("Manifest must be a list.\n")]
    NoList,
    /// More segments than allowed.
    #[error("Number of segments must be <= {SEGMENTS_MAX}.\n")]
    TooMany,
    /// Segments that are none, one line each.
    #[error("{}", lines.concat())]
    Segments {
        /// What is wrong with which.
        lines: Vec<String>,
    },
}

fn object(
    index: usize,
    fields: &serde_json::Map<String, serde_json::Value>,
    is_last: bool,
) -> Result<Asked, String> {
    only(index, fields, &["path", "etag", "size_bytes", "range"])?;
    let Some(serde_json::Value::String(path)) = fields.get("path") else {
        return Err(format!("Index {index}: missing key \"path\"\n"));
    };
    let bare = path.trim_start_matches('/');
    if path.contains('\0')
        || !bare
            .split_once('/')
            .is_some_and(|(c, o)| !c.is_empty() && !o.is_empty())
    {
        return Err(format!(
            "Index {index}: path does not refer to an object. Path must be of the form /container/object.\n"
        ));
    }
    let etag = match fields.get("etag") {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(etag)) => Some(etag.trim_matches('"').to_owned()),
        Some(_) => {
            return Err(format!(
                "Index {index}: etag must be a string or null (if provided)\n"
            ));
        }
    };
    let size = match fields.get("size_bytes") {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::Number(size)) if size.as_u64().is_some() => size.as_u64(),
        Some(serde_json::Value::String(text)) if text.parse::<u64>().is_ok() => text.parse().ok(),
        Some(_) => return Err(format!("Index {index}: invalid size_bytes\n")),
    };
    // The last one is looked at all the same, which tells its length.
    if size == Some(0) && !is_last {
        return Err(format!(
            "Index {index}: too small; each segment must be at least 1 byte.\n"
        ));
    }
    let range = match fields.get("range") {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(range)) => {
            if RangeHeader::parse(&format!("bytes={range}")).is_none() {
                return Err(format!("Index {index}: invalid range\n"));
            }
            if range.contains(',') {
                return Err(format!(
                    "Index {index}: multiple ranges (only one allowed)\n"
                ));
            }
            Some(range.clone())
        }
        Some(_) => return Err(format!("Index {index}: invalid range\n")),
    };
    Ok(Asked::Object {
        path: path.clone(),
        etag,
        size,
        range,
    })
}

/// Refuses what a segment does not have.
fn only(
    index: usize,
    fields: &serde_json::Map<String, serde_json::Value>,
    known: &[&str],
) -> Result<(), String> {
    let extra = fields.keys().filter(|key| !known.contains(&key.as_str()));
    let mut extra: Vec<String> = extra.map(|key| format!("{key:?}")).collect();
    if extra.is_empty() {
        return Ok(());
    }
    extra.sort_unstable();
    let keys = extra.join(", ");
    Err(format!("Index {index}: extraneous keys {keys}\n"))
}

fn asked(index: usize, value: &serde_json::Value, is_last: bool) -> Result<Asked, String> {
    let serde_json::Value::Object(fields) = value else {
        return Err(format!("Index {index}: not a JSON object\n"));
    };
    let Some(inline) = fields.get("data") else {
        return object(index, fields, is_last);
    };
    only(index, fields, &["data"])?;
    let text = inline.as_str().unwrap_or_default();
    match decode_base64(text) {
        Some(bytes) if !bytes.is_empty() => Ok(Asked::Inline {
            text: text.to_owned(),
            bytes,
        }),
        Some(_) => Err(format!(
            "Index {index}: too small; each segment must be at least 1 byte.\n"
        )),
        None => Err(format!("Index {index}: data must be valid base64\n")),
    }
}

/// Reads what a client sends.
///
/// # Errors
/// When it is no manifest.
pub fn parse_asked(bytes: &[u8]) -> Result<Vec<Asked>, ManifestError> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|_malformed| ManifestError::Malformed)?;
    let serde_json::Value::Array(items) = value else {
        return Err(ManifestError::NoList);
    };
    if items.len() > SEGMENTS_MAX {
        return Err(ManifestError::TooMany);
    }
    let (mut segments, mut lines) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match asked(index, item, index + 1 == items.len()) {
            Ok(segment) => segments.push(segment),
            Err(line) if lines.len() < PROBLEMS_MAX => lines.push(line),
            Err(_) => {}
        }
    }
    let is_inline = |item: &serde_json::Value| item.get("data").is_some();
    // A list of nothing is a large object of no bytes.
    if !items.is_empty() && items.iter().all(is_inline) {
        lines.push("Inline data segments require at least one object-backed segment.\n".to_owned());
    }
    if !lines.is_empty() {
        return Err(ManifestError::Segments { lines });
    }
    Ok(segments)
}

/// Reads what is kept.
#[must_use]
pub fn parse_kept(bytes: &[u8]) -> Option<Vec<Segment>> {
    serde_json::from_slice(bytes).ok()
}

impl Segment {
    /// First byte, and the one after the last; `None` for a range that is none.
    #[must_use]
    pub fn bounds(&self) -> Option<(u64, u64)> {
        match &self.range {
            None => Some((0, self.length_inline().unwrap_or(self.bytes))),
            Some(range) => {
                let (first, last) = range.split_once('-')?;
                Some((
                    first.parse().ok()?,
                    last.parse::<u64>().ok()?.checked_add(1)?,
                ))
            }
        }
    }

    fn length_inline(&self) -> Option<u64> {
        let bytes = decode_base64(self.data.as_deref()?)?;
        u64::try_from(bytes.len()).ok()
    }

    /// The bytes that stand in the manifest.
    #[must_use]
    pub fn inline(&self) -> Option<Vec<u8>> {
        decode_base64(self.data.as_deref()?)
    }

    /// What the large object's tag is made over.
    #[must_use]
    pub fn tag_text(&self) -> String {
        match &self.range {
            Some(range) => format!("{}:{range};", self.hash),
            None => self.hash.clone(),
        }
    }
}

/// What a range selects of so many bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// All of them.
    Whole,
    /// From the first to the last byte, as text.
    Range(String),
    /// None.
    Unsatisfiable,
}

/// Holds a range against a length.
#[must_use]
pub fn settle_range(range: &str, length: u64) -> Settled {
    let selection =
        RangeHeader::parse(&format!("bytes={range}")).map(|header| header.select(length));
    match selection {
        Some(Selection::One(one)) if one.len() == length => Settled::Whole,
        Some(Selection::One(one)) => Settled::Range(format!("{}-{}", one.start(), one.end() - 1)),
        Some(Selection::Whole | Selection::Many(_) | Selection::Unsatisfiable) | None => {
            Settled::Unsatisfiable
        }
    }
}

/// The manifest as a client could send it again.
#[must_use]
pub fn raw(segments: &[Segment]) -> String {
    let mut out = String::from("[");
    for (index, segment) in segments.iter().enumerate() {
        let value = match &segment.data {
            Some(inline) => serde_json::json!({ "data": inline }),
            None => {
                let mut value = serde_json::json!({
                    "path": segment.name,
                    "size_bytes": segment.bytes,
                    "etag": segment.hash,
                });
                if let Some(range) = &segment.range {
                    value["range"] = range.as_str().into();
                }
                value
            }
        };
        let comma = if index == 0 { "" } else { ", " };
        write!(out, "{comma}{value}").expect("a String takes every write");
    }
    out.push(']');
    out
}

/// Standard base64; `None` when the text is none.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn manifests_are_read_and_their_faults_told_by_index() {
        let good =
            br#"[{"path":"c/o","etag":null,"size_bytes":null,"range":"-5"},{"data":"QVBSRQ=="}]"#;
        let asked = parse_asked(good).unwrap();
        assert!(
            matches!(&asked[0], Asked::Object { path, range: Some(range), .. } if path == "c/o" && range == "-5")
        );
        assert!(matches!(&asked[1], Asked::Inline { bytes, .. } if bytes == b"APRE"));
        for bad in [
            &b"x"[..],
            b"{}",
            br#"[1]"#,
            br#"[{"path":"c"}]"#,
            br#"[{"path":"c/o","teag":"x"}]"#,
            br#"[{"path":"c/o","size_bytes":-1}]"#,
            br#"[{"path":"c/o","size_bytes":0},{"path":"c/o"}]"#,
            br#"[{"path":"\u0000versions/o"}]"#,
            br#"[{"data":"QVBSRQ=="}]"#,
            br#"[{"path":"c/o","range":"1-2,3-4"}]"#,
        ] {
            assert!(
                parse_asked(bad).is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
        let said = |bytes: &[u8]| parse_asked(bytes).unwrap_err().to_string();
        assert_eq!(
            said(br#"[{"data":"YWJj","path":"c/o","a":1}]"#),
            "Index 0: extraneous keys \"a\", \"path\"\nInline data segments require at least one object-backed segment.\n"
        );
        assert_eq!(parse_asked(b"[]"), Ok(Vec::new()));
        let empty_last = br#"[{"path":"c/o"},{"path":"c/p","size_bytes":0}]"#;
        assert!(parse_asked(empty_last).is_ok());
        let many = format!(
            "[{}]",
            vec![r#"{"path":"c/o"}"#; SEGMENTS_MAX + 1].join(",")
        );
        assert_eq!(parse_asked(many.as_bytes()), Err(ManifestError::TooMany));
        let deep = "[".repeat(100_000);
        assert_eq!(parse_asked(deep.as_bytes()), Err(ManifestError::Malformed));
    }

    #[test]
    fn ranges_settle_to_bytes_or_to_the_whole() {
        assert_eq!(settle_range("-5", 10), Settled::Range("5-9".to_owned()));
        assert_eq!(settle_range("-50", 10), Settled::Whole);
        assert_eq!(settle_range("10-", 10), Settled::Unsatisfiable);
        let segment = Segment {
            range: Some("5-9".to_owned()),
            bytes: 10,
            hash: "h".to_owned(),
            ..Segment::default()
        };
        assert_eq!(segment.bounds(), Some((5, 10)));
        assert_eq!(segment.tag_text(), "h:5-9;");
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(parse_asked(&bytes));
            drop(parse_kept(&bytes));
        }

        #[test]
        fn no_text_makes_decoding_panic(text in "[A-Za-z0-9+/=]{0,40}") {
            drop(decode_base64(&text));
        }
    }
}

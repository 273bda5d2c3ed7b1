//! Listings as text, JSON and XML.

use super::{
    AccountEntry, AccountLine, Listing, ListingEntry, ListingFormat, ObjectEntry, annotation,
};
use core::fmt::Write as _;

/// A thing that is listed by a name.
pub trait Named {
    /// The name.
    fn name(&self) -> &str;
}

/// A thing that can be a line of a listing.
pub trait Line: Named {
    /// Whether each has a line of its own in the XML document.
    const HAS_LINES: bool = false;

    /// Appends the members of its JSON object, without the braces.
    fn json(&self, out: &mut String);
    /// Appends its XML element.
    fn xml(&self, out: &mut String);
}

/// Writing into a `String` cannot fail; this says so once.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {
        write!($out, $($arg)*).expect("a String takes every write")
    };
}

impl ObjectEntry {
    /// How long its content is: more than its own bytes where those only say where it is.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let stated = self.annotations.get(annotation::BYTES);
        stated
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(self.bytes)
    }

    fn shown_hash(&self, out: &mut String) {
        match self.annotations.get(annotation::HASH) {
            Some(hash) => escape(hash, out),
            None => put!(out, "{}", self.hash),
        }
    }

    /// The members only some lines have.
    fn annotated(&self, out: &mut String) {
        use annotation::{
            IS_LATEST, SLO_ETAG, SYMLINK_BYTES, SYMLINK_ETAG, SYMLINK_PATH, VERSION_ID,
            VERSION_SYMLINK,
        };
        for name in [SYMLINK_PATH, SYMLINK_ETAG, VERSION_ID] {
            if let Some(value) = self.annotations.get(name) {
                put!(out, ", \"{name}\": ");
                quote(value, out);
            }
        }
        // A quoted tag within a string.
        if let Some(value) = self.annotations.get(SLO_ETAG) {
            put!(out, ", \"{SLO_ETAG}\": ");
            quote(&format!("\"{value}\""), out);
        }
        let bytes = self.annotations.get(SYMLINK_BYTES);
        if let Some(bytes) = bytes.and_then(|bytes| bytes.parse::<u64>().ok()) {
            put!(out, ", \"{SYMLINK_BYTES}\": {bytes}");
        }
        if self.annotations.get(VERSION_SYMLINK).is_some() {
            put!(out, ", \"{VERSION_SYMLINK}\": true");
        }
        if let Some(latest) = self.annotations.get(IS_LATEST) {
            put!(out, ", \"{IS_LATEST}\": {}", latest == "true");
        }
    }
}

impl Named for ObjectEntry {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for AccountEntry {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for AccountLine {
    fn name(&self) -> &str {
        &self.entry.name
    }
}

impl Line for ObjectEntry {
    fn json(&self, out: &mut String) {
        put!(out, "\"bytes\": {}, \"hash\": \"", self.content_bytes());
        self.shown_hash(out);
        out.push_str("\", \"name\": ");
        quote(&self.name, out);
        out.push_str(", \"content_type\": ");
        quote(&self.content_type, out);
        put!(
            out,
            ", \"last_modified\": \"{}\"",
            self.last_modified.to_utc().iso_naive()
        );
        self.annotated(out);
    }

    fn xml(&self, out: &mut String) {
        out.push_str("<object><name>");
        escape(&self.name, out);
        out.push_str("</name><hash>");
        self.shown_hash(out);
        put!(
            out,
            "</hash><bytes>{}</bytes><content_type>",
            self.content_bytes()
        );
        escape(&self.content_type, out);
        let modified = self.last_modified.to_utc().iso_naive();
        put!(
            out,
            "</content_type><last_modified>{modified}</last_modified></object>"
        );
    }
}

impl Line for AccountLine {
    const HAS_LINES: bool = true;

    fn json(&self, out: &mut String) {
        out.push_str("\"name\": ");
        quote(&self.entry.name, out);
        let modified = self.entry.last_modified.to_utc().iso_naive();
        let (count, bytes) = (self.entry.count, self.entry.bytes);
        put!(
            out,
            ", \"count\": {count}, \"bytes\": {bytes}, \"last_modified\": \"{modified}\""
        );
        if let Some(policy) = &self.storage_policy {
            out.push_str(", \"storage_policy\": ");
            quote(policy, out);
        }
    }

    fn xml(&self, out: &mut String) {
        out.push_str("<container><name>");
        escape(&self.entry.name, out);
        let modified = self.entry.last_modified.to_utc().iso_naive();
        put!(
            out,
            "</name><count>{}</count><bytes>{}</bytes><last_modified>{modified}</last_modified>",
            self.entry.count,
            self.entry.bytes
        );
        if let Some(policy) = &self.storage_policy {
            out.push_str("<storage_policy>");
            escape(policy, out);
            out.push_str("</storage_policy>");
        }
        out.push_str("</container>");
    }
}

/// Appends a JSON string.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Not needed by JSON; keeps a listing harmless where it is pasted into a page or a script.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => put!(out, "\\u{:04x}", u32::from(c)),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => put!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends XML character data or an attribute value. What XML 1.0 cannot hold becomes U+FFFD.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => put!(out, "&#{};", u32::from(c)),
            c if u32::from(c) < 0x20 || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push('\u{fffd}')
            }
            c => out.push(c),
        }
    }
}

/// A text as XML character data or attribute value, safe in HTML as well.
#[must_use]
pub fn escape_xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape(text, &mut out);
    out
}

impl<T: Named> Listing<T> {
    /// The names alone: what a pager needs to go on.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| match entry {
            ListingEntry::Item(item) => item.name(),
            ListingEntry::Subdir(name) => name,
        })
    }
}

impl<T: Line> Listing<T> {
    /// The page as a body. `root` is the XML root's element and name.
    #[must_use]
    pub fn render(&self, format: ListingFormat, root: (&str, &str)) -> String {
        let mut out = String::with_capacity(self.entries.len() * 64 + 64);
        match format {
            ListingFormat::Plain => {
                for name in self.names() {
                    out.push_str(name);
                    out.push('\n');
                }
            }
            ListingFormat::Json => self.render_json(&mut out),
            ListingFormat::Xml | ListingFormat::TextXml => self.render_xml(&mut out, root),
        }
        out
    }

    fn render_json(&self, out: &mut String) {
        out.push('[');
        for (index, entry) in self.entries.iter().enumerate() {
            out.push_str(if index == 0 { "{" } else { ", {" });
            match entry {
                ListingEntry::Item(item) => item.json(out),
                ListingEntry::Subdir(name) => {
                    out.push_str("\"subdir\": ");
                    quote(name, out);
                }
            }
            out.push('}');
        }
        out.push(']');
    }

    fn render_xml(&self, out: &mut String, (element, name): (&str, &str)) {
        put!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{element} name=\""
        );
        escape(name, out);
        // Swift writes an account line by line, and an empty container as one element.
        let between = if T::HAS_LINES { "\n" } else { "" };
        if self.entries.is_empty() && !T::HAS_LINES {
            out.push_str("\" />");
            return;
        }
        put!(out, "\">{between}");
        for entry in &self.entries {
            match entry {
                ListingEntry::Item(item) => item.xml(out),
                ListingEntry::Subdir(name) => {
                    out.push_str("<subdir name=\"");
                    escape(name, out);
                    out.push_str("\"><name>");
                    escape(name, out);
                    out.push_str("</name></subdir>");
                }
            }
            out.push_str(between);
        }
        put!(out, "</{element}>");
    }
}

//! `If-Match`, `If-None-Match`, `If-Modified-Since`, `If-Unmodified-Since` (RFC 9110 §13).

use crate::limits::CONDITION_TAGS_MAX;
use onggi_common_units::Timestamp;
use std::time::{Duration, SystemTime};

/// A list of entity tags, or any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagList {
    /// `*`: whatever is there.
    Any,
    /// These.
    Tags(Vec<Tag>),
}

/// An entity tag as a condition names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Without its quotes.
    pub text: String,
    /// Whether it is a weak one (`W/`).
    pub is_weak: bool,
}

/// What a request demands of the thing it is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Precondition {
    if_match: Option<TagList>,
    if_none_match: Option<TagList>,
    if_modified_since: Option<u64>,
    if_unmodified_since: Option<u64>,
}

/// What a precondition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Proceed,
    /// 304, on GET and HEAD.
    NotModified,
    /// 412.
    Failed,
}

impl TagList {
    fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Self::Any;
        }
        let read = |tag: &str| {
            let tag = tag.trim();
            let bare = tag.strip_prefix("W/");
            Tag {
                text: bare.unwrap_or(tag).trim_matches('"').to_owned(),
                is_weak: bare.is_some(),
            }
        };
        Self::Tags(text.split(',').take(CONDITION_TAGS_MAX).map(read).collect())
    }

    /// Compares as `If-None-Match` does: weak tags count (RFC 9110 §8.8.3.2).
    fn holds(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|tag| tag.text.eq_ignore_ascii_case(etag)),
        }
    }

    /// Compares as `If-Match` does: a weak tag never matches, here as in Swift.
    fn holds_strongly(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags
                .iter()
                .any(|tag| !tag.is_weak && tag.text.eq_ignore_ascii_case(etag)),
        }
    }
}

/// The second a timestamp's thing was last modified, rounded up as Swift's `Last-Modified` is: a reader who sends it
/// back as `If-Modified-Since` then gets 304.
#[must_use]
pub fn last_modified_seconds(stamp: Timestamp) -> u64 {
    stamp.to_utc().micros().div_ceil(1_000_000)
}

/// The `Last-Modified` header of a timestamp.
#[must_use]
pub fn last_modified(stamp: Timestamp) -> String {
    http_date(last_modified_seconds(stamp))
}

/// A second since 1970 as HTTP writes it.
#[must_use]
pub fn http_date(seconds: u64) -> String {
    // The last second of the year 9999, which is as far as the format goes.
    const END: u64 = 253_402_300_799;
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(END)))
}

/// The second since 1970 that an HTTP date names.
#[must_use]
pub fn http_date_seconds(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    Some(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |span| span.as_secs()),
    )
}

impl Precondition {
    /// Collects the conditional headers among these; header names in lower case. Malformed dates are ignored.
    #[must_use]
    pub fn from_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut condition = Self::default();
        for (name, value) in headers {
            match name {
                "if-match" => condition.if_match = Some(TagList::parse(value)),
                "if-none-match" => condition.if_none_match = Some(TagList::parse(value)),
                "if-modified-since" => condition.if_modified_since = http_date_seconds(value),
                "if-unmodified-since" => condition.if_unmodified_since = http_date_seconds(value),
                _ => {}
            }
        }
        condition
    }

    /// Whether nothing is demanded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the demand is that nothing be there: `If-None-Match: *`.
    #[must_use]
    pub fn is_absent_only(&self) -> bool {
        self.if_none_match == Some(TagList::Any)
    }

    /// Whether the demand is that something be there: `If-Match: *`.
    #[must_use]
    pub fn wants_any(&self) -> bool {
        self.if_match == Some(TagList::Any)
    }

    /// Whether `If-None-Match` names tags; on PUT, Swift knows only `*` there and answers 400.
    #[must_use]
    pub const fn has_none_match_tags(&self) -> bool {
        matches!(self.if_none_match, Some(TagList::Tags(_)))
    }

    /// Judges a read of a thing with this tag and time.
    #[must_use]
    pub fn judge_read(&self, etag: &str, modified: Timestamp) -> Verdict {
        self.judge_read_at(etag, last_modified_seconds(modified))
    }

    /// Judges a read of a thing with this tag and the second its `Last-Modified` shows.
    #[must_use]
    pub fn judge_read_at(&self, etag: &str, modified: u64) -> Verdict {
        if let Some(tags) = &self.if_match
            && !tags.holds_strongly(etag)
        {
            return Verdict::Failed;
        }
        // RFC 9110 lets a tag stand in for the date; Swift demands both.
        if self
            .if_unmodified_since
            .is_some_and(|since| modified > since)
        {
            return Verdict::Failed;
        }
        if let Some(tags) = &self.if_none_match {
            if tags.holds(etag) {
                return Verdict::NotModified;
            }
        } else if self
            .if_modified_since
            .is_some_and(|since| modified <= since)
        {
            return Verdict::NotModified;
        }
        Verdict::Proceed
    }

    /// Judges a write over what is there now, if anything is.
    #[must_use]
    pub fn judge_write(&self, current: Option<(&str, Timestamp)>) -> Verdict {
        let Some((etag, modified)) = current else {
            return if self.if_match.is_some() {
                Verdict::Failed
            } else {
                Verdict::Proceed
            };
        };
        match self.judge_read(etag, modified) {
            Verdict::Proceed => Verdict::Proceed,
            Verdict::NotModified if self.if_none_match.is_none() => Verdict::Proceed,
            Verdict::NotModified | Verdict::Failed => Verdict::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "d41d8cd98f00b204e9800998ecf8427e";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn read(name: &str, value: &str) -> Verdict {
        Precondition::from_headers([(name, value)]).judge_read(TAG, at("1000000000.00001"))
    }

    #[test]
    fn tags_decide_reads() {
        assert_eq!(read("if-match", "*"), Verdict::Proceed);
        assert_eq!(read("if-match", "\"x\", \"y\""), Verdict::Failed);
        assert_eq!(
            read("if-match", &format!("\"x\", \"{TAG}\"")),
            Verdict::Proceed
        );
        assert_eq!(read("if-none-match", TAG), Verdict::NotModified);
        assert_eq!(read("if-none-match", "*"), Verdict::NotModified);
        assert_eq!(read("if-none-match", "x"), Verdict::Proceed);
    }

    #[test]
    fn a_weak_tag_is_no_strong_one() {
        let weak = format!("W/\"{TAG}\"");
        assert_eq!(read("if-match", &weak), Verdict::Failed);
        let either = format!("{weak}, \"{TAG}\"");
        assert_eq!(read("if-match", &either), Verdict::Proceed);
        assert_eq!(read("if-none-match", &weak), Verdict::NotModified);
    }

    #[test]
    fn dates_compare_with_the_second_rounded_up() {
        let shown = last_modified(at("1000000000.00001"));
        assert_eq!(shown, "Sun, 09 Sep 2001 01:46:41 GMT");
        assert_eq!(read("if-modified-since", &shown), Verdict::NotModified);
        assert_eq!(read("if-unmodified-since", &shown), Verdict::Proceed);
        let before = "Sun, 09 Sep 2001 01:46:40 GMT";
        assert_eq!(read("if-modified-since", before), Verdict::Proceed);
        assert_eq!(read("if-unmodified-since", before), Verdict::Failed);
        assert_eq!(read("if-modified-since", "yesterday"), Verdict::Proceed);
    }

    #[test]
    fn writes_know_only_there_or_not_there() {
        let absent = Precondition::from_headers([("if-none-match", "*")]);
        assert!(absent.is_absent_only());
        assert_eq!(absent.judge_write(None), Verdict::Proceed);
        assert_eq!(
            absent.judge_write(Some((TAG, Timestamp::ZERO))),
            Verdict::Failed
        );
        let same = Precondition::from_headers([("if-match", TAG)]);
        assert_eq!(same.judge_write(None), Verdict::Failed);
        assert_eq!(
            same.judge_write(Some((TAG, Timestamp::ZERO))),
            Verdict::Proceed
        );
    }
}

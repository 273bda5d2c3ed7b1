//! What a listing request asks for, and how a sorted table is walked to answer it.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListingFormat {
    /// One name a line.
    #[default]
    Plain,
    /// A JSON array of objects.
    Json,
    /// An XML document.
    Xml,
    /// The same, for who asked for `text/xml`.
    TextXml,
}

/// What a listing request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ListingQuery {
    /// Lines at most.
    pub limit: usize,
    /// Only names after this one.
    pub marker: String,
    /// Only names before this one; empty means to the end.
    pub end_marker: String,
    /// Only names that begin so.
    pub prefix: String,
    /// Names that share a beginning up to this text become one line; empty means each has its own.
    pub delimiter: String,
    /// Swift's older way to list a pseudo-directory; replaces prefix and delimiter.
    pub path: Option<String>,
    /// From the last name to the first; the markers then swap their meaning.
    pub reverse: bool,
    /// Names the system gave as well: no request can ask for those.
    #[serde(default)]
    pub with_reserved: bool,
}

/// Why a listing cannot be asked so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingQueryError {
    /// More lines than a page has: 412.
    #[error("Maximum limit is {limit_max}")]
    LimitTooLarge {
        /// The most lines.
        limit_max: usize,
    },
    /// A parameter that is no UTF-8: 400.
    #[error("\"{parameter}\" parameter not valid UTF-8")]
    NotUtf8 {
        /// Its name.
        parameter: String,
    },
    /// No format the client accepts can be made: 406.
    #[error("The listing can be text/plain, application/json or application/xml")]
    NotAcceptable,
    /// What the client accepts is no list of media types: 400.
    #[error("Invalid Accept header")]
    MalformedAccept,
}

/// What a walk does with the name it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visit {
    /// The name is a line of the listing.
    Take,
    /// The name is no line.
    Skip,
    /// The name stands for all names that begin so. The line is shown when `shown`; the walk goes on at the first
    /// name that does not begin with `name` (in reverse: before the first that does, and under `path` at that one).
    Subdir {
        /// The common beginning.
        name: String,
        /// Whether it becomes a line.
        shown: bool,
    },
    /// This name and all later ones are outside.
    End,
}

/// Splits a query string into decoded pairs; `+` is a space, as forms have it.
pub(crate) fn pairs(raw: &str) -> impl Iterator<Item = (Cow<'_, str>, Result<String, ()>)> {
    raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let spaced = value.replace('+', " ");
        let value = percent_decode_str(&spaced)
            .decode_utf8()
            .map(Cow::into_owned);
        (
            percent_decode_str(name).decode_utf8_lossy(),
            value.map_err(|_invalid| ()),
        )
    })
}

impl ListingFormat {
    /// The `Content-Type` of a listing so written.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; charset=utf-8",
            Self::Json => "application/json; charset=utf-8",
            Self::Xml => "application/xml; charset=utf-8",
            Self::TextXml => "text/xml; charset=utf-8",
        }
    }

    /// The format a request asks for: by `format=`, else by its `Accept` header.
    ///
    /// # Errors
    /// When the header accepts none of them, or is malformed.
    pub fn negotiate(query: &str, accept: Option<&str>) -> Result<Self, ListingQueryError> {
        let asked = pairs(query).find(|(name, _)| name == "format");
        if let Some((_, Ok(format))) = asked {
            return Ok(match format.to_ascii_lowercase().as_str() {
                "json" => Self::Json,
                "xml" => Self::Xml,
                _ => Self::Plain,
            });
        }
        let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
            return Ok(Self::Plain);
        };
        let is_type = |item: &str| {
            let kind = item.split(';').next().unwrap_or_default().trim();
            kind.split_once('/')
                .is_some_and(|(kind, of)| !kind.is_empty() && !of.is_empty())
        };
        if !accept.split(',').all(is_type) {
            return Err(ListingQueryError::MalformedAccept);
        }
        best_accepted(accept).ok_or(ListingQueryError::NotAcceptable)
    }
}

/// The acceptable format with the highest `q`; between equals the first written wins, plain before the others under `*/*`.
fn best_accepted(accept: &str) -> Option<ListingFormat> {
    let mut best: Option<(f32, ListingFormat)> = None;
    for item in accept.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let format = match parts
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
            .as_str()
        {
            "*/*" | "text/*" | "text/plain" => ListingFormat::Plain,
            "application/json" | "application/*" => ListingFormat::Json,
            "application/xml" => ListingFormat::Xml,
            "text/xml" => ListingFormat::TextXml,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        let quality = quality.and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
        if quality > 0.0 && best.is_none_or(|(best, _)| quality > best) {
            best = Some((quality, format));
        }
    }
    best.map(|(_, format)| format)
}

impl ListingQuery {
    /// All names of one page, from the first.
    #[must_use]
    pub fn page(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Reads a request's query string.
    ///
    /// A `limit` that is no number is ignored, as Swift ignores it.
    ///
    /// # Errors
    /// When the limit is above `limit_max`, or a parameter is no UTF-8.
    pub fn parse(raw: &str, limit_max: usize) -> Result<Self, ListingQueryError> {
        let mut query = Self::page(limit_max);
        for (name, value) in pairs(raw) {
            let known = [
                "limit",
                "marker",
                "end_marker",
                "prefix",
                "delimiter",
                "path",
                "reverse",
            ];
            if !known.contains(&&*name) {
                continue;
            }
            let Ok(value) = value else {
                return Err(ListingQueryError::NotUtf8 {
                    parameter: name.into_owned(),
                });
            };
            match &*name {
                "limit" => query.set_limit(&value, limit_max)?,
                "marker" => query.marker = value,
                "end_marker" => query.end_marker = value,
                "prefix" => query.prefix = value,
                "delimiter" => query.delimiter = value,
                "path" => query.path = Some(value),
                _ => {
                    let value = value.to_ascii_lowercase();
                    query.reverse =
                        matches!(value.as_str(), "true" | "1" | "yes" | "on" | "t" | "y");
                }
            }
        }
        query.resolve_path();
        Ok(query)
    }

    fn set_limit(&mut self, value: &str, limit_max: usize) -> Result<(), ListingQueryError> {
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(());
        }
        match value.parse() {
            Ok(limit) if limit <= limit_max => self.limit = limit,
            Ok(_) | Err(_) => return Err(ListingQueryError::LimitTooLarge { limit_max }),
        }
        Ok(())
    }

    // `path=a/b` lists what is directly below the pseudo-directory a/b.
    fn resolve_path(&mut self) {
        let Some(path) = &mut self.path else { return };
        if !path.is_empty() {
            *path = format!("{}/", path.trim_end_matches('/'));
        }
        self.prefix.clone_from(path);
        "/".clone_into(&mut self.delimiter);
    }

    /// The names a walk has to look at, as bytes: at or after the first, before the second (`None`: to the end).
    ///
    /// Markers are exclusive on both sides, so the lower one is the marker's successor.
    #[must_use]
    pub fn bounds(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let (after, before) = if self.reverse {
            (&self.end_marker, &self.marker)
        } else {
            (&self.marker, &self.end_marker)
        };
        let mut low = self.prefix.as_bytes().to_vec();
        if !self.with_reserved {
            // The first name after all that begin with the reserved character.
            low = low.max(vec![1]);
        }
        if !after.is_empty() {
            let mut next = after.as_bytes().to_vec();
            next.push(0);
            low = low.max(next);
        }
        let mut high = past_prefix(self.prefix.as_bytes());
        if !before.is_empty() {
            let marker = before.as_bytes().to_vec();
            high = Some(high.map_or_else(|| marker.clone(), |high| high.min(marker.clone())));
        }
        (low, high)
    }

    /// What to do with a name a walk came to.
    #[must_use]
    pub fn visit(&self, name: &str) -> Visit {
        let (low, high) = self.bounds();
        let bytes = name.as_bytes();
        if bytes < low.as_slice() {
            return if self.reverse {
                Visit::End
            } else {
                Visit::Skip
            };
        }
        if high.is_some_and(|high| bytes >= high.as_slice()) {
            return if self.reverse {
                Visit::Skip
            } else {
                Visit::End
            };
        }
        self.fold(name)
    }

    /// What to do with a name that is within [`ListingQuery::bounds`]: the delimiter's part of [`ListingQuery::visit`].
    #[must_use]
    pub fn fold(&self, name: &str) -> Visit {
        let Some(rest) = name.strip_prefix(self.prefix.as_str()) else {
            return Visit::Skip;
        };
        if self
            .path
            .as_deref()
            .is_some_and(|path| !path.is_empty() && path == name)
        {
            return Visit::Skip;
        }
        if self.delimiter.is_empty() {
            return Visit::Take;
        }
        let Some(at) = rest.find(self.delimiter.as_str()) else {
            return Visit::Take;
        };
        let length = self.prefix.len() + at + self.delimiter.len();
        // Under `path`, an object that is itself named like a directory is a line, and what is below is none.
        if self.path.is_some() {
            if name.len() == length {
                return Visit::Take;
            }
            return Visit::Subdir {
                name: name[..length].to_owned(),
                shown: false,
            };
        }
        let subdir = name[..length].to_owned();
        let shown = subdir != self.marker;
        Visit::Subdir {
            name: subdir,
            shown,
        }
    }
}

/// The least byte string greater than all that begin with `prefix`; `None` when there is none.
#[must_use]
pub fn past_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut past = prefix[..=last].to_vec();
    past[last] += 1;
    Some(past)
}

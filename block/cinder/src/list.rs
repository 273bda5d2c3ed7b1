//! List queries: filters, order, pages.

use crate::microversion::since;
use crate::schema::truth;
use crate::{Fault, Links, Microversion};
use core::cmp::Ordering;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

/// Items in a page, whatever the client asks for (Cinder's `osapi_max_limit`).
pub const LIMIT_MAX: usize = 1_000;
/// Filters and options in one query.
pub const PARAMETERS_MAX: usize = 64;
/// Keys to sort by in one query.
pub const SORT_KEYS_MAX: usize = 8;

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// The field.
    pub key: String,
    /// Whether large values come first.
    pub descending: bool,
}

/// One filter: a field, how it is compared, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The field.
    pub key: String,
    /// True for `name~=part`: the value is a part of the field.
    pub like: bool,
    /// What it is compared with.
    pub value: String,
}

/// The query of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Items wanted, at most [`LIMIT_MAX`].
    pub limit: usize,
    /// The id after which the page starts.
    pub marker: Option<String>,
    /// Items to skip.
    pub offset: usize,
    /// The order; empty means newest first.
    pub sort: Vec<SortKey>,
    /// Whether the total is wanted.
    pub with_count: bool,
    /// Whether things of all projects are wanted.
    pub all_tenants: bool,
    /// Everything else.
    pub filters: Vec<Filter>,
    raw: Vec<(String, String)>,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// How many there are on all pages, when that was asked for.
    pub count: Option<usize>,
    /// The id of the last item, when there are more after it.
    pub next_marker: Option<String>,
}

/// The parameters of a query string, decoded; `+` is a space.
///
/// # Errors
/// 400 when there are too many or one is no UTF-8.
pub fn parameters(query: &str) -> Result<Vec<(String, String)>, Fault> {
    let decode = |part: &str| {
        let spaced = part.replace('+', " ");
        let decoded = percent_decode_str(&spaced)
            .decode_utf8()
            .map(|text| text.into_owned());
        decoded
            .ok()
            .ok_or_else(|| Fault::invalid_input("a query parameter is not UTF-8"))
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(key)?, decode(value)?))
    });
    let pairs: Vec<_> = pairs
        .take(PARAMETERS_MAX + 1)
        .collect::<Result<_, Fault>>()?;
    if pairs.len() > PARAMETERS_MAX {
        return Err(Fault::invalid_input(format!(
            "more than {PARAMETERS_MAX} query parameters"
        )));
    }
    Ok(pairs)
}

fn natural(name: &str, value: &str) -> Result<usize, Fault> {
    let digits = value.trim();
    if let Some(rest) = digits.strip_prefix('-') {
        let negative = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        let problem = if negative { "positive" } else { "an integer" };
        return Err(Fault::bad_request(format!(
            "{name} param must be {problem}"
        )));
    }
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::bad_request(format!(
            "{name} param must be an integer"
        )));
    }
    // More digits than fit are simply a lot.
    Ok(digits.parse().unwrap_or(usize::MAX))
}

fn sort_keys(value: &str) -> Result<Vec<SortKey>, Fault> {
    let keys: Vec<_> = value
        .split(',')
        .take(SORT_KEYS_MAX + 1)
        .map(sort_key)
        .collect::<Result<_, _>>()?;
    if keys.len() > SORT_KEYS_MAX {
        return Err(Fault::invalid_input(format!(
            "more than {SORT_KEYS_MAX} sort keys"
        )));
    }
    Ok(keys)
}

fn sort_key(text: &str) -> Result<SortKey, Fault> {
    let (key, direction) = text.trim().split_once(':').unwrap_or((text.trim(), "desc"));
    let descending = match direction {
        "desc" => true,
        "asc" => false,
        _ => {
            let problem = "Unknown sort direction, must be 'desc' or 'asc'.";
            return Err(Fault::invalid_input(problem));
        }
    };
    Ok(SortKey {
        key: key.to_owned(),
        descending,
    })
}

impl ListQuery {
    /// Reads the query string of a listing.
    ///
    /// # Errors
    /// 400 when a number is none, an order has no such direction, or there are too many parameters.
    pub fn parse(query: &str, version: Microversion) -> Result<Self, Fault> {
        let raw = parameters(query)?;
        let mut parsed = Self {
            limit: LIMIT_MAX,
            marker: None,
            offset: 0,
            sort: Vec::new(),
            with_count: false,
            all_tenants: false,
            filters: Vec::new(),
            raw: Vec::new(),
        };
        let (mut old_key, mut old_direction) = (None, None);
        for (key, value) in &raw {
            match key.as_str() {
                "limit" => parsed.limit = natural("limit", value)?.min(LIMIT_MAX),
                "offset" => parsed.offset = natural("offset", value)?,
                "marker" => parsed.marker = Some(value.clone()),
                "sort" => parsed.sort = sort_keys(value)?,
                "sort_key" => old_key = Some(value.as_str()),
                "sort_dir" => old_direction = Some(value.as_str()),
                "with_count" if version >= since::COUNT => parsed.with_count = switch(key, value)?,
                "all_tenants" => parsed.all_tenants = switch(key, value)?,
                _ => parsed.filters.push(filter(key, value, version)),
            }
        }
        if parsed.sort.is_empty()
            && let Some(key) = old_key
        {
            let direction = old_direction.unwrap_or("desc");
            parsed.sort.push(sort_key(&format!("{key}:{direction}"))?);
        }
        parsed.raw = raw;
        Ok(parsed)
    }

    /// Takes the filters this resource does not have away, or refuses them from 3.31 on.
    ///
    /// # Errors
    /// 400 naming the filters.
    pub fn allow_filters(&mut self, allowed: &[&str], version: Microversion) -> Result<(), Fault> {
        let known = |filter: &Filter| allowed.contains(&filter.key.as_str());
        if version >= since::STRICT_FILTERS {
            let unknown: Vec<&str> = self
                .filters
                .iter()
                .filter(|f| !known(f))
                .map(|f| f.key.as_str())
                .take(8)
                .collect();
            if !unknown.is_empty() {
                let names: String = unknown.join(",").chars().take(256).collect();
                let message = format!("Invalid filters {names} are found in query options.");
                return Err(Fault::invalid_input(message));
            }
        }
        self.filters.retain(known);
        Ok(())
    }

    /// Sorts by the query's keys, `fallback` deciding what is left.
    ///
    /// # Errors
    /// 400 when `compare` knows no such key.
    pub fn order<T>(
        &self,
        items: &mut [T],
        compare: impl Fn(&str, &T, &T) -> Option<Ordering>,
        fallback: impl Fn(&T, &T) -> Ordering,
    ) -> Result<(), Fault> {
        if let Some(first) = items.first() {
            for sort in &self.sort {
                if compare(&sort.key, first, first).is_none() {
                    let key: String = sort.key.chars().take(64).collect();
                    return Err(Fault::invalid_input(format!(
                        "Sort key supplied is invalid: {key}"
                    )));
                }
            }
        }
        items.sort_by(|a, b| {
            let by_keys = self.sort.iter().fold(Ordering::Equal, |order, sort| {
                let next = compare(&sort.key, a, b).unwrap_or(Ordering::Equal);
                order.then(if sort.descending {
                    next.reverse()
                } else {
                    next
                })
            });
            by_keys.then_with(|| fallback(a, b))
        });
        Ok(())
    }

    /// Cuts the page out of sorted items.
    ///
    /// # Errors
    /// `missing` when the marker is no item.
    pub fn page<T>(
        &self,
        mut items: Vec<T>,
        id: impl Fn(&T) -> String,
        missing: impl Fn(&str) -> Fault,
    ) -> Result<Page<T>, Fault> {
        let count = self.with_count.then_some(items.len());
        let start = match &self.marker {
            None => 0,
            Some(marker) => {
                items
                    .iter()
                    .position(|item| id(item) == *marker)
                    .ok_or_else(|| missing(marker))?
                    + 1
            }
        };
        let start = start.saturating_add(self.offset).min(items.len());
        items.drain(..start);
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next_marker = items.last().filter(|_| more).map(&id);
        Ok(Page {
            items,
            count,
            next_marker,
        })
    }

    /// The listing's body: the items under `plural`, the link to the next page, the total.
    #[must_use]
    pub fn body(&self, page: &Page<Value>, plural: &str, path: &str, links: &Links) -> Value {
        let mut body = json!({plural: page.items});
        if let Some(marker) = &page.next_marker {
            let href = self.next_href(marker, path, links);
            body[format!("{}_links", plural.trim_end_matches('/'))] =
                json!([{"rel": "next", "href": href}]);
        }
        if let Some(count) = page.count {
            body["count"] = json!(count);
        }
        body
    }

    fn next_href(&self, marker: &str, path: &str, links: &Links) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let kept = self
            .raw
            .iter()
            .filter(|(key, _)| key != "marker" && key != "offset");
        let mut query: Vec<String> = kept
            .map(|(key, value)| format!("{}={}", encode_key(key), encode(value)))
            .collect();
        query.push(format!("marker={}", encode_key(marker)));
        format!("{}?{}", links.api(path), query.join("&"))
    }
}

/// Percent-encodes what is not plain in a query; ids and names of parameters stay readable.
fn encode_key(text: &str) -> String {
    const PLAIN: percent_encoding::AsciiSet = NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    utf8_percent_encode(text, &PLAIN).to_string()
}

fn switch(name: &str, value: &str) -> Result<bool, Fault> {
    let problem = || {
        let value: String = value.chars().take(64).collect();
        Fault::invalid_input(format!(
            "Invalid value '{value}' for {name}: write true or false."
        ))
    };
    // `?all_tenants` alone is a yes.
    if value.is_empty() {
        Ok(true)
    } else {
        truth(value).ok_or_else(problem)
    }
}

fn filter(key: &str, value: &str, version: Microversion) -> Filter {
    match key.strip_suffix('~') {
        Some(field) if version >= since::LIKE_FILTERS => Filter {
            key: field.to_owned(),
            like: true,
            value: value.to_owned(),
        },
        _ => Filter {
            key: key.to_owned(),
            like: false,
            value: value.to_owned(),
        },
    }
}

impl Filter {
    /// Whether a text passes.
    #[must_use]
    pub fn matches_text(&self, text: Option<&str>) -> bool {
        match text {
            Some(text) if self.like => text.contains(&self.value),
            Some(text) => text == self.value,
            None => false,
        }
    }

    /// Whether a truth value passes.
    #[must_use]
    pub fn matches_truth(&self, value: bool) -> bool {
        truth(&self.value) == Some(value)
    }

    /// Whether a moment passes; comparisons like `gt:2026-11-23T04:27:36` are joined by commas.
    ///
    /// # Errors
    /// 400 when a comparison has no such operator or no moment.
    pub fn matches_time(&self, moment: Option<&str>) -> Result<bool, Fault> {
        let mut passes = true;
        for part in self.value.split(',') {
            let (operator, time) = match part.split_once(':') {
                Some((operator, time)) if operator.bytes().all(|b| b.is_ascii_alphabetic()) => {
                    (operator, time)
                }
                _ => ("eq", part),
            };
            let problem = || {
                let part: String = part.chars().take(64).collect();
                Fault::invalid_input(format!(
                    "'{part}' is no comparison with a moment for {}",
                    self.key
                ))
            };
            let time = normal_time(time).ok_or_else(problem)?;
            let order = moment.map(|moment| moment.cmp(time.as_str()));
            let is = |wanted: &[Ordering]| order.is_some_and(|order| wanted.contains(&order));
            passes &= match operator {
                "gt" => is(&[Ordering::Greater]),
                "gte" => is(&[Ordering::Greater, Ordering::Equal]),
                "lt" => is(&[Ordering::Less]),
                "lte" => is(&[Ordering::Less, Ordering::Equal]),
                "eq" => is(&[Ordering::Equal]),
                "neq" => is(&[Ordering::Less, Ordering::Greater]),
                _ => return Err(problem()),
            };
        }
        Ok(passes)
    }
}

/// `2026-11-23T04:27:36.487057` of any prefix of it that holds a date: such texts compare like moments.
fn normal_time(text: &str) -> Option<String> {
    const FULL: &str = "0000-00-00T00:00:00.000000";
    let text = text.trim().trim_end_matches('Z').replace(' ', "T");
    let shape = |(given, model): (u8, u8)| {
        if model == b'0' {
            given.is_ascii_digit()
        } else {
            given == model
        }
    };
    let fits =
        matches!(text.len(), 10 | 16 | 19 | 21..=26) && text.bytes().zip(FULL.bytes()).all(shape);
    fits.then(|| format!("{text}{}", &FULL[text.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(query: &str) -> Result<ListQuery, Fault> {
        ListQuery::parse(query, Microversion::MAX)
    }

    fn page(query: &str, ids: &[u32]) -> Result<Page<u32>, Fault> {
        let missing = |marker: &str| Fault::not_found("Volume", marker);
        parse(query)?.page(ids.to_vec(), u32::to_string, missing)
    }

    #[test]
    fn pages_follow_one_another_until_the_end() {
        let ids = [5, 3, 9, 1];
        let first = page("limit=2", &ids).unwrap();
        assert_eq!(
            (first.items, first.next_marker.as_deref()),
            (vec![5, 3], Some("3"))
        );
        let second = page("limit=2&marker=3&with_count=True", &ids).unwrap();
        assert_eq!(
            (second.items, second.next_marker, second.count),
            (vec![9, 1], None, Some(4))
        );
        assert_eq!(page("offset=3", &ids).unwrap().items, [1]);
        assert_eq!(page("limit=0", &ids).unwrap().items, [] as [u32; 0]);
    }

    #[test]
    fn a_huge_limit_is_the_largest_page_and_a_wrong_one_a_bad_request() {
        assert_eq!(
            parse("limit=99999999999999999999999").unwrap().limit,
            LIMIT_MAX
        );
        assert_eq!(
            parse("limit=-1").unwrap_err().message(),
            "limit param must be positive"
        );
        assert_eq!(
            parse("limit=x").unwrap_err().message(),
            "limit param must be an integer"
        );
        assert_eq!(parse("offset=").unwrap_err().code(), 400);
        assert_eq!(
            page("offset=99999999999999999999", &[1]).unwrap().items,
            [] as [u32; 0]
        );
    }

    #[test]
    fn an_unknown_marker_is_not_found() {
        assert_eq!(page("marker=77", &[1]).unwrap_err().code(), 404);
    }

    #[test]
    fn both_ways_to_sort_are_read() {
        let new = parse("sort=name:asc,created_at").unwrap().sort;
        assert_eq!(
            new.iter().map(|key| key.descending).collect::<Vec<_>>(),
            [false, true]
        );
        let old = parse("sort_key=name&sort_dir=asc").unwrap().sort;
        assert_eq!(
            old,
            [SortKey {
                key: "name".to_owned(),
                descending: false
            }]
        );
        assert_eq!(parse("sort=name:up").unwrap_err().code(), 400);
    }

    #[test]
    fn filters_nobody_has_are_refused_from_3_31_and_ignored_before() {
        let mut query = parse("name=a&colour=red").unwrap();
        let fault = query
            .allow_filters(&["name"], Microversion::MAX)
            .unwrap_err();
        assert_eq!(
            fault.message(),
            "Invalid input received: Invalid filters colour are found in query options."
        );
        query
            .allow_filters(&["name"], Microversion::new(30))
            .unwrap();
        assert_eq!(query.filters.len(), 1);
    }

    #[test]
    fn the_next_link_keeps_the_query() {
        let query = parse("limit=1&name=a%26b&marker=x").unwrap();
        let page = Page {
            items: vec![json!({"id": "y"})],
            count: None,
            next_marker: Some("y".to_owned()),
        };
        let body = query.body(
            &page,
            "volumes",
            "volumes/detail",
            &Links::new("http", "h", None),
        );
        assert_eq!(
            body["volumes_links"][0]["href"],
            "http://h/v3/volumes/detail?limit=1&name=a%26b&marker=y"
        );
    }

    #[test]
    fn moments_compare_with_any_precision() {
        let filter = |value: &str| Filter {
            key: "created_at".to_owned(),
            like: false,
            value: value.to_owned(),
        };
        let moment = Some("2026-11-23T04:27:36.487057");
        assert!(
            filter("gt:2026-11-23T04:27:36")
                .matches_time(moment)
                .unwrap()
        );
        assert!(
            filter("gte:2026-11-23,lt:2026-11-24T00:00:00Z")
                .matches_time(moment)
                .unwrap()
        );
        assert!(!filter("2026-11-23").matches_time(moment).unwrap());
        assert!(filter("near:2026-11-23").matches_time(moment).is_err());
        assert!(filter("gt:yesterday").matches_time(moment).is_err());
    }

    #[test]
    fn too_many_parameters_are_refused() {
        let query = "a=b&".repeat(65);
        assert_eq!(parse(&query).unwrap_err().code(), 400);
    }

    proptest! {
        #[test]
        fn no_query_panics(query in ".{0,200}") {
            drop(parse(&query));
        }

        #[test]
        fn pages_together_are_the_whole(count in 0u32..60, limit in 1usize..20) {
            let ids: Vec<u32> = (0..count).collect();
            let (mut seen, mut query) = (Vec::new(), format!("limit={limit}"));
            loop {
                let page = page(&query, &ids).unwrap();
                seen.extend(page.items);
                let Some(marker) = page.next_marker else { break };
                query = format!("limit={limit}&marker={marker}");
            }
            prop_assert_eq!(seen, ids);
        }
    }
}

//! `[object.filters]`: what the front door refuses, slows down or tells before a request reaches the objects.

use serde::Deserialize;
use std::net::SocketAddr;

/// `[object.filters]`. Nothing in it: every request passes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    /// Whether all accounts can only be read, except those that say otherwise for themselves.
    #[serde(default)]
    pub read_only: bool,
    /// Whether deletes are let through where nothing else is written.
    #[serde(default)]
    pub allow_deletes: bool,
    /// Whether `/endpoints/` tells, without asking who wants to know, which devices hold what.
    #[serde(default)]
    pub list_endpoints: bool,
    /// What `/crossdomain.xml` allows; default: every domain.
    pub cross_domain_policy: Option<String>,
    /// Which names are refused.
    pub name_check: Option<NameCheck>,
    /// How fast may be written.
    pub rate_limit: Option<RateLimit>,
    /// Whether hosts outside of the storage domain are looked up in the DNS.
    pub cname_lookup: Option<CnameLookup>,
}

/// `[object.filters.name_check]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameCheck {
    /// Characters no path may have.
    #[serde(default = "default_forbidden_chars")]
    pub forbidden_chars: String,
    /// Bytes of a decoded path, from its first slash on.
    #[serde(default = "default_maximum_length")]
    pub maximum_length: usize,
    /// What no path may have in it; empty: anything goes.
    #[serde(default = "default_forbidden_regexp")]
    pub forbidden_regexp: String,
}

fn default_forbidden_chars() -> String {
    "'\"`<>".to_owned()
}
const fn default_maximum_length() -> usize {
    255
}
fn default_forbidden_regexp() -> String {
    r"/\./|/\.\./|/\.$|/\.\.$".to_owned()
}

/// `[object.filters.rate_limit]`: requests per second. Each proxy counts by itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Containers made and deleted in one account; 0: any number.
    #[serde(default)]
    pub account: f64,
    /// Writes of objects in one container, by how many it has.
    #[serde(default)]
    pub containers: Vec<RatePoint>,
    /// Listings of one container, by how many objects it has.
    #[serde(default)]
    pub listings: Vec<RatePoint>,
    /// How long a request waits at most for its turn, in seconds; one that would wait longer is refused.
    #[serde(default = "default_max_sleep_seconds")]
    pub max_sleep_seconds: u16,
}

const fn default_max_sleep_seconds() -> u16 {
    60
}

/// A point of a rate that depends on a container's size: between two points it lies on the line, behind the last it stays.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatePoint {
    /// From so many objects on.
    pub objects: u64,
    /// Requests per second.
    pub rate: f64,
}

/// `[object.filters.cname_lookup]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CnameLookup {
    /// Names that are followed from one to the next.
    #[serde(default = "default_lookup_depth")]
    pub lookup_depth: u8,
    /// Who is asked.
    pub nameserver: SocketAddr,
}

const fn default_lookup_depth() -> u8 {
    1
}

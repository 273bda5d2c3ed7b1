//! What stands between a request and the stored thing: one module per feature of Swift's pipeline.
//!
//! An object's request passes, from the outside in: copy, quotas, static large objects, dynamic large objects, versions,
//! links, encryption, and then the object as it is stored. Each is a function over the parsed request that answers, or asks the
//! next one. The requests the middleware makes of itself enter below the one that makes them.

pub(crate) mod bulk;
pub(crate) mod cname_lookup;
pub(crate) mod container_sync;
pub(crate) mod container_versions;
mod copy;
pub(crate) mod cors;
pub(crate) mod domain_remap;
mod dynamic_large;
pub(crate) mod encryption;
pub(crate) mod endpoints;
pub(crate) mod etag_quoter;
pub(crate) mod extract;
mod feed;
pub(crate) mod filters;
pub(crate) mod form_post;
pub(crate) mod legacy_versions;
pub(crate) mod quota;
pub(crate) mod rate_limit;
pub(crate) mod report;
pub(crate) mod static_large;
pub(crate) mod static_web;
pub(crate) mod symlink;
pub(crate) mod temp_url;
mod unpack;
pub(crate) mod versions;

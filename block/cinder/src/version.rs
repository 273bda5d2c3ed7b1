//! Version documents: what discovery reads first.

use crate::{Links, Microversion};
use serde_json::{Value, json};

/// The body of `GET /` and `GET /v3/`.
#[must_use]
pub fn body(links: &Links) -> Value {
    json!({"versions": [{
        "id": "v3.0",
        "status": "CURRENT",
        "version": Microversion::MAX.to_string(),
        "min_version": Microversion::MIN.to_string(),
        "updated": "2023-08-31T00:00:00Z",
        "links": [
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
            {"rel": "self", "href": format!("{}/v3/", links.origin())},
        ],
        "media-types": [
            {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"},
        ],
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_finds_the_range_and_the_address() {
        let body = body(&Links::new("http", "127.0.0.1:8776", None));
        let version = &body["versions"][0];
        assert_eq!(
            (version["min_version"].as_str(), version["version"].as_str()),
            (Some("3.0"), Some("3.71"))
        );
        assert_eq!(version["links"][1]["href"], "http://127.0.0.1:8776/v3/");
    }
}

//! Links: where a resource is, as the client reached the service.

use serde_json::{Value, json};

/// The address links start with, and the project the request's path named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    origin: String,
    project: Option<String>,
}

impl Links {
    /// Links for a client that reached the service as `host` (a `Host` header) over `scheme`.
    ///
    /// What is no host name, address or port in the header is dropped: it would be shown to others.
    #[must_use]
    pub fn new(scheme: &str, host: &str, project: Option<&str>) -> Self {
        let plain = |c: &char| c.is_ascii_alphanumeric() || ".-:[]_".contains(*c);
        let host: String = host.chars().take(255).filter(plain).collect();
        Self {
            origin: format!("{scheme}://{host}"),
            project: project.map(str::to_owned),
        }
    }

    /// `http://host`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The address of a path below the API's root, without a slash at its start.
    #[must_use]
    pub fn api(&self, path: &str) -> String {
        match &self.project {
            Some(project) => format!("{}/v3/{project}/{path}", self.origin),
            None => format!("{}/v3/{path}", self.origin),
        }
    }

    /// The two links of a resource.
    #[must_use]
    pub fn of(&self, collection: &str, id: &str) -> Value {
        let path = format!("{collection}/{id}");
        let bookmark = match &self.project {
            Some(project) => format!("{}/{project}/{path}", self.origin),
            None => format!("{}/{path}", self.origin),
        };
        json!([{"rel": "self", "href": self.api(&path)}, {"rel": "bookmark", "href": bookmark}])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_the_form_of_the_request() {
        let links = Links::new("http", "127.0.0.1:8776", None);
        assert_eq!(
            links.of("volumes", "x"),
            json!([{"rel": "self", "href": "http://127.0.0.1:8776/v3/volumes/x"},
                   {"rel": "bookmark", "href": "http://127.0.0.1:8776/volumes/x"}])
        );
        let links = Links::new("http", "[::1]:8776", Some("p"));
        assert_eq!(links.api("volumes/x"), "http://[::1]:8776/v3/p/volumes/x");
    }

    #[test]
    fn a_host_header_cannot_smuggle_markup_into_links() {
        let links = Links::new("http", "a\"><script>/x@b", None);
        assert_eq!(links.origin(), "http://ascriptxb");
    }
}

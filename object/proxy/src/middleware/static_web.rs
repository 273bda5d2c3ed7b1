//! Containers as websites: index pages, error pages, and listings with a style of their own.
//!
//! Everything is read with the visitor's own rights. What becomes part of a page is escaped.

use crate::fault::{Fault, set};
use crate::middleware::temp_url::{DirectoryPage, TempUrl};
use crate::proxy::Asking;
use crate::subrequest::{is_true, text, unconditional};
use http::request::Parts as Head;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use onggi_common_service::http::{Response, empty, full};
use onggi_object_model::limits::CONTAINER_LISTING_MAX;
use onggi_object_model::listing::{Named as _, escape_xml};
use onggi_object_model::path::{encode_rest, encode_segment};
use onggi_object_model::{
    ContainerInfo, ContainerPath, ListingEntry, ListingQuery, ObjectPath, Resource,
};
use std::sync::Arc;

const INDEX: &str = "x-container-meta-web-index";
const ERROR: &str = "x-container-meta-web-error";
const LISTINGS: &str = "x-container-meta-web-listings";
const LISTINGS_CSS: &str = "x-container-meta-web-listings-css";
const LISTINGS_LABEL: &str = "x-container-meta-web-listings-label";
const DIRECTORY_TYPE: &str = "x-container-meta-web-directory-type";
/// The style of listings of containers that name none.
const STYLE: &str = "h1 {font-size: 1em; font-weight: bold;} th {text-align: left; padding: 0px 1em 0px 1em;} td {padding: 0px 1em 0px 1em;} a {text-decoration: none;}";

/// What a container says about its website.
struct Site {
    path: ContainerPath,
    info: Arc<ContainerInfo>,
}

impl Site {
    fn item(&self, name: &str) -> Option<&str> {
        self.info.metadata.get(name)
    }

    fn lists(&self) -> bool {
        self.item(LISTINGS).is_some_and(is_true)
    }

    fn object(&self, name: &str) -> Option<ObjectPath> {
        Some(ObjectPath {
            account: self.path.account.clone(),
            container: self.path.container.clone(),
            object: name.parse().ok()?,
        })
    }
}

impl Asking {
    /// Whether pages may be made for a request: for visitors without a name, signed URLs among them, or who ask for it.
    pub(crate) fn is_website(&self, resource: &Resource, request: &Head) -> bool {
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let is_asked = text(&request.headers, "x-web-mode").is_some_and(is_true);
        let is_stranger = self.caller.is_none();
        reads && !matches!(resource, Resource::Account(_)) && (is_stranger || is_asked)
    }

    /// Answers as a website where the container is one, as usual where it is none.
    pub(crate) async fn website(
        &self,
        resource: &Resource,
        request: Head,
    ) -> Result<Response, Fault> {
        let path = match resource {
            Resource::Account(_) => return Err(Fault::NotFound),
            Resource::Container(path) => path.clone(),
            Resource::Object(path) => path.container_path(),
        };
        let plain = |request: Head| self.answer_plain(resource, request, empty());
        let Some(info) = self.core.container_info(&path).await? else {
            return Box::pin(plain(request)).await;
        };
        let site = Site { path, info };
        if site.item(INDEX).is_none() && !site.lists() {
            let answered = Box::pin(plain(request.clone())).await;
            return self.with_error_page(&site, &request, answered).await;
        }
        match resource {
            Resource::Object(path) => Box::pin(self.page_of_object(&site, path, request)).await,
            Resource::Account(_) | Resource::Container(_) => {
                if !request.uri.path().ends_with('/') && request.uri.path().len() > 1 {
                    return Ok(moved(&request));
                }
                Box::pin(self.page_of_directory(&site, "", request)).await
            }
        }
    }

    async fn page_of_object(
        &self,
        site: &Site,
        path: &ObjectPath,
        request: Head,
    ) -> Result<Response, Fault> {
        let name = path.object.as_str();
        let answered = Box::pin(self.object(path.clone(), request.clone(), empty())).await;
        let is_directory = |response: &Response| {
            let kind = text(response.headers(), "content-type").unwrap_or_default();
            let wanted = site.item(DIRECTORY_TYPE).unwrap_or("application/directory");
            kind.split(';').next() == Some(wanted)
                && text(response.headers(), "content-length") == Some("0")
        };
        match answered {
            Ok(response) if response.status().is_success() && !is_directory(&response) => {
                Ok(response)
            }
            Ok(response) if !response.status().is_success() => Ok(response),
            Ok(_) | Err(Fault::NotFound) if name.ends_with('/') => {
                Box::pin(self.page_of_directory(site, name, request)).await
            }
            Ok(_) => Ok(moved(&request)),
            Err(Fault::NotFound) => {
                if self.has_below(site, &format!("{name}/"), &request).await? {
                    return Ok(moved(&request));
                }
                self.with_error_page(site, &request, Err(Fault::NotFound))
                    .await
            }
            Err(fault) => self.with_error_page(site, &request, Err(fault)).await,
        }
    }

    /// Whether the visitor may list, and something is listed below a prefix.
    async fn has_below(&self, site: &Site, prefix: &str, request: &Head) -> Result<bool, Fault> {
        let resource = Resource::Container(site.path.clone());
        let may = self
            .authorize(&Method::GET, &resource, &request.headers)
            .await;
        if may.is_err() {
            return Ok(false);
        }
        let query = ListingQuery {
            prefix: prefix.to_owned(),
            ..ListingQuery::page(1)
        };
        let (_, page) = self.core.page(&site.path, query).await?;
        Ok(!page.entries.is_empty())
    }

    /// The index page of a directory, or its listing.
    async fn page_of_directory(
        &self,
        site: &Site,
        prefix: &str,
        request: Head,
    ) -> Result<Response, Fault> {
        if let Some(index) = site.item(INDEX) {
            let object = site.object(&format!("{prefix}{index}"));
            if let Some(object) = object {
                match Box::pin(self.object(object, request.clone(), empty())).await {
                    Err(Fault::NotFound) => {}
                    Ok(mut page) if page.status().is_success() => {
                        page.extensions_mut().insert(DirectoryPage);
                        return Ok(page);
                    }
                    other => return self.with_error_page(site, &request, other).await,
                }
            }
        }
        if !site.lists() {
            let fault = Err(Fault::NotFound);
            return self.with_error_page(site, &request, fault).await;
        }
        let resource = Resource::Container(site.path.clone());
        let may = self
            .authorize(&Method::GET, &resource, &request.headers)
            .await;
        if let Err(fault) = may {
            return self.with_error_page(site, &request, Err(fault)).await;
        }
        let query = ListingQuery {
            prefix: prefix.to_owned(),
            delimiter: "/".to_owned(),
            ..ListingQuery::page(CONTAINER_LISTING_MAX)
        };
        let (_, page) = self.core.page(&site.path, query).await?;
        if page.entries.is_empty() {
            let fault = Err(Fault::NotFound);
            return self.with_error_page(site, &request, fault).await;
        }
        Ok(listing_page(site, prefix, page.entries, &request))
    }

    /// Puts the container's own page in the place of an error's.
    async fn with_error_page(
        &self,
        site: &Site,
        request: &Head,
        answered: Result<Response, Fault>,
    ) -> Result<Response, Fault> {
        let fault = match answered {
            Err(fault) => fault,
            Ok(response) => return Ok(response),
        };
        let status = fault.status();
        let page = site
            .item(ERROR)
            .and_then(|suffix| site.object(&format!("{}{suffix}", status.as_u16())));
        let Some(page) = page else {
            return Err(fault);
        };
        let mut asked = unconditional(request);
        asked.uri = Uri::from_static("/");
        match Box::pin(self.object(page, asked, empty())).await {
            Ok(mut response) if response.status().is_success() => {
                *response.status_mut() = status;
                Ok(response)
            }
            Ok(_) | Err(_) => Err(fault),
        }
    }
}

/// 301 to the same path with a slash at its end.
fn moved(request: &Head) -> Response {
    let scheme = "http";
    let host = text(&request.headers, "host").unwrap_or_default();
    let asked = request.extensions.get::<super::domain_remap::AskedPath>();
    let path = asked.map_or_else(|| request.uri.path(), |asked| asked.0.as_str());
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    set(
        response.headers_mut(),
        header::LOCATION,
        &format!("{scheme}://{host}{path}/"),
    );
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    response
}

/// A page that lists a directory.
fn listing_page(
    site: &Site,
    prefix: &str,
    entries: Vec<ListingEntry<onggi_object_model::ObjectEntry>>,
    request: &Head,
) -> Response {
    let signed = request.extensions.get::<TempUrl>();
    let links = signed.and_then(|signed| signed.links.as_ref());
    let query = links.map_or_else(String::new, |links| {
        escape_xml(&format!("?{}", links.query))
    });
    // A signature opens nothing above its prefix.
    let top = links.map_or(0, |links| links.prefix.len());
    let own = format!("/v1/{}/{}/{prefix}", site.path.account, site.path.container);
    let label = site
        .item(LISTINGS_LABEL)
        .map_or(own, |label| format!("{label}/{prefix}"));
    let title = escape_xml(&label);
    let css = match site.item(LISTINGS_CSS) {
        Some(css) => {
            let up = "../".repeat(prefix.matches('/').count());
            let place = if css.contains("://") || css.starts_with('/') {
                css.to_owned()
            } else {
                format!("{up}{}", encode_rest(css))
            };
            format!(
                "<link rel=\"stylesheet\" type=\"text/css\" href=\"{}\" />",
                escape_xml(&place)
            )
        }
        None => format!("<style type=\"text/css\">{STYLE}</style>"),
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html>\n<head>\n<title>Listing of {title}</title>\n{css}\n</head>\n<body>\n<h1 id=\"title\">Listing of {title}</h1>\n<table id=\"listing\">\n<tr id=\"heading\"><th class=\"colname\">Name</th><th class=\"colsize\">Size</th><th class=\"coldate\">Date</th></tr>\n"
    );
    if prefix.len() > top {
        page.push_str(&format!("<tr id=\"parent\" class=\"item\"><td class=\"colname\"><a href=\"../{query}\">../</a></td><td class=\"colsize\">&nbsp;</td><td class=\"coldate\">&nbsp;</td></tr>\n"));
    }
    for entry in entries {
        match entry {
            ListingEntry::Subdir(name) => {
                let shown = name.strip_prefix(prefix).unwrap_or(&name);
                page.push_str(&format!(
                    "<tr class=\"item subdir\"><td class=\"colname\"><a href=\"./{}{query}\">{}</a></td><td class=\"colsize\">&nbsp;</td><td class=\"coldate\">&nbsp;</td></tr>\n",
                    encode_rest(shown), escape_xml(shown)
                ));
            }
            ListingEntry::Item(item) => {
                let shown = item.name().strip_prefix(prefix).unwrap_or(item.name());
                if shown.is_empty() {
                    continue;
                }
                page.push_str(&format!(
                    "<tr class=\"item\"><td class=\"colname\"><a href=\"./{}{query}\">{}</a></td><td class=\"colsize\">{}</td><td class=\"coldate\">{}</td></tr>\n",
                    encode_segment(shown), escape_xml(shown), item.content_bytes(),
                    item.last_modified.to_utc().iso_naive()
                ));
            }
        }
    }
    page.push_str("</table>\n</body>\n</html>\n");
    let length = page.len();
    let is_head = request.method == Method::HEAD;
    let mut response = Response::new(if is_head { empty() } else { full(page) });
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/html; charset=UTF-8");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response.extensions_mut().insert(DirectoryPage);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_object_model::{Etag, Metadata, ObjectEntry};

    fn site(container: &str) -> Site {
        Site {
            path: ContainerPath {
                account: "AUTH_a".parse().unwrap(),
                container: container.parse().unwrap(),
            },
            info: Arc::default(),
        }
    }

    async fn listed(container: &str, prefix: &str, name: &str, query: &str) -> String {
        let item = ListingEntry::Item(ObjectEntry {
            name: name.to_owned(),
            hash: Etag::EMPTY,
            bytes: 0,
            content_type: String::new(),
            last_modified: onggi_common_units::Timestamp::ZERO,
            annotations: Metadata::default(),
        });
        let mut request = http::Request::get(format!("/?{query}"))
            .body(())
            .unwrap()
            .into_parts()
            .0;
        if let Some(signed) = TempUrl::for_page(&request) {
            request.extensions.insert(signed);
        }
        let page = listing_page(&site(container), prefix, vec![item], &request);
        let body = onggi_common_service::http::collect(page.into_body(), 1 << 20);
        String::from_utf8(body.await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn names_and_signatures_cannot_put_markup_into_a_listing() {
        let name = "\"><script>alert(1)</script>";
        let query = "temp_url_prefix=&temp_url_sig=%22%3E%3Cscript%3E";
        let body = listed("<script>", "", name, query).await;
        assert!(!body.contains("<script"), "{body}");
    }

    #[tokio::test]
    async fn links_of_a_signed_listing_are_signed_and_end_at_the_prefix() {
        let query = "temp_url_prefix=d/&temp_url_sig=ab&temp_url_expires=9";
        let body = listed("c", "d/", "d/o", query).await;
        let link =
            "<a href=\"./o?temp_url_prefix=d/&amp;temp_url_expires=9&amp;temp_url_sig=ab\">o</a>";
        assert!(body.contains(link) && !body.contains("href=\".."), "{body}");
        let below = listed("c", "d/e/", "d/e/o", query).await;
        assert!(
            below.contains("href=\"../?temp_url_prefix=d/&amp;"),
            "{below}"
        );
        let plain = listed("c", "d/", "d/o", "").await;
        assert!(plain.contains("<a href=\"../\">") && plain.contains("<a href=\"./o\">"));
    }
}

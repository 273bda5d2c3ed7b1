//! Conditional writes of objects that have versions: the condition is about what the name leads to, and holds on when
//! the name is changed, which happens last.

use super::{Place, linked_version};
use crate::fault::Fault;
use crate::middleware::symlink;
use crate::object::answer::object_response;
use crate::object::get::Known;
use crate::proxy::Asking;
use crate::subrequest::{Expects, Trusted, bare, text, unconditional};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use onggi_common_service::http::{Response, empty};
use onggi_common_units::Timestamp;
use onggi_object_model::Verdict;

/// How often a conditional write begins anew when the name has changed and the condition still holds.
const ROUNDS_MAX: usize = 8;

/// The last step of a write: the one that changes what is under the name.
pub(super) enum Last {
    /// The name leads to the version; with its date of deletion.
    Link(Vec<(HeaderName, HeaderValue)>),
    Delete,
}

impl Asking {
    /// Makes the last step of a write, under its condition; anew when the name has changed meanwhile and the condition
    /// still holds. When it does not, the version that was written for it goes.
    pub(super) async fn conclude(
        &self,
        place: &Place,
        id: Timestamp,
        head: &Head,
        last: &Last,
        mut expects: Option<Expects>,
    ) -> Result<Response, Fault> {
        let mut failed = Fault::Unavailable;
        for _ in 0..ROUNDS_MAX {
            let done = match last {
                Last::Link(expiry) => self.link(place, id, head, expiry, expects).await,
                Last::Delete => {
                    let mut asked = unconditional(head);
                    asked.extensions.insert(Trusted);
                    asked.extensions.extend(expects_of(expects));
                    Box::pin(self.stored(place.path.clone(), asked, empty())).await
                }
            };
            match done {
                Err(Fault::PreconditionFailed(_)) if expects.is_some() => {}
                other => return other,
            }
            match self.check_conditions(place, head).await {
                Ok(now) => expects = now,
                Err(fault) => {
                    failed = fault;
                    break;
                }
            }
        }
        let mut asked = bare(head, Method::DELETE);
        asked.extensions.insert(Trusted);
        if let Err(error) = Box::pin(self.stored(place.version(id)?, asked, empty())).await {
            tracing::warn!(path = %place.path, %error, "a version nobody wants is left");
        }
        Err(failed)
    }

    /// Judges a condition by what the name leads to; what must be under the name for it to hold on. `None`: there is no
    /// condition.
    pub(super) async fn check_conditions(
        &self,
        place: &Place,
        head: &Head,
    ) -> Result<Option<Expects>, Fault> {
        let condition = crate::object::answer::condition(head);
        if condition.is_empty() {
            return Ok(None);
        }
        let is_delete = head.method == Method::DELETE;
        if condition.has_none_match_tags() && !is_delete {
            return Err(Fault::BadRequest(
                "If-None-Match only supports *".to_owned(),
            ));
        }
        let info = self
            .core
            .container_info(&place.path.container_path())
            .await?;
        let policy = info.ok_or(Fault::NotFound)?.policy;
        let known = match self.core.head(policy, &place.path).await {
            Ok(known) => Some(known),
            Err(Fault::NotFound) if !is_delete => None,
            Err(fault) => return Err(fault),
        };
        let stamp = known.as_ref().map(|known| known.info.data_timestamp);
        let found = match known {
            Some(known) => self.led_to(place, head, &known).await?,
            None => None,
        };
        if found.is_none() && stamp.is_some() {
            // The name leads to what readers do not find: it is taken all the same, and has no tag to compare with.
            return Err(Fault::PreconditionFailed(String::new()));
        }
        let etag = found.as_ref().and_then(|headers| {
            let stamp = text(headers, "x-timestamp")?.parse::<Timestamp>().ok()?;
            let etag =
                text(headers, crate::middleware::static_large::ETAG).or(text(headers, "etag"))?;
            Some((etag, stamp))
        });
        if condition.judge_write(etag) == Verdict::Proceed {
            Ok(Some(Expects(stamp)))
        } else {
            Err(Fault::PreconditionFailed(String::new()))
        }
    }
}

impl Asking {
    /// The headers of what a name leads to that was just looked at. While a write is under way, a second look at the name
    /// may show what was there before it: then the tag of the old would be taken for that of the new.
    async fn led_to(
        &self,
        place: &Place,
        head: &Head,
        known: &Known,
    ) -> Result<Option<HeaderMap>, Fault> {
        let own = object_response(known).into_parts().0.headers;
        let path = match linked_version(&own, &place.path) {
            Some(id) => place.version(id)?,
            None if own.contains_key(symlink::TARGET) => place.path.clone(),
            None => return Ok(Some(own)),
        };
        let mut asked = bare(head, Method::HEAD);
        asked.extensions.insert(Trusted);
        match Box::pin(self.linked(path, asked, empty())).await {
            Ok(found) => Ok(Some(found.into_parts().0.headers)),
            Err(Fault::NotFound) => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// The expectation as it stands beside a request.
pub(super) fn expects_of(expects: Option<Expects>) -> http::Extensions {
    let mut extensions = http::Extensions::new();
    if let Some(expects) = expects {
        extensions.insert(expects);
    }
    extensions
}

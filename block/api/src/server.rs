//! The volume API as a handler of HTTP requests: version documents, authentication, routing, answers.

use crate::answer::Answer;
use crate::backend::Backend;
use crate::call::{Call, authenticate, links, route, version};
use crate::route::Resource;
use crate::{actions, attachments, catalog, messages, metadata, volumes};
use http::{Method, StatusCode};
use onggi_block_cinder::microversion::since;
use onggi_block_cinder::{Fault, version as version_document};
use onggi_block_manager::Manager;
use onggi_common_host::Entropy;
use onggi_common_identity::Verifier;
use onggi_common_service::http::{Handler, Request, Response, full};
use std::sync::Arc;
use tracing::Instrument as _;

/// The volume service's HTTP face.
pub struct Api {
    backend: Backend,
    verifier: Arc<Verifier>,
    entropy: Arc<dyn Entropy>,
}

impl core::fmt::Debug for Api {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Serves what `manager` keeps to whom `verifier` knows.
    #[must_use]
    pub fn new(manager: Arc<Manager>, verifier: Arc<Verifier>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            backend: Backend::new(manager),
            verifier,
            entropy,
        }
    }

    async fn answer(&self, request: Request) -> Answer {
        let (head, body) = request.into_parts();
        if let Some(answer) = discovery(&head) {
            return answer;
        }
        let caller = match authenticate(&head.headers, &self.verifier) {
            Ok(caller) => caller,
            Err(fault) => return fault.into(),
        };
        let routed = match route(head.uri.path(), &head.method) {
            Ok(routed) => routed,
            Err(answer) => return *answer,
        };
        let call = Call::new(head, body, routed, &caller).await;
        let outcome = match call {
            Ok(call) => dispatch(&self.backend, &call).await,
            Err(fault) => Err(fault),
        };
        outcome.unwrap_or_else(Answer::from)
    }
}

/// What can be read without a token: which versions there are.
fn discovery(head: &http::request::Parts) -> Option<Answer> {
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    let links = || links(&head.headers, None);
    let document = || version_document::body(&links());
    match head.uri.path() {
        "/" if is_read => Some(Answer::json(StatusCode::MULTIPLE_CHOICES, document())),
        "/v3" if is_read => Some(Answer::redirect(&links().api(""))),
        "/v3/" if is_read => Some(Answer::ok(document())),
        _ => None,
    }
}

async fn dispatch(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    let is_read = call.method == Method::GET;
    match &call.resource {
        Resource::Volumes if is_read => volumes::list(backend, call, false).await,
        Resource::Volumes => volumes::create(backend, call).await,
        Resource::VolumesDetail => volumes::list(backend, call, true).await,
        Resource::VolumesSummary => volumes::summary(backend, call).await,
        Resource::Volume(id) if call.method == Method::PUT => {
            volumes::update(backend, call, id).await
        }
        Resource::Volume(id) if call.method == Method::DELETE => {
            volumes::delete(backend, call, id).await
        }
        Resource::Volume(id) => volumes::show(backend, call, id).await,
        Resource::VolumeMetadata(id) => metadata::whole(backend, call, id).await,
        Resource::VolumeMetadataItem(id, key) => metadata::item(backend, call, id, key).await,
        Resource::VolumeAction(id) => actions::act(backend, call, id).await,
        Resource::VolumeEncryption(id) => volumes::encryption(backend, call, id).await,
        Resource::Attachments
        | Resource::AttachmentsDetail
        | Resource::Attachment(_)
        | Resource::AttachmentAction(_) => dispatch_attachments(backend, call).await,
        Resource::Messages => messages::list(backend, call).await,
        Resource::Message(id) if call.method == Method::DELETE => {
            messages::delete(backend, call, id).await
        }
        Resource::Message(id) => messages::show(backend, call, id).await,
        _ => dispatch_catalog(backend, call).await,
    }
}

async fn dispatch_attachments(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    call.require_version(since::ATTACHMENTS)?;
    match &call.resource {
        Resource::Attachments if call.method == Method::POST => {
            attachments::create(backend, call).await
        }
        Resource::Attachment(id) => attachments::one(backend, call, id).await,
        Resource::AttachmentAction(id) => attachments::act(backend, call, id).await,
        other => attachments::list(backend, call, *other == Resource::AttachmentsDetail).await,
    }
}

async fn dispatch_catalog(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    let is_read = call.method == Method::GET;
    match &call.resource {
        Resource::Types | Resource::Type(_) | Resource::TypeExtraSpecs(_) if !is_read => {
            call.require_admin()?;
            Err(Fault::not_implemented("change volume types"))
        }
        Resource::QuotaSet(_) if !is_read => {
            call.require_admin()?;
            Err(Fault::not_implemented("change quotas"))
        }
        Resource::Types => catalog::types(backend, call),
        Resource::DefaultType => Ok(catalog::default_type(backend, call)),
        Resource::Type(id) => catalog::volume_type(backend, call, id),
        Resource::TypeExtraSpecs(id) => catalog::extra_specs(backend, call, id),
        Resource::AvailabilityZones => Ok(catalog::availability_zones(backend)),
        Resource::Limits => catalog::limits(backend, call).await,
        Resource::QuotaSet(project) => catalog::quota_set(backend, call, project).await,
        Resource::QuotaDefaults(project) => catalog::quota_defaults(backend, call, project).await,
        Resource::Services => catalog::services(backend, call).await,
        Resource::Pools => catalog::pools(backend, call).await,
        Resource::Extensions => Ok(catalog::extensions()),
        Resource::FilterNames => catalog::resource_filters(call),
        Resource::EmptyCollection(kept) => catalog::empty_collection(call, *kept),
        Resource::Absent(kept, id) => Err(Fault::not_found(kept.noun, id)),
        _ => Ok(Answer::nowhere()),
    }
}

impl Handler for Api {
    async fn handle(&self, request: Request) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if path == "/healthcheck" {
            return Response::new(full("OK"));
        }
        let version = version(request.headers()).ok();
        let request_id = self.entropy.uuid();
        let span =
            tracing::info_span!("volume_api", request_id = %format_args!("req-{request_id}"));
        let answer = self.answer(request).instrument(span.clone()).await;
        let response = answer.into_response(request_id, version);
        let status = response.status().as_u16();
        span.in_scope(|| tracing::debug!(%method, path, status, "answered"));
        response
    }
}

#[cfg(test)]
mod tests;

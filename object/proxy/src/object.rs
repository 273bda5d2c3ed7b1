//! Objects: what handlers of all methods share.

mod change;
mod copy;
mod get;
mod put;
mod stream;

use crate::fault::Fault;
use crate::proxy::{Asking, Core};
use http::request::Parts as Head;
use http::{HeaderMap, Method};
use onggi_common_service::http::{Body, Response};
use onggi_object_client::WriteAnswer;
use onggi_object_model::{ContainerInfo, ObjectPath, ObjectRecord, PolicyIndex};
use onggi_object_replica::Reply;
use onggi_object_wire::{Place, container};
use std::collections::HashSet;
use std::sync::Arc;

/// How a node's answer to an object write counts.
fn write_reply(answer: &WriteAnswer) -> Reply {
    match answer {
        WriteAnswer::Written { .. } => Reply::Stored { existed: true },
        WriteAnswer::NotFound { .. } => Reply::Missing,
        WriteAnswer::Newer { newest } => Reply::Newer { newest: *newest },
        WriteAnswer::Present { .. } => Reply::ConditionFailed,
        WriteAnswer::WrongBody => Reply::Mismatch,
        WriteAnswer::Full | WriteAnswer::Failed { .. } => Reply::Failed,
    }
}

/// The same for a DELETE, where "not found" has left a tombstone.
fn delete_reply(answer: &WriteAnswer) -> Reply {
    match answer {
        WriteAnswer::NotFound { .. } => Reply::Stored { existed: false },
        WriteAnswer::Written { .. }
        | WriteAnswer::Newer { .. }
        | WriteAnswer::Present { .. }
        | WriteAnswer::WrongBody
        | WriteAnswer::Full
        | WriteAnswer::Failed { .. } => write_reply(answer),
    }
}

fn listed(answer: &WriteAnswer) -> &[Place] {
    match answer {
        WriteAnswer::Written { listed } | WriteAnswer::NotFound { listed } => listed,
        WriteAnswer::Newer { .. }
        | WriteAnswer::Present { .. }
        | WriteAnswer::WrongBody
        | WriteAnswer::Full
        | WriteAnswer::Failed { .. } => &[],
    }
}

/// A request header's text, when it has one.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl Asking {
    pub(crate) async fn object(
        &self,
        path: ObjectPath,
        request: &Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let core = &self.core;
        let container = core
            .container_info(&path.container_path())
            .await?
            .ok_or(Fault::NotFound)?;
        let policy = container.policy;
        match request.method {
            Method::GET | Method::HEAD => core.get_object(policy, &path, request).await,
            Method::PUT if request.headers.contains_key("x-copy-from") => {
                self.copy_from(&container, path, request, body).await
            }
            Method::PUT => core.put_object(policy, &path, request, body).await,
            Method::POST => core.post_object(policy, &path, request).await,
            Method::DELETE => core.delete_object(policy, &path, request).await,
            _ => self.copy_to(path, request).await,
        }
    }
}

impl Core {
    /// Sees to it that W of a container's primaries have an object's record before a write is acknowledged: those the
    /// object nodes have told count, the others are told here.
    async fn list_record(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        answers: &[&WriteAnswer],
        record: impl FnOnce() -> ObjectRecord,
    ) -> bool {
        let replicas = self.cluster.container(&path.container_path());
        let done: HashSet<&Place> = answers.iter().flat_map(|answer| listed(answer)).collect();
        let needed = replicas.quorum().writes();
        let mut count = replicas
            .primaries
            .iter()
            .filter(|member| done.contains(&member.place))
            .count();
        if count >= needed {
            return true;
        }
        let head = container::Rows {
            path: path.container_path(),
            policy,
        };
        let records = [record()];
        for member in replicas
            .primaries
            .iter()
            .filter(|member| !done.contains(&member.place))
        {
            if self
                .cluster
                .limiter
                .is_limited(&member.place.address, self.cluster.clock.monotonic())
            {
                continue;
            }
            match self
                .cluster
                .nodes
                .post_object_records(&member.place, &head, &records)
                .await
            {
                Ok(true) => count += 1,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(device = %member.place, %error, "a container was not told");
                }
            }
            if count >= needed {
                return true;
            }
        }
        false
    }

    /// Refuses a write that changes nothing users could rely on: features that are not there yet.
    fn check_features(request: &Head) -> Result<(), Fault> {
        let query = request.uri.query().unwrap_or_default();
        if query
            .split('&')
            .any(|pair| pair.starts_with("multipart-manifest=put"))
        {
            return Err(Fault::NotImplemented(
                "static large objects are not supported".to_owned(),
            ));
        }
        if request.headers.contains_key("x-object-manifest") {
            return Err(Fault::NotImplemented(
                "dynamic large objects are not supported".to_owned(),
            ));
        }
        if request.headers.contains_key("x-symlink-target") {
            return Err(Fault::NotImplemented(
                "symlinks are not supported".to_owned(),
            ));
        }
        Ok(())
    }
}

/// The container an object is in, known to be there.
type Container = Arc<ContainerInfo>;

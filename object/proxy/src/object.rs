//! Objects: what handlers of all methods share.

pub(crate) mod answer;
pub(crate) mod arriving;
mod change;
mod conditional;
pub(crate) mod get;
pub(crate) mod put;
pub(crate) mod reading;
mod stream;
pub(crate) mod tag;

use crate::calls::{Calls, boxed};
use crate::fault::Fault;
use crate::proxy::{Asking, Core};
use crate::subrequest::{Answering, Trusted};
use core::time::Duration;
use http::Method;
use http::request::Parts as Head;
use onggi_common_service::http::{Body, Response};
use onggi_object_client::WriteAnswer;
use onggi_object_model::{ObjectPath, ObjectRecord, PolicyIndex, Resource};
use onggi_object_replica::Reply;
use onggi_object_wire::{Place, container};
use std::collections::HashSet;
use tokio::time::Instant;

/// How long the proxy waits for containers that the object's nodes could not tell in time.
const LISTED_WITHIN: Duration = Duration::from_secs(1);

/// How a node's answer to an object write counts.
fn write_reply(answer: &WriteAnswer) -> Reply {
    match answer {
        WriteAnswer::Written { .. } => Reply::Stored { existed: true },
        WriteAnswer::NotFound { .. } => Reply::Missing,
        WriteAnswer::Newer { newest } | WriteAnswer::Reserved { stamp: newest } => {
            Reply::Newer { newest: *newest }
        }
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
        | WriteAnswer::Reserved { .. }
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
        | WriteAnswer::Reserved { .. }
        | WriteAnswer::WrongBody
        | WriteAnswer::Full
        | WriteAnswer::Failed { .. } => &[],
    }
}

impl Asking {
    /// The end of the way through the middleware: an object as it is stored.
    pub(crate) fn stored(&self, path: ObjectPath, head: Head, body: Body) -> Answering<'_> {
        Box::pin(self.answer_stored(path, head, body))
    }

    async fn answer_stored(
        &self,
        path: ObjectPath,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        if head.extensions.get::<Trusted>().is_none() {
            let resource = Resource::Object(path.clone());
            self.authorize(&head.method, &resource, &head.headers)
                .await?;
        }
        let core = &self.core;
        let container = core.container_info(&path.container_path()).await?;
        let policy = container.ok_or(Fault::NotFound)?.policy;
        match head.method {
            Method::GET | Method::HEAD => self.read_stored(policy, &path, &head).await,
            Method::PUT => core.put_object(policy, &path, &head, body).await,
            Method::POST => core.post_object(policy, &path, &head).await,
            Method::DELETE => core.delete_object(policy, &path, &head).await,
            _ => Err(Fault::MethodNotAllowed(
                "GET, HEAD, PUT, POST, DELETE, COPY",
            )),
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
            .filter(|member| done.contains(&*member.place))
            .count();
        if count >= needed {
            return true;
        }
        let head = container::Rows {
            path: path.container_path(),
            policy,
            known: u16::MAX,
        };
        let now = self.cluster.clock.monotonic();
        let records = [record()];
        let mut calls = Calls::new();
        for member in replicas.well(&self.cluster.limiter, now) {
            if done.contains(&*member.place) {
                continue;
            }
            let (nodes, head, records) =
                (self.cluster.nodes.clone(), head.clone(), records.clone());
            self.cluster.limiter.on_sent(&member.place.address, now);
            let place = member.place.clone();
            let tell = async move { nodes.post_object_records(&place, &head, &records).await };
            calls.add(member, boxed(tell));
        }
        let deadline = Instant::now() + LISTED_WITHIN;
        while let Ok(Some((member, told))) = tokio::time::timeout_at(deadline, calls.next()).await {
            self.cluster.note(&member, &told);
            count += usize::from(matches!(told, Ok(true)));
            if count >= needed {
                break;
            }
        }
        // What is still under way may arrive: the container hears it once more from the object's nodes.
        self.cluster.detach(calls);
        count >= needed
    }
}

//! POST and DELETE of objects.

use super::{delete_reply, write_reply};
use crate::driver;
use crate::fault::Fault;
use crate::object::answer::PRECONDITION;
use crate::object::put::{expiry, plain};
use crate::proxy::Core;
use crate::subrequest::{Stamped, text};
use http::request::Parts as Head;
use http::{StatusCode, header};
use onggi_common_service::http::Response;
use onggi_object_model::{Etag, Metadata, ObjectPath, ObjectRecord, PolicyIndex, Verdict};
use onggi_object_replica::{Consistency, Failure, Outcome};
use onggi_object_wire::Place;
use onggi_object_wire::object::{Delete, Post, Which};

/// How often a write is tried again above what it met.
pub(super) const STAMPS_MAX: usize = 3;

impl Core {
    pub(super) async fn post_object(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        request: &Head,
    ) -> Result<Response, Fault> {
        let headers = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let mut metadata = Metadata::from_headers(headers)
            .map_err(|error| Fault::BadRequest(error.to_string()))?;
        expiry(&request.headers, self.cluster.clock.now(), &mut metadata)?;
        let content_type = text(&request.headers, header::CONTENT_TYPE.as_str());
        let content_type = content_type
            .filter(|text| !text.is_empty())
            .map(str::to_owned);
        // An expired object is not there, though its row still is.
        self.row(policy, path).await?;
        self.encryption.seal_metadata(path, &mut metadata)?;
        for _ in 0..STAMPS_MAX {
            let base = Post {
                which: Which::whole(policy, path.clone()),
                timestamp: self.cluster.clock.stamp(),
                content_type: content_type.clone(),
                metadata: metadata.clone(),
                listing: Vec::new(),
            };
            let nodes = self.cluster.nodes.clone();
            let send = |place: Place, told: Vec<Place>| {
                let (nodes, post) = (
                    nodes.clone(),
                    Post {
                        listing: told,
                        ..base.clone()
                    },
                );
                driver::boxed(async move { nodes.post_object(&place, &post).await })
            };
            let replicas = self
                .cluster
                .object(policy, path)
                .ok_or(Fault::Unavailable)?;
            let told = self.cluster.container(&path.container_path()).places();
            let written = self
                .cluster
                .write(&replicas, &told, send, write_reply)
                .await;
            match written.outcome {
                Outcome::Stored { .. } => return Ok(plain(StatusCode::ACCEPTED)),
                Outcome::Failed(Failure::Newer { newest }) => self.cluster.clock.observe(newest),
                Outcome::Failed(Failure::Missing) => return Err(Fault::NotFound),
                Outcome::Failed(_) => return Err(Fault::Unavailable),
            }
        }
        Err(Fault::Unavailable)
    }

    /// `If-Match` and the like.
    async fn check_delete_condition(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        request: &Head,
    ) -> Result<(), Fault> {
        let condition = super::answer::condition(request);
        if condition.is_empty() {
            return Ok(());
        }
        let known = self.head(policy, path).await?;
        let etag = super::answer::compared_etag(request, &known);
        let current = Some((etag.as_str(), known.info.timestamp()));
        if condition.judge_write(current) == Verdict::Proceed {
            Ok(())
        } else {
            Err(Fault::PreconditionFailed(PRECONDITION.to_owned()))
        }
    }

    /// `X-If-Delete-At`: only what is to expire at that second.
    async fn check_if_delete_at(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        request: &Head,
    ) -> Result<(), Fault> {
        let Some(wanted) = text(&request.headers, "x-if-delete-at") else {
            return Ok(());
        };
        if wanted.parse::<u64>().is_err() {
            return Err(Fault::BadRequest(
                "Bad X-If-Delete-At header value".to_owned(),
            ));
        }
        let known = self.row(policy, path).await?;
        if known.info.metadata.get("x-delete-at") == Some(wanted) {
            Ok(())
        } else {
            let words = "X-If-Delete-At and X-Delete-At do not match";
            Err(Fault::PreconditionFailed(words.to_owned()))
        }
    }

    pub(super) async fn delete_object(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        request: &Head,
    ) -> Result<Response, Fault> {
        self.check_delete_condition(policy, path, request).await?;
        self.check_if_delete_at(policy, path, request).await?;
        let stamped = request.extensions.get::<Stamped>().map(|at| at.0);
        if let Some(at) = stamped {
            self.cluster.clock.observe(at);
        }
        for _ in 0..STAMPS_MAX {
            let timestamp = stamped.unwrap_or_else(|| self.cluster.clock.stamp());
            let base = Delete {
                which: Which::whole(policy, path.clone()),
                timestamp,
                listing: Vec::new(),
            };
            let nodes = self.cluster.nodes.clone();
            let send = |place: Place, told: Vec<Place>| {
                let (nodes, delete) = (
                    nodes.clone(),
                    Delete {
                        listing: told,
                        ..base.clone()
                    },
                );
                driver::boxed(async move { nodes.delete_object(&place, &delete).await })
            };
            let replicas = self
                .cluster
                .object(policy, path)
                .ok_or(Fault::Unavailable)?;
            let told = self.cluster.container(&path.container_path()).places();
            let written = self
                .cluster
                .write(&replicas, &told, send, delete_reply)
                .await;
            match written.outcome {
                Outcome::Stored { existed, .. } => {
                    let answers: Vec<_> =
                        written.answers.iter().map(|(_, answer)| answer).collect();
                    let listed = self
                        .list_record(path, policy, &answers, || ObjectRecord {
                            name: path.object.clone(),
                            data_timestamp: timestamp,
                            content_type_timestamp: timestamp,
                            metadata_timestamp: timestamp,
                            deleted: true,
                            length: 0,
                            etag: Etag::EMPTY,
                            content_type: String::new(),
                            annotations: Metadata::default(),
                        })
                        .await;
                    if !listed && self.cluster.consistency == Consistency::Strict {
                        return Err(Fault::Unavailable);
                    }
                    let status = StatusCode::NO_CONTENT;
                    return if existed {
                        Ok(plain(status))
                    } else {
                        Err(Fault::NotFound)
                    };
                }
                Outcome::Failed(Failure::Newer { .. }) if stamped.is_some() => {
                    return Err(Fault::Conflict(String::new()));
                }
                Outcome::Failed(Failure::Newer { newest }) => self.cluster.clock.observe(newest),
                Outcome::Failed(_) => return Err(Fault::Unavailable),
            }
        }
        Err(Fault::Unavailable)
    }
}

//! POST and DELETE of objects.

use super::conditional::{Change, LEAD};
use super::{delete_reply, write_reply};
use crate::clock::HybridClock;
use crate::driver;
use crate::fault::Fault;
use crate::object::put::{expiry, plain};
use crate::proxy::Core;
use crate::subrequest::{Stamped, text};
use core::time::Duration;
use http::request::Parts as Head;
use http::{StatusCode, header};
use onggi_common_service::http::Response;
use onggi_common_units::Timestamp;
use onggi_object_client::WriteAnswer;
use onggi_object_model::{Etag, Metadata, ObjectPath, ObjectRecord, PolicyIndex};
use onggi_object_replica::{Consistency, Failure, Outcome, Quorum};
use onggi_object_wire::Place;
use onggi_object_wire::object::{Commit, Delete, Post, Which};
use std::sync::Arc;

/// How often a write is tried again above what it met.
const STAMPS_MAX: u32 = 8;
/// How far ahead of the clock the last of them is stamped.
pub(super) const LEAD_MAX: Duration = LEAD.saturating_mul(STAMPS_MAX);

/// The stamps under which a write without a condition is tried. Racers reserve a key a little ahead of the clock, or right
/// above what they have met, and refuse what is below: each of these is further ahead than the last, so that a stream of
/// racers does not keep the write out for ever.
pub(super) fn stamps(clock: &HybridClock) -> impl Iterator<Item = Timestamp> + '_ {
    (0..STAMPS_MAX).map(|tries| match tries {
        0 => clock.write_stamp(),
        _ => clock.ahead(LEAD.saturating_mul(tries)),
    })
}

/// Whether so many nodes have a write or a newer one, so that whatever becomes of it, nothing older is read again.
pub(super) fn is_settled<'a>(
    answers: impl IntoIterator<Item = &'a WriteAnswer>,
    needed: usize,
) -> bool {
    let is_there = |answer: &&WriteAnswer| {
        matches!(
            answer,
            WriteAnswer::Written { .. } | WriteAnswer::NotFound { .. } | WriteAnswer::Newer { .. }
        )
    };
    answers.into_iter().filter(is_there).count() >= needed
}

/// What a POST came to that met something newer, by the answers of its last round.
fn beaten<'a>(
    answers: impl Iterator<Item = &'a WriteAnswer> + Clone,
    quorum: Quorum,
) -> Result<Response, Fault> {
    let is_missing = |answer: &&WriteAnswer| matches!(answer, WriteAnswer::NotFound { .. });
    let is_written = |answer: &WriteAnswer| matches!(answer, WriteAnswer::Written { .. });
    // A node that found nothing has nothing of it.
    let others = answers.clone().filter(|answer| !is_missing(answer));
    if is_settled(others, quorum.writes()) {
        return Ok(plain(StatusCode::ACCEPTED));
    }
    // Most have deleted it meanwhile, and none has taken this.
    let missing = answers.clone().filter(is_missing).count();
    if missing >= quorum.reads() && !answers.clone().any(is_written) {
        return Err(Fault::NotFound);
    }
    Err(Fault::Unavailable)
}

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
        let mut came_to = Err(Fault::Unavailable);
        for timestamp in stamps(&self.cluster.clock) {
            let base = Post {
                which: Which::whole(policy, path.clone()),
                timestamp,
                content_type: content_type.clone(),
                metadata: metadata.clone(),
                listing: Vec::new(),
            };
            let nodes = self.cluster.nodes.clone();
            let send = |place: Arc<Place>, told: Vec<Place>| {
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
                Outcome::Stored { .. } => {
                    self.cluster.clock.observe(timestamp);
                    return Ok(plain(StatusCode::ACCEPTED));
                }
                Outcome::Failed(Failure::Newer { newest }) => {
                    self.cluster.clock.observe(newest);
                    let answers = written.answers.iter().map(|(_, answer)| answer);
                    came_to = beaten(answers, replicas.quorum());
                }
                Outcome::Failed(Failure::Missing) => return Err(Fault::NotFound),
                Outcome::Failed(_) => return Err(Fault::Unavailable),
            }
        }
        came_to
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
        let which = Which::whole(policy, path.clone());
        let claim = self.check_condition(&which, request).await?;
        self.check_if_delete_at(policy, path, request).await?;
        if let Some(claim) = claim {
            return self.delete_conditional(&which, request, claim).await;
        }
        let stamped = request.extensions.get::<Stamped>().map(|at| at.0);
        if let Some(at) = stamped {
            self.cluster.clock.observe(at);
        }
        let mut is_superseded = false;
        for timestamp in stamps(&self.cluster.clock) {
            let timestamp = stamped.unwrap_or(timestamp);
            let base = Delete {
                which: which.clone(),
                timestamp,
                commit: None,
                listing: Vec::new(),
            };
            let nodes = self.cluster.nodes.clone();
            let send = |place: Arc<Place>, told: Vec<Place>| {
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
            let answers: Vec<&WriteAnswer> =
                written.answers.iter().map(|(_, answer)| answer).collect();
            match written.outcome {
                Outcome::Stored { existed, .. } => {
                    self.cluster.clock.observe(timestamp);
                    self.list_deletion(&which, timestamp, &answers).await?;
                    return if existed {
                        Ok(plain(StatusCode::NO_CONTENT))
                    } else {
                        Err(Fault::NotFound)
                    };
                }
                Outcome::Failed(Failure::Newer { .. }) if stamped.is_some() => {
                    return Err(Fault::Conflict(String::new()));
                }
                Outcome::Failed(Failure::Newer { newest }) => {
                    self.cluster.clock.observe(newest);
                    is_superseded = is_settled(answers, replicas.quorum().writes());
                }
                Outcome::Failed(_) => return Err(Fault::Unavailable),
            }
        }
        // Each time another object had been put meanwhile, and stands.
        Err(if is_superseded {
            Fault::Conflict(String::new())
        } else {
            Fault::Unavailable
        })
    }

    async fn delete_conditional(
        &self,
        which: &Which,
        request: &Head,
        claim: Commit,
    ) -> Result<Response, Fault> {
        let won = self.contest(which, request, claim, &Change::Delete).await?;
        let answers: Vec<&WriteAnswer> = won.answers.iter().collect();
        self.list_deletion(which, won.timestamp, &answers).await?;
        Ok(plain(StatusCode::NO_CONTENT))
    }

    /// Sees to it that listings know of a deletion.
    async fn list_deletion(
        &self,
        which: &Which,
        timestamp: Timestamp,
        answers: &[&WriteAnswer],
    ) -> Result<(), Fault> {
        let record = || ObjectRecord {
            name: which.path.object.clone(),
            data_timestamp: timestamp,
            content_type_timestamp: timestamp,
            metadata_timestamp: timestamp,
            deleted: true,
            length: 0,
            etag: Etag::EMPTY,
            content_type: String::new(),
            annotations: Metadata::default(),
        };
        let listed = self
            .list_record(&which.path, which.policy, answers, record)
            .await;
        if !listed && self.cluster.consistency == Consistency::Strict {
            return Err(Fault::Unavailable);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::{SystemClock, SystemEntropy};

    #[test]
    fn a_post_that_met_newer_rows_is_superseded_gone_or_unknown() {
        let newer = WriteAnswer::Newer {
            newest: Timestamp::ZERO,
        };
        let missing = WriteAnswer::NotFound { listed: Vec::new() };
        let written = WriteAnswer::Written { listed: Vec::new() };
        let code = |answers: &[&WriteAnswer]| {
            let came_to = beaten(answers.iter().copied(), Quorum::of(3));
            came_to.map(|response| response.status())
        };
        assert_eq!(
            code(&[&newer, &newer, &missing]).ok(),
            Some(StatusCode::ACCEPTED)
        );
        assert_eq!(
            code(&[&newer, &written, &missing]).ok(),
            Some(StatusCode::ACCEPTED)
        );
        let gone = code(&[&newer, &missing, &missing]);
        assert!(matches!(gone, Err(Fault::NotFound)), "{gone:?}");
        for unknown in [
            code(&[&written, &missing, &missing]),
            code(&[&newer, &missing]),
        ] {
            assert!(matches!(unknown, Err(Fault::Unavailable)), "{unknown:?}");
        }
    }

    #[test]
    fn each_attempt_is_stamped_above_what_racers_reserve_meanwhile() {
        let clock = HybridClock::new(Arc::new(SystemClock::default()), &SystemEntropy);
        let mut reserved = Timestamp::ZERO;
        for (tries, stamp) in stamps(&clock).enumerate() {
            assert!(stamp > reserved || tries == 0, "attempt {tries}");
            // A racer that has met this attempt goes right above it; one that has not, a little ahead of the clock.
            let (above, ahead) = (stamp.next(), clock.ahead(LEAD));
            reserved = above.unwrap_or(stamp).max(ahead);
            clock.observe(reserved);
            assert!(stamp <= clock.ahead(LEAD_MAX));
        }
    }

    #[test]
    fn a_node_with_the_write_or_a_newer_one_is_settled() {
        let answers = [
            WriteAnswer::Written { listed: Vec::new() },
            WriteAnswer::Newer {
                newest: Timestamp::ZERO,
            },
            WriteAnswer::Full,
            WriteAnswer::WrongBody,
            WriteAnswer::Reserved {
                stamp: Timestamp::ZERO,
            },
        ];
        assert!(is_settled(&answers, 2) && !is_settled(&answers, 3));
    }
}

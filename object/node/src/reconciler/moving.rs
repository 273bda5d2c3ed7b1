//! Moving one object from one policy to another.

use crate::quorum::Copies;
use crate::server::Node;
use bytes::Bytes;
use core::time::Duration;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use onggi_common_units::Timestamp;
use onggi_object_client::{Call, CallBody, CallError, GetAnswer, Nodes, WriteAnswer};
use onggi_object_model::{Metadata, ObjectPath, PolicyIndex};
use onggi_object_replica::{Outcome, Reply};
use onggi_object_wire::object::{Found, Get, Tail, WHOLE, Which};
use onggi_object_wire::replication::{
    MESSAGE_BYTES_MAX, Push, PushBody, PushRow, Scope, decode_units, encode_pushes,
};
use onggi_object_wire::{Body, ObjectRow, Place, Resource};

/// How long one copy may take.
const COPY_TIME_MAX: Duration = Duration::from_secs(3_600);

/// What a look at both policies came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looked {
    /// Whether something was moved.
    pub(super) is_moved: bool,
    /// The newest that the right policy has now: bytes, or the trace of a deletion.
    pub(super) newest: Timestamp,
    /// Whether that is an object.
    pub(super) is_there: bool,
}

/// What the devices of a policy have of an object.
#[derive(Default)]
struct Known {
    /// The newest bytes, and where they are.
    found: Option<(Box<Found>, Place)>,
    /// The newest trace of a deletion.
    tombstone: Timestamp,
    /// Primaries that answered.
    answered: usize,
    /// Some device has bytes that are damaged: what is newest is not known.
    is_damaged: bool,
}

impl Known {
    fn bytes(&self) -> Timestamp {
        let found = self.found.as_ref();
        found.map_or(Timestamp::ZERO, |(found, _)| found.info.data_timestamp)
    }

    fn newest(&self) -> Timestamp {
        self.bytes().max(self.tombstone)
    }

    /// Whether the newest is an object.
    fn is_there(&self) -> bool {
        self.bytes() > self.tombstone
    }
}

impl Node {
    /// Moves what is newer under the wrong policy to the right one. `None`: not now.
    pub(super) async fn reconcile_object(
        &self,
        path: &ObjectPath,
        wrong: PolicyIndex,
        right: PolicyIndex,
    ) -> Option<Looked> {
        let hash = self.hash.object(path);
        let from = self.copies(Scope::Objects(wrong), &hash)?;
        let to = self.copies(Scope::Objects(right), &hash)?;
        let held = self.known(wrong, path, &from).await?;
        let there = self.known(right, path, &to).await?;
        let mut looked = Looked {
            is_moved: false,
            newest: there.newest(),
            is_there: there.is_there(),
        };
        if held.newest() > there.newest() && (held.is_there() || there.is_there()) {
            match held.found.as_ref().filter(|_| held.is_there()) {
                Some((found, place)) => {
                    self.copy(path, (wrong, place), (right, &to), found).await?;
                }
                // The deletion was heard of under the wrong policy alone.
                None => self.bury(right, path, held.tombstone, to).await?,
            }
            looked = Looked {
                is_moved: true,
                newest: held.newest(),
                is_there: held.is_there(),
            };
        }
        if held.is_there() {
            // Of the stamp of the bytes: it wins over these, and is no news of a deletion to whoever looks at it later.
            self.bury(wrong, path, held.bytes(), from).await?;
        }
        Some(looked)
    }

    /// What a quorum of a policy's primaries has, and whoever stands in for them.
    async fn known(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        copies: &Copies,
    ) -> Option<Known> {
        let get = Get {
            which: Which::whole(policy, path.clone()),
            range: None,
            version: None,
        };
        let (caller, primaries) = (self.caller(), copies.primaries());
        let places = copies.everywhere();
        let asked = places.iter().map(|place| {
            let (caller, get) = (&caller, &get);
            async move {
                caller
                    .called(place, caller.nodes.head_object(place, get))
                    .await
            }
        });
        let answers = crate::replicator::join_all(asked).await;
        let mut known = Known::default();
        for (place, answer) in places.iter().zip(answers) {
            match answer {
                Some(GetAnswer::Found { found, .. }) => {
                    if found.info.data_timestamp > known.bytes() || known.found.is_none() {
                        known.found = Some((found, place.clone()));
                    }
                }
                Some(GetAnswer::Missing { tombstone }) => {
                    known.tombstone = known.tombstone.max(tombstone.unwrap_or(Timestamp::ZERO));
                }
                Some(GetAnswer::Damaged { .. }) => known.is_damaged = true,
                Some(
                    GetAnswer::Unsatisfiable { .. }
                    | GetAnswer::OtherVersion
                    | GetAnswer::Failed { .. },
                )
                | None => continue,
            }
            known.answered += usize::from(primaries.contains(place));
        }
        let is_known = known.answered >= copies.quorum().reads() && !known.is_damaged;
        is_known.then_some(known)
    }

    /// Copies an object with its stamps to the primaries of another policy; `None` when fewer than W have it.
    async fn copy(
        &self,
        path: &ObjectPath,
        (from, place): (PolicyIndex, &Place),
        (to, copies): (PolicyIndex, &Copies),
        found: &Found,
    ) -> Option<()> {
        let get = Get {
            which: Which::whole(from, path.clone()),
            range: None,
            version: Some(found.info.data_timestamp),
        };
        let head = PushBody {
            policy: to,
            fragment: WHOLE,
            row: row_of(path, found),
        };
        let mut count = 0;
        for target in copies.primaries() {
            let copied =
                tokio::time::timeout(COPY_TIME_MAX, self.copy_one(place, &get, &target, &head));
            match copied.await {
                // Something newer there is what this would have become.
                Ok(Ok(WriteAnswer::Written { .. } | WriteAnswer::Newer { .. })) => count += 1,
                Ok(Ok(answer)) => {
                    tracing::info!(%path, %target, ?answer, "a misplaced object was not taken");
                }
                Ok(Err(error)) => {
                    tracing::info!(%path, %target, %error, "a misplaced object was not copied");
                }
                Err(_elapsed) => {
                    tracing::info!(%path, %target, "copying a misplaced object took too long")
                }
            }
        }
        (count >= copies.quorum().writes()).then_some(())
    }

    async fn copy_one(
        &self,
        from: &Place,
        get: &Get,
        to: &Place,
        head: &PushBody,
    ) -> Result<WriteAnswer, CallError> {
        let mut body = match self.nodes.get_object(from, get).await? {
            GetAnswer::Found { body, .. } => body,
            other => {
                return Err(CallError::Malformed {
                    detail: format!("{from} has it no more: {other:?}"),
                });
            }
        };
        let stream = self.nodes.stream(to, Resource::Body, head)?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| CallError::Malformed {
                detail: format!("{from} broke off: {error}"),
            })?;
            if let Ok(bytes) = frame.into_data()
                && stream.send(bytes).await.is_err()
            {
                return stream.answer().await;
            }
        }
        let Some(Body {
            length, etag, root, ..
        }) = head.row.body.clone()
        else {
            return Err(CallError::GivenUp);
        };
        let tail = Tail {
            length,
            etag,
            root,
            system: Metadata::default(),
            settled: None,
        };
        stream.finish(&tail).await
    }

    /// Leaves the trace of a deletion under a policy, as replication brings one: no container is told, and one of the stamp
    /// of the bytes wins over these. `None` when no quorum has it.
    pub(crate) async fn bury(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        timestamp: Timestamp,
        copies: Copies,
    ) -> Option<()> {
        let trace = PushRow {
            fragment: WHOLE,
            row: ObjectRow::tombstone(path.clone(), timestamp),
            bytes: None,
        };
        let message = Bytes::from(encode_pushes(&[trace]));
        let this = self.caller();
        let outcome = copies.write(&[], |place, _told| {
            let (this, message) = (this.clone(), message.clone());
            async move {
                let sent = push(&this.nodes, &place, policy, message);
                this.called(&place, sent).await
            }
        });
        matches!(outcome.await, Outcome::Stored { .. }).then_some(())
    }
}

async fn push(
    nodes: &Nodes,
    place: &Place,
    policy: PolicyIndex,
    message: Bytes,
) -> Result<Reply, CallError> {
    let call = Call::new(Method::POST, Resource::Rows, &Push { policy })?;
    let call = call.with_body(CallBody::Whole(message));
    let answer = nodes.client().call(place, call).await?;
    let status = answer.status;
    let refused = answer.bytes(MESSAGE_BYTES_MAX).await?;
    let is_taken = status == StatusCode::ACCEPTED
        && decode_units(&refused).is_ok_and(|refused| refused.is_empty());
    Ok(if is_taken {
        Reply::Stored { existed: true }
    } else {
        Reply::Failed
    })
}

/// An object's row, as its readers' answer tells it.
fn row_of(path: &ObjectPath, found: &Found) -> ObjectRow {
    let info = &found.info;
    ObjectRow {
        path: path.clone(),
        data_timestamp: info.data_timestamp,
        body: Some(Body {
            length: info.length,
            etag: info.etag,
            root: found.root,
            system: found.system.clone(),
        }),
        content_type_timestamp: info.content_type_timestamp,
        content_type: info.content_type.clone(),
        metadata_timestamp: info.metadata_timestamp,
        metadata: info.metadata.clone(),
    }
}

//! Reservations: the first phase of conditional writes, and how the others mind it.

use crate::object::conflict;
use crate::respond;
use crate::server::{Call, Node};
use http::StatusCode;
use onggi_common_service::http::Response;
use onggi_common_units::Timestamp;
use onggi_object_device::{Commit, Guard, Reserved};
use onggi_object_wire::object::{self as wire, Refused, Release, Reserve, Written};

impl Call<'_> {
    pub(crate) async fn reserve_object(self) -> Result<Response, Response> {
        let Reserve {
            which,
            timestamp,
            commit,
        } = self.head()?;
        self.body.none().await?;
        if self.node.is_ahead(timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let key = self.node.object_key(&which);
        let (commit, now) = (device_commit(&commit), self.node.clock.now());
        let holds = &self.node.holds;
        holds.begin(&self.disk.name, key, commit.token);
        let done = self
            .disk
            .call(move |device| device.reserve(&key, &commit, timestamp, now))
            .await;
        // The racer asks again, above what is there: until then nothing newer comes.
        let is_held = matches!(done, Ok(Reserved::Granted | Reserved::Newer { .. }));
        if !is_held {
            holds.end(&self.disk.name, key, &commit.token);
        }
        let done = done.map_err(|error| respond::disk_error("reserving a key", &error))?;
        Ok(match done {
            Reserved::Granted => respond::with_head(StatusCode::CREATED, &Written::default()),
            Reserved::Newer { newest } => conflict(newest),
            Reserved::Present { newest } => {
                respond::with_head(StatusCode::PRECONDITION_FAILED, &Refused { newest })
            }
            Reserved::Taken { stamp } => reserved(stamp),
            Reserved::TooMany => respond::status(StatusCode::INSUFFICIENT_STORAGE),
        })
    }

    pub(crate) async fn release_object(self) -> Result<Response, Response> {
        let Release { which, token } = self.head()?;
        self.body.none().await?;
        let key = self.node.object_key(&which);
        let done = self
            .disk
            .call(move |device| device.release(&key, &token))
            .await;
        self.node.holds.end(&self.disk.name, key, &token);
        done.map_err(|error| respond::disk_error("releasing a key", &error))?;
        Ok(respond::with_head(
            StatusCode::NO_CONTENT,
            &Written::default(),
        ))
    }
}

/// How a client's write minds reservations.
pub(crate) fn guard(node: &Node, commit: Option<&wire::Commit>) -> Guard {
    let now = node.clock.now();
    match commit {
        None => Guard::Above { now },
        Some(commit) => Guard::Commit {
            commit: device_commit(commit),
            now,
        },
    }
}

const fn device_commit(commit: &wire::Commit) -> Commit {
    Commit {
        token: commit.token,
        expected: commit.expected,
    }
}

pub(crate) fn reserved(stamp: Timestamp) -> Response {
    respond::with_head(StatusCode::LOCKED, &Refused { newest: stamp })
}

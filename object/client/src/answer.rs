//! Answers as callers tell them apart.

use crate::call::{Answer, Body, CallError};
use http::StatusCode;
use onggi_common_units::Timestamp;
use onggi_object_model::{AccountInfo, ContainerInfo, Listing};
use onggi_object_wire::codec::CodecError;
use onggi_object_wire::object::{Found, Missing, Refused, Written};
use onggi_object_wire::pages::{self, Entry};
use onggi_object_wire::{Place, container};
use serde::de::DeserializeOwned;

/// The most bytes of a listing's page: ten thousand names with everything about them.
pub const LISTING_BYTES_MAX: usize = 64 << 20;
/// What is read of an answer without a body of interest, so that its connection can be used again.
const DRAIN_BYTES_MAX: usize = 64 << 10;

async fn drained(answer: Answer) {
    // A body that is too long or broken costs the connection, nothing else.
    drop(answer.bytes(DRAIN_BYTES_MAX).await);
}

/// The answer to a write of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteAnswer {
    /// 201, 202, 204: it is on stable storage there.
    Written {
        /// The container devices that have the listing row.
        listed: Vec<Place>,
    },
    /// 404: a POST found nothing; a DELETE found nothing and left a tombstone on stable storage.
    NotFound {
        /// The container devices that have the listing row.
        listed: Vec<Place>,
    },
    /// 409: the device has something newer, or of the same moment.
    Newer {
        /// The newest timestamp of its row.
        newest: Timestamp,
    },
    /// 412: the object is not as a conditional PUT expects it.
    Present {
        /// The newest timestamp of its row.
        newest: Timestamp,
    },
    /// 423: the key is reserved for a conditional PUT.
    Reserved {
        /// The stamp of that one.
        stamp: Timestamp,
    },
    /// 422: the bytes that came are not what the tail says.
    WrongBody,
    /// 507: no space, or the device is not there.
    Full,
    /// Anything else.
    Failed {
        /// The status.
        status: StatusCode,
    },
}

impl WriteAnswer {
    /// Whether the write is on stable storage there.
    #[must_use]
    pub const fn is_stored(&self) -> bool {
        matches!(self, Self::Written { .. })
    }

    pub(crate) async fn from_answer(answer: Answer) -> Result<Self, CallError> {
        let told = match answer.status {
            StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                let Written { listed } = answer.head()?;
                Self::Written { listed }
            }
            StatusCode::NOT_FOUND => {
                let Written { listed } = answer.head()?;
                Self::NotFound { listed }
            }
            StatusCode::CONFLICT => {
                let Refused { newest } = answer.head()?;
                Self::Newer { newest }
            }
            StatusCode::PRECONDITION_FAILED => {
                let Refused { newest } = answer.head()?;
                Self::Present { newest }
            }
            StatusCode::LOCKED => {
                let Refused { newest } = answer.head()?;
                Self::Reserved { stamp: newest }
            }
            StatusCode::UNPROCESSABLE_ENTITY => Self::WrongBody,
            StatusCode::INSUFFICIENT_STORAGE => Self::Full,
            status => Self::Failed { status },
        };
        drained(answer).await;
        Ok(told)
    }
}

/// The answer to a read of an object.
pub enum GetAnswer {
    /// 200, 206: it is there; its bytes follow. After a HEAD none do.
    Found {
        /// What is known about it. `ranges` is empty when the whole of it follows.
        found: Box<Found>,
        /// The bytes: verified by the node as they leave it. A body that breaks off must be gone on with elsewhere.
        body: Body,
    },
    /// 416: none of the ranges touches it.
    Unsatisfiable {
        /// What is known about it.
        found: Box<Found>,
    },
    /// 404.
    Missing {
        /// When it was deleted, if the device remembers.
        tombstone: Option<Timestamp>,
    },
    /// 409: the device has another version than asked for.
    OtherVersion,
    /// 503: the row is there and its bytes are damaged. It must not be answered with an older copy.
    Damaged {
        /// What is known about it.
        found: Box<Found>,
    },
    /// Anything else.
    Failed {
        /// The status.
        status: StatusCode,
    },
}

impl core::fmt::Debug for GetAnswer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Found { found, .. } => f.debug_tuple("Found").field(found).finish(),
            Self::Unsatisfiable { found } => f.debug_tuple("Unsatisfiable").field(found).finish(),
            Self::Missing { tombstone } => f.debug_tuple("Missing").field(tombstone).finish(),
            Self::OtherVersion => f.write_str("OtherVersion"),
            Self::Damaged { found } => f.debug_tuple("Damaged").field(found).finish(),
            Self::Failed { status } => f.debug_tuple("Failed").field(status).finish(),
        }
    }
}

impl GetAnswer {
    pub(crate) async fn from_answer(answer: Answer) -> Result<Self, CallError> {
        let status = answer.status;
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            let found = Box::new(answer.head()?);
            return Ok(Self::Found {
                found,
                body: answer.body,
            });
        }
        let told = match status {
            StatusCode::RANGE_NOT_SATISFIABLE => Self::Unsatisfiable {
                found: Box::new(answer.head()?),
            },
            StatusCode::NOT_FOUND => {
                let Missing { tombstone } = answer.head()?;
                Self::Missing { tombstone }
            }
            StatusCode::CONFLICT => Self::OtherVersion,
            StatusCode::SERVICE_UNAVAILABLE if answer.head.is_some() => Self::Damaged {
                found: Box::new(answer.head()?),
            },
            status => Self::Failed { status },
        };
        drained(answer).await;
        Ok(told)
    }
}

/// The answer to a write of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerAnswer {
    /// 201: it was made.
    Made {
        /// The account devices that have the record.
        listed: Vec<Place>,
    },
    /// 202, 204: it was there, and is changed or deleted.
    Done {
        /// The account devices that have the record.
        listed: Vec<Place>,
    },
    /// 404.
    NotFound,
    /// 409: not empty, another policy, or something newer is there.
    Conflict,
    /// 403: the account was deleted, and is not gone yet.
    Deleted,
    /// 507.
    Full,
    /// Anything else.
    Failed {
        /// The status.
        status: StatusCode,
    },
}

impl ContainerAnswer {
    pub(crate) async fn from_answer(answer: Answer) -> Result<Self, CallError> {
        let told = Self::of_head(&answer)?;
        drained(answer).await;
        Ok(told)
    }

    fn of_head(answer: &Answer) -> Result<Self, CallError> {
        let listed = || {
            let head = answer
                .head
                .is_some()
                .then(|| answer.head::<container::Written>());
            Ok::<_, CallError>(head.transpose()?.unwrap_or_default().listed)
        };
        Ok(match answer.status {
            StatusCode::CREATED => Self::Made { listed: listed()? },
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Self::Done { listed: listed()? },
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::CONFLICT => Self::Conflict,
            StatusCode::FORBIDDEN => Self::Deleted,
            StatusCode::INSUFFICIENT_STORAGE => Self::Full,
            status => Self::Failed { status },
        })
    }
}

/// The answer to a HEAD of a container or account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InfoAnswer<T> {
    /// 204.
    Found(Box<T>),
    /// 404; with what is known about a deleted one.
    Missing(Option<Box<T>>),
    /// Anything else.
    Failed {
        /// The status.
        status: StatusCode,
    },
}

impl<T: DeserializeOwned> InfoAnswer<T> {
    pub(crate) async fn from_answer(answer: Answer) -> Result<Self, CallError> {
        let told = match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT => Self::Found(Box::new(answer.head()?)),
            StatusCode::NOT_FOUND => {
                let known = answer.head.is_some().then(|| answer.head());
                Self::Missing(known.transpose()?.map(Box::new))
            }
            status => Self::Failed { status },
        };
        drained(answer).await;
        Ok(told)
    }
}

/// The answer to a listing: of objects with a [`ContainerInfo`], of containers with an [`AccountInfo`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListAnswer<I, E> {
    /// 200.
    Found {
        /// What is known about the container or account.
        info: Box<I>,
        /// The page.
        listing: Listing<E>,
    },
    /// 404; with what is known about a deleted one.
    Missing(Option<Box<I>>),
    /// Anything else.
    Failed {
        /// The status.
        status: StatusCode,
    },
}

impl<I: DeserializeOwned, E: Entry> ListAnswer<I, E> {
    pub(crate) async fn from_answer(answer: Answer) -> Result<Self, CallError> {
        if answer.status != StatusCode::OK {
            return Ok(match InfoAnswer::from_answer(answer).await? {
                InfoAnswer::Missing(info) => Self::Missing(info),
                InfoAnswer::Found(_) => Self::Failed {
                    status: StatusCode::NO_CONTENT,
                },
                InfoAnswer::Failed { status } => Self::Failed { status },
            });
        }
        let info = Box::new(answer.head()?);
        let bytes = answer.bytes(LISTING_BYTES_MAX).await?;
        let malformed = |error: CodecError| CallError::Malformed {
            detail: error.to_string(),
        };
        Ok(Self::Found {
            info,
            listing: pages::decode(&bytes).map_err(malformed)?,
        })
    }
}

/// What a HEAD of a container says.
pub type ContainerInfoAnswer = InfoAnswer<ContainerInfo>;
/// What a HEAD of an account says.
pub type AccountInfoAnswer = InfoAnswer<AccountInfo>;

//! GET and HEAD of objects: the newest version a read quorum knows, and its bytes from whoever has them whole.

use super::reading::{Reading, Sources, piped};
use crate::cluster::{Member, Replicas};
use crate::driver::{self, Asked};
use crate::fault::Fault;
use crate::proxy::Core;
use crate::roster::is_found;
use onggi_common_service::http::{Body, empty, full};
use onggi_common_units::Timestamp;
use onggi_object_client::GetAnswer;
use onggi_object_encryption::BodyCipher;
use onggi_object_model::{ByteRange, Metadata, ObjectInfo, ObjectPath, PolicyIndex};
use onggi_object_replica::{Answer, GetStep, merge};
use onggi_object_wire::Place;
use onggi_object_wire::object::{Found, Get, Wanted, Which};
use std::sync::Arc;

/// A body this short is read whole before it is answered: a node that breaks off is then no one's business.
const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// How often an object is looked for anew when it was replaced before its bytes could be read.
const OPENED_MAX: usize = 5;

/// What one node said, and whether it was asked for bytes as well.
struct Said {
    has_body: bool,
    answer: GetAnswer,
}

/// An object's row as all answers together know it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) info: ObjectInfo,
    /// What the system keeps with its bytes.
    pub(crate) system: Metadata,
}

/// An object that is there, and its bytes.
pub(super) struct Opened {
    pub(super) known: Known,
    /// The part that was asked for; `None` for the whole.
    pub(super) range: Option<ByteRange>,
    pub(super) body: Body,
}

/// An object whose row is known and whose bytes are not open yet.
struct Located {
    known: Known,
    /// When the bytes were put that are to be read.
    version: Timestamp,
    range: Option<ByteRange>,
    /// A body that was opened along the way.
    open: Option<onggi_object_client::Body>,
    /// Where else the same bytes may be, best first.
    sources: Sources,
    /// What decrypts the bytes, when they are encrypted.
    cipher: Option<BodyCipher>,
}

fn classify(said: &Said) -> Answer {
    match &said.answer {
        GetAnswer::Found { found, .. } | GetAnswer::Unsatisfiable { found } => Answer::Found {
            data: found.info.data_timestamp,
            healthy: true,
        },
        GetAnswer::Damaged { found } => Answer::Found {
            data: found.info.data_timestamp,
            healthy: false,
        },
        GetAnswer::Missing { tombstone } => Answer::Missing {
            tombstone: *tombstone,
        },
        GetAnswer::OtherVersion | GetAnswer::Failed { .. } => Answer::Failed,
    }
}

fn found_of(answer: &GetAnswer) -> Option<&Found> {
    match answer {
        GetAnswer::Found { found, .. }
        | GetAnswer::Unsatisfiable { found }
        | GetAnswer::Damaged { found } => Some(found),
        GetAnswer::Missing { .. } | GetAnswer::OtherVersion | GetAnswer::Failed { .. } => None,
    }
}

fn info_of(answer: &GetAnswer) -> Option<&ObjectInfo> {
    found_of(answer).map(|found| &found.info)
}

/// What all answers together say; 404 when it has expired.
fn merged(asked: &Asked<Said>, now: Timestamp) -> Result<Known, Fault> {
    let found = || {
        asked
            .answers
            .iter()
            .filter_map(|(_, said)| found_of(&said.answer))
    };
    let mut infos = found().map(|found| &found.info);
    let mut info = infos.next().ok_or(Fault::NotFound)?.clone();
    infos.for_each(|other| merge::object_info(&mut info, other));
    let expires = info
        .metadata
        .get("x-delete-at")
        .and_then(|text| text.parse::<u64>().ok());
    if expires.is_some_and(|at| at <= now.to_utc().seconds()) {
        return Err(Fault::NotFound);
    }
    let of_data = |found: &&Found| found.info.data_timestamp == info.data_timestamp;
    let system = found().find(of_data).map(|found| found.system.clone());
    Ok(Known {
        system: system.unwrap_or_default(),
        info,
    })
}

impl Core {
    async fn ask(
        &self,
        base: &Get,
        path: &ObjectPath,
        wants_body: bool,
    ) -> Result<(Asked<Said>, Replicas), Fault> {
        let replicas = self
            .cluster
            .object(base.which.policy, path)
            .ok_or(Fault::Unavailable)?;
        let nodes = self.cluster.nodes.clone();
        let send = |place: Arc<Place>, first: bool| {
            let (nodes, get) = (nodes.clone(), base.clone());
            let has_body = first && wants_body;
            driver::boxed(async move {
                let answer = if has_body {
                    nodes.get_object(&place, &get).await?
                } else {
                    nodes.head_object(&place, &get).await?
                };
                Ok(Said { has_body, answer })
            })
        };
        let asked = self.cluster.read(&replicas, send, classify).await;
        if is_found(&asked)? {
            Ok((asked, replicas))
        } else {
            Err(Fault::NotFound)
        }
    }

    /// What is known about an object.
    pub(crate) async fn head(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
    ) -> Result<Known, Fault> {
        let mut known = self.row(policy, path).await?;
        self.encryption.open(path, &mut known)?;
        Ok(known)
    }

    /// The same as nodes know it: what is encrypted is not opened.
    pub(crate) async fn row(&self, policy: PolicyIndex, path: &ObjectPath) -> Result<Known, Fault> {
        let get = Get {
            which: Which::whole(policy, path.clone()),
            range: None,
            version: None,
        };
        let (asked, _) = self.ask(&get, path, false).await?;
        let known = merged(&asked, self.cluster.clock.now())?;
        self.cluster.clock.observe(known.info.timestamp());
        Ok(known)
    }

    /// Whether an object that is not served is one that has expired.
    pub(crate) async fn has_expired(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
    ) -> Result<bool, Fault> {
        let get = Get {
            which: Which::whole(policy, path.clone()),
            range: None,
            version: None,
        };
        match self.ask(&get, path, false).await {
            Ok((asked, _)) => Ok(merged(&asked, Timestamp::ZERO).is_ok()),
            Err(Fault::NotFound) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Finds an object and opens what is wanted of it.
    async fn locate(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        range: Option<String>,
    ) -> Result<Located, Fault> {
        let which = Which::whole(policy, path.clone());
        let get = Get {
            which,
            range: range.map(Wanted::Header),
            version: None,
        };
        let (asked, replicas) = self.ask(&get, path, true).await?;
        let mut known = merged(&asked, self.cluster.clock.now())?;
        let GetStep::Read { data: version } = asked.step else {
            return Err(Fault::NotFound);
        };
        let holders: Vec<_> = asked.machine.holders(version).collect();
        let others: Vec<_> = asked.machine.others().collect();
        let mut open = None;
        let (mut ranges, mut unsatisfiable, mut opened_at) = (None, false, None);
        for (member, said) in asked.answers {
            if info_of(&said.answer).is_none_or(|info| info.data_timestamp != version) {
                continue;
            }
            match said.answer {
                GetAnswer::Found { found, body } => {
                    ranges.get_or_insert(found.ranges);
                    if said.has_body {
                        (open, opened_at) = (Some(body), Some(member.id));
                    }
                }
                GetAnswer::Unsatisfiable { .. } => unsatisfiable = true,
                GetAnswer::Damaged { .. }
                | GetAnswer::Missing { .. }
                | GetAnswer::OtherVersion
                | GetAnswer::Failed { .. } => {}
            }
        }
        if unsatisfiable {
            return Err(Fault::RangeNotSatisfiable {
                length: known.info.length,
            });
        }
        let range = ranges.and_then(|ranges| ranges.first().copied());
        let others = others.into_iter().filter(|id| !holders.contains(id));
        let reachable = holders
            .iter()
            .copied()
            .filter(|id| Some(*id) != opened_at)
            .chain(others);
        let reachable: Vec<Member> = reachable.filter_map(|id| replicas.find(id)).collect();
        let sources = Sources::new(reachable, replicas);
        Ok(Located {
            cipher: self.encryption.open(path, &mut known)?,
            known,
            version,
            range,
            open,
            sources,
        })
    }

    /// Opens an object: the bytes come from one node after another if need be, and of what has come in its place if it
    /// was replaced before the first of them came.
    pub(super) async fn open(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        range: Option<String>,
    ) -> Result<Opened, Fault> {
        for _ in 1..OPENED_MAX {
            let located = self.locate(policy, path, range.clone()).await?;
            if let Some(opened) = self.open_located(policy, path, located).await? {
                return Ok(opened);
            }
        }
        let located = self.locate(policy, path, range).await?;
        let opened = self.open_located(policy, path, located).await?;
        opened.ok_or(Fault::Unavailable)
    }

    /// `None` when it was replaced meanwhile.
    async fn open_located(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        located: Located,
    ) -> Result<Option<Opened>, Fault> {
        let Located {
            known,
            version,
            range,
            open,
            sources,
            mut cipher,
        } = located;
        let (start, end) =
            range.map_or((0, known.info.length), |range| (range.start(), range.end()));
        if let Some(cipher) = &mut cipher {
            cipher.seek(start);
        }
        let mut reading = Reading {
            nodes: self.cluster.nodes.clone(),
            which: Which::whole(policy, path.clone()),
            version,
            position: start,
            end,
            current: open,
            sources,
            is_replaced: false,
            cipher,
        };
        if start >= end {
            return Ok(Some(Opened {
                known,
                range,
                body: empty(),
            }));
        }
        if end - start <= WHOLE_BYTES_MAX {
            let whole = match reading.whole().await {
                Ok(whole) => whole,
                Err(_) if reading.is_replaced => return Ok(None),
                Err(fault) => return Err(fault),
            };
            return Ok(Some(Opened {
                known,
                range,
                body: full(whole),
            }));
        }
        // The first piece decides whether the answer is 200 or 503.
        let first = match reading.next().await {
            Ok(first) => first.ok_or(Fault::Unavailable)?,
            Err(_) if reading.is_replaced => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let (body, sender) = piped(end - start);
        tokio::spawn(reading.pump(first, sender));
        Ok(Some(Opened { known, range, body }))
    }
}

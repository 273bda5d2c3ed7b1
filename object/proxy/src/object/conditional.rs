//! Conditional PUTs, in two phases: the key is reserved on W primaries, then the bytes are committed there.
//!
//! Two majorities meet in a primary, so of several racers at most one has a reservation at a time, and whoever comes
//! after a commit finds the object changed. A commit counts primaries only: handoffs have no reservation.

use super::put::{Arrived, NewObject};
use crate::cluster::{Cluster, Member};
use crate::fault::Fault;
use crate::object::answer::PRECONDITION;
use crate::proxy::Core;
use bytes::Bytes;
use core::time::Duration;
use http::request::Parts as Head;
use onggi_common_service::http::Response;
use onggi_common_units::Timestamp;
use onggi_object_client::{CallError, Nodes, WriteAnswer};
use onggi_object_model::Verdict;
use onggi_object_wire::Place;
use onggi_object_wire::object::{Commit, Put, Release, Reserve, Which};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a racer waits for others before it gives up.
const RACE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a node may take to reserve.
const RESERVE_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a node that may be stopped holds up the others: the first primary, which is asked alone, and those that
/// have not answered when W have the key.
const STRAGGLER_TIME_MAX: Duration = Duration::from_millis(100);
/// The first pause of a racer, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// Reservations of one PUT. Dropping it gives them up.
pub(super) struct Held {
    nodes: Nodes,
    release: Release,
    /// Where it may be reserved: also where no answer came.
    asked: Vec<Place>,
    /// Where it is.
    granted: Vec<Member>,
}

impl Held {
    /// Gives the reservations up, and waits a little until the nodes have heard it: the racer's next round has a token
    /// of its own.
    async fn release(mut self) {
        let deadline = Instant::now() + STRAGGLER_TIME_MAX;
        let told: Vec<_> = core::mem::take(&mut self.asked)
            .into_iter()
            .map(|place| tokio::spawn(release_at(self.nodes.clone(), place, self.release.clone())))
            .collect();
        for task in told {
            // A panic there is in the log; a task that takes longer goes on alone.
            drop(tokio::time::timeout_at(deadline, task).await);
        }
    }

    /// The commit has taken the reservations with it. Those of primaries it did not reach expire.
    pub(super) fn keep(mut self) {
        self.asked.clear();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for place in core::mem::take(&mut self.asked) {
            tokio::spawn(release_at(self.nodes.clone(), place, self.release.clone()));
        }
    }
}

async fn release_at(nodes: Nodes, place: Place, release: Release) {
    let call = nodes.release_object(&place, &release);
    match tokio::time::timeout(RESERVE_TIME_MAX, call).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%place, %error, "a reservation is left to expire"),
        Err(_elapsed) => tracing::debug!(%place, "a reservation is left to expire"),
    }
}

/// What asking for reservations came to.
enum Asked {
    Held(Held),
    /// Somebody else has some, or the object or the clock has moved on.
    Again,
    Unavailable,
}

impl Core {
    /// Judges `If-None-Match: *` and `If-Match` by what a quorum of nodes has. `None`: the request has no condition.
    pub(super) async fn check_condition(
        &self,
        new: &NewObject,
        request: &Head,
    ) -> Result<Option<Commit>, Fault> {
        let condition = super::answer::condition(request);
        if condition.is_empty() {
            return Ok(None);
        }
        if condition.has_none_match_tags() {
            return Err(Fault::BadRequest(
                "If-None-Match only supports *".to_owned(),
            ));
        }
        let current = match self.head(new.policy, &new.path).await {
            Ok(found) => Some(found),
            Err(Fault::NotFound) => None,
            Err(fault) => return Err(fault),
        };
        let etag = current.as_ref().map(|known| {
            (
                super::answer::compared_etag(request, known),
                known.info.timestamp(),
            )
        });
        let judged = etag.as_ref().map(|(etag, stamp)| (etag.as_str(), *stamp));
        match condition.judge_write(judged) {
            Verdict::Proceed => Ok(Some(Commit {
                token: self.entropy.hex_id(),
                expected: current.map(|known| known.info.data_timestamp),
            })),
            Verdict::NotModified | Verdict::Failed => {
                Err(Fault::PreconditionFailed(PRECONDITION.to_owned()))
            }
        }
    }

    /// Both phases of a conditional PUT whose bytes are in memory.
    pub(super) async fn store_conditional(
        &self,
        mut new: NewObject,
        request: &Head,
        bytes: Bytes,
        arrived: Arrived,
    ) -> Result<Response, Fault> {
        let deadline = Instant::now() + RACE_TIME_MAX;
        let mut pause = PAUSES.0;
        loop {
            let timestamp = self.cluster.clock.stamp();
            match self.reserve(&new, timestamp).await? {
                Asked::Held(held) => {
                    let needed = self.needed(&new)?;
                    let base = Put {
                        tail: Some(arrived.tail.clone()),
                        ..new.put(timestamp, Vec::new())
                    };
                    let told = self.cluster.container(&new.path.container_path()).places();
                    let mut done = commit(&base, &told, held, needed, &bytes).await;
                    let in_doubt = done.answers.len() < needed || count_stored(&done.answers) > 0;
                    if in_doubt && count_stored(&done.answers) < needed {
                        let more = self.complete(&new, &base, &done, needed, &bytes).await?;
                        done.answers.extend(more);
                    }
                    if count_stored(&done.answers) >= needed {
                        return self
                            .acknowledge(&new, &arrived, timestamp, &done.answers)
                            .await;
                    }
                    if in_doubt {
                        // Some have it, or may have it: only the client can ask what became of it.
                        return Err(Fault::Unavailable);
                    }
                }
                Asked::Again => {}
                Asked::Unavailable => return Err(Fault::Unavailable),
            }
            if Instant::now() >= deadline {
                return Err(Fault::Unavailable);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
            new.commit = self.check_condition(&new, request).await?;
        }
    }

    /// The first phase of a conditional PUT whose bytes have gone to the nodes already, and wait there. `None`: it has
    /// no condition.
    pub(super) async fn reserve_for_stream(
        &self,
        new: &NewObject,
        request: &Head,
        timestamp: Timestamp,
    ) -> Result<Option<Held>, Fault> {
        if new.commit.is_none() {
            return Ok(None);
        }
        let deadline = Instant::now() + RACE_TIME_MAX;
        let mut pause = PAUSES.0;
        loop {
            match self.reserve(new, timestamp).await? {
                Asked::Held(held) => return Ok(Some(held)),
                Asked::Again if Instant::now() < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                    let now = self.check_condition(new, request).await?;
                    let expected = |commit: Option<Commit>| commit.map(|commit| commit.expected);
                    if expected(now) != expected(new.commit) {
                        // What the nodes were told to expect is not there any more.
                        return Err(Fault::Unavailable);
                    }
                }
                Asked::Again | Asked::Unavailable => return Err(Fault::Unavailable),
            }
        }
    }

    fn needed(&self, new: &NewObject) -> Result<usize, Fault> {
        let replicas = self.cluster.object(new.policy, &new.path);
        Ok(replicas.ok_or(Fault::Unavailable)?.quorum().writes())
    }

    /// Asks the first primary alone and then the rest, so that racers seldom hold each other up.
    async fn reserve(&self, new: &NewObject, timestamp: Timestamp) -> Result<Asked, Fault> {
        let replicas = self
            .cluster
            .object(new.policy, &new.path)
            .ok_or(Fault::Unavailable)?;
        let needed = replicas.quorum().writes();
        let now = self.cluster.clock.monotonic();
        let members = replicas.well(&self.cluster.limiter, now);
        let mut round = Round::new(&self.cluster, new, timestamp)?;
        let mut rest = members.into_iter();
        round.ask(rest.by_ref().take(1));
        round.listen(1, Instant::now() + STRAGGLER_TIME_MAX).await;
        if !round.is_again {
            round.ask(rest);
            round
                .listen(needed, Instant::now() + RESERVE_TIME_MAX)
                .await;
        }
        if round.held.granted.len() >= needed {
            return Ok(Asked::Held(round.held));
        }
        let is_again = round.is_again;
        round.held.release().await;
        Ok(if is_again {
            Asked::Again
        } else {
            Asked::Unavailable
        })
    }

    /// Too few nodes that had the key reserved took the commit, and some did: tries to reach W with the other primaries,
    /// so that the outcome is known after all. Returns what these answered.
    async fn complete(
        &self,
        new: &NewObject,
        base: &Put,
        done: &Committed,
        needed: usize,
        bytes: &Bytes,
    ) -> Result<Vec<WriteAnswer>, Fault> {
        let missing = needed.saturating_sub(count_stored(&done.answers));
        let replicas = self.cluster.object(new.policy, &new.path);
        let mut others = replicas.ok_or(Fault::Unavailable)?.primaries;
        others.retain(|member| !done.tried.contains(&member.place));
        let mut round = Round::new(&self.cluster, new, base.timestamp)?;
        round.ask(others.into_iter());
        round
            .listen(missing, Instant::now() + RESERVE_TIME_MAX)
            .await;
        if round.held.granted.len() < missing {
            round.held.release().await;
            return Ok(Vec::new());
        }
        let told = self.cluster.container(&new.path.container_path()).places();
        let done = commit(base, &told, round.held, missing, bytes).await;
        Ok(done.answers)
    }
}

type Reserving = (Member, Result<WriteAnswer, CallError>);

/// Nodes that are being asked to reserve a key.
struct Round<'a> {
    cluster: &'a Cluster,
    reserve: Reserve,
    held: Held,
    /// How many have not answered yet.
    due: usize,
    /// Whether one refused for a reason that may pass.
    is_again: bool,
    sender: mpsc::Sender<Reserving>,
    answers: mpsc::Receiver<Reserving>,
}

impl<'a> Round<'a> {
    fn new(cluster: &'a Cluster, new: &NewObject, timestamp: Timestamp) -> Result<Self, Fault> {
        let commit = new.commit.ok_or(Fault::Unavailable)?;
        let which = Which::whole(new.policy, new.path.clone());
        let held = Held {
            nodes: cluster.nodes.clone(),
            release: Release {
                which: which.clone(),
                token: commit.token,
            },
            asked: Vec::new(),
            granted: Vec::new(),
        };
        // No more answers than replicas ever wait here.
        let (sender, answers) = mpsc::channel(usize::from(u8::MAX));
        Ok(Self {
            cluster,
            reserve: Reserve {
                which,
                timestamp,
                commit,
            },
            held,
            due: 0,
            is_again: false,
            sender,
            answers,
        })
    }

    fn ask(&mut self, members: impl Iterator<Item = Member>) {
        for member in members {
            self.held.asked.push(member.place.clone());
            self.due += 1;
            let (nodes, reserve) = (self.cluster.nodes.clone(), self.reserve.clone());
            let sender = self.sender.clone();
            tokio::spawn(async move {
                let call = nodes.reserve_object(&member.place, &reserve);
                let late = CallError::TimedOut {
                    address: member.place.address.clone(),
                    limit: RESERVE_TIME_MAX,
                };
                let answer = tokio::time::timeout(RESERVE_TIME_MAX, call).await;
                // Nobody waits for it when enough others were faster.
                drop(sender.send((member, answer.unwrap_or(Err(late)))).await);
            });
        }
    }

    /// Hears answers until so many nodes have the key and the others were given a little time, until that can no longer
    /// be, or until the deadline.
    async fn listen(&mut self, needed: usize, mut deadline: Instant) {
        loop {
            let granted = self.held.granted.len();
            if self.due == 0 || granted + self.due < needed {
                return;
            }
            if granted >= needed {
                deadline = deadline.min(Instant::now() + STRAGGLER_TIME_MAX);
            }
            match tokio::time::timeout_at(deadline, self.answers.recv()).await {
                Ok(Some((member, answer))) => self.hear(member, &answer),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn hear(&mut self, member: Member, answer: &Result<WriteAnswer, CallError>) {
        self.due -= 1;
        self.cluster.note(&member, answer);
        if matches!(answer, Ok(WriteAnswer::Written { .. })) {
            self.held.granted.push(member);
        } else if let Some(stamp) = refused_for(answer.as_ref().ok()) {
            self.cluster.clock.observe(stamp);
            self.is_again = true;
        }
    }
}

/// The stamp for which a node refuses to reserve; `None` when it refuses for no reason that may pass soon.
const fn refused_for(answer: Option<&WriteAnswer>) -> Option<Timestamp> {
    match answer {
        Some(
            WriteAnswer::Reserved { stamp: newest }
            | WriteAnswer::Newer { newest }
            | WriteAnswer::Present { newest },
        ) => Some(*newest),
        Some(_) | None => None,
    }
}

fn count_stored(answers: &[WriteAnswer]) -> usize {
    answers.iter().filter(|answer| answer.is_stored()).count()
}

/// What the second phase brought.
struct Committed {
    /// Where the bytes were sent.
    tried: Vec<Place>,
    answers: Vec<WriteAnswer>,
}

/// The second phase: sends the bytes to where the key is reserved, and waits for so many to have them. The calls are
/// tasks of their own, so that a client that goes away in between does not leave some without them.
async fn commit(
    base: &Put,
    told: &[Place],
    mut held: Held,
    needed: usize,
    bytes: &Bytes,
) -> Committed {
    let count = held.granted.len().max(1);
    let (sender, mut receiver) = mpsc::channel(count);
    let mut tried = Vec::new();
    for (index, member) in held.granted.iter().enumerate() {
        let put = Put {
            listing: told.iter().skip(index).step_by(count).cloned().collect(),
            ..base.clone()
        };
        let (nodes, place) = (held.nodes.clone(), member.place.clone());
        let (bytes, sender) = (bytes.clone(), sender.clone());
        tried.push(place.clone());
        tokio::spawn(async move {
            match nodes.put_object(&place, &put, bytes).await {
                // Nobody waits for it when enough others were faster.
                Ok(answer) => drop(sender.send(answer).await),
                Err(error) => tracing::debug!(%place, %error, "a storage node did not commit"),
            }
        });
    }
    drop(sender);
    let asked = core::mem::take(&mut held.asked);
    let mut answers = Vec::new();
    while let Some(answer) = receiver.recv().await {
        answers.push(answer);
        if count_stored(&answers) >= needed {
            return Committed { tried, answers };
        }
    }
    // It is lost: what has not arrived yet must not arrive later.
    held.asked = asked;
    Committed { tried, answers }
}

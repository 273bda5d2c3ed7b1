//! Conditional PUTs and DELETEs, in two phases: the key is reserved on W primaries, then the change is committed there.
//!
//! Two majorities meet in a primary, so of several racers at most one has a reservation at a time, and whoever comes
//! after a commit finds the object changed. A commit counts primaries only: handoffs have no reservation.

use super::put::NewObject;
use crate::cluster::{Cluster, Member};
use crate::fault::Fault;
use crate::proxy::Core;
use crate::subrequest::Expects;
use bytes::Bytes;
use core::time::Duration;
use http::request::Parts as Head;
use http::{Method, StatusCode};
use onggi_common_units::Timestamp;
use onggi_object_client::{CallError, Nodes, WriteAnswer};
use onggi_object_model::Verdict;
use onggi_object_replica::{Failure, Reply};
use onggi_object_wire::Place;
use onggi_object_wire::object::{Commit, Delete, Put, Release, Reserve, Settled, Which};
use std::sync::Arc;
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

/// How far ahead of the clock a racer stamps that has met something newer: what others stamp before it has the key
/// everywhere is then below it.
pub(super) const LEAD: Duration = Duration::from_millis(100);
/// How often one racer asks for the key above what it has met before it begins anew.
const TURNS_MAX: usize = 8;

/// Reservations of one write. Dropping it gives them up.
pub(super) struct Held {
    nodes: Nodes,
    release: Release,
    /// Where it may be reserved: also where no answer came.
    asked: Vec<Arc<Place>>,
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

    /// Enough nodes have the commit. It has taken the reservations it was sent to with it, or will; one that came too late
    /// to be counted, or perhaps was not made, is given up, so that nobody is kept out until it expires.
    pub(super) fn keep(mut self) {
        let granted = &self.granted;
        self.asked
            .retain(|place| granted.iter().all(|member| member.place != *place));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for place in core::mem::take(&mut self.asked) {
            tokio::spawn(release_at(self.nodes.clone(), place, self.release.clone()));
        }
    }
}

async fn release_at(nodes: Nodes, place: Arc<Place>, release: Release) {
    let call = nodes.release_object(&place, &release);
    match tokio::time::timeout(RESERVE_TIME_MAX, call).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%place, %error, "a reservation is left to expire"),
        Err(_elapsed) => tracing::debug!(%place, "a reservation is left to expire"),
    }
}

/// What asking for reservations came to.
enum Asked {
    Held(Held, Timestamp),
    /// Somebody else has some, or the object or the clock has moved on.
    Again,
    Unavailable,
}

/// What is done with a key once it is reserved.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put { base: Box<Put>, bytes: Bytes },
    Delete,
}

/// A conditional write that was committed.
pub(super) struct Won {
    pub(super) timestamp: Timestamp,
    pub(super) answers: Vec<WriteAnswer>,
}

impl Core {
    /// Judges `If-None-Match: *` and `If-Match` by what a quorum of nodes has. `None`: the request has no condition.
    pub(super) async fn check_condition(
        &self,
        which: &Which,
        request: &Head,
    ) -> Result<Option<Commit>, Fault> {
        let condition = super::answer::condition(request);
        let expects = request.extensions.get::<Expects>().map(|expects| expects.0);
        if condition.is_empty() && expects.is_none() {
            return Ok(None);
        }
        let is_delete = request.method == Method::DELETE;
        if condition.has_none_match_tags() && !is_delete {
            return Err(Fault::BadRequest(
                "If-None-Match only supports *".to_owned(),
            ));
        }
        let current = match self.head(which.policy, &which.path).await {
            Ok(found) => Some(found),
            Err(Fault::NotFound) if !is_delete => None,
            Err(fault) => return Err(fault),
        };
        let stamp = current.as_ref().map(|known| known.info.data_timestamp);
        let etag = current.as_ref().map(|known| {
            (
                super::answer::compared_etag(request, known),
                known.info.timestamp(),
            )
        });
        let judged = etag.as_ref().map(|(etag, stamp)| (etag.as_str(), *stamp));
        let is_met = match expects {
            Some(expected) => expected == stamp,
            None => condition.judge_write(judged) == Verdict::Proceed,
        };
        if is_met {
            Ok(Some(Commit {
                token: self.entropy.hex_id(),
                expected: stamp,
            }))
        } else {
            Err(Fault::PreconditionFailed(String::new()))
        }
    }

    /// Both phases of a conditional write whose bytes, if it has any, are in memory.
    pub(super) async fn contest(
        &self,
        which: &Which,
        request: &Head,
        first: Commit,
        change: &Change,
    ) -> Result<Won, Fault> {
        let deadline = Instant::now() + RACE_TIME_MAX;
        let (mut pause, mut claim) = (PAUSES.0, first);
        loop {
            match self.reserve(which, claim).await? {
                Asked::Held(held, timestamp) => {
                    let needed = self.needed(which)?;
                    let settled = Settled {
                        timestamp,
                        commit: claim,
                    };
                    let told = self
                        .cluster
                        .container(&which.path.container_path())
                        .places();
                    let mut done = commit(change, &settled, &told, held, needed).await;
                    let in_doubt = !are_all_refused(&done.answers, done.tried.len());
                    if in_doubt && count_done(&done.answers) < needed {
                        let more = self
                            .complete(which, &settled, change, &done, needed)
                            .await?;
                        done.answers.extend(more);
                    }
                    if count_done(&done.answers) >= needed {
                        self.cluster.clock.observe(timestamp);
                        let answers = done.answers;
                        return Ok(Won { timestamp, answers });
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
            let now = self.check_condition(which, request).await?;
            claim = now.ok_or(Fault::Unavailable)?;
        }
    }

    /// The first phase of a conditional PUT whose bytes have gone to the nodes already, and wait there: what they are told
    /// at the end of the body. `None`: it has no condition.
    pub(super) async fn reserve_for_stream(
        &self,
        new: &NewObject,
        request: &Head,
    ) -> Result<Option<(Held, Settled)>, Fault> {
        let Some(mut claim) = new.commit else {
            return Ok(None);
        };
        let which = Which::whole(new.policy, new.path.clone());
        let deadline = Instant::now() + RACE_TIME_MAX;
        let mut pause = PAUSES.0;
        loop {
            match self.reserve(&which, claim).await? {
                Asked::Held(held, timestamp) => {
                    let settled = Settled {
                        timestamp,
                        commit: claim,
                    };
                    return Ok(Some((held, settled)));
                }
                Asked::Again if Instant::now() < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                    let now = self.check_condition(&which, request).await?;
                    claim = now.ok_or(Fault::Unavailable)?;
                }
                Asked::Again | Asked::Unavailable => return Err(Fault::Unavailable),
            }
        }
    }

    fn needed(&self, which: &Which) -> Result<usize, Fault> {
        let replicas = self.cluster.object(which.policy, &which.path);
        Ok(replicas.ok_or(Fault::Unavailable)?.quorum().writes())
    }

    /// Asks the first primary alone and then the rest, so that racers seldom hold each other up. Where something newer
    /// is, all that were asked are asked again with a stamp above it: they let nothing newer in meanwhile.
    async fn reserve(&self, which: &Which, claim: Commit) -> Result<Asked, Fault> {
        let replicas = self
            .cluster
            .object(which.policy, &which.path)
            .ok_or(Fault::Unavailable)?;
        let needed = replicas.quorum().writes();
        let now = self.cluster.clock.monotonic();
        let members = replicas.well(&self.cluster.limiter, now);
        let mut round = Round::new(&self.cluster, which, claim);
        let (mut from, mut to) = (0, 1);
        for _ in 0..TURNS_MAX {
            let asked = members.iter().take(to).skip(from).cloned();
            let is_first = to == 1 && members.len() > 1;
            round.ask(asked);
            if is_first {
                round.listen(1, Instant::now() + STRAGGLER_TIME_MAX).await;
            } else {
                let deadline = Instant::now() + RESERVE_TIME_MAX;
                round.listen(needed, deadline).await;
            }
            match round.refused {
                Some(Refusal::Below) => {
                    round.rise();
                    from = 0;
                }
                Some(Refusal::Changed) => break,
                None if is_first => (from, to) = (1, members.len()),
                None => break,
            }
        }
        if round.held.granted.len() >= needed {
            return Ok(Asked::Held(round.held, round.reserve.timestamp));
        }
        let is_again = round.refused.is_some();
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
        which: &Which,
        settled: &Settled,
        change: &Change,
        done: &Committed,
        needed: usize,
    ) -> Result<Vec<WriteAnswer>, Fault> {
        let missing = needed.saturating_sub(count_done(&done.answers));
        let replicas = self.cluster.object(which.policy, &which.path);
        let mut others = replicas.ok_or(Fault::Unavailable)?.primaries;
        others.retain(|member| !done.tried.contains(&member.place));
        let mut round = Round::new(&self.cluster, which, settled.commit);
        round.reserve.timestamp = settled.timestamp;
        round.ask(others.into_iter());
        round
            .listen(missing, Instant::now() + RESERVE_TIME_MAX)
            .await;
        if round.held.granted.len() < missing {
            round.held.release().await;
            return Ok(Vec::new());
        }
        let told = self
            .cluster
            .container(&which.path.container_path())
            .places();
        let done = commit(change, settled, &told, round.held, missing).await;
        Ok(done.answers)
    }
}

type Reserving = (Member, Timestamp, Result<WriteAnswer, CallError>);

/// Why a node has not reserved the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The stamp is not above what is there.
    Below,
    /// Another racer has the key, or the object is not as expected.
    Changed,
}

/// Nodes that are being asked to reserve a key.
struct Round<'a> {
    cluster: &'a Cluster,
    reserve: Reserve,
    held: Held,
    /// How many have not answered yet.
    due: usize,
    /// Why one refused, for a reason that may pass.
    refused: Option<Refusal>,
    sender: mpsc::Sender<Reserving>,
    answers: mpsc::Receiver<Reserving>,
}

impl<'a> Round<'a> {
    fn new(cluster: &'a Cluster, which: &Which, commit: Commit) -> Self {
        let held = Held {
            nodes: cluster.nodes.clone(),
            release: Release {
                which: which.clone(),
                token: commit.token,
            },
            asked: Vec::new(),
            granted: Vec::new(),
        };
        // No more answers than replicas wait here for long: those to earlier turns are passed over.
        let (sender, answers) = mpsc::channel(usize::from(u8::MAX));
        Self {
            cluster,
            reserve: Reserve {
                which: which.clone(),
                timestamp: cluster.clock.write_stamp(),
                commit,
            },
            held,
            due: 0,
            refused: None,
            sender,
            answers,
        }
    }

    /// Begins a turn above all that was met.
    fn rise(&mut self) {
        self.reserve.timestamp = self.cluster.clock.ahead(LEAD);
        self.held.granted.clear();
        (self.due, self.refused) = (0, None);
    }

    fn ask(&mut self, members: impl Iterator<Item = Member>) {
        for member in members {
            if !self.held.asked.contains(&member.place) {
                self.held.asked.push(member.place.clone());
            }
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
                let answer = answer.unwrap_or(Err(late));
                // Nobody waits for it when enough others were faster.
                drop(sender.send((member, reserve.timestamp, answer)).await);
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
                Ok(Some((member, asked_at, answer))) => self.hear(member, asked_at, &answer),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn hear(
        &mut self,
        member: Member,
        asked_at: Timestamp,
        answer: &Result<WriteAnswer, CallError>,
    ) {
        self.cluster.note(&member, answer);
        if asked_at != self.reserve.timestamp {
            return;
        }
        self.due = self.due.saturating_sub(1);
        if matches!(answer, Ok(WriteAnswer::Written { .. })) {
            self.held.granted.push(member);
        } else if let Some((refusal, stamp)) = refused_for(answer.as_ref().ok()) {
            self.cluster.clock.observe(stamp);
            if self.refused != Some(Refusal::Changed) {
                self.refused = Some(refusal);
            }
        }
    }
}

/// Why a node refuses to reserve, and the stamp it says; `None` when it refuses for no reason that may pass soon.
const fn refused_for(answer: Option<&WriteAnswer>) -> Option<(Refusal, Timestamp)> {
    match answer {
        Some(WriteAnswer::Newer { newest }) => Some((Refusal::Below, *newest)),
        Some(WriteAnswer::Reserved { stamp: newest } | WriteAnswer::Present { newest }) => {
            Some((Refusal::Changed, *newest))
        }
        Some(_) | None => None,
    }
}

/// Nodes where the change is on stable storage; a deletion also where nothing was to delete, and either also where
/// something newer has come since the key was reserved: the change comes before that, and has been replaced.
fn count_done(answers: &[WriteAnswer]) -> usize {
    answers.iter().filter(|answer| is_done(answer)).count()
}

const fn is_done(answer: &WriteAnswer) -> bool {
    matches!(
        answer,
        WriteAnswer::Written { .. } | WriteAnswer::NotFound { .. } | WriteAnswer::Newer { .. }
    )
}

/// Whether so many nodes were told to commit, and each has said that it did not and will not. Only then may the client be
/// told that nothing was changed: one that says nothing, or broke, may have the change all the same.
fn are_all_refused(answers: &[WriteAnswer], told: usize) -> bool {
    let is_refusal = |answer: &&WriteAnswer| match answer {
        WriteAnswer::Present { .. }
        | WriteAnswer::Reserved { .. }
        | WriteAnswer::WrongBody
        | WriteAnswer::Full => true,
        // The reservation does not hold there.
        WriteAnswer::Failed { status } => *status == StatusCode::GONE,
        WriteAnswer::Written { .. } | WriteAnswer::NotFound { .. } | WriteAnswer::Newer { .. } => {
            false
        }
    };
    answers.iter().filter(is_refusal).count() >= told
}

/// How a node's answer to the second phase counts while others are waited for: a refusal decides nothing, since others may
/// have committed.
pub(super) fn commit_reply(answer: &WriteAnswer) -> Reply {
    if is_done(answer) {
        Reply::Stored { existed: true }
    } else {
        Reply::Failed
    }
}

/// Why a commit that so many nodes were told of is not acknowledged.
pub(super) fn lost(answers: &[WriteAnswer], told: usize) -> Failure {
    let is_present = |answer: &WriteAnswer| matches!(answer, WriteAnswer::Present { .. });
    if are_all_refused(answers, told) && answers.iter().any(is_present) {
        Failure::ConditionFailed
    } else {
        Failure::Unavailable
    }
}

/// What the second phase brought.
struct Committed {
    /// Where the change was sent.
    tried: Vec<Arc<Place>>,
    answers: Vec<WriteAnswer>,
}

/// The second phase: sends the change to where the key is reserved, and waits for so many to have it. The calls are
/// tasks of their own, so that a client that goes away in between does not leave some without it.
async fn commit(
    change: &Change,
    settled: &Settled,
    told: &[Place],
    mut held: Held,
    needed: usize,
) -> Committed {
    let count = held.granted.len().max(1);
    let (sender, mut receiver) = mpsc::channel(count);
    let mut tried = Vec::new();
    for (index, member) in held.granted.iter().enumerate() {
        let listing = told.iter().skip(index).step_by(count).cloned().collect();
        let (nodes, place) = (held.nodes.clone(), member.place.clone());
        let (which, sender) = (held.release.which.clone(), sender.clone());
        let (change, settled) = (change.clone(), *settled);
        tried.push(place.clone());
        tokio::spawn(async move {
            match change
                .carry_out(&nodes, &place, which, settled, listing)
                .await
            {
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
        if count_done(&answers) >= needed {
            held.asked = asked;
            held.keep();
            return Committed { tried, answers };
        }
    }
    // It is lost: what has not arrived yet must not arrive later.
    held.asked = asked;
    Committed { tried, answers }
}

impl Change {
    async fn carry_out(
        self,
        nodes: &Nodes,
        place: &Place,
        which: Which,
        settled: Settled,
        listing: Vec<Place>,
    ) -> Result<WriteAnswer, CallError> {
        let Settled { timestamp, commit } = settled;
        match self {
            Self::Put { base, bytes } => {
                let put = Put {
                    timestamp,
                    commit: Some(commit),
                    listing,
                    ..*base
                };
                nodes.put_object(place, &put, bytes).await
            }
            Self::Delete => {
                let delete = Delete {
                    which,
                    timestamp,
                    commit: Some(commit),
                    listing,
                };
                nodes.delete_object(place, &delete).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_refused_only_by_all_that_were_told_of_it() {
        let newest = Timestamp::ZERO;
        let written = || WriteAnswer::Written { listed: Vec::new() };
        let present = || WriteAnswer::Present { newest };
        let failed = |status| WriteAnswer::Failed { status };
        let lapsed = || failed(StatusCode::GONE);
        let broken = || failed(StatusCode::INTERNAL_SERVER_ERROR);
        for (answers, told, expected) in [
            (
                vec![present(), lapsed(), present()],
                3,
                Failure::ConditionFailed,
            ),
            (
                vec![present(), present(), written()],
                3,
                Failure::Unavailable,
            ),
            (
                vec![present(), present(), broken()],
                3,
                Failure::Unavailable,
            ),
            // The third one has not answered, and may have the change.
            (vec![present(), present()], 3, Failure::Unavailable),
            (vec![lapsed(), lapsed()], 2, Failure::Unavailable),
        ] {
            assert_eq!(lost(&answers, told), expected, "{answers:?} of {told}");
        }
        assert_eq!(commit_reply(&present()), Reply::Failed);
        let done = Reply::Stored { existed: true };
        assert_eq!(commit_reply(&WriteAnswer::Newer { newest }), done);
    }
}

//! A body that is too large for one message: sent to N nodes at once as it comes, with bounded buffers.
//!
//! The first bytes are kept for a while, so that a node that turns out to be away is replaced by a handoff that still
//! gets everything. Later losses leave fewer copies, as long as W are left; replication makes up for them.

use super::conditional::{commit_reply, lost};
use super::put::NewObject;
use super::write_reply;
use crate::calls::{Calls, boxed};
use crate::cluster::{Cluster, Member};
use crate::fault::Fault;
use crate::proxy::Core;
use bytes::Bytes;
use core::time::Duration;
use onggi_common_units::Timestamp;
use onggi_object_client::{CallError, HashedPut, WriteAnswer};
use onggi_object_replica::{Failure, Outcome, Put as Machine, PutStep, Reply};
use onggi_object_ring::DeviceId;
use onggi_object_wire::Place;
use onggi_object_wire::body::BodyHash;
use onggi_object_wire::object::Tail;
use std::sync::Arc;
use tokio::time::Instant;

/// Bytes kept to be sent again to a handoff.
const REPLAY_BYTES_MAX: usize = 1 << 20;
/// How long one node may hold up the others before it is left behind.
const SLOW_MAX: Duration = Duration::from_secs(3);
/// How long an answer given early is waited for.
const EARLY_ANSWER_MAX: Duration = Duration::from_millis(100);
/// How long nodes may take to make a body durable once it is whole.
const FINISH_MAX: Duration = Duration::from_secs(30);
/// How long a durable write waits for primaries that would make it visible.
const VISIBLE_WITHIN: Duration = Duration::from_secs(1);

struct Writer {
    member: Member,
    opened: Duration,
    told: Vec<Place>,
    stream: HashedPut,
}

/// One body on its way to several nodes.
pub(super) struct Fan<'a> {
    cluster: &'a Cluster,
    new: &'a NewObject,
    timestamp: Timestamp,
    primaries: Vec<DeviceId>,
    writers: Vec<Writer>,
    handoffs: std::vec::IntoIter<Member>,
    needed: usize,
    /// What was sent so far; `None` once it is too much to send again.
    replay: Option<Vec<Bytes>>,
    replay_bytes: usize,
}

impl<'a> Fan<'a> {
    pub(super) fn open(
        core: &'a Core,
        new: &'a NewObject,
        timestamp: Timestamp,
    ) -> Result<Self, Fault> {
        let cluster = &core.cluster;
        let replicas = cluster
            .object(new.policy, &new.path)
            .ok_or(Fault::Unavailable)?;
        let told = cluster.container(&new.path.container_path()).places();
        let mut fan = Fan {
            cluster,
            new,
            timestamp,
            primaries: replicas.ids(),
            writers: Vec::new(),
            handoffs: replicas.handoffs().into_iter(),
            needed: replicas.quorum().writes(),
            replay: Some(Vec::new()),
            replay_bytes: 0,
        };
        let count = replicas.primaries.len();
        let well = replicas.well(&cluster.limiter, cluster.clock.monotonic());
        for (index, member) in replicas.primaries.into_iter().enumerate() {
            let told = told
                .iter()
                .skip(index)
                .step_by(count.max(1))
                .cloned()
                .collect();
            if well.iter().any(|well| well.id == member.id) {
                fan.add(member, told);
            } else {
                fan.add_handoff(told);
            }
        }
        if fan.writers.len() < fan.needed {
            Err(Fault::Unavailable)
        } else {
            Ok(fan)
        }
    }

    /// How many nodes have to take the write.
    pub(super) const fn needed(&self) -> usize {
        self.needed
    }

    fn add(&mut self, member: Member, told: Vec<Place>) -> bool {
        let put = self.new.put(self.timestamp, told.clone());
        let opened = self.cluster.clock.monotonic();
        self.cluster.limiter.on_sent(&member.place.address, opened);
        match self.cluster.nodes.begin_put_object(&member.place, &put) {
            Ok(stream) => {
                self.writers.push(Writer {
                    member,
                    opened,
                    told,
                    stream,
                });
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a PUT cannot be sent");
                false
            }
        }
    }

    fn add_handoff(&mut self, told: Vec<Place>) -> bool {
        let now = self.cluster.clock.monotonic();
        let limiter = &self.cluster.limiter;
        let next = self
            .handoffs
            .find(|member| !limiter.is_limited(&member.place.address, now));
        next.is_some_and(|member| self.add(member, told))
    }

    /// Sends some bytes to every node; waits while they are behind.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Fault> {
        self.keep(bytes.clone());
        let mut lost = Vec::new();
        for writer in core::mem::take(&mut self.writers) {
            match tokio::time::timeout(SLOW_MAX, writer.stream.send(bytes.clone())).await {
                Ok(Ok(())) => self.writers.push(writer),
                Ok(Err(error)) => lost.push((writer, Some(error))),
                Err(_elapsed) => lost.push((writer, None)),
            }
        }
        for (writer, error) in lost {
            let told = self.lose(writer, error).await?;
            self.replace(told).await;
        }
        if self.writers.len() < self.needed {
            Err(Fault::Unavailable)
        } else {
            Ok(())
        }
    }

    fn keep(&mut self, bytes: Bytes) {
        self.replay_bytes += bytes.len();
        if self.replay_bytes > REPLAY_BYTES_MAX {
            self.replay = None;
        } else if let Some(replay) = &mut self.replay {
            replay.push(bytes);
        }
    }

    /// A node takes no more. What it was to tell is returned, unless what it says ends the PUT.
    async fn lose(&self, writer: Writer, error: Option<CallError>) -> Result<Vec<Place>, Fault> {
        let Writer {
            member,
            opened,
            told,
            stream,
        } = writer;
        let early = tokio::time::timeout(EARLY_ANSWER_MAX, stream.answer()).await;
        match early {
            Ok(Ok(WriteAnswer::Present { .. })) => {
                return Err(Fault::PreconditionFailed(String::new()));
            }
            Ok(Ok(WriteAnswer::Newer { newest })) => {
                self.cluster.clock.observe(newest);
                return Err(match self.new.stamped {
                    Some(_) => Fault::Conflict(String::new()),
                    None => Fault::Unavailable,
                });
            }
            Ok(Ok(answer)) => {
                tracing::debug!(device = %member.place, ?answer, "a storage node ended a PUT early");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(device = %member.place, ?error, "a storage node takes no more of a PUT");
                let (limiter, now) = (&self.cluster.limiter, self.cluster.clock.monotonic());
                limiter.on_waiting(&member.place.address, opened, now);
                limiter.on_failure(&member.place.address, now);
            }
        }
        Ok(told)
    }

    /// Brings a handoff up to here, in place of a node that was lost.
    async fn replace(&mut self, told: Vec<Place>) {
        let Some(replay) = self.replay.clone() else {
            return;
        };
        while self.add_handoff(told.clone()) {
            let Some(writer) = self.writers.pop() else {
                return;
            };
            let mut is_well = true;
            for bytes in &replay {
                let sent = tokio::time::timeout(SLOW_MAX, writer.stream.send(bytes.clone())).await;
                is_well = is_well && matches!(sent, Ok(Ok(())));
                if !is_well {
                    break;
                }
            }
            if is_well {
                self.writers.push(writer);
                return;
            }
            let now = self.cluster.clock.monotonic();
            self.cluster
                .limiter
                .on_failure(&writer.member.place.address, now);
        }
    }

    /// Ends the body everywhere and waits until the write is acknowledged or lost.
    pub(super) async fn finish(
        self,
        tail: &Tail,
        hash: &Arc<BodyHash>,
    ) -> (Outcome, Vec<WriteAnswer>) {
        let mut machine = Machine::new(&self.primaries, self.cluster.consistency);
        let (is_commit, told) = (tail.settled.is_some(), self.writers.len());
        let classify = if is_commit { commit_reply } else { write_reply };
        let mut calls = Calls::new();
        let mut gone = self.primaries.clone();
        for Writer { member, stream, .. } in self.writers {
            if self.primaries.contains(&member.id) {
                gone.retain(|id| *id != member.id);
            } else {
                machine.on_handoff_sent(member.id);
            }
            let (tail, hash) = (tail.clone(), Arc::clone(hash));
            calls.add(
                member,
                boxed(async move { stream.finish(&tail, hash).await }),
            );
        }
        let mut outcome = None;
        for id in gone {
            outcome = settle(&mut machine, id, Reply::Failed).or(outcome);
        }
        let mut answers = Vec::new();
        let mut deadline = Instant::now() + FINISH_MAX;
        while outcome.is_none() {
            let Ok(Some((member, result))) = tokio::time::timeout_at(deadline, calls.next()).await
            else {
                outcome = Some(machine.on_deadline());
                break;
            };
            match &result {
                Ok(_) => {
                    let now = self.cluster.clock.monotonic();
                    self.cluster.limiter.on_success(&member.place.address, now);
                }
                Err(error) => {
                    tracing::debug!(device = %member.place, %error, "a storage node did not finish a PUT");
                    let now = self.cluster.clock.monotonic();
                    self.cluster.limiter.on_failure(&member.place.address, now);
                }
            }
            let reply = result.as_ref().map_or(Reply::Failed, classify);
            outcome = settle(&mut machine, member.id, reply);
            answers.extend(result.ok());
            if machine.is_durable() {
                deadline = deadline.min(Instant::now() + VISIBLE_WITHIN);
            }
        }
        self.cluster.detach(calls);
        match outcome.unwrap_or(Outcome::Failed(Failure::Unavailable)) {
            Outcome::Failed(_) if is_commit => (Outcome::Failed(lost(&answers, told)), answers),
            outcome => (outcome, answers),
        }
    }
}

/// Tells the machine a reply; there are no handoffs any more, since the body is gone.
fn settle(machine: &mut Machine, device: DeviceId, reply: Reply) -> Option<Outcome> {
    let mut step = machine.on_reply(device, reply);
    loop {
        match step {
            PutStep::Wait => return None,
            PutStep::TryHandoff { .. } => step = machine.on_no_handoff(),
            PutStep::Commit(outcome) | PutStep::Done(outcome) => return Some(outcome),
        }
    }
}

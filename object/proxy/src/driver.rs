//! Runs the quorum machines against nodes: sends what they name, tells them what came back.

use crate::calls::Calls;
pub(crate) use crate::calls::{CallFuture, boxed};
use crate::cluster::{Cluster, Member, Replicas};
use core::time::Duration;
use onggi_object_client::CallError;
use onggi_object_client::limiter::SILENT_AFTER;
use onggi_object_replica::{Answer, Get, GetStep, Outcome, Put, PutStep, Reply};
use onggi_object_ring::DeviceId;
use onggi_object_wire::Place;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// How long a read waits for an answer before another device is asked as well.
const SLOW_AFTER: Duration = Duration::from_millis(300);
/// How long a durable write waits for primaries that would make it visible.
const VISIBLE_WITHIN: Duration = Duration::from_secs(1);
/// How long a write may take in all, past what the client of nodes allows one of them.
const WRITE_TIME_MAX: Duration = Duration::from_secs(30);

/// What a write brought.
pub(crate) struct Written<T> {
    pub(crate) outcome: Outcome,
    pub(crate) answers: Vec<(DeviceId, T)>,
}

/// What a read brought.
pub(crate) struct Asked<T> {
    pub(crate) step: GetStep,
    pub(crate) answers: Vec<(Member, T)>,
    pub(crate) machine: Get,
}

/// A write under way.
struct Writing<'a, T, F> {
    cluster: &'a Cluster,
    replicas: &'a Replicas,
    handoffs: Option<std::vec::IntoIter<Member>>,
    /// What each device has to tell others, for the handoff that may take its place.
    told: HashMap<DeviceId, Vec<Place>>,
    machine: Put,
    calls: Calls<T>,
    /// Who has not answered, and since when it was asked.
    waiting: Vec<(Member, Duration)>,
    send: F,
}

impl<T, F> Writing<'_, T, F>
where
    T: Send + 'static,
    F: Fn(Arc<Place>, Vec<Place>) -> CallFuture<T>,
{
    fn spawn(&mut self, member: Member, told: Vec<Place>) {
        let now = self.cluster.clock.monotonic();
        self.cluster.limiter.on_sent(&member.place.address, now);
        let call = (self.send)(member.place.clone(), told.clone());
        self.told.insert(member.id, told);
        self.waiting.push((member.clone(), now));
        self.calls.add(member, call);
    }

    fn next_handoff(&mut self) -> Option<Member> {
        let now = self.cluster.clock.monotonic();
        let handoffs = self
            .handoffs
            .get_or_insert_with(|| self.replicas.handoffs().into_iter());
        handoffs.find(|member| !self.cluster.limiter.is_limited(&member.place.address, now))
    }

    /// Tries handoffs in place of those who say nothing.
    fn give_up_silent(&mut self) -> Option<Outcome> {
        let cluster = self.cluster;
        let now = cluster.clock.monotonic();
        let (silent, waiting): (Vec<_>, Vec<_>) = core::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(member, sent)| {
                cluster
                    .limiter
                    .on_waiting(&member.place.address, *sent, now)
            });
        self.waiting = waiting;
        for (member, _) in silent {
            tracing::debug!(device = %member.place, "a storage node is silent");
            let step = self.machine.on_silence(member.id);
            if let Some(outcome) = self.follow(step) {
                return Some(outcome);
            }
        }
        None
    }

    /// Does what steps say until one of them waits or ends.
    fn follow(&mut self, mut step: PutStep) -> Option<Outcome> {
        loop {
            match step {
                PutStep::Wait => return None,
                PutStep::Commit(outcome) | PutStep::Done(outcome) => return Some(outcome),
                PutStep::TryHandoff { instead_of } => match self.next_handoff() {
                    Some(member) => {
                        self.machine.on_handoff_sent(member.id);
                        let told = self.told.get(&instead_of).cloned().unwrap_or_default();
                        self.spawn(member, told);
                        return None;
                    }
                    None => step = self.machine.on_no_handoff(),
                },
            }
        }
    }
}

/// A read under way.
struct Reading<'a, T, F> {
    cluster: &'a Cluster,
    replicas: &'a Replicas,
    handoffs: Option<std::vec::IntoIter<Member>>,
    machine: Get,
    calls: Calls<T>,
    asked: Vec<(Member, Duration)>,
    done: Vec<DeviceId>,
    answers: Vec<(Member, T)>,
    send: F,
}

impl<T, F> Reading<'_, T, F>
where
    T: Send + 'static,
    F: Fn(Arc<Place>, bool) -> CallFuture<T>,
{
    fn spawn(&mut self, member: Member) {
        let now = self.cluster.clock.monotonic();
        self.cluster.limiter.on_sent(&member.place.address, now);
        let call = (self.send)(member.place.clone(), self.asked.is_empty());
        self.asked.push((member.clone(), now));
        self.calls.add(member, call);
    }

    fn ask(&mut self, id: DeviceId) {
        if let Some(member) = self.replicas.find(id) {
            self.spawn(member);
        }
    }

    /// Waits for the next answer, or until waiting longer would be slow.
    async fn next(&mut self, classify: fn(&T) -> Answer) -> GetStep {
        match tokio::time::timeout(SLOW_AFTER, self.calls.next()).await {
            Ok(Some((member, result))) => {
                self.cluster.note(&member, &result);
                self.done.push(member.id);
                let said = result.as_ref().map_or(Answer::Failed, classify);
                let step = self.machine.on_answer(member.id, said);
                self.answers
                    .extend(result.ok().map(|answer| (member, answer)));
                step
            }
            Ok(None) => GetStep::Unavailable,
            Err(_elapsed) => {
                let now = self.cluster.clock.monotonic();
                let waits = |(member, _): &&(Member, Duration)| !self.done.contains(&member.id);
                for (member, sent) in self.asked.iter().filter(waits) {
                    let limiter = &self.cluster.limiter;
                    limiter.on_waiting(&member.place.address, *sent, now);
                }
                self.machine.on_slow()
            }
        }
    }

    /// Does what steps say until one of them waits or ends.
    fn follow(&mut self, mut step: GetStep) -> Option<GetStep> {
        loop {
            match step {
                GetStep::Wait => return None,
                GetStep::Ask(id) => {
                    self.ask(id);
                    return None;
                }
                GetStep::AskHandoff => {
                    let replicas = self.replicas;
                    let rest = self
                        .handoffs
                        .get_or_insert_with(|| replicas.handoffs().into_iter());
                    match rest.next() {
                        Some(member) => {
                            self.machine.on_handoff_asked(member.id);
                            self.spawn(member);
                            return None;
                        }
                        None => step = self.machine.on_no_handoff(),
                    }
                }
                GetStep::Read { .. } | GetStep::Missing { .. } | GetStep::Unavailable => {
                    return Some(step);
                }
            }
        }
    }
}

impl Cluster {
    pub(crate) fn note<T>(&self, member: &Member, result: &Result<T, CallError>) {
        match result {
            Ok(_) => self
                .limiter
                .on_success(&member.place.address, self.clock.monotonic()),
            Err(error) => {
                tracing::debug!(device = %member.place, %error, "a storage node did not answer");
                self.limiter
                    .on_failure(&member.place.address, self.clock.monotonic());
            }
        }
    }

    /// Lets calls go on that nobody waits for any more; how they end says how their nodes are.
    pub(crate) fn detach<T: Send + 'static>(&self, mut calls: Calls<T>) {
        if calls.is_empty() {
            return;
        }
        let (limiter, wall) = (Arc::clone(&self.limiter), self.clock.wall());
        tokio::spawn(async move {
            while let Some((member, result)) = calls.next().await {
                match result {
                    Ok(_) => limiter.on_success(&member.place.address, wall.monotonic()),
                    Err(error) => {
                        tracing::debug!(device = %member.place, %error, "a storage node fell behind");
                        limiter.on_failure(&member.place.address, wall.monotonic());
                    }
                }
            }
        });
    }

    /// Writes to a thing's copies until the write is acknowledged or lost. `told` are the devices the writers are to tell
    /// about it, shared out among them. Writers that are behind finish on their own.
    pub(crate) async fn write<T, F>(
        &self,
        replicas: &Replicas,
        told: &[Place],
        send: F,
        classify: fn(&T) -> Reply,
    ) -> Written<T>
    where
        T: Send + 'static,
        F: Fn(Arc<Place>, Vec<Place>) -> CallFuture<T>,
    {
        let mut writing = Writing {
            cluster: self,
            replicas,
            handoffs: None,
            told: HashMap::new(),
            machine: Put::new(&replicas.ids(), self.consistency),
            calls: Calls::new(),
            waiting: Vec::new(),
            send,
        };
        let mut answers = Vec::new();
        let mut outcome = None;
        let well = replicas.well(&self.limiter, self.clock.monotonic());
        for (member, told) in share_out(&replicas.primaries, told) {
            if well.iter().any(|well| well.id == member.id) {
                writing.spawn(member, told);
            } else {
                writing.told.insert(member.id, told);
                let step = writing.machine.on_reply(member.id, Reply::Failed);
                outcome = outcome.or(writing.follow(step));
            }
        }
        let mut deadline = Instant::now() + WRITE_TIME_MAX;
        while outcome.is_none() {
            let look = deadline.min(Instant::now() + SILENT_AFTER);
            let (member, result) = match tokio::time::timeout_at(look, writing.calls.next()).await {
                Err(_elapsed) if Instant::now() < deadline => {
                    outcome = writing.give_up_silent();
                    continue;
                }
                Ok(Some(call)) => call,
                Ok(None) | Err(_) => {
                    outcome = Some(writing.machine.on_deadline());
                    break;
                }
            };
            self.note(&member, &result);
            writing
                .waiting
                .retain(|(waiting, _)| waiting.id != member.id);
            let reply = result.as_ref().map_or(Reply::Failed, classify);
            let step = writing.machine.on_reply(member.id, reply);
            if let Ok(answer) = result {
                answers.push((member.id, answer));
            }
            outcome = writing.follow(step);
            if writing.machine.is_durable() {
                deadline = deadline.min(Instant::now() + VISIBLE_WITHIN);
            }
        }
        self.detach(writing.calls);
        let unavailable = Outcome::Failed(onggi_object_replica::Failure::Unavailable);
        Written {
            outcome: outcome.unwrap_or(unavailable),
            answers,
        }
    }

    /// Asks a thing's copies until the newest version is known. The first call of `send` is made with `true`.
    pub(crate) async fn read<T, F>(
        &self,
        replicas: &Replicas,
        send: F,
        classify: fn(&T) -> Answer,
    ) -> Asked<T>
    where
        T: Send + 'static,
        F: Fn(Arc<Place>, bool) -> CallFuture<T>,
    {
        let mut reading = Reading {
            cluster: self,
            replicas,
            handoffs: None,
            machine: Get::new(&self.read_order(replicas), replicas.handoffs_max()),
            calls: Calls::new(),
            asked: Vec::new(),
            done: Vec::new(),
            answers: Vec::new(),
            send,
        };
        for id in reading.machine.start() {
            reading.ask(id);
        }
        loop {
            let step = reading.next(classify).await;
            if let Some(step) = reading.follow(step) {
                return Asked {
                    step,
                    answers: reading.answers,
                    machine: reading.machine,
                };
            }
        }
    }

    /// Primaries in the order they are asked: that of the ring, or, when many ask for the same, beginning anywhere; nodes
    /// left alone come last.
    fn read_order(&self, replicas: &Replicas) -> Vec<DeviceId> {
        let now = self.clock.monotonic();
        let count = replicas.primaries.len().max(1);
        let start = if self.heat.note(&replicas.hash, now) {
            usize::try_from(self.clock.now().ticks()).unwrap_or(0) % count
        } else {
            0
        };
        let rotated = replicas
            .primaries
            .iter()
            .cycle()
            .skip(start)
            .take(replicas.primaries.len());
        let (limited, well): (Vec<&Member>, Vec<&Member>) =
            rotated.partition(|member| self.limiter.is_limited(&member.place.address, now));
        well.into_iter()
            .chain(limited)
            .map(|member| member.id)
            .collect()
    }
}

/// Shares out what is to be told: to each device what it can write down itself, then to each node what stays on it, and the
/// rest to the primaries with the least to tell.
fn share_out(primaries: &[Member], told: &[Place]) -> Vec<(Member, Vec<Place>)> {
    let mut shares: Vec<(Member, Vec<Place>)> = primaries
        .iter()
        .map(|member| (member.clone(), Vec::new()))
        .collect();
    let mut left: Vec<&Place> = told.iter().collect();
    let is_same: [fn(&Place, &Place) -> bool; 2] = [
        |own, told| own == told,
        |own, told| own.address == told.address,
    ];
    for is_near in is_same {
        left.retain(|place| {
            let mut idle = shares.iter_mut().filter(|(_, share)| share.is_empty());
            let near = idle.find(|(member, _)| is_near(&member.place, place));
            if let Some((_, share)) = near {
                share.push((*place).clone());
                return false;
            }
            true
        });
    }
    for place in left {
        if let Some((_, share)) = shares.iter_mut().min_by_key(|(_, share)| share.len()) {
            share.push(place.clone());
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str, device: &str) -> Place {
        Place {
            address: address.to_owned(),
            device: device.parse().unwrap(),
        }
    }

    fn shares(primaries: &[Place], told: &[Place]) -> Vec<Vec<Place>> {
        let member = |(id, place): (u16, &Place)| Member {
            id: DeviceId::new(id),
            place: Arc::new(place.clone()),
        };
        let primaries: Vec<Member> = (0..).zip(primaries).map(member).collect();
        let shares = share_out(&primaries, told);
        shares.into_iter().map(|(_, share)| share).collect()
    }

    #[test]
    fn each_tells_itself_or_its_neighbour_before_it_tells_others() {
        let (a1, a2) = (place("a", "d1"), place("a", "d2"));
        let (b, c, d) = (place("b", "d1"), place("c", "d1"), place("d", "d1"));
        let told = [b.clone(), d.clone(), a1.clone()];
        let primaries = [a1.clone(), b.clone(), c.clone()];
        assert_eq!(
            shares(&primaries, &told),
            [vec![a1.clone()], vec![b.clone()], vec![d.clone()]]
        );
        let told = [c.clone(), a1.clone(), a2.clone()];
        assert_eq!(
            shares(&[a2.clone(), b.clone(), d], &told),
            [vec![a2], vec![c], vec![a1]]
        );
    }

    #[test]
    fn everybody_is_told_whatever_the_counts() {
        let (a, b) = (place("a", "d1"), place("b", "d1"));
        let told = [place("c", "d1"), place("d", "d1"), b.clone()];
        let given = shares(&[a, b.clone()], &told);
        assert_eq!(given[1][0], b);
        let mut all = given.concat();
        all.sort_by(|x, y| x.address.cmp(&y.address));
        assert_eq!(all, [b, place("c", "d1"), place("d", "d1")]);
        assert_eq!(shares(&[place("a", "d1")], &[]), [Vec::<Place>::new()]);
    }
}

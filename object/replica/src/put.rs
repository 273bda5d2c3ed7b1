//! A write to several devices: PUT, POST and DELETE alike.
//!
//! The shell sends to what [`Put::start`] names, tells each reply, and does what the step says. A device that fails is
//! replaced by a handoff, whose acknowledgement counts for durability (O1) and not for visibility.

use crate::quorum::Quorum;
use onggi_common_units::Timestamp;
use onggi_object_ring::DeviceId;
use std::collections::BTreeMap;

/// What an acknowledgement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// W devices, handoffs among them: a 201 is durable, and visible once replication has caught up.
    #[default]
    Available,
    /// W primaries: a 201 is visible at once, and 503 more likely.
    Strict,
}

/// What a device said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The write is on stable storage. `existed`: there was something before.
    Stored {
        /// Whether there was something before.
        existed: bool,
    },
    /// There is nothing to change (POST).
    Missing,
    /// A row newer than the write is there.
    Newer {
        /// Its timestamp.
        newest: Timestamp,
    },
    /// The request's condition does not hold there.
    ConditionFailed,
    /// The bytes are not what was announced.
    Mismatch,
    /// The device will not take the request: a conflict with what it holds. Others may hold something else, so that one
    /// conflict does not decide: it does when too few others are left for W.
    Conflict,
    /// The device could not be reached, did not answer in time, is full, or broke.
    Failed,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// W devices have it.
    Stored {
        /// Whether there was something before, on any of them.
        existed: bool,
        /// Whether W primaries have it: every later read sees it.
        visible: bool,
    },
    /// It cannot succeed.
    Failed(Failure),
}

/// Why a write cannot succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Too few devices took it: 503.
    Unavailable,
    /// There is nothing to change: 404.
    Missing,
    /// A newer row is there: try again above it.
    Newer {
        /// The newest timestamp seen.
        newest: Timestamp,
    },
    /// The condition does not hold: 412.
    ConditionFailed,
    /// The bytes are not what was announced: 422.
    Mismatch,
    /// A conflict: 409.
    Conflict,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutStep {
    /// Nothing: more replies are due.
    Wait,
    /// Send to the next handoff, in place of this device; when there is none, say [`Put::on_no_handoff`].
    TryHandoff {
        /// The device it stands in for: it takes over what that one had to tell the container.
        instead_of: DeviceId,
    },
    /// The write has succeeded and may be acknowledged; devices that have not replied yet may finish.
    Commit(Outcome),
    /// Nothing more is due.
    Done(Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    is_primary: bool,
    /// A handoff was asked in its place; should it answer after all, that counts.
    is_silent: bool,
    reply: Option<Reply>,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Put {
    quorum: Quorum,
    consistency: Consistency,
    sent: BTreeMap<DeviceId, Sent>,
    /// Failed devices that have no handoff yet.
    handoffs_due: usize,
    committed: bool,
}

impl Put {
    /// A write to these primaries.
    #[must_use]
    pub fn new(primaries: &[DeviceId], consistency: Consistency) -> Self {
        let sent = primaries.iter().map(|id| {
            (
                *id,
                Sent {
                    is_primary: true,
                    is_silent: false,
                    reply: None,
                },
            )
        });
        Self {
            quorum: Quorum::of(primaries.len()),
            consistency,
            sent: sent.collect(),
            handoffs_due: 0,
            committed: false,
        }
    }

    /// The devices to send to first: every primary.
    #[must_use]
    pub fn start(&self) -> Vec<DeviceId> {
        self.sent.keys().copied().collect()
    }

    /// The counts it goes by.
    #[must_use]
    pub const fn quorum(&self) -> Quorum {
        self.quorum
    }

    /// A handoff was sent to.
    pub fn on_handoff_sent(&mut self, device: DeviceId) {
        self.handoffs_due = self.handoffs_due.saturating_sub(1);
        self.sent.entry(device).or_insert(Sent {
            is_primary: false,
            is_silent: false,
            reply: None,
        });
    }

    /// There is no handoff left.
    pub fn on_no_handoff(&mut self) -> PutStep {
        self.handoffs_due = self.handoffs_due.saturating_sub(1);
        self.judge()
    }

    /// A device replied. A reply from a device that was not asked, or has replied before, changes nothing.
    pub fn on_reply(&mut self, device: DeviceId, reply: Reply) -> PutStep {
        let Some(sent) = self
            .sent
            .get_mut(&device)
            .filter(|sent| sent.reply.is_none())
        else {
            return self.judge();
        };
        sent.reply = Some(reply);
        let has_handoff = sent.is_silent;
        if reply == Reply::Failed && !has_handoff && !self.committed && !self.is_decided() {
            self.handoffs_due += 1;
            return PutStep::TryHandoff { instead_of: device };
        }
        self.judge()
    }

    /// A device did not answer in time.
    pub fn on_timeout(&mut self, device: DeviceId) -> PutStep {
        self.on_reply(device, Reply::Failed)
    }

    /// A device says nothing, and may be stopped: a handoff is tried as well, and the device is not waited for any more
    /// once W others have the write.
    pub fn on_silence(&mut self, device: DeviceId) -> PutStep {
        let waits = |sent: &&mut Sent| sent.reply.is_none() && !sent.is_silent;
        let Some(sent) = self.sent.get_mut(&device).filter(waits) else {
            return self.judge();
        };
        sent.is_silent = true;
        if self.committed || self.is_durable() || self.is_decided() {
            return self.judge();
        }
        self.handoffs_due += 1;
        PutStep::TryHandoff { instead_of: device }
    }

    /// The shell waits no longer for anyone: what has not replied has failed, and no handoff is wanted.
    pub fn on_deadline(&mut self) -> Outcome {
        for sent in self.sent.values_mut() {
            sent.reply.get_or_insert(Reply::Failed);
        }
        self.handoffs_due = 0;
        self.outcome()
    }

    fn count(&self, which: impl Fn(&Sent) -> bool) -> usize {
        self.sent.values().filter(|sent| which(sent)).count()
    }

    const fn is_stored(sent: &Sent) -> bool {
        matches!(sent.reply, Some(Reply::Stored { .. }))
    }

    fn primaries_stored(&self) -> usize {
        self.count(|sent| sent.is_primary && Self::is_stored(sent))
    }

    fn primaries_due(&self) -> usize {
        self.count(|sent| sent.is_primary && !sent.is_silent && sent.reply.is_none())
    }

    /// Whether W devices have it: it could be acknowledged, were primaries not worth waiting for.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.count(Self::is_stored) >= self.quorum.writes()
    }

    fn is_visible(&self) -> bool {
        self.primaries_stored() >= self.quorum.writes()
    }

    /// Whether a refusal settles it whatever others say.
    fn is_decided(&self) -> bool {
        let refused =
            |sent: &Sent| matches!(sent.reply, Some(Reply::ConditionFailed | Reply::Mismatch));
        let conflicts = self.count(|sent| sent.reply == Some(Reply::Conflict));
        self.count(refused) > 0 || conflicts >= self.quorum.reads()
    }

    fn judge(&mut self) -> PutStep {
        let waiting = self.handoffs_due > 0 || self.count(|sent| sent.reply.is_none()) > 0;
        if !waiting {
            return PutStep::Done(self.outcome());
        }
        if self.is_decided() && !self.committed {
            return PutStep::Done(self.outcome());
        }
        // Primaries under way may still make a durable write visible: they are waited for.
        let may_answer = self.is_visible()
            || (self.consistency == Consistency::Available
                && self.is_durable()
                && self.primaries_due() == 0);
        if may_answer && !self.committed {
            let outcome = self.outcome();
            if let Outcome::Failed(_) = outcome {
                return PutStep::Done(outcome);
            }
            self.committed = true;
            return PutStep::Commit(outcome);
        }
        PutStep::Wait
    }

    fn outcome(&self) -> Outcome {
        let replies = || self.sent.values().filter_map(|sent| sent.reply);
        if let Some(failure) = replies().find_map(decisive) {
            return Outcome::Failed(failure);
        }
        let newest = replies().filter_map(|reply| match reply {
            Reply::Newer { newest } => Some(newest),
            Reply::Stored { .. }
            | Reply::Missing
            | Reply::ConditionFailed
            | Reply::Mismatch
            | Reply::Conflict
            | Reply::Failed => None,
        });
        let newest = newest.max();
        let enough = match self.consistency {
            // Handoffs know nothing of what stands above it. Acknowledged below that, it would never be read.
            Consistency::Available => self.is_visible() || (self.is_durable() && newest.is_none()),
            Consistency::Strict => self.is_visible(),
        };
        if enough {
            let existed = replies().any(|reply| reply == Reply::Stored { existed: true });
            return Outcome::Stored {
                existed,
                visible: self.is_visible(),
            };
        }
        if let Some(newest) = newest {
            return Outcome::Failed(Failure::Newer { newest });
        }
        if replies().any(|reply| reply == Reply::Conflict) {
            return Outcome::Failed(Failure::Conflict);
        }
        let missing = self.count(|sent| sent.is_primary && sent.reply == Some(Reply::Missing));
        if missing >= self.quorum.reads() {
            return Outcome::Failed(Failure::Missing);
        }
        Outcome::Failed(Failure::Unavailable)
    }
}

/// A reply that makes the write fail even when others stored it.
const fn decisive(reply: Reply) -> Option<Failure> {
    match reply {
        Reply::ConditionFailed => Some(Failure::ConditionFailed),
        Reply::Mismatch => Some(Failure::Mismatch),
        Reply::Stored { .. }
        | Reply::Missing
        | Reply::Newer { .. }
        | Reply::Conflict
        | Reply::Failed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEW: Reply = Reply::Stored { existed: false };

    fn id(n: u16) -> DeviceId {
        DeviceId::new(n)
    }

    fn put(consistency: Consistency) -> Put {
        Put::new(&[id(0), id(1), id(2)], consistency)
    }

    #[test]
    fn one_device_that_lags_behind_and_will_not_take_it_decides_nothing() {
        let mut put = put(Consistency::Available);
        assert_eq!(put.on_reply(id(0), Reply::Conflict), PutStep::Wait);
        assert_eq!(put.on_reply(id(1), NEW), PutStep::Wait);
        let stored = Outcome::Stored {
            existed: false,
            visible: true,
        };
        assert_eq!(put.on_reply(id(2), NEW), PutStep::Done(stored));
    }

    #[test]
    fn conflicts_that_leave_too_few_for_a_write_decide() {
        let mut put = put(Consistency::Available);
        assert_eq!(put.on_reply(id(0), Reply::Conflict), PutStep::Wait);
        let failed = PutStep::Done(Outcome::Failed(Failure::Conflict));
        assert_eq!(put.on_reply(id(1), Reply::Conflict), failed);
    }

    #[test]
    fn two_of_three_primaries_commit_and_the_third_finishes() {
        let mut put = put(Consistency::Strict);
        assert_eq!(put.start(), [id(0), id(1), id(2)]);
        assert_eq!(put.on_reply(id(0), NEW), PutStep::Wait);
        let stored = Outcome::Stored {
            existed: false,
            visible: true,
        };
        assert_eq!(put.on_reply(id(1), NEW), PutStep::Commit(stored));
        // A straggler that fails after the answer needs no handoff: replication brings it up to date.
        assert_eq!(put.on_reply(id(2), Reply::Failed), PutStep::Done(stored));
    }

    #[test]
    fn a_handoff_counts_for_durability_and_not_for_visibility() {
        let run = |consistency| {
            let mut put = put(consistency);
            assert_eq!(put.on_reply(id(0), NEW), PutStep::Wait);
            for device in [1, 2] {
                let step = put.on_timeout(id(device));
                assert_eq!(
                    step,
                    PutStep::TryHandoff {
                        instead_of: id(device)
                    }
                );
            }
            put.on_handoff_sent(id(3));
            put.on_no_handoff();
            put.on_reply(id(3), NEW)
        };
        let durable = Outcome::Stored {
            existed: false,
            visible: false,
        };
        assert_eq!(run(Consistency::Available), PutStep::Done(durable));
        assert_eq!(
            run(Consistency::Strict),
            PutStep::Done(Outcome::Failed(Failure::Unavailable))
        );
    }

    #[test]
    fn a_slow_primary_is_waited_for_until_the_deadline() {
        let mut put = put(Consistency::Available);
        put.on_reply(id(0), NEW);
        put.on_reply(id(1), Reply::Failed);
        put.on_handoff_sent(id(3));
        assert_eq!(put.on_reply(id(3), NEW), PutStep::Wait);
        assert_eq!(
            put.on_deadline(),
            Outcome::Stored {
                existed: false,
                visible: false
            }
        );
    }

    #[test]
    fn a_silent_primary_gets_a_handoff_and_counts_when_it_answers_after_all() {
        let durable = Outcome::Stored {
            existed: false,
            visible: false,
        };
        let instead_of = id(1);
        let silent = || {
            let mut put = put(Consistency::Available);
            assert_eq!(put.on_reply(id(0), NEW), PutStep::Wait);
            assert_eq!(put.on_silence(id(1)), PutStep::TryHandoff { instead_of });
            assert_eq!(put.on_silence(id(1)), PutStep::Wait);
            put
        };
        let mut one = silent();
        one.on_handoff_sent(id(3));
        assert_eq!(
            one.on_silence(id(2)),
            PutStep::TryHandoff { instead_of: id(2) }
        );
        one.on_no_handoff();
        // Nobody who could make it visible is waited for.
        assert_eq!(one.on_reply(id(3), NEW), PutStep::Commit(durable));
        let mut two = silent();
        assert_eq!(two.on_no_handoff(), PutStep::Wait);
        assert_eq!(
            two.on_reply(id(2), Reply::Failed),
            PutStep::TryHandoff { instead_of: id(2) }
        );
        assert_eq!(two.on_no_handoff(), PutStep::Wait);
        let stored = Outcome::Stored {
            existed: false,
            visible: true,
        };
        assert_eq!(two.on_reply(id(1), NEW), PutStep::Done(stored));
        let mut three = silent();
        three.on_no_handoff();
        assert_eq!(
            three.on_reply(id(1), Reply::Failed),
            PutStep::Wait,
            "it had its handoff"
        );
    }

    #[test]
    fn refusals_decide() {
        let mut one = put(Consistency::Available);
        one.on_reply(id(0), NEW);
        let failed = PutStep::Done(Outcome::Failed(Failure::ConditionFailed));
        assert_eq!(one.on_reply(id(1), Reply::ConditionFailed), failed);
        let mut two = put(Consistency::Available);
        let newest = Timestamp::from_ticks(9).unwrap();
        two.on_reply(
            id(0),
            Reply::Newer {
                newest: Timestamp::ZERO,
            },
        );
        two.on_reply(id(1), Reply::Newer { newest });
        let step = two.on_reply(id(2), NEW);
        assert_eq!(
            step,
            PutStep::Done(Outcome::Failed(Failure::Newer { newest }))
        );
    }

    #[test]
    fn handoffs_do_not_outvote_a_primary_that_has_something_newer() {
        let newest = Timestamp::from_ticks(9).unwrap();
        let above = Outcome::Failed(Failure::Newer { newest });
        let mut put = put(Consistency::Available);
        assert_eq!(put.on_reply(id(0), Reply::Newer { newest }), PutStep::Wait);
        put.on_timeout(id(1));
        put.on_handoff_sent(id(3));
        assert_eq!(put.on_reply(id(3), NEW), PutStep::Wait);
        let mut two = put.clone();
        // One handoff and one primary, or two handoffs: W devices, and who reads the other primaries never sees it.
        assert_eq!(put.on_reply(id(2), NEW), PutStep::Done(above));
        two.on_silence(id(2));
        two.on_handoff_sent(id(4));
        assert_eq!(two.on_reply(id(4), NEW), PutStep::Done(above));
        // W primaries are seen, whatever the third one has.
        let mut three = self::put(Consistency::Available);
        three.on_reply(id(0), Reply::Newer { newest });
        three.on_reply(id(1), NEW);
        let stored = Outcome::Stored {
            existed: false,
            visible: true,
        };
        assert_eq!(three.on_reply(id(2), NEW), PutStep::Done(stored));
    }

    #[test]
    fn missing_needs_a_read_quorum() {
        let mut one = put(Consistency::Available);
        one.on_reply(id(0), Reply::Missing);
        one.on_reply(id(1), Reply::Missing);
        let missing = Outcome::Failed(Failure::Missing);
        assert_eq!(one.on_reply(id(2), Reply::Missing), PutStep::Done(missing));
        let mut two = put(Consistency::Available);
        two.on_reply(id(0), Reply::Missing);
        assert_eq!(two.on_deadline(), Outcome::Failed(Failure::Unavailable));
    }

    fn reply() -> impl Strategy<Value = Reply> {
        prop_oneof![
            3 => any::<bool>().prop_map(|existed| Reply::Stored { existed }),
            1 => Just(Reply::Missing),
            1 => Just(Reply::Newer { newest: Timestamp::ZERO }),
            2 => Just(Reply::Failed),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_back_success_means_a_quorum(
            replicas in 1u16..6, replies in proptest::collection::vec(reply(), 12), strict in any::<bool>(),
        ) {
            let primaries: Vec<DeviceId> = (0..replicas).map(id).collect();
            let consistency = if strict { Consistency::Strict } else { Consistency::Available };
            let mut put = Put::new(&primaries, consistency);
            let (mut waiting, mut next) = (primaries, replicas);
            let mut stored = (0, 0);
            let mut last = PutStep::Wait;
            for reply in replies {
                let Some(device) = waiting.pop() else { break };
                if matches!(reply, Reply::Stored { .. }) {
                    stored.0 += 1;
                    stored.1 += usize::from(device.number() < replicas);
                }
                last = put.on_reply(device, reply);
                if let PutStep::TryHandoff { .. } = last {
                    if next < replicas + 2 {
                        put.on_handoff_sent(id(next));
                        waiting.insert(0, id(next));
                        next += 1;
                    } else {
                        last = put.on_no_handoff();
                    }
                }
                let outcome = match last {
                    PutStep::Commit(outcome) | PutStep::Done(outcome) => outcome,
                    PutStep::Wait | PutStep::TryHandoff { .. } => continue,
                };
                if let Outcome::Stored { visible, .. } = outcome {
                    let writes = put.quorum().writes();
                    prop_assert!(stored.0 >= writes);
                    prop_assert_eq!(visible, stored.1 >= writes);
                    prop_assert!(visible || !strict);
                }
            }
            if waiting.is_empty() {
                prop_assert!(matches!(last, PutStep::Done(_)), "it ends: {last:?}");
            }
        }
    }
}

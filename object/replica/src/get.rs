//! A read from several devices: who has the newest version, and whether enough were asked to say that nothing is there.
//!
//! R primaries are asked. The newest row wins, a deletion among them; "not there" needs R answers. When the newest row's
//! body is damaged everywhere, the read fails: an older body is never served in its place. A device that does not
//! answer is replaced by the next primary, then by handoffs, whose answers do not count towards R.

use crate::quorum::Quorum;
use onggi_common_units::Timestamp;
use onggi_object_ring::DeviceId;
use std::collections::VecDeque;

/// What a device said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has the object, or a row of it, put then.
    Found {
        /// When its bytes were put.
        data: Timestamp,
        /// Whether the bytes are whole there.
        healthy: bool,
    },
    /// It has no such object.
    Missing {
        /// When it was deleted, if the device remembers.
        tombstone: Option<Timestamp>,
    },
    /// It could not be reached or did not answer in time.
    Failed,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetStep {
    /// Nothing: more answers are due.
    Wait,
    /// Ask this primary.
    Ask(DeviceId),
    /// Ask the next handoff; when there is none, say [`Get::on_no_handoff`].
    AskHandoff,
    /// The version put then is the newest: read it from [`Get::holders`].
    Read {
        /// When its bytes were put.
        data: Timestamp,
    },
    /// Nothing is there: 404.
    Missing {
        /// When it was deleted, if any device remembers.
        tombstone: Option<Timestamp>,
    },
    /// Too few devices answered, or the newest body is nowhere whole: 503.
    Unavailable,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Get {
    reads: usize,
    primaries: Vec<DeviceId>,
    unasked: VecDeque<DeviceId>,
    due: Vec<DeviceId>,
    answers: Vec<(DeviceId, Answer)>,
    handoffs_left: usize,
}

impl Get {
    /// A read from these primaries, in this order of preference, that gives up after so many handoffs.
    #[must_use]
    pub fn new(primaries: &[DeviceId], handoffs_max: usize) -> Self {
        Self {
            reads: Quorum::of(primaries.len()).reads(),
            primaries: primaries.to_vec(),
            unasked: primaries.iter().copied().collect(),
            due: Vec::new(),
            answers: Vec::new(),
            handoffs_left: handoffs_max,
        }
    }

    /// The devices to ask first: R primaries.
    pub fn start(&mut self) -> Vec<DeviceId> {
        while self.due.len() < self.reads {
            let Some(device) = self.unasked.pop_front() else {
                break;
            };
            self.due.push(device);
        }
        self.due.clone()
    }

    /// A handoff was asked.
    pub fn on_handoff_asked(&mut self, device: DeviceId) {
        self.due.push(device);
    }

    /// There is no handoff left.
    pub fn on_no_handoff(&mut self) -> GetStep {
        self.handoffs_left = 0;
        self.judge()
    }

    /// A device answered, or is given up.
    pub fn on_answer(&mut self, device: DeviceId, answer: Answer) -> GetStep {
        let Some(place) = self.due.iter().position(|due| *due == device) else {
            return self.judge();
        };
        self.due.swap_remove(place);
        self.answers.push((device, answer));
        self.judge()
    }

    /// Answers are slow: one more device may be asked beside those that are due.
    pub fn on_slow(&mut self) -> GetStep {
        self.ask_more().unwrap_or(GetStep::Wait)
    }

    /// The devices that hold the version put then, whole, best first.
    pub fn holders(&self, version: Timestamp) -> impl Iterator<Item = DeviceId> + '_ {
        self.answers
            .iter()
            .filter_map(move |(device, answer)| match answer {
                Answer::Found {
                    data,
                    healthy: true,
                } if *data == version => Some(*device),
                Answer::Found { .. } | Answer::Missing { .. } | Answer::Failed => None,
            })
    }

    /// The devices not asked yet that may hold it as well: the rest of the primaries.
    pub fn others(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.unasked.iter().copied()
    }

    fn heard(&self) -> usize {
        let counts = |(device, answer): &&(DeviceId, Answer)| {
            *answer != Answer::Failed && self.primaries.contains(device)
        };
        self.answers.iter().filter(counts).count()
    }

    fn newest_found(&self) -> Option<Timestamp> {
        let found = self.answers.iter().filter_map(|(_, answer)| match answer {
            Answer::Found { data, .. } => Some(*data),
            Answer::Missing { .. } | Answer::Failed => None,
        });
        found.max()
    }

    fn newest_tombstone(&self) -> Option<Timestamp> {
        let deleted = self.answers.iter().filter_map(|(_, answer)| match answer {
            Answer::Missing { tombstone } => *tombstone,
            Answer::Found { .. } | Answer::Failed => None,
        });
        deleted.max()
    }

    fn ask_more(&mut self) -> Option<GetStep> {
        if let Some(device) = self.unasked.pop_front() {
            self.due.push(device);
            return Some(GetStep::Ask(device));
        }
        if self.handoffs_left > 0 {
            self.handoffs_left -= 1;
            return Some(GetStep::AskHandoff);
        }
        None
    }

    fn judge(&mut self) -> GetStep {
        let enough = self.heard() >= self.reads;
        if !enough {
            // Each answer that does not count is made up for at once.
            if self.heard() + self.due.len() < self.reads
                && let Some(step) = self.ask_more()
            {
                return step;
            }
            if !self.due.is_empty() {
                return GetStep::Wait;
            }
        }
        let tombstone = self.newest_tombstone();
        match self.newest_found() {
            // A deletion wins over bytes of the same moment, as in the merge of rows.
            Some(data) if tombstone.is_none_or(|deleted| data > deleted) => self.read(data),
            Some(_) => GetStep::Missing { tombstone },
            None if enough => GetStep::Missing { tombstone },
            None => GetStep::Unavailable,
        }
    }

    fn read(&mut self, data: Timestamp) -> GetStep {
        if self.holders(data).next().is_some() {
            return GetStep::Read { data };
        }
        if let Some(step) = self.ask_more() {
            return step;
        }
        if self.due.is_empty() {
            GetStep::Unavailable
        } else {
            GetStep::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u16) -> DeviceId {
        DeviceId::new(n)
    }

    fn at(ticks: u64) -> Timestamp {
        Timestamp::from_ticks(ticks).unwrap()
    }

    fn found(ticks: u64) -> Answer {
        Answer::Found {
            data: at(ticks),
            healthy: true,
        }
    }

    const NONE: Answer = Answer::Missing { tombstone: None };

    fn get() -> Get {
        let mut get = Get::new(&[id(0), id(1), id(2)], 1);
        assert_eq!(get.start(), [id(0), id(1)]);
        get
    }

    #[test]
    fn the_newest_of_a_read_quorum_is_read() {
        let mut get = get();
        assert_eq!(get.on_answer(id(0), found(1)), GetStep::Wait);
        assert_eq!(
            get.on_answer(id(1), found(2)),
            GetStep::Read { data: at(2) }
        );
        assert_eq!(get.holders(at(2)).collect::<Vec<_>>(), [id(1)]);
        assert_eq!(get.others().collect::<Vec<_>>(), [id(2)]);
    }

    #[test]
    fn a_newer_tombstone_hides_what_another_still_has() {
        let mut get = get();
        get.on_answer(id(0), found(1));
        let deleted = Answer::Missing {
            tombstone: Some(at(1)),
        };
        assert_eq!(
            get.on_answer(id(1), deleted),
            GetStep::Missing {
                tombstone: Some(at(1))
            }
        );
    }

    #[test]
    fn not_there_needs_a_read_quorum_of_primaries() {
        let mut get = get();
        assert_eq!(get.on_answer(id(0), NONE), GetStep::Wait);
        assert_eq!(get.on_answer(id(1), Answer::Failed), GetStep::Ask(id(2)));
        let mut lost = get.clone();
        assert_eq!(
            get.on_answer(id(2), NONE),
            GetStep::Missing { tombstone: None }
        );
        assert_eq!(lost.on_answer(id(2), Answer::Failed), GetStep::AskHandoff);
        lost.on_handoff_asked(id(3));
        let mut again = lost.clone();
        assert_eq!(lost.on_answer(id(3), NONE), GetStep::Unavailable);
        assert_eq!(
            again.on_answer(id(3), found(4)),
            GetStep::Read { data: at(4) }
        );
    }

    #[test]
    fn a_damaged_newest_body_is_sought_elsewhere_and_never_replaced_by_an_older_one() {
        let mut get = get();
        get.on_answer(id(0), found(1));
        let damaged = Answer::Found {
            data: at(2),
            healthy: false,
        };
        assert_eq!(get.on_answer(id(1), damaged), GetStep::Ask(id(2)));
        assert_eq!(get.on_answer(id(2), found(1)), GetStep::AskHandoff);
        assert_eq!(get.on_no_handoff(), GetStep::Unavailable);
    }

    #[test]
    fn a_slow_device_is_not_waited_for() {
        let mut get = get();
        assert_eq!(get.on_answer(id(0), found(1)), GetStep::Wait);
        assert_eq!(get.on_slow(), GetStep::Ask(id(2)));
        assert_eq!(
            get.on_answer(id(2), found(1)),
            GetStep::Read { data: at(1) }
        );
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![
            (0u64..4, any::<bool>()).prop_map(|(t, healthy)| Answer::Found {
                data: at(t),
                healthy
            }),
            proptest::option::of(0u64..4).prop_map(|t| Answer::Missing {
                tombstone: t.map(at)
            }),
            Just(Answer::Failed),
        ]
    }

    proptest! {
        #[test]
        fn a_read_ends_and_is_never_older_than_what_it_heard(
            replicas in 1u16..6, answers in proptest::collection::vec(answer(), 12),
        ) {
            let primaries: Vec<DeviceId> = (0..replicas).map(id).collect();
            let mut get = Get::new(&primaries, 2);
            let mut due: Vec<DeviceId> = get.start();
            let (mut next, mut newest) = (100, Timestamp::ZERO);
            let mut answers = answers.into_iter();
            let mut end = None;
            while let (Some(device), None) = (due.pop(), end) {
                let answer = answers.next().unwrap_or(Answer::Failed);
                if let Answer::Found { data, .. } = answer {
                    newest = newest.max(data);
                }
                match get.on_answer(device, answer) {
                    GetStep::Wait => {}
                    GetStep::Ask(device) => due.push(device),
                    GetStep::AskHandoff => {
                        get.on_handoff_asked(id(next));
                        due.push(id(next));
                        next += 1;
                    }
                    step => end = Some(step),
                }
            }
            match end {
                Some(GetStep::Read { data }) => prop_assert!(data >= newest),
                Some(GetStep::Missing { .. } | GetStep::Unavailable) => {}
                other => prop_assert!(false, "no end: {other:?}"),
            }
        }
    }
}

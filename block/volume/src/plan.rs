//! Plans: what is to be done to a pool and a target, step by step, and how it is undone.
//!
//! A plan is data. It is journaled, together with the state it starts from, before its first step; each step can be
//! carried out again, so after a crash the journal says where to go on. [`Journal`] is the machine that says what comes
//! next; it ends after a bounded number of steps whatever fails.

use crate::id::{AttachmentId, PlanId, VolumeId};
use crate::placement::PoolAddress;
use crate::state::VolumeState;
use crate::volume::SizeGib;
use serde::{Deserialize, Serialize};

/// What a plan is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// Making a volume.
    Create,
    /// Removing a volume.
    Delete,
    /// Growing a volume.
    Extend {
        /// What it was before.
        from: VolumeState,
        /// Its new size.
        size: SizeGib,
    },
    /// Letting an attachment's connector in.
    Connect {
        /// The attachment.
        attachment: AttachmentId,
    },
    /// Taking an attachment away.
    Disconnect {
        /// The attachment.
        attachment: AttachmentId,
    },
}

impl Operation {
    /// Its name, for people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Extend { .. } => "extend",
            Self::Connect { .. } => "attach",
            Self::Disconnect { .. } => "detach",
        }
    }

    /// What is done when a step fails.
    const fn on_failure(&self) -> OnFailure {
        match self {
            // Nobody waits for its answer, so what passes is waited for.
            Self::Create => OnFailure::UndoUnlessPassing,
            Self::Connect { .. } => OnFailure::Undo,
            Self::Delete | Self::Extend { .. } => OnFailure::Settle,
            // What was promised to be cut must be cut: there is no way back.
            Self::Disconnect { .. } => OnFailure::Retry,
        }
    }
}

enum OnFailure {
    Undo,
    UndoUnlessPassing,
    Settle,
    Retry,
}

/// One step. Carrying it out twice is the same as once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Makes the volume's bytes in the pool.
    Allocate {
        /// The pool.
        pool: PoolAddress,
        /// The volume.
        volume: VolumeId,
        /// Its size.
        size: SizeGib,
    },
    /// Gives the volume's bytes back to the pool.
    Release {
        /// The pool.
        pool: PoolAddress,
        /// The volume.
        volume: VolumeId,
    },
    /// Grows the volume's bytes in the pool.
    Grow {
        /// The pool.
        pool: PoolAddress,
        /// The volume.
        volume: VolumeId,
        /// Its new size.
        size: SizeGib,
    },
    /// Tells the target how large the volume is now.
    Resize {
        /// The pool.
        pool: PoolAddress,
        /// The volume.
        volume: VolumeId,
    },
    /// Exports the volume to every attachment that has access, this one among them.
    Export {
        /// The pool.
        pool: PoolAddress,
        /// The volume.
        volume: VolumeId,
        /// The attachment.
        attachment: AttachmentId,
    },
    /// Takes this attachment's access away, and the export with it when no other has access.
    Withdraw {
        /// The volume.
        volume: VolumeId,
        /// The attachment.
        attachment: AttachmentId,
    },
    /// Removes the export.
    Unexport {
        /// The volume.
        volume: VolumeId,
    },
}

impl Step {
    /// The step that takes back what this one did; `None` when nothing need be.
    #[must_use]
    pub fn undo(&self) -> Option<Self> {
        match self {
            Self::Allocate {
                pool,
                volume,
                size: _,
            } => Some(Self::Release {
                pool: pool.clone(),
                volume: *volume,
            }),
            Self::Export {
                pool: _,
                volume,
                attachment,
            } => Some(Self::Withdraw {
                volume: *volume,
                attachment: *attachment,
            }),
            Self::Release { .. }
            | Self::Grow { .. }
            | Self::Resize { .. }
            | Self::Withdraw { .. }
            | Self::Unexport { .. } => None,
        }
    }

    /// Its name, for people and failpoints.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Allocate { .. } => "allocate",
            Self::Release { .. } => "release",
            Self::Grow { .. } => "grow",
            Self::Resize { .. } => "resize",
            Self::Export { .. } => "export",
            Self::Withdraw { .. } => "withdraw",
            Self::Unexport { .. } => "unexport",
        }
    }
}

/// Ordered steps on one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its id.
    pub id: PlanId,
    /// The volume.
    pub volume: VolumeId,
    /// What it is for.
    pub operation: Operation,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Makes a volume.
    #[must_use]
    pub fn create(id: PlanId, volume: VolumeId, pool: PoolAddress, size: SizeGib) -> Self {
        let steps = vec![Step::Allocate { pool, volume, size }];
        Self {
            id,
            volume,
            operation: Operation::Create,
            steps,
        }
    }

    /// Removes a volume; one that may be exported is first taken from the target.
    #[must_use]
    pub fn delete(id: PlanId, volume: VolumeId, pool: PoolAddress, exported: bool) -> Self {
        let mut steps = Vec::new();
        if exported {
            steps.push(Step::Unexport { volume });
        }
        steps.push(Step::Release { pool, volume });
        Self {
            id,
            volume,
            operation: Operation::Delete,
            steps,
        }
    }

    /// Grows a volume; one that is exported shows its new size.
    #[must_use]
    pub fn extend(
        id: PlanId,
        volume: VolumeId,
        pool: PoolAddress,
        (from, exported): (VolumeState, bool),
        size: SizeGib,
    ) -> Self {
        let mut steps = vec![Step::Grow {
            pool: pool.clone(),
            volume,
            size,
        }];
        if exported {
            steps.push(Step::Resize { pool, volume });
        }
        Self {
            id,
            volume,
            operation: Operation::Extend { from, size },
            steps,
        }
    }

    /// Lets an attachment's connector in.
    #[must_use]
    pub fn connect(
        id: PlanId,
        volume: VolumeId,
        pool: PoolAddress,
        attachment: AttachmentId,
    ) -> Self {
        let steps = vec![Step::Export {
            pool,
            volume,
            attachment,
        }];
        Self {
            id,
            volume,
            operation: Operation::Connect { attachment },
            steps,
        }
    }

    /// Takes an attachment away; one that never had access needs nothing of the target.
    #[must_use]
    pub fn disconnect(
        id: PlanId,
        volume: VolumeId,
        attachment: AttachmentId,
        had_access: bool,
    ) -> Self {
        let mut steps = Vec::new();
        if had_access {
            steps.push(Step::Withdraw { volume, attachment });
        }
        Self {
            id,
            volume,
            operation: Operation::Disconnect { attachment },
            steps,
        }
    }
}

/// How far a plan has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "direction", rename_all = "snake_case")]
pub enum Progress {
    /// It is being carried out.
    Forward {
        /// How many steps are done.
        done: usize,
    },
    /// It is being undone.
    Backward {
        /// How many steps still have to be undone.
        left: usize,
        /// Why.
        reason: String,
    },
}

/// A plan and how far it has come: what is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The plan.
    pub plan: Plan,
    /// How far it has come.
    pub progress: Progress,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Carry out this step, then [`Journal::advance`] or [`Journal::fail`].
    Carry(Step),
    /// Store the end of it.
    Settle(Outcome),
}

/// How a plan ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Done,
    /// A step failed, and those before it are undone as far as they can be.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFailure {
    /// Why, in words for the volume's user.
    pub reason: String,
    /// Whether the step may have done something. When it certainly has not, it need not be undone.
    pub may_have_acted: bool,
    /// Whether the same step may well succeed later: the target or the pool's worker is not there.
    pub is_passing: bool,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ask [`Journal::next`] again.
    GoOn,
    /// Leave the plan in the journal and try the same step again later.
    Later,
}

impl Journal {
    /// A plan at its beginning.
    #[must_use]
    pub const fn new(plan: Plan) -> Self {
        Self {
            plan,
            progress: Progress::Forward { done: 0 },
        }
    }

    /// What comes next.
    #[must_use]
    pub fn next(&self) -> Next {
        match &self.progress {
            Progress::Forward { done } => match self.plan.steps.get(*done) {
                Some(step) => Next::Carry(step.clone()),
                None => Next::Settle(Outcome::Done),
            },
            Progress::Backward { left, reason } => {
                let undone = self.plan.steps.iter().take(*left).rev();
                match undone.filter_map(Step::undo).next() {
                    Some(step) => Next::Carry(step),
                    None => Next::Settle(Outcome::Failed {
                        reason: reason.clone(),
                    }),
                }
            }
        }
    }

    /// The step that came next is done.
    pub fn advance(&mut self) {
        match &mut self.progress {
            Progress::Forward { done } => *done += 1,
            Progress::Backward { left, .. } => {
                *left = last_undoable(&self.plan.steps, *left).unwrap_or(0);
            }
        }
    }

    /// The step that came next has failed.
    pub fn fail(&mut self, failure: StepFailure) -> Verdict {
        match &mut self.progress {
            Progress::Forward { done } => {
                let left = match self.plan.operation.on_failure() {
                    OnFailure::Retry => return Verdict::Later,
                    OnFailure::Settle | OnFailure::UndoUnlessPassing if failure.is_passing => {
                        return Verdict::Later;
                    }
                    OnFailure::Settle => 0,
                    OnFailure::Undo => *done + usize::from(failure.may_have_acted),
                    // An attempt before this one may have acted.
                    OnFailure::UndoUnlessPassing => *done + 1,
                };
                self.progress = Progress::Backward {
                    left,
                    reason: failure.reason,
                };
            }
            Progress::Backward { .. } if failure.is_passing => return Verdict::Later,
            Progress::Backward { left, .. } => {
                // What cannot be undone stays behind, in the error state the plan ends in: deleting cleans it up.
                *left = last_undoable(&self.plan.steps, *left).unwrap_or(0);
            }
        }
        Verdict::GoOn
    }
}

/// The index of the last of the first `left` steps that has an undo.
fn last_undoable(steps: &[Step], left: usize) -> Option<usize> {
    steps
        .iter()
        .take(left)
        .rposition(|step| step.undo().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::Uuid;
    use proptest::prelude::*;

    fn pool() -> PoolAddress {
        "h@b#p".parse().unwrap()
    }

    fn ids() -> (PlanId, VolumeId, AttachmentId) {
        let uuid = |byte| Uuid::from_random([byte; 16]);
        (PlanId(uuid(1)), VolumeId(uuid(2)), AttachmentId(uuid(3)))
    }

    fn failure(may_have_acted: bool, is_passing: bool) -> StepFailure {
        StepFailure {
            reason: "no".to_owned(),
            may_have_acted,
            is_passing,
        }
    }

    #[test]
    fn a_create_that_fails_releases_what_it_may_have_made() {
        let (plan, volume, _) = ids();
        let size = SizeGib::try_from(1).unwrap();
        let mut journal = Journal::new(Plan::create(plan, volume, pool(), size));
        assert!(matches!(journal.next(), Next::Carry(Step::Allocate { .. })));
        assert_eq!(journal.fail(failure(true, false)), Verdict::GoOn);
        assert_eq!(
            journal.next(),
            Next::Carry(Step::Release {
                pool: pool(),
                volume
            })
        );
        journal.advance();
        assert_eq!(
            journal.next(),
            Next::Settle(Outcome::Failed {
                reason: "no".to_owned()
            })
        );
    }

    #[test]
    fn a_create_waits_for_what_passes() {
        let (plan, volume, _) = ids();
        let size = SizeGib::try_from(1).unwrap();
        let mut journal = Journal::new(Plan::create(plan, volume, pool(), size));
        assert_eq!(journal.fail(failure(true, true)), Verdict::Later);
        assert!(matches!(journal.next(), Next::Carry(Step::Allocate { .. })));
        journal.advance();
        assert_eq!(journal.next(), Next::Settle(Outcome::Done));
    }

    #[test]
    fn a_step_that_has_not_acted_is_not_undone() {
        let (plan, volume, attachment) = ids();
        let mut journal = Journal::new(Plan::connect(plan, volume, pool(), attachment));
        assert_eq!(journal.fail(failure(false, true)), Verdict::GoOn);
        assert!(matches!(
            journal.next(),
            Next::Settle(Outcome::Failed { .. })
        ));
    }

    #[test]
    fn a_disconnect_is_tried_until_it_is_done() {
        let (plan, volume, attachment) = ids();
        let mut journal = Journal::new(Plan::disconnect(plan, volume, attachment, true));
        for _ in 0..3 {
            assert_eq!(journal.fail(failure(true, false)), Verdict::Later);
            assert!(matches!(journal.next(), Next::Carry(Step::Withdraw { .. })));
        }
        journal.advance();
        assert_eq!(journal.next(), Next::Settle(Outcome::Done));
    }

    fn any_plan() -> impl Strategy<Value = Plan> {
        let (plan, volume, attachment) = ids();
        let size = SizeGib::try_from(1).unwrap();
        prop_oneof![
            Just(Plan::create(plan, volume, pool(), size)),
            any::<bool>().prop_map(move |exported| Plan::delete(plan, volume, pool(), exported)),
            any::<bool>().prop_map(move |exported| {
                Plan::extend(plan, volume, pool(), (VolumeState::InUse, exported), size)
            }),
            Just(Plan::connect(plan, volume, pool(), attachment)),
            any::<bool>().prop_map(move |had| Plan::disconnect(plan, volume, attachment, had)),
        ]
    }

    proptest! {
        /// The model: what each step leaves behind, with steps that may act and fail.
        #[test]
        fn whatever_fails_a_plan_ends_and_leaves_nothing_half_made(
            plan in any_plan(), failures in proptest::collection::vec(proptest::option::of(any::<(bool, bool)>()), 0..12)
        ) {
            let mut journal = Journal::new(plan.clone());
            let (mut made, mut failures) = (Vec::new(), failures.into_iter());
            let mut undo_failed = false;
            for _ in 0..40 {
                match journal.next() {
                    Next::Carry(step) => {
                        let failure = failures.next().flatten().map(|(acted, passing)| failure(acted, passing));
                        let is_undo = !plan.steps.contains(&step);
                        if failure.as_ref().is_none_or(|failure| failure.may_have_acted) {
                            if is_undo {
                                made.retain(|made: &Step| made.undo().as_ref() != Some(&step));
                            } else if step.undo().is_some() && !made.contains(&step) {
                                made.push(step);
                            }
                        }
                        match failure {
                            None => journal.advance(),
                            Some(failure) => {
                                undo_failed |= is_undo && !failure.is_passing;
                                journal.fail(failure);
                            }
                        }
                    }
                    Next::Settle(Outcome::Done) => {
                        prop_assert_eq!(made.len(), plan.steps.iter().filter(|s| s.undo().is_some()).count());
                        return Ok(());
                    }
                    Next::Settle(Outcome::Failed { .. }) => {
                        prop_assert!(made.is_empty() || undo_failed);
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "the plan did not end");
        }
    }
}

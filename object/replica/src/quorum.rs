//! How many copies must agree.
//!
//! W = ⌊N/2⌋ + 1 and R = N − W + 1, counted over primaries: every read meets every acknowledged write in at least one
//! device. (Swift's own quorum is ⌊(N+1)/2⌋, half for even N: two writers can then both succeed unseen.)

/// The counts for a number of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    replicas: usize,
}

impl Quorum {
    /// The counts for so many copies; at least one.
    #[must_use]
    pub const fn of(replicas: usize) -> Self {
        Self {
            replicas: if replicas == 0 { 1 } else { replicas },
        }
    }

    /// N: how many copies there should be.
    #[must_use]
    pub const fn replicas(self) -> usize {
        self.replicas
    }

    /// W: how many must have a write.
    #[must_use]
    pub const fn writes(self) -> usize {
        self.replicas / 2 + 1
    }

    /// R: how many must answer a read.
    #[must_use]
    pub const fn reads(self) -> usize {
        self.replicas - self.writes() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_always_overlap() {
        for replicas in 1..20 {
            let quorum = Quorum::of(replicas);
            assert!(quorum.writes() + quorum.reads() > replicas);
            assert!(2 * quorum.writes() > replicas, "two writes overlap too");
        }
        assert_eq!((Quorum::of(3).writes(), Quorum::of(3).reads()), (2, 2));
        assert_eq!((Quorum::of(4).writes(), Quorum::of(4).reads()), (3, 2));
        assert_eq!(Quorum::of(0), Quorum::of(1));
    }
}

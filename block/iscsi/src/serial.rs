//! Serial number arithmetic (RFC 1982, as RFC 7143 §4.2.2.1 asks) and the counters that use it.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use core::cmp::Ordering;

/// A 32-bit serial number: it wraps, and order is decided by the shorter way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Serial32(u32);

/// Half the circle: two numbers this far apart are in no order.
const HALF: u32 = 1 << 31;

impl Serial32 {
    /// A serial number of this value.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The bare value.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }

    /// The number that many steps later.
    #[must_use]
    pub const fn plus(self, steps: u32) -> Self {
        Self(self.0.wrapping_add(steps))
    }

    /// The number that many steps earlier.
    #[must_use]
    pub const fn minus(self, steps: u32) -> Self {
        Self(self.0.wrapping_sub(steps))
    }

    /// Steps from `earlier` up to this number, going up.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether this number lies in `first..=last`; an empty range is `last` one before `first`.
    #[must_use]
    pub const fn is_within(self, first: Self, last: Self) -> bool {
        let width = last.0.wrapping_sub(first.0);
        width < HALF && self.0.wrapping_sub(first.0) <= width
    }
}

impl PartialOrd for Serial32 {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.0.wrapping_sub(other.0) {
            0 => Some(Ordering::Equal),
            HALF => None,
            ahead if ahead < HALF => Some(Ordering::Greater),
            _ => Some(Ordering::Less),
        }
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd)]
        pub struct $name(Serial32);

        impl $name {
            /// A counter at this value.
            #[must_use]
            pub const fn new(value: u32) -> Self {
                Self(Serial32::new(value))
            }

            /// The bare value.
            #[must_use]
            pub const fn value(self) -> u32 {
                self.0.value()
            }

            /// The serial number.
            #[must_use]
            pub const fn serial(self) -> Serial32 {
                self.0
            }

            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.plus(1))
            }

            /// The one before this.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.minus(1))
            }

            /// Gives the current number and moves on by one.
            pub const fn take(&mut self) -> Self {
                let current = *self;
                *self = current.next();
                current
            }
        }
    };
}

counter!(
    /// Numbers the commands of a session.
    CmdSn
);
counter!(
    /// Numbers the statuses of a connection.
    StatSn
);
counter!(
    /// Numbers the Data-In, Data-Out or R2T PDUs of a task.
    DataSn
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_goes_the_shorter_way_round() {
        let (low, high) = (Serial32::new(5), Serial32::new(u32::MAX));
        assert!(high < low);
        assert!(Serial32::new(5) < Serial32::new(6));
        assert_eq!(Serial32::new(0).partial_cmp(&Serial32::new(HALF)), None);
    }

    #[test]
    fn an_empty_range_holds_nothing() {
        let first = Serial32::new(0);
        assert!(!first.is_within(first, first.minus(1)));
        assert!(first.is_within(first, first));
    }

    proptest! {
        #[test]
        fn adding_less_than_half_the_circle_is_later(start in any::<u32>(), steps in 1u32..HALF) {
            let start = Serial32::new(start);
            prop_assert!(start < start.plus(steps));
            prop_assert_eq!(start.plus(steps).distance_from(start), steps);
        }

        #[test]
        fn a_range_is_the_same_anywhere_on_the_circle(base in any::<u32>(), at in 0u32..1000, width in 0u32..500) {
            let base = Serial32::new(base);
            prop_assert_eq!(base.plus(at).is_within(base, base.plus(width)), at <= width);
        }
    }
}

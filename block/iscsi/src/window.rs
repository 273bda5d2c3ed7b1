//! The command window: which commands a target may take, and in which order (RFC 7143 §4.2.2.1).
//!
//! Invariant B2: a command outside [ExpCmdSN, MaxCmdSN] never executes.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::serial::CmdSn;

/// The target's view of a session's command numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandWindow {
    expected: CmdSn,
    last: CmdSn,
}

/// What the window says to a command's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The next in order: take it.
    Next,
    /// Inside the window, but earlier ones are missing: hold it.
    Early,
    /// Outside the window: drop it silently.
    Outside,
}

impl CommandWindow {
    /// A window of `width` commands that begins at `expected`.
    #[must_use]
    pub const fn new(expected: CmdSn, width: u32) -> Self {
        let last = CmdSn::new(expected.serial().plus(width).minus(1).value());
        Self { expected, last }
    }

    /// ExpCmdSN: the next command in order.
    #[must_use]
    pub const fn expected(&self) -> CmdSn {
        self.expected
    }

    /// MaxCmdSN: the last command that may be sent.
    #[must_use]
    pub const fn last(&self) -> CmdSn {
        self.last
    }

    /// Whether a number lies in the window.
    #[must_use]
    pub const fn contains(&self, number: CmdSn) -> bool {
        number
            .serial()
            .is_within(self.expected.serial(), self.last.serial())
    }

    /// Judges a command's number; `Next` moves ExpCmdSN on.
    pub fn admit(&mut self, number: CmdSn) -> Admission {
        if !self.contains(number) {
            return Admission::Outside;
        }
        if number != self.expected {
            return Admission::Early;
        }
        self.expected = self.expected.next();
        Admission::Next
    }

    /// Opens the window so that `room` more commands may come. It never closes: MaxCmdSN does not go back.
    pub fn open(&mut self, room: u32) {
        let last = CmdSn::new(self.expected.serial().plus(room).minus(1).value());
        if last > self.last {
            self.last = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_is_taken_once_and_in_order() {
        let mut window = CommandWindow::new(CmdSn::new(u32::MAX), 4);
        assert_eq!(window.admit(CmdSn::new(0)), Admission::Early);
        assert_eq!(window.admit(CmdSn::new(u32::MAX)), Admission::Next);
        assert_eq!(window.admit(CmdSn::new(u32::MAX)), Admission::Outside);
        assert_eq!(window.admit(CmdSn::new(0)), Admission::Next);
        assert_eq!(window.last(), CmdSn::new(2));
    }

    #[test]
    fn a_closed_window_takes_nothing() {
        let mut window = CommandWindow::new(CmdSn::new(7), 0);
        assert_eq!(window.admit(CmdSn::new(7)), Admission::Outside);
        window.open(1);
        assert_eq!(window.admit(CmdSn::new(7)), Admission::Next);
    }

    proptest! {
        #[test]
        fn b2_nothing_outside_the_window_is_admitted(start in any::<u32>(), width in 0u32..1000, number in any::<u32>()) {
            let mut window = CommandWindow::new(CmdSn::new(start), width);
            let admission = window.admit(CmdSn::new(number));
            prop_assert_eq!(admission != Admission::Outside, number.wrapping_sub(start) < width);
        }

        #[test]
        fn the_last_number_never_goes_back(start in any::<u32>(), rooms in proptest::collection::vec(0u32..64, 1..50)) {
            let mut window = CommandWindow::new(CmdSn::new(start), 32);
            for room in rooms {
                let before = window.last();
                window.admit(window.expected());
                window.open(room);
                prop_assert!(window.last() == before || window.last() > before);
            }
        }
    }
}

//! SANITIZE: every block erased or overwritten, and what the unit answers meanwhile (SBC-4 §4.11).
//!
//! While it runs, and after it failed, the unit answers only what does not touch the medium. A failure is left by
//! sanitizing again, or by EXIT FAILURE MODE if the failed command allowed that (AUSE).

use crate::cdb::{Cdb, SanitizeAction};
use crate::range::Capacity;
use crate::sense::Sense;
use crate::wire::u16_at;

const HEADER_BYTES: usize = 4;

/// What happens to every block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erasure {
    /// Its space is given back where that is possible; it reads as zeros.
    Erase,
    /// It is overwritten with this block, so many times, the block inverted between times if asked for.
    Overwrite {
        /// What the blocks hold at the end.
        block: Vec<u8>,
        /// How many times.
        passes: u8,
        /// Whether every other time the inverse is written.
        inverts: bool,
    },
}

/// Where a unit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum SanitizeState {
    #[default]
    None,
    Running {
        unrestricted_exit: bool,
    },
    Failed {
        unrestricted_exit: bool,
    },
}

impl SanitizeState {
    /// Whether reading and writing go on.
    pub(crate) const fn is_quiet(self) -> bool {
        matches!(self, Self::None)
    }

    /// What the sense of a command that is not carried out is.
    pub(crate) const fn sense(self) -> Option<Sense> {
        match self {
            Self::None => None,
            Self::Running { .. } => Some(Sense::SANITIZE_IN_PROGRESS),
            Self::Failed { .. } => Some(Sense::SANITIZE_FAILED),
        }
    }

    /// Whether the command is refused now, and how.
    pub(crate) const fn refuses(self, cdb: &Cdb) -> Option<Sense> {
        let passes = match cdb {
            Cdb::RequestSense { .. }
            | Cdb::Inquiry { .. }
            | Cdb::ReportLuns { .. }
            | Cdb::ReportSupportedOpcodes(_)
            | Cdb::ReportSupportedTaskManagement { .. }
            | Cdb::ReportTargetPortGroups { .. }
            | Cdb::PersistentReserveIn { .. }
            | Cdb::PersistentReserveOut(_) => true,
            Cdb::Sanitize { .. } => matches!(self, Self::Failed { .. }),
            _ => false,
        };
        if passes { None } else { self.sense() }
    }
}

/// What a SANITIZE with this parameter list does; EXIT FAILURE MODE does nothing to the medium.
pub(crate) fn erasure(
    action: SanitizeAction,
    length: u16,
    data: &[u8],
    capacity: Capacity,
) -> Result<Option<Erasure>, Sense> {
    const INVALID: Sense = Sense::INVALID_FIELD_IN_CDB;
    if action != SanitizeAction::Overwrite {
        let erasure = (action == SanitizeAction::BlockErase).then_some(Erasure::Erase);
        return if length == 0 {
            Ok(erasure)
        } else {
            Err(INVALID)
        };
    }
    let block_bytes = usize::try_from(capacity.block_size().bytes()).unwrap_or(usize::MAX);
    let length = usize::from(length);
    if length <= HEADER_BYTES || length > block_bytes.saturating_add(HEADER_BYTES) {
        return Err(INVALID);
    }
    let list = data.get(..length).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    let flags = list.first().copied().unwrap_or(0);
    let pattern_bytes = usize::from(u16_at(list, 2).unwrap_or(0));
    let passes = flags & 0x1f;
    let pattern = list
        .get(HEADER_BYTES..)
        .and_then(|bytes| bytes.get(..pattern_bytes))
        .filter(|pattern| !pattern.is_empty());
    // TEST: 00b is the only value that means something here.
    let Some(pattern) = pattern.filter(|_| passes != 0 && flags & 0x60 == 0) else {
        return Err(INVALID);
    };
    let block = pattern.iter().copied().cycle().take(block_bytes).collect();
    Ok(Some(Erasure::Overwrite {
        block,
        passes,
        inverts: flags & 0x80 != 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::BlockSize;
    use onggi_common_units::ByteCount;

    fn of(action: SanitizeAction, list: &[u8]) -> Result<Option<Erasure>, Sense> {
        let capacity = Capacity::new(ByteCount::from_mib(1), BlockSize::B512).unwrap();
        let length = u16::try_from(list.len()).unwrap();
        erasure(action, length, list, capacity)
    }

    #[test]
    fn a_pattern_is_repeated_to_a_block() {
        let Ok(Some(Erasure::Overwrite {
            block,
            passes,
            inverts,
        })) = of(SanitizeAction::Overwrite, &[0x83, 0, 0, 3, 1, 2, 3])
        else {
            panic!("no overwrite")
        };
        assert_eq!((passes, inverts, block.len()), (3, true, 512));
        assert_eq!(block[..4], [1, 2, 3, 1]);
    }

    #[test]
    fn bad_lists_are_refused() {
        let overwrite = |list: &[u8]| of(SanitizeAction::Overwrite, list);
        let long = [&[1, 0, 2, 0][..], &[0; 513]].concat();
        for list in [
            &[][..],
            &[1, 0, 0, 0],
            &[0, 0, 0, 1, 9],
            &[1, 0, 0, 0, 9],
            &[1, 0, 0, 2, 9],
            &[0x21, 0, 0, 1, 9],
            &long,
        ] {
            assert_eq!(
                overwrite(list),
                Err(Sense::INVALID_FIELD_IN_CDB),
                "{list:x?}"
            );
        }
        assert_eq!(
            of(SanitizeAction::BlockErase, &[]),
            Ok(Some(Erasure::Erase))
        );
        assert_eq!(of(SanitizeAction::ExitFailureMode, &[]), Ok(None));
        assert!(of(SanitizeAction::BlockErase, &[0; 8]).is_err());
    }
}

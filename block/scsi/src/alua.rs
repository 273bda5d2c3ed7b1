//! Target port groups and their asymmetric access states (SPC-5 §5.18).
//!
//! A portal group is a target port group with one target port, and both numbers are its tag. Every portal leads to the
//! same process and the same medium, so no path is better by itself and states change only as an initiator sets them:
//! with "active/non-optimized" it steers itself and others away from a network. The states in which a port takes no
//! commands are not offered: one that an initiator could shut behind others is a way to lose a volume. Whoever switches
//! the unit on finds every group optimized.

use crate::sense::Sense;
use crate::wire::{Builder, cut, length32, u16_at};

/// How well a target port group reaches the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessState {
    Optimized,
    NonOptimized,
}

impl AccessState {
    const fn code(self) -> u8 {
        match self {
            Self::Optimized => 0x00,
            Self::NonOptimized => 0x01,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0x00 => Self::Optimized,
            0x01 => Self::NonOptimized,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    tag: u16,
    state: AccessState,
    /// Whether an initiator set the state.
    is_set: bool,
}

/// The target port groups of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortGroups(Vec<Group>);

impl PortGroups {
    /// The groups with these tags.
    pub(crate) fn new(tags: &[u16]) -> Self {
        let group = |tag: &u16| Group {
            tag: *tag,
            state: AccessState::Optimized,
            is_set: false,
        };
        Self(tags.iter().map(group).collect())
    }

    /// The answer to REPORT TARGET PORT GROUPS (SPC-5 §6.39).
    pub(crate) fn report(&self, extended: bool, allocation: u32) -> Vec<u8> {
        // AN_SUP and AO_SUP.
        const SUPPORTED: u8 = 0x02 | 0x01;
        let mut body = Builder::new();
        if extended {
            // Format type 001b, no implicit transitions to wait for.
            body.u8(0x10).u8(0).u16(0);
        }
        for group in &self.0 {
            body.u8(group.state.code()).u8(SUPPORTED).u16(group.tag);
            // STATUS CODE 01h: altered by SET TARGET PORT GROUPS. One port, whose identifier is the tag.
            body.u8(0).u8(u8::from(group.is_set)).u8(0).u8(1);
            body.u16(0).u16(group.tag);
        }
        let body = body.finish();
        let mut data = Builder::new();
        data.u32(length32(&body)).bytes(&body);
        cut(data.finish(), allocation)
    }

    /// SET TARGET PORT GROUPS (SPC-5 §6.46): all that is listed or nothing. Whether a state is another one now.
    pub(crate) fn set(&mut self, list: &[u8]) -> Result<bool, Sense> {
        const HEADER_BYTES: usize = 4;
        const DESCRIPTOR_BYTES: usize = 4;
        if list.is_empty() {
            return Ok(false);
        }
        let descriptors = list
            .get(HEADER_BYTES..)
            .filter(|rest| rest.len().is_multiple_of(DESCRIPTOR_BYTES))
            .ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        let mut wanted = self.clone();
        for descriptor in descriptors.chunks(DESCRIPTOR_BYTES) {
            let state = descriptor.first().map_or(0xff, |first| first & 0x0f);
            let group = wanted
                .0
                .iter_mut()
                .find(|group| u16_at(descriptor, 2) == Some(group.tag));
            let (Some(group), Some(state)) = (group, AccessState::from_code(state)) else {
                return Err(Sense::INVALID_FIELD_IN_PARAMETERS);
            };
            (group.state, group.is_set) = (state, true);
        }
        let changes = self
            .0
            .iter()
            .zip(&wanted.0)
            .any(|(before, after)| before.state != after.state);
        *self = wanted;
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_told_with_either_header() {
        let groups = PortGroups::new(&[1, 0x203]);
        let body = [
            [0, 3, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1],
            [0, 3, 2, 3, 0, 0, 0, 1, 0, 0, 2, 3],
        ]
        .concat();
        let plain = groups.report(false, 255);
        assert_eq!(plain, [&[0, 0, 0, 24][..], &body].concat());
        let extended = groups.report(true, 255);
        let header = [0, 0, 0, 28, 0x10, 0, 0, 0];
        assert_eq!(extended, [&header[..], &body].concat());
        assert_eq!(groups.report(true, 3).len(), 3);
    }

    #[test]
    fn a_group_is_set_or_the_whole_list_refused() {
        let mut groups = PortGroups::new(&[1, 2]);
        assert_eq!(groups.set(&[]), Ok(false));
        assert_eq!(groups.set(&[0, 0, 0, 0]), Ok(false));
        assert_eq!(groups.set(&[0, 0, 0, 0, 1, 0, 0, 2]), Ok(true));
        let told = groups.report(false, 255);
        assert_eq!((told[4], told[9]), (0, 0));
        assert_eq!((told[16], told[21]), (1, 1));
        // The same again changes nothing.
        assert_eq!(groups.set(&[0, 0, 0, 0, 1, 0, 0, 2]), Ok(false));
        let before = groups.clone();
        for (list, sense) in [
            // Standby; a group that is not there; half a descriptor; half a header.
            (
                &[0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 1][..],
                Sense::INVALID_FIELD_IN_PARAMETERS,
            ),
            (
                &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3],
                Sense::INVALID_FIELD_IN_PARAMETERS,
            ),
            (&[0, 0, 0, 0, 0, 0], Sense::PARAMETER_LIST_LENGTH),
            (&[0, 0], Sense::PARAMETER_LIST_LENGTH),
        ] {
            assert_eq!(groups.set(list), Err(sense), "{list:?}");
            assert_eq!(groups, before);
        }
    }
}

//! TransportIDs: how an initiator port is named in parameter data (SPC-4 §7.6.4.6).
//!
//! | bytes | |
//! |---|---|
//! | 0 | format code (2 bits), protocol identifier 5: iSCSI |
//! | 2–3 | length of what follows |
//! | 4… | the initiator's name; in format 01b then `,i,0x` and the ISID; a zero, filled to four bytes |

use crate::logical_unit::Nexus;
use crate::sense::Sense;
use crate::wire::{Builder, length16, u16_at};

const ISCSI: u8 = 0x05;
const DEVICE: u8 = 0b00;
const PORT: u8 = 0b01;
const NAME_BYTES_MIN: usize = 20;
/// A name of 223 bytes, the separator, the ISID and the fill (RFC 7143 §4.2.7.1).
const NAME_BYTES_MAX: usize = 244;
const SEPARATOR: &str = ",i,0x";

/// An initiator port, wherever it comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InitiatorPort {
    name: String,
    isid: [u8; 6],
}

impl InitiatorPort {
    /// Its nexus with this target port.
    pub(super) fn through(&self, port: u16) -> Nexus {
        Nexus::new(&self.name, self.isid, port)
    }
}

/// Whom a TransportID names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// One initiator port.
    Port(InitiatorPort),
    /// Every initiator port of this name.
    Device(String),
}

/// The TransportID of an initiator port.
pub(super) fn encode(nexus: &Nexus) -> Vec<u8> {
    let isid: String = nexus
        .isid
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut name = format!("{}{SEPARATOR}{isid}\0", nexus.initiator).into_bytes();
    let length = name.len().next_multiple_of(4).max(NAME_BYTES_MIN);
    name.resize(length, 0);
    let mut data = Builder::new();
    data.u8(PORT << 6 | ISCSI)
        .u8(0)
        .u16(length16(&name))
        .bytes(&name);
    data.finish()
}

/// The first TransportID of a list, and what follows it.
pub(super) fn parse(list: &[u8]) -> Result<(Named, &[u8]), Sense> {
    const INVALID: Sense = Sense::INVALID_FIELD_IN_PARAMETERS;
    let (Some(first), Some(length)) = (list.first(), u16_at(list, 2)) else {
        return Err(INVALID);
    };
    let length = usize::from(length);
    let body = list.get(4..).unwrap_or_default();
    let (name, rest) = body.split_at_checked(length).ok_or(INVALID)?;
    if first & 0x0f != ISCSI || !(NAME_BYTES_MIN..=NAME_BYTES_MAX).contains(&length) {
        return Err(INVALID);
    }
    let end = name.iter().position(|byte| *byte == 0).ok_or(INVALID)?;
    let text = name.get(..end).map(std::str::from_utf8);
    let Some(Ok(text)) = text else {
        return Err(INVALID);
    };
    // iSCSI names are compared in their normal form, which has no capital letters.
    let text = text.to_ascii_lowercase();
    let named = match first >> 6 {
        DEVICE if !text.is_empty() && !text.contains(',') => Named::Device(text),
        PORT => Named::Port(port(&text).ok_or(INVALID)?),
        _ => return Err(INVALID),
    };
    Ok((named, rest))
}

fn port(text: &str) -> Option<InitiatorPort> {
    let (initiator, digits) = text.split_once(SEPARATOR)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if initiator.is_empty() || digits.len() != 12 || !is_hex {
        return None;
    }
    let mut isid = [0; 6];
    for (at, byte) in isid.iter_mut().enumerate() {
        let first = at.saturating_mul(2);
        *byte = u8::from_str_radix(digits.get(first..first.saturating_add(2))?, 16).ok()?;
    }
    let name = initiator.to_owned();
    Some(InitiatorPort { name, isid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_port_comes_back_from_its_transport_id_and_what_follows_is_left() {
        let nexus = Nexus::new("iqn.2026-11.org.onggi:host", [0x80, 0, 1, 2, 3, 0xff], 7);
        let mut list = encode(&nexus);
        assert_eq!((list[0], list.len() % 4), (0x45, 0));
        list.extend([7, 7]);
        let (named, rest) = parse(&list).unwrap();
        let Named::Port(port) = named else {
            panic!("a port was named");
        };
        assert_eq!((port.through(7), rest), (nexus, &[7, 7][..]));
    }

    #[test]
    fn a_device_has_a_name_alone_and_other_protocols_are_refused() {
        let mut list = vec![0x05, 0, 0, 20];
        list.extend(b"iqn.2026-11.X:y\0\0\0\0\0");
        let device = Named::Device("iqn.2026-11.x:y".to_owned());
        assert_eq!(parse(&list), Ok((device, &[][..])));
        for (at, byte) in [
            (0, 0x06),
            (0, 0x45),
            (0, 0x85),
            (3, 21),
            (3, 16),
            (19, 0xff),
        ] {
            let mut bad = list.clone();
            bad[at] = byte;
            assert!(parse(&bad).is_err(), "{at} {byte:x}");
        }
    }

    proptest! {
        #[test]
        fn no_list_panics(list in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((_, rest)) = parse(&list) {
                prop_assert!(rest.len() + 24 <= list.len());
            }
        }
    }
}

//! The texts by which operators name devices: `d7r1z2-127.0.0.1:6200R127.0.0.1:6300/sdb_note`, any part of it.

use super::{DeviceChange, NewDevice};
use crate::device::{Device, DeviceId};
use core::str::FromStr;
use std::net::IpAddr;

/// What a device has to be like to be found; what is `None` may be anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Search {
    /// Its number.
    pub id: Option<DeviceId>,
    /// Its weight.
    pub weight: Option<f64>,
    /// Where it is and what is noted; the note may be a part of the device's.
    pub at: DeviceChange,
}

/// Why a text names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// Something of it is not understood.
    #[error("{text:?} is not understood from {rest:?} on")]
    Malformed {
        /// All of it.
        text: String,
        /// From where on.
        rest: String,
    },
    /// A device that is to be added lacks something.
    #[error("{text:?} names no {part}: a device is [rREGION]zZONE-IP:PORT[RIP:PORT]/DEVICE[_NOTE]")]
    Missing {
        /// All of it.
        text: String,
        /// What is missing.
        part: &'static str,
    },
}

/// An address as rings hold it: IPv6 in its short lower-case form, host names as they are.
#[must_use]
pub fn canonical_address(text: &str) -> String {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let inner = inner.unwrap_or(text);
    inner
        .parse::<IpAddr>()
        .map_or_else(|_| inner.to_owned(), |address| address.to_string())
}

/// Reads a text from its front.
struct Reader<'a> {
    all: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn malformed(&self) -> SearchError {
        SearchError::Malformed {
            text: self.all.to_owned(),
            rest: self.rest.to_owned(),
        }
    }

    fn take(&mut self, prefix: char) -> bool {
        self.rest.strip_prefix(prefix).is_some_and(|rest| {
            self.rest = rest;
            true
        })
    }

    fn until(&mut self, is_end: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(is_end).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// The number after a letter, when the letter is there.
    fn number<N: FromStr>(&mut self, letter: char) -> Result<Option<N>, SearchError> {
        if !self.rest.starts_with(letter) {
            return Ok(None);
        }
        let error = self.malformed();
        self.take(letter);
        let digits = self.until(|c| !c.is_ascii_digit());
        digits.parse().map(Some).map_err(|_invalid| error)
    }

    fn address(&mut self) -> Result<Option<String>, SearchError> {
        let error = self.malformed();
        let text = if self.take('[') {
            let text = self.until(|c| c == ']');
            if !self.take(']') {
                return Err(error);
            }
            text
        } else if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            self.until(|c| !c.is_ascii_digit() && c != '.')
        } else {
            return Ok(None);
        };
        let address: IpAddr = text.parse().map_err(|_invalid| error)?;
        Ok(Some(address.to_string()))
    }

    /// Everything from the address on.
    fn reached(&mut self) -> Result<DeviceChange, SearchError> {
        let mut at = DeviceChange {
            ip: self.address()?,
            port: self.number(':')?,
            ..DeviceChange::default()
        };
        if self.take('R') {
            at.replication_ip = self.address()?;
            at.replication_port = self.number(':')?;
        }
        if self.take('/') {
            at.device = Some(self.until(|c| c == '_').to_owned());
        }
        if self.take('_') {
            at.meta = Some(self.rest.to_owned());
            self.rest = "";
        }
        if self.rest.is_empty() {
            Ok(at)
        } else {
            Err(self.malformed())
        }
    }
}

impl FromStr for Search {
    type Err = SearchError;

    fn from_str(text: &str) -> Result<Self, SearchError> {
        let mut reader = Reader {
            all: text,
            rest: text,
        };
        let id = reader.number('d')?.map(DeviceId::new);
        let (region, zone) = (reader.number('r')?, reader.number('z')?);
        reader.take('-');
        let at = DeviceChange {
            region,
            zone,
            ..reader.reached()?
        };
        Ok(Self {
            id,
            weight: None,
            at,
        })
    }
}

impl FromStr for DeviceChange {
    type Err = SearchError;

    /// Reads what `set_info` takes: an address, a replication address, a name and a note, each if it is to change.
    fn from_str(text: &str) -> Result<Self, SearchError> {
        let mut reader = Reader {
            all: text,
            rest: text,
        };
        let change = reader.reached()?;
        if change == Self::default() {
            return Err(reader.malformed());
        }
        Ok(change)
    }
}

impl FromStr for NewDevice {
    type Err = SearchError;

    /// Reads a device that is to be added. Its weight is 0; its region is 1 unless the text names one.
    fn from_str(text: &str) -> Result<Self, SearchError> {
        let mut reader = Reader {
            all: text,
            rest: text,
        };
        let missing = |part| SearchError::Missing {
            text: text.to_owned(),
            part,
        };
        let region = reader.number('r')?.unwrap_or(1);
        let zone = reader.number('z')?.ok_or_else(|| missing("zone"))?;
        if !reader.take('-') {
            return Err(missing("address"));
        }
        let at = reader.reached()?;
        let named = |name: &String| !name.is_empty() && name.trim() == name && !name.contains('/');
        Ok(Self {
            region,
            zone,
            ip: at.ip.ok_or_else(|| missing("address"))?,
            port: at.port.ok_or_else(|| missing("port"))?,
            device: at
                .device
                .filter(named)
                .ok_or_else(|| missing("device name"))?,
            weight: 0.0,
            meta: at.meta.unwrap_or_default(),
            replication_ip: at.replication_ip,
            replication_port: at.replication_port,
        })
    }
}

impl Search {
    /// Whether a device is like that.
    #[must_use]
    pub fn matches(&self, device: &Device) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let at = &self.at;
        let (ip, port) = (&device.ip, device.port);
        is(self.id.as_ref(), &device.id)
            && is(self.weight.as_ref(), &device.weight)
            && is(at.region.as_ref(), &device.region)
            && is(at.zone.as_ref(), &device.zone)
            && is(at.ip.as_ref(), ip)
            && is(at.port.as_ref(), &port)
            && is(
                at.replication_ip.as_ref(),
                device.replication_ip.as_ref().unwrap_or(ip),
            )
            && is(
                at.replication_port.as_ref(),
                &device.replication_port.unwrap_or(port),
            )
            && is(at.device.as_ref(), &device.device)
            && at
                .meta
                .as_ref()
                .is_none_or(|meta| device.meta.contains(meta))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str) -> Search {
        text.parse().unwrap()
    }

    #[test]
    fn every_part_of_a_device_can_be_searched_for() {
        let all = search("d74r4z1-1.2.3.4:5678R[FD00::1]:80/sdb1_snet: 5.6.7.8");
        assert_eq!(all.id, Some(DeviceId::new(74)));
        assert_eq!(
            (all.at.region, all.at.zone, all.at.port),
            (Some(4), Some(1), Some(5678))
        );
        assert_eq!(all.at.replication_ip.as_deref(), Some("fd00::1"));
        assert_eq!(
            (all.at.device.as_deref(), all.at.meta.as_deref()),
            (Some("sdb1"), Some("snet: 5.6.7.8"))
        );
        assert_eq!(search("z1").at.zone, Some(1));
        assert_eq!(search("-1.2.3.4"), search("1.2.3.4"));
        assert_eq!(search("R:5678").at.replication_port, Some(5678));
        assert_eq!(search(""), Search::default());
        for wrong in ["d", "rz1", "x", "1.2.3", "[::1", ":70000", "1.2.3.4sdb"] {
            assert!(wrong.parse::<Search>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_to_add_is_complete() {
        let new: NewDevice = "z2-10.1.2.3:7878/sdf_disk_7".parse().unwrap();
        assert_eq!((new.region, new.zone, new.port), (1, 2, 7878));
        assert_eq!((new.device.as_str(), new.meta.as_str()), ("sdf", "disk_7"));
        for wrong in [
            "r1-10.1.2.3:7878/sdf",
            "z2-10.1.2.3/sdf",
            "z2-:7878/sdf",
            "z2-10.1.2.3:7878",
            "z2-10.1.2.3:7878/",
        ] {
            assert!(wrong.parse::<NewDevice>().is_err(), "{wrong}");
        }
        assert!("".parse::<DeviceChange>().is_err());
        assert_eq!(
            "/sdc".parse::<DeviceChange>().unwrap().device.as_deref(),
            Some("sdc")
        );
    }
}

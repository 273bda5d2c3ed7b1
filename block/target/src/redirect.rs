//! Targets that take no new sessions for a while: they are drained, or served elsewhere.
//!
//! Not kept across a restart: a target that is started again serves what it has.

use onggi_block_iscsi::AccessAnswer;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// The longest address an initiator is sent to.
pub(crate) const ADDRESS_BYTES_MAX: usize = 255;
/// How many targets may be away at a time.
pub(crate) const AWAY_MAX: usize = 16_384;

/// Which targets are away, and where to.
#[derive(Debug, Default)]
pub(crate) struct Redirects(RwLock<Away>);

#[derive(Debug, Default)]
struct Away {
    /// All of them.
    whole: Option<Option<String>>,
    /// By name.
    targets: BTreeMap<String, Option<String>>,
}

/// Whether this can be told as a TargetAddress: `host:port`, perhaps with `,group`.
pub(crate) fn is_address(text: &str) -> bool {
    let (place, group) = text.split_once(',').unwrap_or((text, "1"));
    let has_port = place
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    text.len() <= ADDRESS_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && has_port
        && group.parse::<u16>().is_ok()
}

impl Redirects {
    /// Sends initiators away: of one target or of all, to another address or nowhere. False when too many are away.
    pub(crate) fn send_away(&self, iqn: Option<&str>, to: Option<String>) -> bool {
        let mut away = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match iqn {
            None => away.whole = Some(to),
            Some(_) if away.targets.len() >= AWAY_MAX => return false,
            Some(iqn) => drop(away.targets.insert(iqn.to_owned(), to)),
        }
        true
    }

    /// Takes initiators again; without a name, at all targets.
    pub(crate) fn take_back(&self, iqn: Option<&str>) {
        let mut away = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match iqn {
            None => *away = Away::default(),
            Some(iqn) => drop(away.targets.remove(iqn)),
        }
    }

    /// What an initiator that wants to log in to this target is told, if it is away.
    pub(crate) fn answer(&self, iqn: &str) -> Option<AccessAnswer> {
        let away = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let to = away.targets.get(iqn).or(away.whole.as_ref())?;
        Some(match to {
            Some(address) => AccessAnswer::Redirect {
                address: address.clone(),
                is_permanent: false,
            },
            None => AccessAnswer::Unavailable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_or_all_of_them_are_away() {
        let redirects = Redirects::default();
        assert!(redirects.answer("a").is_none());
        redirects.send_away(Some("a"), Some("127.0.0.2:3260".to_owned()));
        assert!(matches!(
            redirects.answer("a"),
            Some(AccessAnswer::Redirect { address, is_permanent: false }) if address == "127.0.0.2:3260"
        ));
        assert!(redirects.answer("b").is_none());
        redirects.send_away(None, None);
        assert!(matches!(
            redirects.answer("b"),
            Some(AccessAnswer::Unavailable)
        ));
        redirects.take_back(Some("a"));
        assert!(matches!(
            redirects.answer("a"),
            Some(AccessAnswer::Unavailable)
        ));
        redirects.take_back(None);
        assert!(redirects.answer("b").is_none());
    }

    #[test]
    fn only_what_can_be_told_is_an_address() {
        for good in ["10.0.0.1:3260", "[::1]:3260,2", "host.example:1,65535"] {
            assert!(is_address(good), "{good}");
        }
        let long = format!("{}:1", "h".repeat(ADDRESS_BYTES_MAX));
        for bad in ["", ":1", "host", "host:x", "a b:1", "h:1\0", "h:1,x", &long] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}

//! Who may log in, and what a discovery session is shown.
//!
//! - An initiator may reach an export by an access whose `initiator` is its name or absent.
//! - If all those accesses ask for CHAP, it has to prove itself as one of them, and that attachment is whose session
//!   it is. If one asks for none, no proof is wanted, and the session is that attachment's.
//! - A target it may not reach looks like one that is not there.
//! - In discovery the same rule holds over all exports: an initiator that could reach anything only by CHAP has to
//!   prove itself, and is shown what its account reaches; one with accesses without CHAP is shown those; a stranger is
//!   shown nothing.

use crate::export::{Access, ChapPair};
use onggi_block_iscsi::chap;
use onggi_common_units::Uuid;

/// How an initiator may reach an export, before it has proven anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reachable {
    /// It may not.
    No,
    /// It may, without proof, as this attachment.
    Freely(Uuid),
    /// It may if it proves that it is one of those that [`claimed`] finds.
    ByProof,
}

fn is_for(access: &Access, initiator: &str) -> bool {
    // iSCSI names are compared in their normal form (RFC 3722), which parsing made of both.
    access
        .initiator
        .as_deref()
        .is_none_or(|name| name == initiator)
}

/// How an initiator may reach an export.
pub(crate) fn reachable(accesses: &[Access], initiator: &str) -> Reachable {
    let mut way = Reachable::No;
    for access in accesses.iter().filter(|access| is_for(access, initiator)) {
        if access.chap.is_none() {
            return Reachable::Freely(access.attachment);
        }
        way = Reachable::ByProof;
    }
    way
}

/// The accesses an initiator may prove to be with this user name, at most as many as are tried.
pub(crate) fn claimed(
    accesses: &[Access],
    initiator: &str,
    user: &str,
) -> Vec<(Uuid, chap::ChapAccount)> {
    let is_of_user = |access: &&Access| access.chap.as_ref().is_some_and(|pair| pair.user == user);
    accesses
        .iter()
        .filter(|access| is_for(access, initiator))
        .filter(is_of_user)
        .filter_map(|access| Some((access.attachment, account(access)?)))
        .take(chap::CLAIMS_MAX)
        .collect()
}

/// The account of an access that asks for CHAP.
fn account(access: &Access) -> Option<chap::ChapAccount> {
    let pair = access.chap.as_ref()?;
    let mutual = access
        .mutual
        .as_ref()
        .map(|pair: &ChapPair| chap::ChapPair {
            user: pair.user.clone(),
            secret: pair.secret.clone(),
        });
    Some(chap::ChapAccount {
        user: pair.user.clone(),
        secret: pair.secret.clone(),
        mutual,
    })
}

/// Who a discovery session has proven to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seeker {
    pub(crate) initiator: String,
    /// The CHAP pair it logged in with.
    pub(crate) proven: Option<ChapPair>,
}

impl Seeker {
    /// Whether it is shown an export with these accesses.
    pub(crate) fn sees(&self, accesses: &[Access]) -> bool {
        match reachable(accesses, &self.initiator) {
            Reachable::No => false,
            Reachable::Freely(_) => true,
            Reachable::ByProof => {
                let mut own = accesses
                    .iter()
                    .filter(|access| is_for(access, &self.initiator));
                self.proven.is_some() && own.any(|access| access.chap == self.proven)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::{Secret, Uuid};

    const HOST: &str = "iqn.2026-11.org.onggi:host";

    fn pair(user: &str) -> ChapPair {
        ChapPair {
            user: user.to_owned(),
            secret: Secret::new(format!("{user}-secret-secret")),
        }
    }

    fn access(initiator: Option<&str>, user: Option<&str>) -> Access {
        Access {
            attachment: Uuid::from_bytes([7; 16]),
            initiator: initiator.map(str::to_owned),
            chap: user.map(pair),
            mutual: None,
        }
    }

    #[test]
    fn the_name_and_the_proof_both_count() {
        let other = access(Some("iqn.2026-11.org.onggi:other"), None);
        assert_eq!(reachable(&[], HOST), Reachable::No);
        assert_eq!(reachable(std::slice::from_ref(&other), HOST), Reachable::No);
        let proof = access(None, Some("u"));
        let named = access(Some(HOST), Some("v"));
        let both = [other, proof.clone(), named];
        assert_eq!(reachable(&both, HOST), Reachable::ByProof);
        let users = |user| -> Vec<String> {
            let claims = claimed(&both, HOST, user).into_iter();
            claims.map(|(_, account)| account.user).collect()
        };
        assert_eq!(
            (users("u"), users("v")),
            (vec!["u".to_owned()], vec!["v".to_owned()])
        );
        assert!(users("w").is_empty());
        assert!(claimed(&both, "iqn.2026-11.org.onggi:stranger", "v").is_empty());
        let free = access(Some(HOST), None);
        assert_eq!(
            reachable(&[proof, free.clone()], HOST),
            Reachable::Freely(free.attachment)
        );
    }

    #[test]
    fn no_more_accounts_are_tried_than_there_is_a_limit_for() {
        let many = vec![access(None, Some("u")); chap::CLAIMS_MAX + 1];
        assert_eq!(claimed(&many, HOST, "u").len(), chap::CLAIMS_MAX);
    }

    #[test]
    fn discovery_shows_what_the_proof_reaches() {
        let accesses = [access(None, Some("u"))];
        let seeker = |user: Option<&str>| Seeker {
            initiator: HOST.to_owned(),
            proven: user.map(pair),
        };
        assert!(seeker(Some("u")).sees(&accesses));
        assert!(!seeker(Some("v")).sees(&accesses));
        assert!(!seeker(None).sees(&accesses));
        let same_user = Seeker {
            initiator: HOST.to_owned(),
            proven: Some(ChapPair {
                user: "u".to_owned(),
                secret: Secret::new("another-secret"),
            }),
        };
        assert!(
            !same_user.sees(&accesses),
            "a user name is not a proof for another secret"
        );
        assert!(seeker(None).sees(&[access(None, None)]));
    }
}

//! The domain of the project an account belongs to: kept with the account since it was made, because names in access lists
//! stand for somebody only where account, project and user are in the default domain.

use crate::proxy::Asking;
use onggi_common_identity::{Caller, DEFAULT_DOMAIN};
use onggi_common_units::Timestamp;
use onggi_object_model::{AccountInfo, AccountName, StampedMetadata, StampedValue};

/// The account's item that holds it.
pub(crate) const KEPT: &str = "x-account-sysmeta-project-domain-id";
/// The header that shows it.
pub(crate) const SHOWN: &str = "x-account-project-domain-id";
/// What an account has that somebody else made than its own project.
const UNKNOWN: &str = "_unknown";

/// Whether names may stand for this caller in the lists of an account.
pub(crate) fn allows_names(caller: &Caller, account: &AccountName, info: &AccountInfo) -> bool {
    // The caller's own names are empty outside the default domain, so its own account is in it.
    let is_default = || {
        let is_there = info.put_timestamp > Timestamp::ZERO;
        let kept = info.metadata.get(KEPT);
        is_there && kept.is_none_or(|kept| kept == DEFAULT_DOMAIN)
    };
    caller.is_of_project(account.as_str()) || is_default()
}

/// What a request by this caller that makes or changes the account tells of its domain.
fn told(caller: &Caller, account: &AccountName, info: &AccountInfo) -> Option<String> {
    // Accounts of v1 users belong to no project.
    if caller.is_v1_user {
        return None;
    }
    let own = caller.project_domain_id.clone();
    let own = own.filter(|_| caller.is_of_project(account.as_str()));
    if info.put_timestamp == Timestamp::ZERO {
        return Some(own.unwrap_or_else(|| UNKNOWN.to_owned()));
    }
    match info.metadata.get(KEPT) {
        None => own.filter(|domain| domain == DEFAULT_DOMAIN),
        Some(UNKNOWN) => own,
        Some(_) => None,
    }
}

impl Asking {
    /// What an account begins with, or learns, by a request of this caller.
    pub(crate) fn domain_told(&self, account: &AccountName, info: &AccountInfo) -> StampedMetadata {
        let mut metadata = StampedMetadata::default();
        if let Some(value) = self
            .caller
            .as_deref()
            .and_then(|caller| told(caller, account, info))
        {
            let timestamp = self.core.cluster.clock.stamp();
            metadata.insert(KEPT, StampedValue { timestamp, value });
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_identity::token::AuditId;
    use onggi_common_units::UtcTime;

    fn caller(project: &str, domain: &str) -> Caller {
        Caller {
            user_id: "u".to_owned(),
            user_name: "kim".to_owned(),
            user_domain_id: domain.to_owned(),
            project_id: Some(project.to_owned()),
            project_name: Some("jars".to_owned()),
            project_domain_id: Some(domain.to_owned()),
            roles: Vec::new(),
            account: Some(format!("AUTH_{project}")),
            groups: Vec::new(),
            names: Vec::new(),
            issued_at: UtcTime::EPOCH,
            expires_at: UtcTime::EPOCH,
            audit_id: AuditId::from_random([0; 16]),
            is_v1_user: false,
            is_v1_admin: false,
        }
    }

    fn info(kept: Option<&str>) -> AccountInfo {
        let timestamp = Timestamp::from_ticks(1).unwrap();
        let mut info = AccountInfo {
            put_timestamp: timestamp,
            ..AccountInfo::default()
        };
        if let Some(kept) = kept {
            let value = kept.to_owned();
            info.metadata
                .insert(KEPT, StampedValue { timestamp, value });
        }
        info
    }

    #[test]
    fn an_account_learns_its_domain_from_its_own_project_once() {
        let account: AccountName = "AUTH_p".parse().unwrap();
        let (own, other) = (caller("p", "d"), caller("q", "d"));
        let by_default = caller("p", DEFAULT_DOMAIN);
        let new = AccountInfo::default();
        let tells = |caller: &Caller, info: &AccountInfo| told(caller, &account, info);
        assert_eq!(tells(&own, &new).as_deref(), Some("d"));
        assert_eq!(tells(&other, &new).as_deref(), Some(UNKNOWN));
        assert_eq!(tells(&own, &info(Some(UNKNOWN))).as_deref(), Some("d"));
        assert_eq!(tells(&other, &info(Some(UNKNOWN))), None);
        assert_eq!(tells(&own, &info(Some("e"))), None);
        // An account from before domains were kept can only be of the default one.
        assert_eq!(tells(&own, &info(None)), None);
        assert_eq!(
            tells(&by_default, &info(None)).as_deref(),
            Some(DEFAULT_DOMAIN)
        );
        let v1 = Caller {
            is_v1_user: true,
            ..caller("p", "d")
        };
        assert_eq!(tells(&v1, &new), None);
    }

    #[test]
    fn names_are_for_accounts_of_the_default_domain() {
        let account: AccountName = "AUTH_p".parse().unwrap();
        let stranger = caller("q", DEFAULT_DOMAIN);
        let allows = |caller: &Caller, info: &AccountInfo| allows_names(caller, &account, info);
        assert!(allows(&stranger, &info(Some(DEFAULT_DOMAIN))));
        assert!(allows(&stranger, &info(None)));
        for kept in ["d", UNKNOWN] {
            assert!(!allows(&stranger, &info(Some(kept))), "{kept}");
            assert!(allows(&caller("p", DEFAULT_DOMAIN), &info(Some(kept))));
        }
        assert!(!allows(&stranger, &AccountInfo::default()), "no account");
    }
}

//! Who may read and write a container: Swift's ACL texts.
//!
//! An ACL is a comma-separated list. `.r:*` admits everyone, `.r:host` and `.r:.domain` those whose `Referer` is
//! there, `.r:-host` takes that back; `.rlistings` lets those list as well. Anything else names a group of callers:
//! `account`, `account:user`, `*:user`, and so on, compared byte for byte with the groups a caller is in.

use crate::limits::ACL_BYTES_MAX;

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Visitor<'a> {
    /// The names access lists may call the caller by; none for a caller without a token.
    pub groups: &'a [String],
    /// The host of the `Referer` header.
    pub referrer_host: Option<&'a str>,
}

/// A parsed read or write ACL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessControl {
    referrers: Vec<Referrer>,
    listings: bool,
    callers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Referrer {
    allows: bool,
    host: String,
}

/// A text that is no ACL: 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// More bytes than allowed.
    #[error("the ACL is longer than {ACL_BYTES_MAX} bytes")]
    TooLong,
    /// An element beginning with a dot that is unknown.
    #[error("Unknown designator {text:?} in ACL")]
    Designator {
        /// The element.
        text: String,
    },
    /// A referrer without a host.
    #[error("No host/domain value after referrer designation in ACL")]
    NoHost,
    /// A referrer in a write ACL.
    #[error("Referrers not allowed in write ACL")]
    ReferrerInWrite,
}

impl AccessControl {
    /// Reads a container's read ACL.
    ///
    /// # Errors
    /// When the text is too long or an element is unknown.
    pub fn parse_read(text: &str) -> Result<Self, AclError> {
        if text.len() > ACL_BYTES_MAX {
            return Err(AclError::TooLong);
        }
        let mut acl = Self::default();
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            if let Some(host) = referrer(item) {
                acl.referrers.push(parse_referrer(host)?);
            } else if item == ".rlistings" {
                acl.listings = true;
            } else if item.starts_with('.') {
                return Err(AclError::Designator {
                    text: item.to_owned(),
                });
            } else {
                acl.callers.push(item.to_owned());
            }
        }
        Ok(acl)
    }

    /// Reads a container's write ACL, which knows callers only.
    ///
    /// # Errors
    /// When the text is too long, an element is unknown, or names a referrer.
    pub fn parse_write(text: &str) -> Result<Self, AclError> {
        let acl = Self::parse_read(text)?;
        if acl.listings || !acl.referrers.is_empty() {
            return Err(AclError::ReferrerInWrite);
        }
        Ok(acl)
    }

    /// Whether the list names the caller.
    #[must_use]
    pub fn admits_caller(&self, visitor: &Visitor<'_>) -> bool {
        self.callers
            .iter()
            .any(|entry| visitor.groups.contains(entry))
    }

    /// Whether a reader without a name in the list may read objects, by where the request comes from.
    #[must_use]
    pub fn admits_referrer(&self, visitor: &Visitor<'_>) -> bool {
        let host = visitor.referrer_host.unwrap_or("unknown");
        let mut allowed = false;
        // The last matching element decides.
        for entry in &self.referrers {
            let matches = entry.host == "*"
                || entry.host == host
                || (entry.host.starts_with('.') && host.ends_with(&entry.host));
            if matches {
                allowed = entry.allows;
            }
        }
        allowed
    }

    /// Whether such readers may list as well.
    #[must_use]
    pub const fn lists_for_referrers(&self) -> bool {
        self.listings
    }
}

fn referrer(item: &str) -> Option<&str> {
    let (word, host) = item.split_once(':')?;
    matches!(word.trim(), ".r" | ".ref" | ".referer" | ".referrer").then(|| host.trim())
}

fn parse_referrer(text: &str) -> Result<Referrer, AclError> {
    let (allows, host) = match text.strip_prefix('-') {
        Some(rest) => (false, rest.trim()),
        None => (true, text),
    };
    // `*.example.com` and `.example.com` are the same domain.
    let host = match host.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => domain,
        Some(_) | None => host,
    };
    if host.is_empty() || host == "." {
        return Err(AclError::NoHost);
    }
    Ok(Referrer {
        allows,
        host: host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Visitor<'static> = Visitor {
        groups: &[],
        referrer_host: None,
    };

    #[test]
    fn everyone_may_read_but_not_list_unless_said() {
        let acl = AccessControl::parse_read(".r:*").unwrap();
        assert!(acl.admits_referrer(&NOBODY) && !acl.lists_for_referrers());
        let acl = AccessControl::parse_read(".r:*,.rlistings").unwrap();
        assert!(acl.lists_for_referrers());
    }

    #[test]
    fn the_last_matching_referrer_decides() {
        let acl = AccessControl::parse_read(".r:*, .r:-.bad.example, .r:good.bad.example").unwrap();
        let from = |host| Visitor {
            referrer_host: Some(host),
            ..NOBODY
        };
        assert!(acl.admits_referrer(&from("ok.example")));
        assert!(!acl.admits_referrer(&from("x.bad.example")));
        assert!(acl.admits_referrer(&from("good.bad.example")));
    }

    #[test]
    fn callers_are_named_by_their_groups() {
        let acl = AccessControl::parse_write("test, test2:tester2").unwrap();
        let caller = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            acl.admits_caller(&Visitor {
                groups: &groups,
                referrer_host: None,
            })
        };
        assert!(caller(&["test", "test:anyone"]));
        assert!(caller(&["test2", "test2:tester2"]));
        assert!(!caller(&["test2", "test2:tester3"]));
        assert!(!caller(&["TEST"]), "names are compared as they are");
        assert!(!acl.admits_caller(&NOBODY));
    }

    #[test]
    fn malformed_acls_are_refused() {
        assert!(matches!(
            AccessControl::parse_read(".x:*"),
            Err(AclError::Designator { .. })
        ));
        assert_eq!(AccessControl::parse_read(".r:"), Err(AclError::NoHost));
        assert_eq!(
            AccessControl::parse_write(".r:*"),
            Err(AclError::ReferrerInWrite)
        );
        assert_eq!(
            AccessControl::parse_read(&"a".repeat(8193)),
            Err(AclError::TooLong)
        );
    }
}

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
    #[error("No host/domain value after referrer designation in ACL: '{text}'")]
    NoHost {
        /// The element.
        text: String,
    },
    /// An account's ACL that is none.
    #[error("X-Account-Access-Control invalid: {what}")]
    Account {
        /// Why.
        what: String,
    },
    /// A referrer in a write ACL.
    #[error("Referrers not allowed in write ACL: '{text}'")]
    ReferrerInWrite {
        /// The element.
        text: String,
    },
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
                let entry = parse_referrer(host).ok_or_else(|| AclError::NoHost {
                    text: item.to_owned(),
                })?;
                acl.referrers.push(entry);
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
            let is_of_referrers = |item: &&str| *item == ".rlistings" || referrer(item).is_some();
            let mut items = text.split(',').map(str::trim);
            return Err(AclError::ReferrerInWrite {
                text: items.find(is_of_referrers).unwrap_or_default().to_owned(),
            });
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

    /// Whether the list names a role, in whatever case of letters.
    #[must_use]
    pub fn names_role(&self, role: &str) -> bool {
        self.callers
            .iter()
            .any(|entry| entry.to_lowercase() == role.to_lowercase())
    }

    /// Whether a reader without a name in the list may read objects, by where the request comes from.
    #[must_use]
    pub fn admits_referrer(&self, visitor: &Visitor<'_>) -> bool {
        // Names of hosts know no case, and may end with a dot.
        let host = visitor.referrer_host.unwrap_or("unknown");
        let host = host.trim_end_matches('.').to_ascii_lowercase();
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

/// What an account's ACL gives a caller; the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccountRight {
    /// To read everything in the account.
    ReadOnly,
    /// To change containers and objects as well.
    ReadWrite,
    /// To do what its owner does.
    Admin,
}

/// An account's ACL: a JSON object of the keys `admin`, `read-write` and `read-only`, each a list of groups.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AccountAcl {
    /// Who does what the owner does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admin: Vec<String>,
    /// Who reads and writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_write: Vec<String>,
    /// Who reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<String>,
}

impl AccountAcl {
    /// Reads the text of the header. No text, or no groups, is no ACL.
    ///
    /// # Errors
    /// When the text is too long, no JSON, or of another form.
    pub fn parse(text: &str) -> Result<Self, AclError> {
        if text.len() > ACL_BYTES_MAX {
            return Err(AclError::TooLong);
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        // By way of an object, because a struct would be read from a list of its fields too.
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text)
            .and_then(|object| serde_json::from_value(object.into()))
            .map_err(|error| AclError::Account {
                what: error.to_string(),
            })
    }

    /// The text as it is kept and shown; empty when nobody is named.
    #[must_use]
    pub fn text(&self) -> String {
        if *self == Self::default() {
            return String::new();
        }
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The greatest right that any of these groups has.
    #[must_use]
    pub fn right_of(&self, groups: &[String]) -> Option<AccountRight> {
        let has = |list: &[String]| list.iter().any(|entry| groups.contains(entry));
        if has(&self.admin) {
            Some(AccountRight::Admin)
        } else if has(&self.read_write) {
            Some(AccountRight::ReadWrite)
        } else {
            has(&self.read_only).then_some(AccountRight::ReadOnly)
        }
    }
}

fn referrer(item: &str) -> Option<&str> {
    let (word, host) = item.split_once(':')?;
    matches!(word.trim(), ".r" | ".ref" | ".referer" | ".referrer").then(|| host.trim())
}

/// A referrer; `None` when it names no host.
fn parse_referrer(text: &str) -> Option<Referrer> {
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
        return None;
    }
    Some(Referrer {
        allows,
        host: host.to_ascii_lowercase(),
    })
}

/// A list that was read without error, written as Swift writes it: every designation of referrers in one way.
#[must_use]
pub fn cleaned(text: &str) -> String {
    let items = text.split(',').map(str::trim);
    let items = items.filter(|item| !item.is_empty()).map(|item| {
        let Some(host) = referrer(item) else {
            return item.to_owned();
        };
        let (sign, host) = host
            .strip_prefix('-')
            .map_or(("", host), |host| ("-", host.trim()));
        let host = host
            .strip_prefix('*')
            .filter(|rest| !rest.is_empty())
            .unwrap_or(host);
        format!(".r:{sign}{host}")
    });
    items.collect::<Vec<_>>().join(",")
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
    fn hosts_of_referrers_know_no_case() {
        let acl = AccessControl::parse_read(".r:*,.r:-Bad.example,.r:-.worse.example").unwrap();
        let admits = |host| {
            acl.admits_referrer(&Visitor {
                referrer_host: Some(host),
                ..NOBODY
            })
        };
        assert!(admits("GOOD.example"));
        for bad in [
            "bad.example",
            "BAD.EXAMPLE",
            "bad.example.",
            "x.Worse.Example",
        ] {
            assert!(!admits(bad), "{bad}");
        }
    }

    #[test]
    fn lists_are_kept_as_swift_writes_them() {
        for (said, kept) in [
            (" .ref:a.b , .r:-c.d,test2 ", ".r:a.b,.r:-c.d,test2"),
            (
                ".referrer: - *.Bad.example,.rlistings,,a:b",
                ".r:-.Bad.example,.rlistings,a:b",
            ),
            (".r:*", ".r:*"),
            (".r:-*", ".r:-*"),
        ] {
            assert_eq!(cleaned(said), kept);
            assert_eq!(
                AccessControl::parse_read(said),
                AccessControl::parse_read(kept)
            );
        }
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
        assert!(acl.names_role("TEST") && !acl.names_role("test2"));
    }

    #[test]
    fn an_accounts_acl_gives_the_greatest_right_and_is_exact() {
        let acl = AccountAcl::parse(r#"{"admin":["a"],"read-only":["a","b"]}"#).unwrap();
        let right = |group: &str| acl.right_of(&[group.to_owned()]);
        assert_eq!(right("a"), Some(AccountRight::Admin));
        assert_eq!(right("b"), Some(AccountRight::ReadOnly));
        assert_eq!(right("A"), None);
        assert_eq!(AccountAcl::parse("{}").unwrap().text(), "");
        for bad in [
            "x",
            "[]",
            r#"{"other":[]}"#,
            r#"{"admin":"a"}"#,
            r#"{"admin":[1]}"#,
        ] {
            assert!(AccountAcl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn malformed_acls_are_refused() {
        assert!(matches!(
            AccessControl::parse_read(".x:*"),
            Err(AclError::Designator { .. })
        ));
        let said = |refused: Result<_, AclError>| refused.unwrap_err().to_string();
        assert_eq!(
            said(AccessControl::parse_read("a, .r:")),
            "No host/domain value after referrer designation in ACL: '.r:'"
        );
        assert_eq!(
            said(AccessControl::parse_write("a, .r:*")),
            "Referrers not allowed in write ACL: '.r:*'"
        );
        assert_eq!(
            AccessControl::parse_read(&"a".repeat(8193)),
            Err(AclError::TooLong)
        );
    }
}

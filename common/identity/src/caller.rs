//! Who sends a request, as services see it.

use crate::options::{RESELLER_PREFIX, SERVICE_PREFIX};
use crate::token::{AuditId, Claims, Scope};
use onggi_common_units::UtcTime;

/// The role that may do everything, in every project.
pub const ADMIN: &str = "admin";
/// The role that may change what its project has.
pub const MEMBER: &str = "member";
/// The role that may look at what its project has.
pub const READER: &str = "reader";
/// The role of other services.
pub const SERVICE: &str = "service";
/// The role (and, as a group, its v1 name) that reaches every object account.
pub const RESELLER_ADMIN: &str = "ResellerAdmin";
/// The v1 group that owns its own account.
const GROUP_ADMIN: &str = ".admin";
/// The v1 group that reaches every account.
const GROUP_RESELLER_ADMIN: &str = ".reseller_admin";
/// The domain every deployment has.
pub const DEFAULT_DOMAIN: &str = "default";

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user's id; `account:user` for a v1 user of the configuration.
    pub user_id: String,
    /// The user's name.
    pub user_name: String,
    /// The domain the user is in.
    pub user_domain_id: String,
    /// The project, when the token is for one.
    pub project_id: Option<String>,
    /// The project's name.
    pub project_name: Option<String>,
    /// The domain the project is in.
    pub project_domain_id: Option<String>,
    /// Role names, implied ones included.
    pub roles: Vec<String>,
    /// The object account: `AUTH_<project id>`, or that of the v1 user.
    pub account: Option<String>,
    /// What access lists may name this caller by.
    ///
    /// For a v1 user as tempauth makes them: `account`, `account:user`, the configured groups, and the account's full name
    /// in place of `.admin`. For a Keystone user: `project:user`, `*:user`, `project:*` and `*:*` by ids.
    pub groups: Vec<String>,
    /// What lists of accounts in the default domain may name a Keystone user by as well: the same with names in the place
    /// of ids. Only for a user and a project of the default domain, since elsewhere names are not unique.
    pub names: Vec<String>,
    /// When the token was made.
    pub issued_at: UtcTime,
    /// When the token ends.
    pub expires_at: UtcTime,
    /// Names the token in logs.
    pub audit_id: AuditId,
    /// Whether the user comes from the configuration's v1 users, not from the store.
    pub is_v1_user: bool,
    /// Whether such a user owns its account (the group `.admin`).
    pub is_v1_admin: bool,
}

impl Caller {
    /// The caller a token describes.
    #[must_use]
    pub fn from_claims(claims: &Claims) -> Self {
        let mut caller = Self {
            user_id: claims.user_id.clone(),
            user_name: claims.user_name.clone(),
            user_domain_id: claims.user_domain_id.clone(),
            project_id: None,
            project_name: None,
            project_domain_id: None,
            roles: claims.roles.clone(),
            account: None,
            groups: Vec::new(),
            names: Vec::new(),
            issued_at: claims.issued_at,
            expires_at: claims.expires_at,
            audit_id: claims.audit_id,
            is_v1_user: false,
            is_v1_admin: false,
        };
        match &claims.scope {
            Scope::Unscoped | Scope::Domain { .. } | Scope::System => {}
            Scope::Project {
                id,
                name,
                domain_id,
            } => {
                caller.groups = project_groups(&[id], &[&claims.user_id]);
                if domain_id == DEFAULT_DOMAIN && claims.user_domain_id == DEFAULT_DOMAIN {
                    let (projects, users) = (
                        [id.as_str(), name],
                        [claims.user_id.as_str(), &claims.user_name],
                    );
                    caller.names = project_groups(&projects, &users);
                }
                caller.account = Some(format!("{RESELLER_PREFIX}{id}"));
                caller.project_id = Some(id.clone());
                caller.project_name = Some(name.clone());
                caller.project_domain_id = Some(domain_id.clone());
            }
            Scope::Account { account, groups } => {
                let full_name = format!("{RESELLER_PREFIX}{account}");
                caller.groups = vec![account.clone(), claims.user_id.clone()];
                caller
                    .groups
                    .extend(groups.iter().filter(|group| *group != GROUP_ADMIN).cloned());
                if groups.iter().any(|group| group == GROUP_ADMIN) {
                    caller.groups.push(full_name.clone());
                    caller.is_v1_admin = true;
                }
                caller.account = Some(full_name);
                caller.is_v1_user = true;
            }
        }
        caller
    }

    /// Whether the caller has a role.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }

    /// Whether the caller may do everything everywhere.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.has_role(ADMIN)
    }

    /// Whether the caller may change what its project has.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.project_id.is_some() && (self.has_role(MEMBER) || self.is_admin())
    }

    /// Whether the caller may look at what its project has.
    #[must_use]
    pub fn is_reader(&self) -> bool {
        self.is_member() || (self.project_id.is_some() && self.has_role(READER))
    }

    /// Whether the caller is another service, acting for a user.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.has_role(SERVICE)
    }

    /// Whether the caller may do everything in every object account. The role `admin` alone is not enough, as in Swift: it
    /// may be a project's own, and whoever has it can give itself the other.
    #[must_use]
    pub fn is_reseller_admin(&self) -> bool {
        let by_group = || {
            self.groups
                .iter()
                .any(|group| group == GROUP_RESELLER_ADMIN)
        };
        self.has_role(RESELLER_ADMIN) || (self.is_v1_user && by_group())
    }

    /// Whether the caller owns an object account: may read and change everything in it, access lists included.
    #[must_use]
    pub fn owns_account(&self, account: &str) -> bool {
        let is_owner = if self.is_v1_user {
            self.is_v1_admin
        } else {
            self.is_member()
        };
        self.is_reseller_admin() || (is_owner && self.account.as_deref() == Some(account))
    }

    /// Whether an object account, or one that services keep, is that of the caller's own project.
    #[must_use]
    pub fn is_of_project(&self, account: &str) -> bool {
        let own = self.project_id.as_deref();
        let of = |prefix| account.strip_prefix(prefix);
        own.is_some() && (of(RESELLER_PREFIX) == own || of(SERVICE_PREFIX) == own)
    }

    /// Whether the caller owns the account that services keep of its own account: only while a service vouches for it.
    #[must_use]
    pub fn owns_service_account(&self, account: &str, service: Option<&Self>) -> bool {
        let (Some(service), Some(own)) = (service, self.account.as_deref()) else {
            return false;
        };
        let vouches = service.is_service()
            || (service.is_v1_user && service.groups.iter().any(|group| group == SERVICE));
        let own = own.strip_prefix(RESELLER_PREFIX);
        vouches
            && own.is_some()
            && account.strip_prefix(SERVICE_PREFIX) == own
            && self.owns_account(&format!("{RESELLER_PREFIX}{}", own.unwrap_or_default()))
    }

    /// Whether the caller may read everything in an object account: an owner, or a reader of its project.
    #[must_use]
    pub fn reads_account(&self, account: &str) -> bool {
        let own = || !self.is_v1_user && self.account.as_deref() == Some(account);
        self.owns_account(account) || (own() && self.is_reader())
    }
}

/// How lists name these users in these projects.
fn project_groups(projects: &[&str], users: &[&str]) -> Vec<String> {
    let mut groups = Vec::new();
    for project in projects.iter().chain(&["*"]) {
        let of = |user: &&str| format!("{project}:{user}");
        groups.extend(users.iter().chain(&["*"]).map(of));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Methods;

    fn claims(scope: Scope, roles: &[&str]) -> Claims {
        Claims {
            user_id: "u1".to_owned(),
            user_name: "demo".to_owned(),
            user_domain_id: DEFAULT_DOMAIN.to_owned(),
            scope,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            methods: Methods::PASSWORD,
            issued_at: UtcTime::EPOCH,
            expires_at: UtcTime::EPOCH,
            audit_id: AuditId::from_random([0; 16]),
            parent_audit_id: None,
        }
    }

    fn project(roles: &[&str]) -> Caller {
        let (id, name) = ("p1".to_owned(), "jars".to_owned());
        let domain_id = DEFAULT_DOMAIN.to_owned();
        Caller::from_claims(&claims(
            Scope::Project {
                id,
                name,
                domain_id,
            },
            roles,
        ))
    }

    fn v1(user: &str, groups: &[&str]) -> Caller {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let scope = Scope::Account {
            account: "test".to_owned(),
            groups,
        };
        Caller::from_claims(&Claims {
            user_id: format!("test:{user}"),
            ..claims(scope, &[])
        })
    }

    #[test]
    fn rights_follow_the_role() {
        let admin = project(&["admin", "member", "reader"]);
        assert!(admin.is_admin() && admin.owns_account("AUTH_p1"));
        assert!(!admin.owns_account("AUTH_p2") && !admin.reads_account("AUTH_p2"));
        let reseller = project(&["ResellerAdmin"]);
        assert!(reseller.owns_account("AUTH_p2") && !reseller.is_admin());
        let member = project(&["member", "reader"]);
        assert!(!member.is_admin() && member.is_member() && member.is_reader());
        assert!(member.owns_account("AUTH_p1") && !member.reads_account("AUTH_p2"));
        let reader = project(&["reader"]);
        assert!(!reader.is_member() && reader.is_reader());
        assert!(!reader.owns_account("AUTH_p1") && reader.reads_account("AUTH_p1"));
        let nobody = project(&[]);
        assert!(!nobody.is_reader() && !nobody.reads_account("AUTH_p1"));
    }

    #[test]
    fn an_unscoped_token_has_no_account_and_no_rights() {
        let caller = Caller::from_claims(&claims(Scope::Unscoped, &["member"]));
        assert_eq!(caller.account, None);
        assert!(!caller.is_member() && !caller.is_reader() && caller.groups.is_empty());
    }

    #[test]
    fn v1_users_get_the_groups_tempauth_gives() {
        let tester = v1("tester", &[".admin"]);
        assert_eq!(tester.groups, ["test", "test:tester", "AUTH_test"]);
        assert_eq!(tester.account.as_deref(), Some("AUTH_test"));
        assert!(tester.owns_account("AUTH_test") && !tester.owns_account("AUTH_test2"));
        assert!(!tester.owns_account("test"), "a group is not an account");
        let tester3 = v1("tester3", &[]);
        assert!(!tester3.owns_account("AUTH_test") && !tester3.reads_account("AUTH_test"));
        let service = v1("glance", &["service"]);
        assert!(tester.owns_service_account("SERVICE_test", Some(&service)));
        assert!(!tester.owns_service_account("SERVICE_test", None));
        assert!(!tester.owns_service_account("SERVICE_test", Some(&tester)));
        assert!(!tester.owns_service_account("SERVICE_test2", Some(&service)));
        assert!(!tester3.owns_service_account("SERVICE_test", Some(&service)));
        let reseller = v1("tester6", &[".reseller_admin"]);
        assert!(reseller.owns_account("AUTH_other") && !reseller.is_admin());
    }

    #[test]
    fn names_stand_for_a_user_in_the_default_domain_only() {
        let here = project(&["member"]);
        assert_eq!(here.groups, ["p1:u1", "p1:*", "*:u1", "*:*"]);
        for name in ["jars:demo", "p1:demo", "jars:u1", "jars:*", "*:demo"] {
            assert!(here.names.contains(&name.to_owned()), "{name}");
            assert!(!here.groups.contains(&name.to_owned()), "{name}");
        }
        let scope = |domain_id: &str| Scope::Project {
            id: "p1".into(),
            name: "jars".into(),
            domain_id: domain_id.into(),
        };
        let elsewhere = Caller::from_claims(&claims(scope("other"), &["member"]));
        let stranger = Caller::from_claims(&Claims {
            user_domain_id: "other".to_owned(),
            ..claims(scope(DEFAULT_DOMAIN), &["member"])
        });
        for caller in [elsewhere, stranger] {
            assert!(caller.groups.contains(&"p1:u1".to_owned()));
            assert_eq!(caller.names, [""; 0]);
        }
    }

    #[test]
    fn a_project_has_an_account_and_one_that_services_keep() {
        let caller = project(&["member"]);
        assert!(caller.is_of_project("AUTH_p1") && caller.is_of_project("SERVICE_p1"));
        assert!(!caller.is_of_project("AUTH_p2") && !caller.is_of_project("p1"));
        assert!(!v1("tester", &[".admin"]).is_of_project("AUTH_test"));
    }
}

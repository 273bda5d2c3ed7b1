//! What identity decides: who may log in, with which scope and roles, and what is revoked.
//!
//! Order matters against a change made at the same time: a token's `issued_at` is taken before anything is read, and a
//! revocation's moment after the change is stored. So a login that still read the old state gets a token the revocation
//! covers.

use crate::caller::DEFAULT_DOMAIN;
use crate::directory::row::{DomainRow, Entity, GrantRow, ProjectRow, RoleRow, Target, UserRow};
use crate::directory::{Directory, DirectoryError};
use crate::feed::FeedSource;
use crate::keys::{KeyRing, Keys, Purpose};
use crate::options::{Options, V1User};
use crate::password::Passwords;
use crate::revocation::{Event, Revocations, Subject, TOKENS_PER_USER_MAX};
use crate::token::{self, AuditId, Claims, Methods, Scope};
use crate::verifier::Verifier;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use onggi_common_host::{Clock, Entropy};
use onggi_common_units::{Secret, UtcTime};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The longest life a token may be given: so long a revocation is kept.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3_600);

/// A login that was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// Whatever the reason: who asks learns nothing.
    #[error("the credentials or the scope were refused")]
    Refused,
    /// The store failed.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its names and roles do not fit a token.
    #[error(transparent)]
    TooLong(#[from] token::TooLong),
}

/// Who wants to log in.
#[derive(Debug, Clone)]
pub(crate) enum UserName {
    Id(String),
    Named { name: String, domain: DomainName },
}

/// A domain as requests name it.
#[derive(Debug, Clone)]
pub(crate) enum DomainName {
    Id(String),
    Name(String),
}

/// What a login is for.
#[derive(Debug, Clone)]
pub(crate) enum ScopeName {
    /// The user's default project, or nothing.
    Default,
    Unscoped,
    ProjectId(String),
    Project {
        name: String,
        domain: DomainName,
    },
    Domain(DomainName),
    System,
}

/// A new token.
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) claims: Claims,
}

/// A user who proved who it is.
pub(crate) struct Proven {
    pub(crate) user: UserRow,
    methods: Methods,
    issued_at: UtcTime,
    /// The token it was proven by.
    parent: Option<Claims>,
}

/// Identity's state and decisions; everything here blocks.
pub(crate) struct Realm {
    pub(crate) directory: Directory,
    pub(crate) options: Options,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) passwords: Passwords,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) feed: FeedSource,
    clock: Arc<dyn Clock>,
    keys: Keys,
    revocations: Arc<Revocations>,
    last_stamp: AtomicU64,
}

impl Realm {
    pub(crate) fn open(
        directory: Directory,
        ring: &KeyRing,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: Options,
    ) -> Result<Self, DirectoryError> {
        let now = clock.now();
        let (ended, events): (Vec<_>, Vec<_>) = directory
            .revocations()?
            .into_iter()
            .partition(|event| event.ends_at < now.micros());
        directory.remove_revocations(&ended)?;
        // A clock that was set back must not make new tokens look older than what was revoked.
        let last_stamp = events
            .iter()
            .map(|event| event.issued_until)
            .max()
            .unwrap_or(0);
        let revocations = Arc::new(Revocations::own(entropy.hex_id().to_string(), events));
        let verifier =
            Verifier::with_revocations(ring, Arc::clone(&clock), Arc::clone(&revocations));
        Ok(Self {
            directory,
            options,
            verifier: Arc::new(verifier),
            passwords: Passwords::new(entropy.as_ref()),
            feed: FeedSource::new(ring),
            keys: ring.derive(Purpose::Tokens),
            entropy,
            clock,
            revocations,
            last_stamp: AtomicU64::new(last_stamp),
        })
    }

    pub(crate) fn now(&self) -> UtcTime {
        self.clock.now()
    }

    /// A moment later than every one given before.
    fn stamp(&self) -> UtcTime {
        let now = self.clock.now().micros();
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self
            .last_stamp
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        UtcTime::from_micros(now.max(last.unwrap_or(0).saturating_add(1)))
    }

    /// The domain a request names, if it is there and enabled.
    fn domain(&self, name: &DomainName) -> Result<Option<DomainRow>, DirectoryError> {
        let found = match name {
            DomainName::Id(id) => self.directory.get::<DomainRow>(id)?,
            DomainName::Name(name) => self.directory.by_name::<DomainRow>(name)?,
        };
        Ok(found
            .map(|found| found.record)
            .filter(|domain| domain.enabled))
    }

    fn in_domain<E: Entity>(
        &self,
        domain: &DomainName,
        name: &str,
    ) -> Result<Option<E>, DirectoryError> {
        let Some(domain) = self.domain(domain)? else {
            return Ok(None);
        };
        let found = self.directory.by_domain_and_name::<E>(&domain.id, name)?;
        Ok(found.map(|found| found.record))
    }

    /// A user by password. Takes the same work whoever is named.
    pub(crate) fn prove_by_password(
        &self,
        name: &UserName,
        password: &Secret,
    ) -> Result<Proven, LoginError> {
        let issued_at = self.stamp();
        let user = match name {
            UserName::Id(id) => self.directory.get::<UserRow>(id)?.map(|found| found.record),
            UserName::Named { name, domain } => self.in_domain::<UserRow>(domain, name)?,
        };
        let hash = user.as_ref().and_then(|user| user.password_hash.as_deref());
        let matches = self.passwords.verify(hash, password);
        let user = user
            .filter(|user| matches && user.enabled)
            .ok_or(LoginError::Refused)?;
        if self
            .domain(&DomainName::Id(user.domain_id.clone()))?
            .is_none()
        {
            return Err(LoginError::Refused);
        }
        Ok(Proven {
            user,
            methods: Methods::PASSWORD,
            issued_at,
            parent: None,
        })
    }

    /// A user by an earlier token.
    pub(crate) fn prove_by_token(&self, token: &str) -> Result<Proven, LoginError> {
        let issued_at = self.stamp();
        let Ok(parent) = self.verifier.claims(token) else {
            return Err(LoginError::Refused);
        };
        let user = self
            .directory
            .get::<UserRow>(&parent.user_id)?
            .map(|found| found.record);
        let user = user
            .filter(|user| user.enabled)
            .ok_or(LoginError::Refused)?;
        let methods = parent.methods.with(Methods::TOKEN);
        Ok(Proven {
            user,
            methods,
            issued_at,
            parent: Some(parent),
        })
    }

    /// Makes a token for a proven user.
    pub(crate) fn issue(&self, proven: Proven, scope: &ScopeName) -> Result<Issued, LoginError> {
        let (scope, roles) = self.scope(&proven.user, scope)?;
        let expires_at = match &proven.parent {
            Some(parent) => parent.expires_at,
            None => proven.issued_at.saturating_add(self.options.token_lifetime),
        };
        let claims = Claims {
            user_id: proven.user.id,
            user_name: proven.user.name,
            user_domain_id: proven.user.domain_id,
            scope,
            roles: roles.into_iter().map(|role| role.name).collect(),
            methods: proven.methods,
            issued_at: proven.issued_at,
            expires_at,
            audit_id: AuditId::from_random(self.entropy.bytes()),
            parent_audit_id: proven.parent.map(|parent| parent.audit_id),
        };
        Ok(Issued {
            token: token::sign(&claims, &self.keys)?,
            claims,
        })
    }

    /// A token for a v1 user of the configuration; `None` when the user or the key is another.
    pub(crate) fn issue_v1(&self, login: &str, key: &Secret) -> Result<Option<Issued>, LoginError> {
        let issued_at = self.stamp();
        let is_named = |user: &&V1User| user.login() == login;
        let user = self
            .options
            .v1_users
            .iter()
            .find(is_named)
            .filter(|user| user.key == *key);
        let Some(user) = user else { return Ok(None) };
        let claims = Claims {
            user_id: login.to_owned(),
            user_name: user.user.clone(),
            user_domain_id: DEFAULT_DOMAIN.to_owned(),
            scope: Scope::Account {
                account: user.account.clone(),
                groups: user.groups.clone(),
            },
            roles: Vec::new(),
            methods: Methods::PASSWORD,
            issued_at,
            expires_at: issued_at.saturating_add(self.options.token_lifetime),
            audit_id: AuditId::from_random(self.entropy.bytes()),
            parent_audit_id: None,
        };
        Ok(Some(Issued {
            token: token::sign(&claims, &self.keys)?,
            claims,
        }))
    }

    fn scope(&self, user: &UserRow, name: &ScopeName) -> Result<(Scope, Vec<RoleRow>), LoginError> {
        let project = match name {
            ScopeName::Unscoped => return Ok((Scope::Unscoped, Vec::new())),
            ScopeName::Default => return self.default_scope(user),
            ScopeName::System => return self.with_roles(user, &Target::System, Scope::System),
            ScopeName::Domain(domain) => {
                let domain = self.domain(domain)?.ok_or(LoginError::Refused)?;
                let target = Target::Domain(domain.id.clone());
                return self.with_roles(
                    user,
                    &target,
                    Scope::Domain {
                        id: domain.id,
                        name: domain.name,
                    },
                );
            }
            ScopeName::ProjectId(id) => self
                .directory
                .get::<ProjectRow>(id)?
                .map(|found| found.record),
            ScopeName::Project { name, domain } => self.in_domain::<ProjectRow>(domain, name)?,
        };
        self.project_scope(user, project.ok_or(LoginError::Refused)?)
    }

    fn default_scope(&self, user: &UserRow) -> Result<(Scope, Vec<RoleRow>), LoginError> {
        let Some(id) = &user.default_project_id else {
            return Ok((Scope::Unscoped, Vec::new()));
        };
        match self.scope(user, &ScopeName::ProjectId(id.clone())) {
            Err(LoginError::Refused) => Ok((Scope::Unscoped, Vec::new())),
            scope => scope,
        }
    }

    fn project_scope(
        &self,
        user: &UserRow,
        project: ProjectRow,
    ) -> Result<(Scope, Vec<RoleRow>), LoginError> {
        let is_usable = project.enabled
            && self
                .domain(&DomainName::Id(project.domain_id.clone()))?
                .is_some();
        if !is_usable {
            return Err(LoginError::Refused);
        }
        let target = Target::Project(project.id.clone());
        let scope = Scope::Project {
            id: project.id,
            name: project.name,
            domain_id: project.domain_id,
        };
        self.with_roles(user, &target, scope)
    }

    fn with_roles(
        &self,
        user: &UserRow,
        target: &Target,
        scope: Scope,
    ) -> Result<(Scope, Vec<RoleRow>), LoginError> {
        let roles = self.effective_roles(&user.id, target)?;
        if roles.is_empty() {
            Err(LoginError::Refused)
        } else {
            Ok((scope, roles))
        }
    }

    /// The roles a user has on a target, implied ones included.
    pub(crate) fn effective_roles(
        &self,
        user_id: &str,
        target: &Target,
    ) -> Result<Vec<RoleRow>, DirectoryError> {
        let grants = self.directory.grants_of_user(user_id)?;
        let granted = grants.into_iter().filter(|grant| grant.target == *target);
        let all = self.directory.list::<RoleRow>()?;
        Ok(with_implied(granted.map(|grant| grant.role_id), &all))
    }

    /// The projects a user has a role on.
    pub(crate) fn projects_of(&self, user_id: &str) -> Result<Vec<ProjectRow>, DirectoryError> {
        let grants = self.directory.grants_of_user(user_id)?;
        let ids: BTreeSet<_> = grants
            .into_iter()
            .filter_map(|grant| match grant.target {
                Target::Project(id) => Some(id),
                Target::Domain(_) | Target::System => None,
            })
            .collect();
        let mut projects = Vec::new();
        for id in ids {
            projects.extend(
                self.directory
                    .get::<ProjectRow>(&id)?
                    .map(|found| found.record),
            );
        }
        Ok(projects)
    }

    /// Revokes tokens made until now.
    pub(crate) fn revoke(&self, subject: Subject) -> Result<(), DirectoryError> {
        let stamp = self.stamp();
        let ends_at = stamp.saturating_add(TOKEN_LIFETIME_MAX);
        self.add_revocation(Event {
            subject,
            issued_until: stamp.micros(),
            ends_at: ends_at.micros(),
        })
    }

    /// Revokes one token.
    pub(crate) fn revoke_token(&self, claims: &Claims) -> Result<(), DirectoryError> {
        let user_id = claims.user_id.clone();
        if self.revocations.tokens_of_user(&user_id) >= TOKENS_PER_USER_MAX {
            return self.revoke(Subject::User { user_id });
        }
        let subject = Subject::Token {
            audit_id: claims.audit_id.to_string(),
            user_id,
        };
        let issued_until = claims.issued_at.micros();
        self.add_revocation(Event {
            subject,
            issued_until,
            ends_at: claims.expires_at.micros(),
        })
    }

    fn add_revocation(&self, event: Event) -> Result<(), DirectoryError> {
        // In force at once, even if the store should fail.
        let needless = self.revocations.remove_needless(&event, self.clock.now());
        self.revocations.add(event.clone());
        self.directory.put_revocation(&event)?;
        self.directory.remove_revocations(&needless)
    }

    /// Removes what a user, project or role that is gone was granted, and grants whose other end is gone.
    pub(crate) fn drop_grants(
        &self,
        is_gone: impl Fn(&GrantRow) -> bool,
    ) -> Result<(), DirectoryError> {
        self.directory.remove_grants_where(is_gone)
    }
}

/// The roles with these ids and all they imply, each once.
pub(crate) fn with_implied(granted: impl Iterator<Item = String>, all: &[RoleRow]) -> Vec<RoleRow> {
    let mut wanted: Vec<String> = granted.collect();
    let mut roles: Vec<RoleRow> = Vec::new();
    while let Some(id) = wanted.pop() {
        let Some(role) = all.iter().find(|role| role.id == id) else {
            continue;
        };
        if !roles.iter().any(|have| have.id == id) {
            wanted.extend(role.implies.iter().cloned());
            roles.push(role.clone());
        }
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implied_roles_come_once_even_in_a_circle() {
        let role = |id: &str, implies: &[&str]| RoleRow {
            id: id.to_owned(),
            name: id.to_owned(),
            description: None,
            implies: implies.iter().map(|id| (*id).to_owned()).collect(),
        };
        let all = [
            role("a", &["b", "c"]),
            role("b", &["c"]),
            role("c", &["a"]),
            role("d", &[]),
        ];
        let ids = |granted: &[&str]| {
            let roles = with_implied(granted.iter().map(|id| (*id).to_owned()), &all);
            roles
                .into_iter()
                .map(|role| role.id)
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(ids(&["a", "gone"]).len(), 3);
        assert_eq!(
            with_implied(["a", "b"].map(str::to_owned).into_iter(), &all).len(),
            3
        );
        assert_eq!(ids(&["d"]).len(), 1);
    }
}

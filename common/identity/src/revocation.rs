//! What was revoked: tokens one by one, or every token of a user, a project, a grant or a role made before a moment.
//!
//! An event serves until the tokens it is about have ended by themselves, so the list is as long as one token lifetime's
//! revocations. Services without the store hold a copy, see [`crate::feed`].

use crate::token::{AuditId, Claims, Scope};
use onggi_common_units::UtcTime;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tokens of one user revoked one by one before all of that user's tokens are revoked instead.
///
/// Without it, one user who makes and drops tokens in a loop would fill every service's memory.
pub const TOKENS_PER_USER_MAX: usize = 1_000;

/// What tokens an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Subject {
    /// One token.
    Token {
        /// Its audit id.
        audit_id: String,
        /// Whose it is.
        user_id: String,
    },
    /// Those of a user.
    User {
        /// Who.
        user_id: String,
    },
    /// Those for a project.
    Project {
        /// Which.
        project_id: String,
    },
    /// Those of a user for one scope.
    Grant {
        /// Who.
        user_id: String,
        /// A project's or domain's id, or `system`.
        scope: String,
    },
    /// Those that hold a role.
    Role {
        /// Its name.
        role: String,
    },
}

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What tokens it is about.
    pub subject: Subject,
    /// Tokens made up to this moment, in microseconds since 1970.
    pub issued_until: u64,
    /// When none of them can be valid any more, in microseconds since 1970.
    pub ends_at: u64,
}

/// The part of a list a copy does not have yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Which run of the identity service counts; another one counts from the start again.
    pub instance: String,
    /// How many events it had in its run.
    pub count: u64,
    /// Whether `events` are all there are, and replace what the copy has.
    pub is_whole: bool,
    /// The events.
    pub events: Vec<Event>,
}

#[derive(Debug, Default)]
struct List {
    /// Which run of the identity service this list belongs to; empty until a first list was had.
    instance: String,
    count: u64,
    /// With the number each event had when it came.
    events: Vec<(u64, Event)>,
    tokens: HashMap<AuditId, String>,
    tokens_of_user: HashMap<String, usize>,
    users: HashMap<String, u64>,
    projects: HashMap<String, u64>,
    grants: HashMap<(String, String), u64>,
    roles: HashMap<String, u64>,
}

fn raise<K: Eq + core::hash::Hash>(map: &mut HashMap<K, u64>, key: K, issued_until: u64) {
    let moment = map.entry(key).or_insert(issued_until);
    *moment = issued_until.max(*moment);
}

impl List {
    fn index(&mut self, event: &Event) {
        match event.subject.clone() {
            Subject::Token { audit_id, user_id } => {
                // An audit id that is none cannot be a token's.
                let Some(audit_id) = AuditId::parse(&audit_id) else {
                    return;
                };
                if self.tokens.insert(audit_id, user_id.clone()).is_none() {
                    *self.tokens_of_user.entry(user_id).or_default() += 1;
                }
            }
            Subject::User { user_id } => raise(&mut self.users, user_id, event.issued_until),
            Subject::Project { project_id } => {
                raise(&mut self.projects, project_id, event.issued_until)
            }
            Subject::Grant { user_id, scope } => {
                raise(&mut self.grants, (user_id, scope), event.issued_until)
            }
            Subject::Role { role } => raise(&mut self.roles, role, event.issued_until),
        }
    }

    fn add(&mut self, event: Event) {
        self.count += 1;
        self.index(&event);
        self.events.push((self.count, event));
    }

    /// Takes events out and returns them.
    fn remove(&mut self, is_gone: impl Fn(&Event) -> bool) -> Vec<Event> {
        let (gone, kept): (Vec<_>, Vec<_>) = core::mem::take(&mut self.events)
            .into_iter()
            .partition(|(_, event)| is_gone(event));
        if !gone.is_empty() {
            let (instance, count) = (core::mem::take(&mut self.instance), self.count);
            *self = Self {
                instance,
                count,
                ..Self::default()
            };
            kept.iter().for_each(|(_, event)| self.index(event));
        }
        self.events = kept;
        gone.into_iter().map(|(_, event)| event).collect()
    }
}

/// The revocations a process knows of.
#[derive(Debug, Default)]
pub struct Revocations {
    list: RwLock<List>,
}

impl Revocations {
    /// A list that belongs to the identity service itself.
    #[must_use]
    pub fn own(instance: String, events: Vec<Event>) -> Self {
        let mut list = List {
            instance,
            ..List::default()
        };
        events.into_iter().for_each(|event| list.add(event));
        Self {
            list: RwLock::new(list),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, List> {
        // Nothing under this lock can panic half-way through a change.
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, List> {
        self.list.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a list was ever had. Until then nobody knows what is revoked.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.read().instance.is_empty()
    }

    /// How many events are in the list.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.read().events.len()
    }

    /// How many of a user's tokens are revoked one by one.
    #[must_use]
    pub fn tokens_of_user(&self, user_id: &str) -> usize {
        self.read()
            .tokens_of_user
            .get(user_id)
            .copied()
            .unwrap_or(0)
    }

    /// Adds an event.
    pub fn add(&self, event: Event) {
        self.write().add(event);
    }

    /// Takes out the single tokens of a user that `event`, about all of them, makes needless, and events that have ended.
    pub fn remove_needless(&self, event: &Event, now: UtcTime) -> Vec<Event> {
        let covered = |other: &Event| match (&event.subject, &other.subject) {
            (Subject::User { user_id }, Subject::Token { user_id: owner, .. }) => {
                user_id == owner && other.issued_until <= event.issued_until
            }
            _ => false,
        };
        self.write()
            .remove(|other| covered(other) || other.ends_at < now.micros())
    }

    /// Whether a token was revoked.
    #[must_use]
    pub fn covers(&self, claims: &Claims) -> bool {
        let list = self.read();
        let issued = claims.issued_at.micros();
        let covers =
            |issued_until: Option<&u64>| issued_until.is_some_and(|until| issued <= *until);
        let scope = match &claims.scope {
            Scope::Project { id, .. } | Scope::Domain { id, .. } => Some(id.as_str()),
            Scope::System => Some("system"),
            Scope::Unscoped | Scope::Account { .. } => None,
        };
        let by_scope = scope.is_some_and(|scope| {
            let is_of_grant = || (claims.user_id.clone(), scope.to_owned());
            covers(list.projects.get(scope))
                || (!list.grants.is_empty() && covers(list.grants.get(&is_of_grant())))
        });
        list.tokens.contains_key(&claims.audit_id)
            || covers(list.users.get(&claims.user_id))
            || by_scope
            || claims.roles.iter().any(|role| covers(list.roles.get(role)))
    }

    /// What a copy that has the first `count` events of run `instance` lacks.
    #[must_use]
    pub fn update_since(&self, instance: &str, count: u64) -> Update {
        let list = self.read();
        let is_whole = list.instance != instance || count > list.count;
        let lacks = list
            .events
            .iter()
            .filter(|(number, _)| is_whole || *number > count);
        Update {
            instance: list.instance.clone(),
            count: list.count,
            is_whole,
            events: lacks.map(|(_, event)| event.clone()).collect(),
        }
    }

    /// Brings a copy up to date.
    pub fn apply(&self, update: Update, now: UtcTime) {
        let mut list = self.write();
        if update.is_whole {
            *list = List::default();
        }
        for event in update.events {
            if let Subject::User { user_id } = &event.subject {
                let covered = |other: &Event| matches!(&other.subject, Subject::Token { user_id: owner, .. } if owner == user_id);
                if list.tokens_of_user.contains_key(user_id) {
                    drop(list.remove(|other| {
                        covered(other) && other.issued_until <= event.issued_until
                    }));
                }
            }
            list.add(event);
        }
        list.instance = update.instance;
        list.count = update.count;
        if list
            .events
            .iter()
            .any(|(_, event)| event.ends_at < now.micros())
        {
            drop(list.remove(|event| event.ends_at < now.micros()));
        }
    }

    /// Which run of the identity service the list is of, and how many of its events it has.
    #[must_use]
    pub fn position(&self) -> (String, u64) {
        let list = self.read();
        (list.instance.clone(), list.count)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::token::Methods;

    pub(crate) fn claims(user: &str, project: &str, issued: u64) -> Claims {
        Claims {
            user_id: user.to_owned(),
            user_name: user.to_owned(),
            user_domain_id: "default".to_owned(),
            scope: Scope::Project {
                id: project.to_owned(),
                name: project.to_owned(),
                domain_id: "default".to_owned(),
            },
            roles: vec!["member".to_owned()],
            methods: Methods::PASSWORD,
            issued_at: UtcTime::from_micros(issued),
            expires_at: UtcTime::from_micros(issued + 1_000),
            audit_id: AuditId::from_random(issued.to_be_bytes().repeat(2).try_into().unwrap()),
            parent_audit_id: None,
        }
    }

    pub(crate) fn event(subject: Subject, issued_until: u64) -> Event {
        Event {
            subject,
            issued_until,
            ends_at: issued_until + 1_000,
        }
    }

    fn token_event(claims: &Claims) -> Event {
        let subject = Subject::Token {
            audit_id: claims.audit_id.to_string(),
            user_id: claims.user_id.clone(),
        };
        event(subject, claims.issued_at.micros())
    }

    #[test]
    fn each_subject_covers_its_tokens_made_before_and_no_others() {
        let text = str::to_owned;
        for subject in [
            Subject::User { user_id: text("u") },
            Subject::Project {
                project_id: text("p"),
            },
            Subject::Grant {
                user_id: text("u"),
                scope: text("p"),
            },
            Subject::Role {
                role: text("member"),
            },
        ] {
            let list = Revocations::own(text("run"), vec![event(subject.clone(), 50)]);
            assert!(list.covers(&claims("u", "p", 50)), "{subject:?}");
            assert!(
                !list.covers(&claims("u", "p", 51)),
                "{subject:?} covers a later token"
            );
            if !matches!(subject, Subject::Role { .. }) {
                assert!(
                    !list.covers(&claims("v", "q", 50)),
                    "{subject:?} covers another's token"
                );
            }
        }
        let revoked = claims("u", "p", 10);
        let list = Revocations::own(text("run"), vec![token_event(&revoked)]);
        assert!(list.covers(&revoked) && !list.covers(&claims("u", "p", 9)));
    }

    #[test]
    fn a_copy_follows_and_starts_over_after_a_restart() {
        let source = Revocations::own("one".to_owned(), vec![token_event(&claims("u", "p", 1))]);
        let copy = Revocations::default();
        assert!(!copy.is_known());
        let pull = |source: &Revocations| {
            let (instance, count) = copy.position();
            let update = source.update_since(&instance, count);
            copy.apply(update.clone(), UtcTime::EPOCH);
            update
        };
        assert!(pull(&source).is_whole && copy.is_known());
        source.add(token_event(&claims("u", "p", 2)));
        let update = pull(&source);
        assert!(!update.is_whole && update.events.len() == 1);
        assert!(copy.covers(&claims("u", "p", 2)));
        assert!(pull(&source).events.is_empty());
        let restarted = Revocations::own("two".to_owned(), vec![token_event(&claims("u", "p", 2))]);
        assert!(pull(&restarted).is_whole);
        assert!(copy.covers(&claims("u", "p", 2)) && !copy.covers(&claims("u", "p", 1)));
    }

    #[test]
    fn an_event_about_a_user_makes_those_about_its_tokens_needless() {
        let source = Revocations::own(
            "run".to_owned(),
            (1..=5)
                .map(|at| token_event(&claims("u", "p", at)))
                .collect(),
        );
        source.add(token_event(&claims("v", "p", 6)));
        let copy = Revocations::default();
        copy.apply(source.update_since("", 0), UtcTime::EPOCH);
        assert_eq!(source.tokens_of_user("u"), 5);
        let all = event(
            Subject::User {
                user_id: "u".to_owned(),
            },
            7,
        );
        assert_eq!(source.remove_needless(&all, UtcTime::EPOCH).len(), 5);
        source.add(all);
        let (instance, count) = copy.position();
        copy.apply(source.update_since(&instance, count), UtcTime::EPOCH);
        for list in [&source, &copy] {
            assert_eq!(list.event_count(), 2);
            assert!(list.covers(&claims("u", "p", 3)) && list.covers(&claims("v", "p", 6)));
        }
    }

    #[test]
    fn events_end_with_the_tokens_they_are_about() {
        let copy = Revocations::default();
        let source = Revocations::own("run".to_owned(), vec![token_event(&claims("u", "p", 1))]);
        copy.apply(source.update_since("", 0), UtcTime::from_micros(2_000));
        assert_eq!(copy.event_count(), 0);
        let late = event(
            Subject::Role {
                role: "x".to_owned(),
            },
            2_000,
        );
        assert_eq!(
            source
                .remove_needless(&late, UtcTime::from_micros(2_000))
                .len(),
            1
        );
    }
}

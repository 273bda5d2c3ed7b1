//! Which sessions there are: what is cut when access ends, and what a new session replaces.
//!
//! A session stays in the table until its last job has ended, so that "it is gone" means that no write of it can reach
//! the medium any more. A session that replaces another (RFC 7143 §6.3.5: same initiator name, ISID and target) does
//! nothing before the other is gone: else a late write of the old one could land on top of a new one.

use crate::export::SessionStatus;
use crate::mailbox::{ConnectionId, Mailbox, Message, Notice};
use crate::options::Limits;
use onggi_block_scsi::Nexus;
use onggi_common_units::Uuid;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A session that is logged in to a target.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) iqn: Arc<str>,
    pub(crate) nexus: Nexus,
    pub(crate) attachment: Uuid,
    pub(crate) peer: SocketAddr,
    pub(crate) portal: SocketAddr,
    pub(crate) mailbox: Arc<Mailbox>,
}

#[derive(Debug)]
struct Session {
    entry: Entry,
    /// The connection that waits until this session is gone.
    successor: Option<(Arc<Mailbox>, ConnectionId)>,
    /// Its initiator has logged out; jobs of it may still be under way.
    is_leaving: bool,
}

/// What comes of beginning a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// Its access has ended meanwhile, or others took the last place.
    Refused,
    /// It may go on once so many [`Message::Replaced`] have come.
    After(usize),
}

/// The table of sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Mutex<HashMap<ConnectionId, Session>>,
    ended: Condvar,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Session>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session if `is_allowed` still says so. Asked under the lock that [`Sessions::cut`] takes after access
    /// has ended, so that no session slips through between the two.
    pub(crate) fn begin(
        &self,
        id: ConnectionId,
        entry: Entry,
        limits: &Limits,
        is_allowed: impl FnOnce() -> bool,
    ) -> Beginning {
        let mut table = self.lock();
        if !is_allowed() {
            return Beginning::Refused;
        }
        if !Self::has_room(&table, &entry.iqn, &entry.nexus, limits) {
            return Beginning::Refused;
        }
        let mut older = 0;
        for (other, session) in table.iter_mut() {
            if session.entry.iqn == entry.iqn && session.entry.nexus == entry.nexus {
                older += 1;
                session.successor = Some((Arc::clone(&entry.mailbox), id));
                session
                    .entry
                    .mailbox
                    .post(Message::Cut { connection: *other });
            }
        }
        table.insert(
            id,
            Session {
                entry,
                successor: None,
                is_leaving: false,
            },
        );
        Beginning::After(older)
    }

    /// Whether the limits leave room for a session of this nexus at this target; one that it would replace does not
    /// count.
    pub(crate) fn is_room_for(&self, iqn: &str, nexus: &Nexus, limits: &Limits) -> bool {
        Self::has_room(&self.lock(), iqn, nexus, limits)
    }

    fn has_room(
        table: &HashMap<ConnectionId, Session>,
        iqn: &str,
        nexus: &Nexus,
        limits: &Limits,
    ) -> bool {
        let (mut at_target, mut of_initiator) = (0, 0);
        for Session { entry, .. } in table.values() {
            let is_at_target = *entry.iqn == *iqn;
            if is_at_target && entry.nexus == *nexus {
                continue;
            }
            at_target += usize::from(is_at_target);
            of_initiator += usize::from(entry.nexus.initiator == nexus.initiator);
        }
        at_target < limits.sessions_per_target_max
            && of_initiator < limits.sessions_per_initiator_max
    }

    /// The session is gone for good.
    pub(crate) fn end(&self, id: ConnectionId) {
        let session = self.lock().remove(&id);
        if let Some((mailbox, connection)) = session.and_then(|session| session.successor) {
            mailbox.post(Message::Replaced { connection });
        }
        self.ended.notify_all();
    }

    /// Orders these sessions to end and waits until they are gone. False when some are still there after `limit`.
    pub(crate) fn cut(&self, limit: Duration, is_meant: impl Fn(&Entry) -> bool) -> bool {
        let table = self.lock();
        for (id, session) in table.iter().filter(|(_, session)| is_meant(&session.entry)) {
            session.entry.mailbox.post(Message::Cut { connection: *id });
        }
        let some_left = |table: &mut HashMap<ConnectionId, Session>| {
            table.values().any(|session| is_meant(&session.entry))
        };
        let (mut table, _) = self
            .ended
            .wait_timeout_while(table, limit, some_left)
            .unwrap_or_else(PoisonError::into_inner);
        !some_left(&mut table)
    }

    fn tell_others(&self, iqn: &str, by: ConnectionId, message: impl Fn(ConnectionId) -> Message) {
        for (id, session) in self.lock().iter() {
            if *id != by && *session.entry.iqn == *iqn {
                session.entry.mailbox.post(message(*id));
            }
        }
    }

    /// Tells the other sessions of a target that their tasks are void; they let go of the notice when none of them
    /// touches the medium any more.
    pub(crate) fn abort_others(&self, iqn: &str, by: ConnectionId, notice: &Arc<Notice>) {
        self.tell_others(iqn, by, |connection| Message::AbortTasksFor {
            connection,
            notice: Arc::clone(notice),
        });
    }

    /// Orders the other sessions of a target to end.
    pub(crate) fn cut_others(&self, iqn: &str, by: ConnectionId) {
        self.tell_others(iqn, by, |connection| Message::Cut { connection });
    }

    /// Asks the initiators of these sessions to log out, and ends what is left of them after `within`. False when some
    /// are still there `limit` later.
    pub(crate) fn drain(
        &self,
        within: Duration,
        limit: Duration,
        is_meant: impl Fn(&Entry) -> bool,
    ) -> bool {
        let table = self.lock();
        for (id, session) in table.iter().filter(|(_, session)| is_meant(&session.entry)) {
            let connection = *id;
            session
                .entry
                .mailbox
                .post(Message::RequestLogout { connection, within });
        }
        let some_left = |table: &mut HashMap<ConnectionId, Session>| {
            table.values().any(|session| is_meant(&session.entry))
        };
        drop(self.ended.wait_timeout_while(table, within, some_left));
        self.cut(limit, is_meant)
    }

    /// Tells the sessions of these nexuses that their tasks are void.
    pub(crate) fn abort_nexuses(&self, iqn: &str, nexuses: &[Nexus]) {
        for (id, session) in self.lock().iter() {
            if *session.entry.iqn == *iqn && nexuses.contains(&session.entry.nexus) {
                session
                    .entry
                    .mailbox
                    .post(Message::AbortTasks { connection: *id });
            }
        }
    }

    /// The session of this connection.
    pub(crate) fn entry(&self, id: ConnectionId) -> Option<Entry> {
        self.lock().get(&id).map(|session| session.entry.clone())
    }

    /// The initiator logs out: from now on, before it is answered, the session is none that it has.
    pub(crate) fn leave(&self, id: ConnectionId) {
        if let Some(session) = self.lock().get_mut(&id) {
            session.is_leaving = true;
        }
    }

    /// The sessions an initiator has.
    pub(crate) fn of(&self, initiator: &str) -> Vec<Entry> {
        let table = self.lock();
        let entries = table.values().filter(|session| !session.is_leaving);
        entries
            .map(|session| &session.entry)
            .filter(|entry| *entry.nexus.initiator == *initiator)
            .cloned()
            .collect()
    }

    /// How many sessions a target has.
    pub(crate) fn count(&self, iqn: &str) -> usize {
        self.lock()
            .values()
            .filter(|session| *session.entry.iqn == *iqn)
            .count()
    }

    /// All sessions.
    pub(crate) fn list(&self) -> Vec<SessionStatus> {
        let table = self.lock();
        let status = |session: &Session| SessionStatus {
            iqn: session.entry.iqn.to_string(),
            initiator: session.entry.nexus.initiator.to_string(),
            attachment: session.entry.attachment,
            peer: session.entry.peer,
            portal: session.entry.portal,
        };
        table.values().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mailbox: &Arc<Mailbox>, number: u8) -> Entry {
        Entry {
            iqn: Arc::from("iqn.2026-11.org.onggi:v"),
            nexus: Nexus::new("iqn.2026-11.org.onggi:host", [0, 0, 0, 0, 0, number], 1),
            attachment: Uuid::from_bytes([number; 16]),
            peer: "127.0.0.1:1".parse().unwrap(),
            portal: "127.0.0.1:2".parse().unwrap(),
            mailbox: Arc::clone(mailbox),
        }
    }

    #[test]
    fn a_session_waits_for_the_one_it_replaces() {
        let sessions = Sessions::default();
        let (old, new) = (
            Arc::new(Mailbox::new().unwrap()),
            Arc::new(Mailbox::new().unwrap()),
        );
        assert_eq!(
            sessions.begin(ConnectionId(1), entry(&old, 1), &Limits::default(), || true),
            Beginning::After(0)
        );
        assert_eq!(
            sessions.begin(ConnectionId(2), entry(&old, 2), &Limits::default(), || true),
            Beginning::After(0)
        );
        assert_eq!(
            sessions.begin(ConnectionId(3), entry(&new, 1), &Limits::default(), || true),
            Beginning::After(1)
        );
        assert!(matches!(
            old.take()[..],
            [Message::Cut {
                connection: ConnectionId(1)
            }]
        ));
        assert!(new.take().is_empty());
        sessions.end(ConnectionId(1));
        assert!(matches!(
            new.take()[..],
            [Message::Replaced {
                connection: ConnectionId(3)
            }]
        ));
        assert_eq!(sessions.list().len(), 2);
    }

    #[test]
    fn a_cut_waits_until_the_sessions_are_gone() {
        let sessions = Sessions::default();
        let mailbox = Arc::new(Mailbox::new().unwrap());
        sessions.begin(
            ConnectionId(1),
            entry(&mailbox, 1),
            &Limits::default(),
            || true,
        );
        let is_meant = |entry: &Entry| entry.attachment == Uuid::from_bytes([1; 16]);
        assert!(!sessions.cut(Duration::from_millis(1), is_meant));
        assert!(matches!(
            mailbox.take()[..],
            [Message::Cut {
                connection: ConnectionId(1)
            }]
        ));
        std::thread::scope(|scope| {
            let cut = scope.spawn(|| sessions.cut(Duration::from_secs(60), is_meant));
            sessions.end(ConnectionId(1));
            assert!(cut.join().unwrap());
        });
    }

    #[test]
    fn access_that_ended_during_the_login_lets_nobody_in() {
        let sessions = Sessions::default();
        let mailbox = Arc::new(Mailbox::new().unwrap());
        assert_eq!(
            sessions.begin(
                ConnectionId(1),
                entry(&mailbox, 1),
                &Limits::default(),
                || false
            ),
            Beginning::Refused
        );
        assert!(sessions.list().is_empty());
    }
}

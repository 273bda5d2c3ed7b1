//! Users, projects, roles and the catalogue as typed rows of the control store.
//!
//! Names that must be unique have a row of their own, written in the same transaction as what they name. Grants of users
//! or projects that are gone mean nothing: ids are never used again, so what a crash left behind is harmless.

use onggi_common_host::Entropy;
use onggi_common_meta::control::record::RecordError;
use onggi_common_meta::control::{
    Outcome, Store, Transaction, TxnError, TxnId, Versioned, get_record, scan_records,
};
use onggi_common_meta::table::{Record, encode};
use onggi_common_meta::{KEY_BYTES_MAX, KeyRange, StoreError, TableName};
use std::sync::Arc;

pub(crate) mod row;

use crate::revocation::Event;
use row::{DomainRow, Entity, GrantRow, NameRow, REVOCATIONS, name_key};

/// Rows removed in one transaction, within the store's limit of operations.
const REMOVALS_PER_COMMIT: usize = 100;

/// The store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// Another one of that name (or id) is there.
    #[error("there is another {kind} of this name")]
    Duplicate {
        /// Keystone's word for it.
        kind: &'static str,
    },
    /// Someone else changed it meanwhile.
    #[error("the {kind} was changed by someone else meanwhile")]
    Changed {
        /// Keystone's word for it.
        kind: &'static str,
    },
    /// A row cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
    /// A transaction failed.
    #[error(transparent)]
    Write(TxnError),
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Typed access to identity's rows.
pub(crate) struct Directory {
    store: Arc<dyn Store>,
    entropy: Arc<dyn Entropy>,
}

impl Directory {
    pub(crate) fn new(store: Arc<dyn Store>, entropy: Arc<dyn Entropy>) -> Self {
        Self { store, entropy }
    }

    fn transaction(&self) -> Transaction {
        Transaction::new(TxnId(self.entropy.uuid()))
    }

    /// Carries a transaction out; an outcome that is not known is asked for once.
    fn commit(&self, transaction: &Transaction) -> Result<(), TxnError> {
        match self.store.commit(transaction) {
            Ok(_) => Ok(()),
            Err(TxnError::Unknown { id, source }) => match self.store.outcome(id) {
                Ok(Outcome::Committed(_)) => Ok(()),
                Ok(Outcome::Absent) => Err(TxnError::Store(source)),
                Err(_) => Err(TxnError::Unknown { id, source }),
            },
            Err(error) => Err(error),
        }
    }

    pub(crate) fn get<E: Entity>(&self, id: &str) -> Result<Option<Versioned<E>>, DirectoryError> {
        if id.len() > KEY_BYTES_MAX / 2 {
            return Ok(None);
        }
        Ok(get_record(self.store.as_ref(), E::TABLE, id.as_bytes())?)
    }

    pub(crate) fn by_name<E: Entity>(
        &self,
        unique_name: &str,
    ) -> Result<Option<Versioned<E>>, DirectoryError> {
        let Some(names) = E::NAMES.filter(|_| unique_name.len() <= KEY_BYTES_MAX / 2) else {
            return Ok(None);
        };
        let named = get_record::<NameRow>(self.store.as_ref(), names, unique_name.as_bytes())?;
        named.map_or(Ok(None), |named| self.get(&named.record.id))
    }

    pub(crate) fn by_domain_and_name<E: Entity>(
        &self,
        domain_id: &str,
        name: &str,
    ) -> Result<Option<Versioned<E>>, DirectoryError> {
        self.by_name(&name_key(domain_id, name))
    }

    pub(crate) fn list<E: Entity>(&self) -> Result<Vec<E>, DirectoryError> {
        self.scan(E::TABLE, &KeyRange::all())
    }

    fn scan<R: Record>(
        &self,
        table: TableName,
        range: &KeyRange,
    ) -> Result<Vec<R>, DirectoryError> {
        let (records, _) = scan_records(self.store.as_ref(), table, range)?;
        Ok(records
            .into_iter()
            .map(|versioned| versioned.record)
            .collect())
    }

    pub(crate) fn create<E: Entity>(&self, entity: &E) -> Result<(), DirectoryError> {
        let mut transaction = self.transaction().absent(E::TABLE, entity.id()).put(
            E::TABLE,
            entity.id(),
            encode(entity),
        );
        if let Some(names) = E::NAMES {
            let named = encode(&NameRow {
                id: entity.id().to_owned(),
            });
            let name = entity.unique_name();
            transaction = transaction
                .absent(names, name.as_str())
                .put(names, name, named);
        }
        match self.commit(&transaction) {
            Err(TxnError::Conflict { .. }) => Err(DirectoryError::Duplicate { kind: E::KIND }),
            outcome => outcome.map_err(DirectoryError::Write),
        }
    }

    /// Puts `new` in the place of `old`, unless someone else changed it meanwhile.
    pub(crate) fn update<E: Entity>(
        &self,
        old: &Versioned<E>,
        new: &E,
    ) -> Result<(), DirectoryError> {
        debug_assert_eq!(old.record.id(), new.id(), "an update keeps the id");
        let mut transaction = self.transaction().at(E::TABLE, new.id(), old.revision).put(
            E::TABLE,
            new.id(),
            encode(new),
        );
        let (old_name, new_name) = (old.record.unique_name(), new.unique_name());
        if let Some(names) = E::NAMES.filter(|_| old_name != new_name) {
            let named = encode(&NameRow {
                id: new.id().to_owned(),
            });
            transaction = transaction
                .absent(names, new_name.as_str())
                .put(names, new_name, named)
                .delete(names, old_name);
        }
        match self.commit(&transaction) {
            Err(TxnError::Conflict { condition: 0, .. }) => {
                Err(DirectoryError::Changed { kind: E::KIND })
            }
            Err(TxnError::Conflict { .. }) => Err(DirectoryError::Duplicate { kind: E::KIND }),
            outcome => outcome.map_err(DirectoryError::Write),
        }
    }

    pub(crate) fn delete<E: Entity>(&self, old: &Versioned<E>) -> Result<(), DirectoryError> {
        let id = old.record.id();
        let mut transaction = self
            .transaction()
            .at(E::TABLE, id, old.revision)
            .delete(E::TABLE, id);
        if let Some(names) = E::NAMES {
            transaction = transaction.delete(names, old.record.unique_name());
        }
        match self.commit(&transaction) {
            Err(TxnError::Conflict { .. }) => Err(DirectoryError::Changed { kind: E::KIND }),
            outcome => outcome.map_err(DirectoryError::Write),
        }
    }

    pub(crate) fn grants_of_user(&self, user_id: &str) -> Result<Vec<GrantRow>, DirectoryError> {
        self.scan(
            GrantRow::TABLE,
            &KeyRange::prefix(GrantRow::prefix_of_user(user_id)),
        )
    }

    pub(crate) fn grants(&self) -> Result<Vec<GrantRow>, DirectoryError> {
        self.scan(GrantRow::TABLE, &KeyRange::all())
    }

    pub(crate) fn has_grant(&self, grant: &GrantRow) -> Result<bool, DirectoryError> {
        let found =
            get_record::<GrantRow>(self.store.as_ref(), GrantRow::TABLE, grant.key().as_bytes())?;
        Ok(found.is_some())
    }

    pub(crate) fn grant(&self, grant: &GrantRow) -> Result<(), DirectoryError> {
        let transaction = self
            .transaction()
            .put(GrantRow::TABLE, grant.key(), encode(grant));
        self.commit(&transaction).map_err(DirectoryError::Write)
    }

    pub(crate) fn remove_grants(&self, grants: &[GrantRow]) -> Result<(), DirectoryError> {
        self.remove(
            GrantRow::TABLE,
            &grants
                .iter()
                .map(|grant| grant.key().into_bytes())
                .collect::<Vec<_>>(),
        )
    }

    fn remove(&self, table: TableName, keys: &[Vec<u8>]) -> Result<(), DirectoryError> {
        for keys in keys.chunks(REMOVALS_PER_COMMIT) {
            let deletes = keys.iter().fold(self.transaction(), |all, key| {
                all.delete(table, key.as_slice())
            });
            self.commit(&deletes).map_err(DirectoryError::Write)?;
        }
        Ok(())
    }

    /// Removes the grants of a user, a project, a domain or a role that is gone.
    pub(crate) fn remove_grants_where(
        &self,
        is_gone: impl Fn(&GrantRow) -> bool,
    ) -> Result<(), DirectoryError> {
        let gone: Vec<_> = self.grants()?.into_iter().filter(is_gone).collect();
        self.remove_grants(&gone)
    }

    pub(crate) fn revocations(&self) -> Result<Vec<Event>, DirectoryError> {
        self.scan(REVOCATIONS, &KeyRange::all())
    }

    pub(crate) fn put_revocation(&self, event: &Event) -> Result<(), DirectoryError> {
        let transaction = self
            .transaction()
            .put(REVOCATIONS, revocation_key(event), encode(event));
        self.commit(&transaction).map_err(DirectoryError::Write)
    }

    pub(crate) fn remove_revocations(&self, events: &[Event]) -> Result<(), DirectoryError> {
        self.remove(
            REVOCATIONS,
            &events.iter().map(revocation_key).collect::<Vec<_>>(),
        )
    }

    /// Whether the store answers.
    pub(crate) fn check(&self) -> Result<(), DirectoryError> {
        self.store.get(DomainRow::TABLE, b"default")?;
        Ok(())
    }
}

fn revocation_key(event: &Event) -> Vec<u8> {
    let mut key = event.ends_at.to_be_bytes().to_vec();
    // One subject revoked twice at one moment is one event.
    serde_json::to_writer(&mut key, &event.subject).expect("a subject is made of texts");
    key
}

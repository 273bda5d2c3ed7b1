//! Noticing damage, and naming the file (M3).

use super::super::marker::{DB_DIR, MARKER_FILE};
use super::{ADVICE_DAMAGED, OpenError, StoreError};
use crate::error::Cause;
use rocksdb::{DB, ErrorKind};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What RocksDB says about the lock of an open store.
const LOCK_MESSAGES: [&str; 2] = ["lock hold by current process", "While lock file"];
const MISSING_MESSAGE: &str = "No such file or directory";
const FULL_MESSAGE: &str = "No space left on device";

/// The error for a file of the store that is missing or damaged.
pub(super) fn damaged(
    directory: &Path,
    file: impl AsRef<Path>,
    detail: String,
    source: Option<Cause>,
) -> OpenError {
    let file = directory.join(DB_DIR).join(file);
    OpenError::Damaged {
        store: directory.to_owned(),
        file,
        detail,
        advice: ADVICE_DAMAGED,
        source,
    }
}

/// What an error of RocksDB at open means.
pub(super) fn open_error(directory: &Path, error: rocksdb::Error) -> OpenError {
    let message = error.to_string();
    let store = directory.to_owned();
    if LOCK_MESSAGES.iter().any(|known| message.contains(known)) {
        return OpenError::InUse {
            store,
            source: error.into(),
        };
    }
    if is_damage(&error) {
        let file =
            file_named(directory, &message).unwrap_or_else(|| guessed_file(directory, &message));
        return damaged(directory, file, message, Some(error.into()));
    }
    OpenError::Machine {
        operation: "opening",
        store,
        source: error.into(),
    }
}

/// What an error of RocksDB at work means.
pub(super) fn store_error(
    directory: &Path,
    operation: &'static str,
    error: rocksdb::Error,
) -> StoreError {
    let store = directory.to_owned();
    if is_damage(&error) {
        return StoreError::damaged(directory, error.to_string());
    }
    if error.to_string().contains(FULL_MESSAGE) {
        return StoreError::Full {
            store,
            source: error.into(),
        };
    }
    StoreError::Machine {
        operation,
        store,
        source: error.into(),
    }
}

fn is_damage(error: &rocksdb::Error) -> bool {
    match error.kind() {
        ErrorKind::Corruption => true,
        // A file the manifest knows is gone.
        ErrorKind::IOError | ErrorKind::NotFound => error.to_string().contains(MISSING_MESSAGE),
        // A column family or comparator that does not fit: the manifest and the marker disagree.
        ErrorKind::InvalidArgument => true,
        ErrorKind::NotSupported
        | ErrorKind::MergeInProgress
        | ErrorKind::Incomplete
        | ErrorKind::ShutdownInProgress
        | ErrorKind::TimedOut
        | ErrorKind::Aborted
        | ErrorKind::Busy
        | ErrorKind::Expired
        | ErrorKind::TryAgain
        | ErrorKind::CompactionTooLarge
        | ErrorKind::ColumnFamilyDropped
        | ErrorKind::Unknown => false,
    }
}

/// The file of the store that a message names.
fn file_named(directory: &Path, message: &str) -> Option<PathBuf> {
    let db = directory.join(DB_DIR);
    let prefix = format!("{}/", db.display());
    let (_, rest) = message.split_once(&prefix)?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')));
    let name = rest.get(..end.unwrap_or(rest.len()))?.trim_end_matches('.');
    (!name.is_empty()).then(|| db.join(name))
}

/// Messages about the log give its number at most, and those about the manifest not even that.
fn guessed_file(directory: &Path, message: &str) -> PathBuf {
    let db = directory.join(DB_DIR);
    let lower = message.to_lowercase();
    let is_about_log = ["wal", "log", "record"]
        .iter()
        .any(|word| lower.contains(word));
    if !is_about_log && lower.contains("manifest") {
        return db.join(current_manifest(&db).unwrap_or_else(|| "MANIFEST".to_owned()));
    }
    let logs = files_with_extension(&db, "log");
    let numbered = logs.iter().find(|log| {
        let number = log
            .file_stem()
            .and_then(OsStr::to_str)
            .map(|stem| stem.trim_start_matches('0'));
        number.is_some_and(|number| !number.is_empty() && message.contains(number))
    });
    numbered.or_else(|| logs.last()).cloned().unwrap_or(db)
}

fn current_manifest(db: &Path) -> Option<String> {
    Some(
        std::fs::read_to_string(db.join("CURRENT"))
            .ok()?
            .trim()
            .to_owned(),
    )
}

/// The files of a directory with this extension, in order of their names.
pub(super) fn files_with_extension(db: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(db) else {
        return Vec::new();
    };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension() == Some(OsStr::new(extension)))
        .collect();
    files.sort();
    files
}

/// Refuses a directory without a marker that is not empty.
pub(super) fn refuse_foreign(directory: &Path) -> Result<(), OpenError> {
    let entries = std::fs::read_dir(directory).map_err(|source| OpenError::Machine {
        operation: "listing",
        store: directory.to_owned(),
        source: source.into(),
    })?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let file = entry.path();
        if name == OsStr::new(DB_DIR) {
            return Err(OpenError::Damaged {
                store: directory.to_owned(),
                file: directory.join(MARKER_FILE),
                detail: format!("it is missing, though {} is there", file.display()),
                advice: ADVICE_DAMAGED,
                source: None,
            });
        }
        // A temporary file of a marker that was being replaced, or what mkfs leaves in a fresh file system.
        let is_harmless = name == OsStr::new("lost+found")
            || name.to_str().is_some_and(|name| name.contains(MARKER_FILE));
        if !is_harmless {
            let detail = "the directory has no marker of a store and is not empty".to_owned();
            return Err(OpenError::NotAStore { file, detail });
        }
    }
    Ok(())
}

/// What every whole store has, and RocksDB would make anew without a word.
pub(super) fn check_files(directory: &Path) -> Result<(), OpenError> {
    let db = directory.join(DB_DIR);
    if !db.join("CURRENT").is_file() {
        return Err(damaged(
            directory,
            "CURRENT",
            "it is missing".to_owned(),
            None,
        ));
    }
    // Each open begins a log, so there is always one. The manifest knows only logs that are finished.
    if files_with_extension(&db, "log").is_empty() {
        return Err(damaged(
            directory,
            "*.log",
            "the write-ahead log is missing".to_owned(),
            None,
        ));
    }
    Ok(())
}

/// RocksDB opens blob files only when a value is read; this compares what it expects with what is there.
pub(super) fn check_blob_files(
    directory: &Path,
    db: &DB,
    names: &BTreeSet<String>,
) -> Result<(), OpenError> {
    let mut expected = 0;
    for family in names.iter().filter_map(|name| db.cf_handle(name)) {
        let stats = db
            .property_value_cf(family, "rocksdb.blob-stats")
            .map_err(|error| open_error(directory, error))?
            .unwrap_or_default();
        expected += stats_value(&stats, "Number of blob files: ");
    }
    let blobs = files_with_extension(&directory.join(DB_DIR), "blob");
    let found = u64::try_from(blobs.len()).unwrap_or(u64::MAX);
    if found < expected {
        let detail = format!("{expected} blob files are expected, {found} are there");
        return Err(damaged(directory, "*.blob", detail, None));
    }
    Ok(())
}

fn stats_value(stats: &str, label: &str) -> u64 {
    let line = stats.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_found_in_the_message() {
        let message = "Corruption: block checksum mismatch: stored = 1, computed = 2 in /x/db/000012.sst offset 0 size 9";
        assert_eq!(
            file_named(Path::new("/x"), message),
            Some(PathBuf::from("/x/db/000012.sst"))
        );
        assert_eq!(file_named(Path::new("/y"), message), None);
    }
}

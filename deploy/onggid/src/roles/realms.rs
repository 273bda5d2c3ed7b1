//! The realms of container sync: read at start, and again when their file changes.

use anyhow::{Context as _, Result, ensure};
use onggi_common_service::Drain;
use onggi_object_wire::Realms;
use onggi_object_wire::realms::FILE_BYTES_MAX;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The file is looked at no more often than this.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Which version of the file was read.
type Seen = (u64, i64, i64, u64);

/// Reads a realms file.
///
/// # Errors
/// When it cannot be read, everybody can read it, or it is malformed.
pub(crate) fn load(path: &Path) -> Result<Realms> {
    read(path).map(|(realms, _)| realms)
}

fn seen(metadata: &std::fs::Metadata) -> Seen {
    (
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len(),
    )
}

fn read(path: &Path) -> Result<(Realms, Seen)> {
    let name = path.display();
    let file = std::fs::File::open(path)
        .with_context(|| format!("object.container_sync.realms: opening {name}"))?;
    let metadata = file
        .metadata()
        .with_context(|| format!("inspecting {name}"))?;
    let mode = metadata.mode() & 0o777;
    ensure!(
        mode & 0o007 == 0,
        "object.container_sync.realms: everybody can read {name} (mode {mode:o}), and it holds keys: chmod o-rwx {name}"
    );
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut text = String::new();
    file.take(limit + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {name}"))?;
    let realms = Realms::parse(&text).with_context(|| name.to_string())?;
    Ok((realms, seen(&metadata)))
}

/// The realms of the moment, and the task that keeps them so until the drain begins. A file that cannot be used is logged:
/// there are no realms until it can, and later on what was read before stays. Objects are served all the same.
pub(crate) fn watch(
    path: PathBuf,
    drain: Drain,
) -> (watch::Receiver<Arc<Realms>>, tokio::task::JoinHandle<()>) {
    let (realms, seen) = match read(&path) {
        Ok((realms, seen)) => (realms, Some(seen)),
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "there are no realms of container sync"
            );
            (Realms::default(), None)
        }
    };
    let (sender, receiver) = watch::channel(Arc::new(realms));
    let task = tokio::spawn(follow(path, seen, sender, drain));
    (receiver, task)
}

async fn follow(
    path: PathBuf,
    first: Option<Seen>,
    sender: watch::Sender<Arc<Realms>>,
    drain: Drain,
) {
    let mut known = first;
    loop {
        let pause = sender.borrow().check_interval().max(LOOK_INTERVAL_MIN);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = drain.requested() => return,
        }
        let now = std::fs::metadata(&path).ok().as_ref().map(seen);
        if now == known {
            continue;
        }
        known = now;
        match read(&path) {
            Ok((realms, seen)) => {
                tracing::info!(path = %path.display(), "took up the realms of container sync");
                known = Some(seen);
                sender.send_replace(Arc::new(realms));
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the realms of container sync stay as they were"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::durable::{self, Visibility};

    const GOOD: &[u8] =
        b"[DEFAULT]\nmtime_check_interval = 0.1\n[r]\nkey = sesame\ncluster_a = http://h/v1\n";

    #[test]
    fn a_file_everybody_can_read_is_refused_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("realms.conf");
        let said = |error: anyhow::Error| format!("{error:#}");
        assert!(said(load(&path).unwrap_err()).contains("opening"));
        durable::replace(&path, GOOD, Visibility::World).unwrap();
        let error = said(load(&path).unwrap_err());
        assert!(error.contains("chmod o-rwx"), "{error}");
        durable::replace(&path, b"[r]\nkye = sesame\n", Visibility::Owner).unwrap();
        let error = said(load(&path).unwrap_err());
        assert!(
            error.contains("line 2") && !error.contains("sesame"),
            "{error}"
        );
        durable::replace(&path, GOOD, Visibility::Owner).unwrap();
        assert_eq!(load(&path).unwrap().clusters().count(), 1);
    }

    #[tokio::test]
    async fn a_changed_file_is_taken_up_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("realms.conf");
        durable::replace(&path, GOOD, Visibility::Owner).unwrap();
        let drain = Drain::new();
        let (mut realms, task) = watch(path.clone(), drain.clone());
        durable::replace(&path, b"nonsense", Visibility::Owner).unwrap();
        let more = [GOOD, b"[s]\nkey = k\ncluster_b = http://h/v1\n"].concat();
        let waited = realms.wait_for(|realms| realms.clusters().count() == 2);
        durable::replace(&path, &more, Visibility::Owner).unwrap();
        drop(waited.await.unwrap());
        drain.begin();
        task.await.unwrap();
    }
}

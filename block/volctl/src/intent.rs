//! What this host is about to attach, in one file per volume: an attachment that a killed `attach` left half made is
//! known by it, and `detach` can take it away.

use anyhow::{Context as _, Result};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_units::Uuid;
use std::path::{Path, PathBuf};

/// A volume that is being attached to this host, or was when that was interrupted.
#[derive(Debug)]
pub(crate) struct Intent {
    path: PathBuf,
    /// `None` before the service has told us.
    pub(crate) attachment: Option<Uuid>,
}

impl Intent {
    /// Remembers that a volume is about to be attached. One that is remembered already stays as it is.
    pub(crate) fn begin(state: &Path, volume: Uuid) -> Result<Self> {
        if let Some(known) = Self::find(state, volume)? {
            return Ok(known);
        }
        let path = path(state, volume);
        durable::create_dir_all(&state.join("attachments"))
            .and_then(|()| durable::replace(&path, b"", Visibility::Owner))
            .context("remembering what is being attached")?;
        Ok(Self {
            path,
            attachment: None,
        })
    }

    /// What is remembered of a volume.
    pub(crate) fn find(state: &Path, volume: Uuid) -> Result<Option<Self>> {
        let path = path(state, volume);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Self {
                path,
                attachment: text.trim().parse().ok(),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Remembers the attachment too.
    pub(crate) fn name(&mut self, attachment: Uuid) -> Result<()> {
        self.attachment = Some(attachment);
        durable::replace(
            &self.path,
            attachment.to_string().as_bytes(),
            Visibility::Owner,
        )
        .context("remembering the attachment")
    }

    /// Forgets it: the attachment is complete and has its own record, or it is gone.
    pub(crate) fn end(self) -> Result<()> {
        durable::remove(&self.path).context("forgetting what was being attached")
    }

    /// Forgets what there may be of a volume, with what a killed `attach` was writing.
    pub(crate) fn forget(state: &Path, volume: Uuid) -> Result<()> {
        let path = path(state, volume);
        let stem = format!("{volume}.attaching.");
        let entries = std::fs::read_dir(state.join("attachments"));
        for entry in entries.into_iter().flatten().filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(&stem) {
                durable::remove(&entry.path()).context("removing a half-written file")?;
            }
        }
        Self {
            path,
            attachment: None,
        }
        .end()
    }
}

fn path(state: &Path, volume: Uuid) -> PathBuf {
    state
        .join("attachments")
        .join(format!("{volume}.attaching"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_attach_is_remembered_until_it_is_ended() {
        let state = tempfile::tempdir().unwrap();
        let (volume, attachment) = (Uuid::from_random([1; 16]), Uuid::from_random([2; 16]));
        let find = || Intent::find(state.path(), volume).unwrap();
        assert!(find().is_none());
        drop(Intent::begin(state.path(), volume).unwrap());
        assert_eq!(find().unwrap().attachment, None);
        find().unwrap().name(attachment).unwrap();
        let again = Intent::begin(state.path(), volume).unwrap();
        assert_eq!(again.attachment, Some(attachment));
        again.end().unwrap();
        assert!(find().is_none());
        drop(Intent::begin(state.path(), volume).unwrap());
        let half_written = state
            .path()
            .join(format!("attachments/{volume}.attaching.7.tmp"));
        durable::replace(&half_written, b"", Visibility::Owner).unwrap();
        Intent::forget(state.path(), volume).unwrap();
        assert!(find().is_none() && !half_written.exists());
        Intent::forget(state.path(), volume).unwrap();
    }
}

//! `onggid object new-key`: a new root secret for encryption at rest.

use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::{Entropy as _, SystemEntropy, private};
use onggi_common_units::Secret;
use onggi_object_encryption::{RootSecrets, SECRET_BYTES, SecretId};
use std::path::Path;
use zeroize::Zeroizing;

/// Digits of an id that is made up.
const ID_DIGITS: usize = 8;

/// Makes a file with a new root secret, or adds one to the end of a file that is there. Returns the secret's id.
///
/// # Errors
/// When the file is there and is no file of root secrets, others can read it, the id is taken, or it cannot be written.
pub(crate) fn make(path: &Path, id: Option<&str>) -> Result<SecretId> {
    let text = match path.exists() {
        true => private::read(path)?,
        false => Secret::new(""),
    };
    let known = match text.expose().trim() {
        "" => RootSecrets::default(),
        _ => RootSecrets::parse(&text).with_context(|| path.display().to_string())?,
    };
    let made_up = SystemEntropy.hex_id().to_string();
    let id = id.unwrap_or(&made_up[..ID_DIGITS]);
    let id = SecretId::new(id).context("an id has 1 to 64 letters, digits, - _ .")?;
    let is_taken = known.ids().any(|taken| *taken == id);
    ensure!(
        !is_taken,
        "{} has a root secret {id} already",
        path.display()
    );
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    SystemEntropy.fill(&mut *secret);
    let line = RootSecrets::line(&id, &secret);
    let end = match text.expose() {
        before if before.is_empty() || before.ends_with('\n') => "",
        _ => "\n",
    };
    let text = Zeroizing::new([text.expose(), end, line.expose()].concat());
    durable::replace(path, text.as_bytes(), Visibility::Owner)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn new_secrets_are_added_and_no_file_is_spoilt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let first = make(&path, Some("2026")).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let second = make(&path, None).unwrap();
        let secrets = RootSecrets::parse(&private::read(&path).unwrap()).unwrap();
        assert_eq!(secrets.ids().collect::<Vec<_>>(), [&first, &second]);
        let before = std::fs::read(&path).unwrap();
        assert!(make(&path, Some("2026")).is_err() && make(&path, Some("a b")).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(make(&path, None).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let other = folder.path().join("notes");
        durable::replace(&other, b"dear diary\n", Visibility::Owner).unwrap();
        assert!(make(&other, None).is_err());
        assert_eq!(std::fs::read(&other).unwrap(), b"dear diary\n");
    }
}

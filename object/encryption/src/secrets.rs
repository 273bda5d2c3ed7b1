//! Root secrets, and the file they stand in: a line each, `id secret`, the secret in base64. Lines that begin with `#`
//! and empty ones say nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use onggi_common_units::Secret;
use zeroize::Zeroizing;

/// Bytes of a root secret at least; new ones have so many.
pub const SECRET_BYTES: usize = 32;
/// Characters of an id.
const ID_CHARS_MAX: usize = 64;

/// What a root secret is called. It is stored beside everything that is sealed under it, and is no secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretId(String);

/// A file that holds no root secrets. No variant holds a secret, so that an error may be logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// There is none in it.
    #[error("no root secret is in it: `onggid object new-key FILE` makes one")]
    Empty,
    /// A line that is not an id and a secret.
    #[error("line {line}: an id and a secret in base64 are expected, with a blank between them")]
    Shape {
        /// The line, from 1.
        line: usize,
    },
    /// An id with other characters, or too many.
    #[error("line {line}: an id has 1 to {ID_CHARS_MAX} letters, digits, - _ .")]
    Id {
        /// The line, from 1.
        line: usize,
    },
    /// An id that was there before.
    #[error("line {line}: the id {id} is there twice")]
    Twice {
        /// The line, from 1.
        line: usize,
        /// The id.
        id: SecretId,
    },
    /// A secret that is no base64, or too short.
    #[error("line {line}: a secret is at least {SECRET_BYTES} bytes in base64")]
    Secret {
        /// The line, from 1.
        line: usize,
    },
}

impl SecretId {
    /// Checks a name.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = !text.is_empty() && text.len() <= ID_CHARS_MAX && text.bytes().all(legal);
        fits.then(|| Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Root secrets in the order of their file. They print as their ids, and are wiped from memory when dropped.
#[derive(Clone, Default)]
pub struct RootSecrets(Vec<(SecretId, Zeroizing<Vec<u8>>)>);

impl RootSecrets {
    /// Reads a file's text.
    ///
    /// # Errors
    /// When a line is malformed, an id is there twice, or there is no secret at all.
    pub fn parse(text: &Secret) -> Result<Self, KeyFileError> {
        let mut secrets = Self::default();
        for (index, words) in text.expose().lines().enumerate() {
            let line = index + 1;
            let words = words.trim();
            if words.is_empty() || words.starts_with('#') {
                continue;
            }
            let (id, secret) = words
                .split_once(char::is_whitespace)
                .ok_or(KeyFileError::Shape { line })?;
            let id = SecretId::new(id).ok_or(KeyFileError::Id { line })?;
            let secret = STANDARD.decode(secret.trim()).map(Zeroizing::new);
            let secret = secret.ok().filter(|secret| secret.len() >= SECRET_BYTES);
            let secret = secret.ok_or(KeyFileError::Secret { line })?;
            if secrets.get(&id).is_some() {
                return Err(KeyFileError::Twice { line, id });
            }
            secrets.0.push((id, secret));
        }
        if secrets.0.is_empty() {
            return Err(KeyFileError::Empty);
        }
        Ok(secrets)
    }

    /// A line of a file.
    #[must_use]
    pub fn line(id: &SecretId, secret: &[u8; SECRET_BYTES]) -> Secret {
        Secret::new(format!("{id} {}\n", STANDARD.encode(secret)))
    }

    /// The ids in the order of the file.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = &SecretId> {
        self.0.iter().map(|(id, _)| id)
    }

    pub(crate) fn get(&self, id: &SecretId) -> Option<&[u8]> {
        let (_, secret) = self.0.iter().find(|(known, _)| known == id)?;
        Some(secret)
    }
}

impl fmt::Debug for RootSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ids()).finish()
    }
}

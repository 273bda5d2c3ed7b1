//! Small things, encrypted and authenticated, as text: `1 ID BASE64`, of a nonce and XChaCha20-Poly1305's output.

use crate::secrets::SecretId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

/// The version of what is stored.
const VERSION: &str = "1";
/// Bytes of a nonce; so many that random ones never meet.
pub const NONCE_BYTES: usize = 24;

/// Why something that was sealed cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The root secret it is sealed under is not there.
    #[error("it is encrypted under the root secret {id}, which the key file does not have")]
    UnknownSecret {
        /// Its id.
        id: SecretId,
    },
    /// It does not open: the root secret of that id is another one, or what is stored was changed.
    #[error(
        "it does not open under the root secret {id}: that is another secret, or what is stored was changed"
    )]
    Refused {
        /// The root secret's id.
        id: SecretId,
    },
    /// It is nothing that this program seals.
    #[error("what is stored of its encryption is malformed")]
    Malformed,
}

/// What is sealed: it opens only as that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The key of a body and what the system keeps with it.
    Body,
    /// The metadata users set.
    Metadata,
    /// The entity tags a container lists.
    Listing,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Metadata => "metadata",
            Self::Listing => "listing",
        }
    }
}

/// The key of a container or an object.
pub(crate) struct SealKey(XChaCha20Poly1305);

impl SealKey {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        Self(XChaCha20Poly1305::new((&*key).into()))
    }

    /// Seals bytes for a purpose and an object's path.
    pub(crate) fn seal(&self, at: Place<'_>, plain: &[u8], nonce: &[u8; NONCE_BYTES]) -> String {
        let bound = at.bound();
        let payload = Payload {
            msg: plain,
            aad: bound.as_bytes(),
        };
        let sealed = self.0.encrypt(XNonce::from_slice(nonce), payload);
        let sealed = sealed.expect("some kilobytes are below the cipher's limit of 256 GiB");
        let bytes = [nonce.as_slice(), &sealed].concat();
        format!("{VERSION} {} {}", at.id, STANDARD_NO_PAD.encode(bytes))
    }
}

/// What sealed bytes are bound to.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) id: &'a SecretId,
    pub(crate) path: &'a str,
}

impl Place<'_> {
    fn bound(&self) -> String {
        // Neither a purpose nor an id has a blank in it.
        format!(
            "onggi object {VERSION} {} {} {}",
            self.purpose.name(),
            self.id,
            self.path
        )
    }
}

/// A sealed text, taken apart.
pub(crate) struct Sealed {
    pub(crate) id: SecretId,
    bytes: Vec<u8>,
}

impl Sealed {
    pub(crate) fn parse(text: &str) -> Result<Self, OpenError> {
        let mut words = text.split(' ');
        let (version, id, bytes, rest) = (words.next(), words.next(), words.next(), words.next());
        let (Some(VERSION), Some(id), Some(bytes), None) = (version, id, bytes, rest) else {
            return Err(OpenError::Malformed);
        };
        let bytes = STANDARD_NO_PAD.decode(bytes).ok();
        Ok(Self {
            id: SecretId::new(id).ok_or(OpenError::Malformed)?,
            bytes: bytes.ok_or(OpenError::Malformed)?,
        })
    }

    pub(crate) fn open(
        &self,
        key: &SealKey,
        purpose: Purpose,
        path: &str,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (nonce, sealed) = self
            .bytes
            .split_at_checked(NONCE_BYTES)
            .ok_or(OpenError::Malformed)?;
        let id = &self.id;
        let bound = Place { purpose, id, path }.bound();
        let payload = Payload {
            msg: sealed,
            aad: bound.as_bytes(),
        };
        let plain = key.0.decrypt(XNonce::from_slice(nonce), payload).ok();
        let refused = || OpenError::Refused { id: id.clone() };
        plain.map(Zeroizing::new).ok_or_else(refused)
    }
}

//! An object's bytes: AES-256 in counter mode, so that any range is read without the rest.

use aes::Aes256;
use aes::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use core::fmt;
use ctr::Ctr128BE;
use zeroize::Zeroizing;

/// Bytes of a body's key.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes of a body's initial counter.
pub(crate) const IV_BYTES: usize = 16;

/// Encrypts a body, or decrypts it: the two are the same. It knows where in the body it is.
#[derive(Clone)]
pub struct BodyCipher(Ctr128BE<Aes256>);

impl BodyCipher {
    pub(crate) fn new(key: &Zeroizing<[u8; KEY_BYTES]>, iv: &[u8; IV_BYTES]) -> Self {
        Self(Ctr128BE::new((&**key).into(), iv.into()))
    }

    /// Goes on at this offset of the body.
    pub fn seek(&mut self, offset: u64) {
        self.0.seek(offset);
    }

    /// Takes the next bytes of the body from plain to encrypted, or back.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        self.0.apply_keystream(bytes);
    }
}

impl fmt::Debug for BodyCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyCipher")
    }
}

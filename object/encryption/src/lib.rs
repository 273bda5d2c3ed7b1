//! Encryption at rest: what a proxy does to an object before a storage node sees it, and undoes when it comes back.
//!
//! | | under | how |
//! |---|---|---|
//! | the bytes | a random key of their own | AES-256 in counter mode, from a random initial counter |
//! | that key, and what the system keeps with the bytes | the object's key | sealed |
//! | the metadata users set | the object's key | sealed |
//! | the entity tags that its container lists | the container's key | sealed |
//!
//! The keys of containers and objects are HMAC-SHA256 of their paths under a root secret. Sealed is XChaCha20-Poly1305 with
//! a random nonce, bound to the root secret's id, the object's path and the purpose: what was changed, or stands in another
//! place than its own, does not open.
#![forbid(unsafe_code)]

mod body;
mod keymaster;
mod object;
mod seal;
mod secrets;

pub use body::BodyCipher;
pub use keymaster::{ActiveError, Keymaster};
pub use object::{Fresh, ListingOpener, Sealing};
pub use seal::{NONCE_BYTES, OpenError};
pub use secrets::{KeyFileError, RootSecrets, SECRET_BYTES, SecretId};

#[cfg(test)]
mod tests;

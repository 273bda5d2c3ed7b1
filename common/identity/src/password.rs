//! Passwords: argon2id hashes, made and checked in constant work.
//!
//! A check takes the same time whether the user exists, has a password, or not: there is always one hash to compute.
//! These functions block for tens of milliseconds and 19 MiB: callers run them on blocking threads, few at a time.

use argon2::password_hash::{Ident, Output, ParamsString, PasswordHash, Salt, SaltString};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use onggi_common_host::Entropy;
use onggi_common_units::Secret;

/// Bytes of a password: a longer one is refused before it is hashed.
pub(crate) const LENGTH_MAX: usize = 4_096;
/// Memory, passes and lanes of a new hash (OWASP's first choice for argon2id). A stored hash carries its own.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Bytes of a hash.
const HASH_BYTES: usize = 32;
/// Blocks (1 KiB) reserved for one computation; only those used are touched.
///
/// More than 32 MiB is what glibc's allocator never keeps for itself: the memory of a flood of logins goes back to the
/// system with each answer, where otherwise every thread that ever hashed would hold on to its 19 MiB.
const RESERVED_BLOCKS: usize = 33 << 10;

/// A password no user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error("a password must not be empty")]
    Empty,
    #[error("a password must not be longer than {LENGTH_MAX} bytes")]
    TooLong,
}

/// Hashes passwords.
pub(crate) struct Passwords {
    params: Params,
    /// What is checked when there is no user: a hash of a password nobody knows.
    decoy: String,
}

impl Passwords {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES));
        let params = params.expect("these parameters are within argon2's bounds");
        let decoy = hash(&params, &entropy.alphanumeric(32), entropy);
        let decoy = decoy.expect("a short password with a fresh salt can be hashed");
        Self { params, decoy }
    }

    /// Hashes a new password.
    pub(crate) fn hash(
        &self,
        password: &Secret,
        entropy: &dyn Entropy,
    ) -> Result<String, PasswordError> {
        match password.expose().len() {
            0 => Err(PasswordError::Empty),
            length if length > LENGTH_MAX => Err(PasswordError::TooLong),
            _ => hash(&self.params, password.expose(), entropy).ok_or(PasswordError::TooLong),
        }
    }

    /// Whether the password is the one hashed; `None` stands for a user who is not there or has no password.
    pub(crate) fn verify(&self, hashed: Option<&str>, password: &Secret) -> bool {
        if password.expose().len() > LENGTH_MAX {
            return false;
        }
        let matches = hashed.and_then(|hashed| is_hash_of(hashed, password.expose()));
        // Without a hash that can be computed, another one is, and its outcome does not count.
        matches.unwrap_or_else(|| {
            core::hint::black_box(is_hash_of(&self.decoy, password.expose()));
            false
        })
    }
}

/// The argon2id output; `None` when a parameter is out of argon2's bounds.
fn compute(params: &Params, version: Version, password: &str, salt: &[u8]) -> Option<Output> {
    let argon2 = Argon2::new(Algorithm::Argon2id, version, params.clone());
    let block_count = params.block_count();
    let mut blocks = Vec::with_capacity(block_count.max(RESERVED_BLOCKS));
    blocks.resize(block_count, Block::default());
    let mut bytes = [0; HASH_BYTES];
    argon2
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut bytes, &mut blocks)
        .ok()?;
    Output::new(&bytes).ok()
}

/// Hashes in PHC form.
fn hash(params: &Params, password: &str, entropy: &dyn Entropy) -> Option<String> {
    let salt_bytes = entropy.bytes();
    let salt = SaltString::encode_b64(&salt_bytes).ok()?;
    let version = Version::V0x13;
    let hashed = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(version.into()),
        params: ParamsString::try_from(params).ok()?,
        salt: Some(salt.as_salt()),
        hash: Some(compute(params, version, password, &salt_bytes)?),
    };
    Some(hashed.to_string())
}

/// Whether a hash in PHC form is the password's; `None` when it is no such hash.
fn is_hash_of(hashed: &str, password: &str) -> Option<bool> {
    let hashed = PasswordHash::new(hashed).ok()?;
    let algorithm: Ident<'_> = hashed.algorithm;
    if algorithm != ARGON2ID_IDENT {
        return None;
    }
    let version = hashed
        .version
        .map_or(Some(Version::V0x13), |version| version.try_into().ok())?;
    let mut salt_bytes = [0; Salt::MAX_LENGTH];
    let salt = hashed.salt?.decode_b64(&mut salt_bytes).ok()?;
    let computed = compute(&Params::try_from(&hashed).ok()?, version, password, salt)?;
    // Outputs are compared in constant time.
    Some(computed == hashed.hash?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::SystemEntropy;

    #[test]
    fn only_the_right_password_of_a_user_who_is_there_passes() {
        let passwords = Passwords::new(&SystemEntropy);
        let right = Secret::new("correct horse");
        let hashed = passwords.hash(&right, &SystemEntropy).unwrap();
        assert!(
            hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hashed}"
        );
        assert!(passwords.verify(Some(&hashed), &right));
        assert!(!passwords.verify(Some(&hashed), &Secret::new("correct horsf")));
        assert!(!passwords.verify(None, &right));
        assert!(!passwords.verify(Some("rubbish"), &right));
        assert_ne!(
            hashed,
            passwords.hash(&right, &SystemEntropy).unwrap(),
            "salts differ"
        );
    }

    #[test]
    fn a_hash_other_programs_made_is_understood() {
        // echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1, as in the reference implementation's tests.
        let hashed = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert_eq!(is_hash_of(hashed, "password"), Some(true));
        assert_eq!(is_hash_of(hashed, "passwore"), Some(false));
        assert_eq!(
            is_hash_of("$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ", "x"),
            None
        );
    }

    #[test]
    fn empty_and_very_long_passwords_are_refused() {
        let passwords = Passwords::new(&SystemEntropy);
        let long = Secret::new("x".repeat(1 << 20));
        assert_eq!(
            passwords.hash(&long, &SystemEntropy),
            Err(PasswordError::TooLong)
        );
        assert_eq!(
            passwords.hash(&Secret::new(""), &SystemEntropy),
            Err(PasswordError::Empty)
        );
        assert!(!passwords.verify(None, &long));
    }
}

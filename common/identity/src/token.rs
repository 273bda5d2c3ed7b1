//! Tokens: signed texts that say who their bearer is, verifiable with the key ring alone.
//!
//! `onggi1_` and the base64url form of
//!
//! | bytes | field |
//! |---|---|
//! | 4 | id of the key that signed |
//! | n | claims, see below |
//! | 32 | HMAC-SHA256 over the prefix, the key id and the claims |
//!
//! The claims, integers big endian, a *text* being its length (2 bytes) and UTF-8, an *id* being 0 and 16 bytes when it is
//! Keystone's 32 hexadecimal digits (most are), else 1 and a text:
//! methods (1), issued and expires in microseconds (8 each), audit id (16), parent's audit id (1 + 0 or 16), user id (id),
//! user name (text), user's domain (id), scope (tag and fields), role count (1), roles (a tag below 16 for the built-in
//! ones, else 255 and a text). The signature is checked before a byte of the claims is looked at. A token is not secret
//! towards its bearer: it holds names, no credentials.

use crate::keys::{KeyId, Keys};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use onggi_common_units::{HexId, UtcTime};

/// What every token of this format begins with.
pub const PREFIX: &str = "onggi1_";
/// Characters of a token: what fits a header among others. Typical ones have 200 to 250.
pub const LENGTH_MAX: usize = 6_000;
/// Roles in a token.
const ROLES_MAX: usize = 64;
/// Groups of a v1 user in a token.
const GROUPS_MAX: usize = 64;
const MAC_BYTES: usize = 32;
/// Roles that take one byte. Positions are part of the format.
const BUILT_IN_ROLES: [&str; 6] = [
    "admin",
    "manager",
    "member",
    "reader",
    "service",
    "ResellerAdmin",
];

/// Names one token in lists and logs; it cannot be used as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuditId([u8; 16]);

impl AuditId {
    /// Takes sixteen random bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl core::fmt::Display for AuditId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl core::fmt::Debug for AuditId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// How a bearer proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Methods(u8);

impl Methods {
    /// By password.
    pub const PASSWORD: Self = Self(1);
    /// By an earlier token.
    pub const TOKEN: Self = Self(2);

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Keystone's names.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let all = [(Self::PASSWORD, "password"), (Self::TOKEN, "token")];
        all.into_iter()
            .filter(|(method, _)| self.0 & method.0 != 0)
            .map(|(_, name)| name)
            .collect()
    }
}

/// What a token gives access to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Nothing but a token with a scope.
    Unscoped,
    /// One project.
    Project {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// The domain it is in.
        domain_id: String,
    },
    /// One domain.
    Domain {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// The deployment itself.
    System,
    /// An object account of a v1 user from the configuration.
    Account {
        /// The account's name without its prefix.
        account: String,
        /// The groups configured for the user.
        groups: Vec<String>,
    },
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who bears it.
    pub user_id: String,
    /// That user's name.
    pub user_name: String,
    /// The domain the user is in.
    pub user_domain_id: String,
    /// What it gives access to.
    pub scope: Scope,
    /// Role names, implied ones included.
    pub roles: Vec<String>,
    /// How the bearer proved who it is.
    pub methods: Methods,
    /// When it was made.
    pub issued_at: UtcTime,
    /// When it ends.
    pub expires_at: UtcTime,
    /// Its own audit id.
    pub audit_id: AuditId,
    /// The audit id of the token it was made from.
    pub parent_audit_id: Option<AuditId>,
}

/// Why a text is no token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another form, or cut off.
    #[error("it is not a token of this cluster's form")]
    Malformed,
    /// Signed with a key the ring does not have.
    #[error("it is signed with key {key}, which is not in the key ring")]
    UnknownKey {
        /// The key it names.
        key: KeyId,
    },
    /// The signature is another one.
    #[error("its signature is wrong")]
    Forged,
}

/// Something in the claims is longer than a token may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token would be too long: its names, roles or groups do not fit {LENGTH_MAX} characters"
)]
pub struct TooLong;

/// Signs claims.
///
/// # Errors
/// When the names and roles in them do not fit a token.
pub fn sign(claims: &Claims, keys: &Keys) -> Result<String, TooLong> {
    let key = keys.current();
    let mut bytes = Vec::with_capacity(192);
    bytes.extend_from_slice(&key.id().to_be_bytes());
    encode(claims, &mut bytes)?;
    let mac = key.mac(&[PREFIX.as_bytes(), &bytes]);
    bytes.extend_from_slice(&mac);
    let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    if text.len() > LENGTH_MAX {
        Err(TooLong)
    } else {
        Ok(text)
    }
}

/// Reads a token whose signature is right. Expiry and revocation are the caller's to check.
///
/// # Errors
/// When the text is no token, its key is unknown, or its signature is wrong.
pub fn open(text: &str, keys: &Keys) -> Result<Claims, TokenError> {
    if text.len() > LENGTH_MAX {
        return Err(TokenError::Malformed);
    }
    let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed)?;
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(encoded) else {
        return Err(TokenError::Malformed);
    };
    let signed_bytes = bytes
        .len()
        .checked_sub(MAC_BYTES)
        .ok_or(TokenError::Malformed)?;
    let (signed, mac) = bytes.split_at(signed_bytes);
    let (key_id, claims) = signed
        .split_first_chunk::<4>()
        .ok_or(TokenError::Malformed)?;
    let key_id = KeyId::from_be_bytes(*key_id);
    let key = keys
        .find(key_id)
        .ok_or(TokenError::UnknownKey { key: key_id })?;
    if !key.is_mac_of(mac, &[PREFIX.as_bytes(), signed]) {
        return Err(TokenError::Forged);
    }
    let mut reader = Reader(claims);
    let claims = reader.claims().ok_or(TokenError::Malformed)?;
    if reader.0.is_empty() {
        Ok(claims)
    } else {
        Err(TokenError::Malformed)
    }
}

fn encode(claims: &Claims, out: &mut Vec<u8>) -> Result<(), TooLong> {
    out.push(claims.methods.0);
    out.extend_from_slice(&claims.issued_at.micros().to_be_bytes());
    out.extend_from_slice(&claims.expires_at.micros().to_be_bytes());
    out.extend_from_slice(&claims.audit_id.0);
    out.push(u8::from(claims.parent_audit_id.is_some()));
    out.extend(claims.parent_audit_id.iter().flat_map(|id| id.0));
    put_id(&claims.user_id, out)?;
    put_text(&claims.user_name, out)?;
    put_id(&claims.user_domain_id, out)?;
    put_scope(&claims.scope, out)?;
    put_count(claims.roles.len(), ROLES_MAX, out)?;
    claims.roles.iter().try_for_each(|role| put_role(role, out))
}

fn put_count(count: usize, count_max: usize, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let fits = u8::try_from(count).ok().filter(|_| count <= count_max);
    out.push(fits.ok_or(TooLong)?);
    Ok(())
}

fn put_text(text: &str, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let Ok(length) = u16::try_from(text.len()) else {
        return Err(TooLong);
    };
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn put_id(id: &str, out: &mut Vec<u8>) -> Result<(), TooLong> {
    match id.parse::<HexId>() {
        // Only the exact text form may be shortened: what is read back must be what was put in.
        Ok(hex) if hex.to_string() == id => {
            out.push(0);
            out.extend_from_slice(hex.as_bytes());
            Ok(())
        }
        Ok(_) | Err(_) => {
            out.push(1);
            put_text(id, out)
        }
    }
}

fn put_role(role: &str, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let known = BUILT_IN_ROLES.iter().position(|known| *known == role);
    if let Some(tag) = known.and_then(|position| u8::try_from(position).ok()) {
        out.push(tag);
        return Ok(());
    }
    out.push(u8::MAX);
    put_text(role, out)
}

fn put_scope(scope: &Scope, out: &mut Vec<u8>) -> Result<(), TooLong> {
    match scope {
        Scope::Unscoped => out.push(0),
        Scope::Project {
            id,
            name,
            domain_id,
        } => {
            out.push(1);
            put_id(id, out)?;
            put_text(name, out)?;
            put_id(domain_id, out)?;
        }
        Scope::Domain { id, name } => {
            out.push(2);
            put_id(id, out)?;
            put_text(name, out)?;
        }
        Scope::System => out.push(3),
        Scope::Account { account, groups } => {
            out.push(4);
            put_text(account, out)?;
            put_count(groups.len(), GROUPS_MAX, out)?;
            groups.iter().try_for_each(|group| put_text(group, out))?;
        }
    }
    Ok(())
}

/// Takes fields off the front; `None` when they are not there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn time(&mut self) -> Option<UtcTime> {
        self.array()
            .map(u64::from_be_bytes)
            .map(UtcTime::from_micros)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        core::str::from_utf8(self.take(length)?)
            .ok()
            .map(str::to_owned)
    }

    fn id(&mut self) -> Option<String> {
        match self.byte()? {
            0 => Some(HexId::from_random(self.array()?).to_string()),
            1 => self.text(),
            _ => None,
        }
    }

    fn count(&mut self, count_max: usize) -> Option<usize> {
        self.byte()
            .map(usize::from)
            .filter(|count| *count <= count_max)
    }

    fn role(&mut self) -> Option<String> {
        match self.byte()? {
            u8::MAX => self.text(),
            tag => BUILT_IN_ROLES
                .get(usize::from(tag))
                .map(|role| (*role).to_owned()),
        }
    }

    fn scope(&mut self) -> Option<Scope> {
        Some(match self.byte()? {
            0 => Scope::Unscoped,
            1 => Scope::Project {
                id: self.id()?,
                name: self.text()?,
                domain_id: self.id()?,
            },
            2 => Scope::Domain {
                id: self.id()?,
                name: self.text()?,
            },
            3 => Scope::System,
            4 => {
                let account = self.text()?;
                let count = self.count(GROUPS_MAX)?;
                let groups = (0..count).map(|_| self.text()).collect::<Option<_>>()?;
                Scope::Account { account, groups }
            }
            _ => return None,
        })
    }

    fn claims(&mut self) -> Option<Claims> {
        let methods = Methods(self.byte()?);
        let (issued_at, expires_at) = (self.time()?, self.time()?);
        let audit_id = AuditId(self.array()?);
        let parent_audit_id = match self.byte()? {
            0 => None,
            1 => Some(AuditId(self.array()?)),
            _ => return None,
        };
        let (user_id, user_name, user_domain_id) = (self.id()?, self.text()?, self.id()?);
        let scope = self.scope()?;
        let count = self.count(ROLES_MAX)?;
        let roles = (0..count).map(|_| self.role()).collect::<Option<_>>()?;
        Some(Claims {
            user_id,
            user_name,
            user_domain_id,
            scope,
            roles,
            methods,
            issued_at,
            expires_at,
            audit_id,
            parent_audit_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeyRing, Purpose};
    use onggi_common_host::{Entropy, SystemEntropy};
    use proptest::prelude::*;

    fn keys() -> Keys {
        KeyRing::generate(&SystemEntropy).derive(Purpose::Tokens)
    }

    fn claims() -> Claims {
        Claims {
            user_id: SystemEntropy.hex_id().to_string(),
            user_name: "admin".to_owned(),
            user_domain_id: "default".to_owned(),
            scope: Scope::Project {
                id: SystemEntropy.hex_id().to_string(),
                name: "admin".to_owned(),
                domain_id: "default".to_owned(),
            },
            roles: ["admin", "manager", "member", "reader"]
                .map(str::to_owned)
                .to_vec(),
            methods: Methods::PASSWORD,
            issued_at: UtcTime::from_seconds(1_790_000_000),
            expires_at: UtcTime::from_seconds(1_790_003_600),
            audit_id: AuditId::from_random(SystemEntropy.bytes()),
            parent_audit_id: None,
        }
    }

    #[test]
    fn a_usual_token_is_compact_and_reads_back() {
        let (keys, claims) = (keys(), claims());
        let token = sign(&claims, &keys).unwrap();
        assert!(token.len() <= 250, "{} characters", token.len());
        assert_eq!(open(&token, &keys), Ok(claims));
    }

    #[test]
    fn a_token_of_another_ring_is_refused() {
        let token = sign(&claims(), &keys()).unwrap();
        assert!(matches!(
            open(&token, &keys()),
            Err(TokenError::UnknownKey { .. })
        ));
    }

    #[test]
    fn a_key_of_another_purpose_does_not_sign_tokens() {
        let ring = KeyRing::generate(&SystemEntropy);
        let token = sign(&claims(), &ring.derive(Purpose::Feed)).unwrap();
        assert_eq!(
            open(&token, &ring.derive(Purpose::Tokens)),
            Err(TokenError::Forged)
        );
    }

    #[test]
    fn every_cut_and_every_changed_character_is_refused() {
        let keys = keys();
        let token = sign(&claims(), &keys).unwrap();
        for end in 0..token.len() {
            assert!(open(&token[..end], &keys).is_err(), "cut at {end}");
        }
        for position in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] = if changed[position] == b'A' {
                b'B'
            } else {
                b'A'
            };
            assert!(
                open(core::str::from_utf8(&changed).unwrap(), &keys).is_err(),
                "at {position}"
            );
        }
        assert!(open(&format!("{token}A"), &keys).is_err());
        assert!(open(&"A".repeat(1 << 20), &keys).is_err());
    }

    #[test]
    fn names_that_do_not_fit_are_refused_when_signing() {
        let too_long = Claims {
            user_name: "x".repeat(LENGTH_MAX),
            ..claims()
        };
        assert_eq!(sign(&too_long, &keys()), Err(TooLong));
        let too_many = Claims {
            roles: vec!["r".to_owned(); 65],
            ..claims()
        };
        assert_eq!(sign(&too_many, &keys()), Err(TooLong));
    }

    fn scope() -> impl Strategy<Value = Scope> {
        prop_oneof![
            Just(Scope::Unscoped),
            Just(Scope::System),
            ("[0-9a-f]{32}|.{0,40}", ".{0,64}", ".{0,20}").prop_map(|(id, name, domain_id)| {
                Scope::Project {
                    id,
                    name,
                    domain_id,
                }
            }),
            (".{0,40}", ".{0,64}").prop_map(|(id, name)| Scope::Domain { id, name }),
            (".{0,40}", prop::collection::vec(".{0,20}", 0..5))
                .prop_map(|(account, groups)| Scope::Account { account, groups }),
        ]
    }

    proptest! {
        #[test]
        fn any_claims_read_back(
            user_id in "[0-9a-fA-F]{32}|.{0,40}", user_name in ".{0,64}", user_domain_id in ".{0,40}",
            scope in scope(), roles in prop::collection::vec("admin|reader|.{0,30}", 0..8),
            issued in any::<u64>(), expires in any::<u64>(), audit in any::<[u8; 16]>(), parent in any::<Option<[u8; 16]>>(),
        ) {
            let keys = keys();
            let claims = Claims {
                user_id, user_name, user_domain_id, scope, roles,
                methods: Methods::PASSWORD.with(Methods::TOKEN),
                issued_at: UtcTime::from_micros(issued), expires_at: UtcTime::from_micros(expires),
                audit_id: AuditId(audit), parent_audit_id: parent.map(AuditId),
            };
            prop_assert_eq!(open(&sign(&claims, &keys).unwrap(), &keys), Ok(claims));
        }

        #[test]
        fn arbitrary_texts_are_no_tokens(text in ".{0,300}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let keys = keys();
            prop_assert!(open(&text, &keys).is_err());
            let rubbish = PREFIX.to_owned() + &URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert!(open(&rubbish, &keys).is_err());
        }

        // A bug elsewhere could sign anything: even then reading must not panic.
        #[test]
        fn signed_rubbish_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let keys = keys();
            let key = keys.current();
            let mut signed = key.id().to_be_bytes().to_vec();
            signed.extend(&bytes);
            signed.extend(key.mac(&[PREFIX.as_bytes(), &signed]));
            let opened = open(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&signed)), &keys);
            let is_signed = !matches!(opened, Err(TokenError::Forged | TokenError::UnknownKey { .. }));
            prop_assert!(is_signed);
        }
    }
}

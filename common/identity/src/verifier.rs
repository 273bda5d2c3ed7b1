//! Token in, [`Caller`] out: in any process, without the store and without asking.

use crate::caller::Caller;
use crate::keys::{KeyRing, Keys, Purpose};
use crate::revocation::Revocations;
use crate::token::{self, Claims, TokenError};
use onggi_common_host::Clock;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// How many tokens are remembered whose signature was found right. Clients use one many times; where more are in use, all
/// are forgotten and opened anew.
const OPENED_MAX: usize = 1_024;

/// Why a token does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is not one of ours.
    #[error("the token is refused: {0}")]
    Token(#[from] TokenError),
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It, its user, its project or one of its roles was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// No revocation list was had yet: nobody can tell what is revoked. Answer 503, not 401.
    #[error("the identity service has not answered yet, so that no token can be checked")]
    NotReady,
}

/// A token whose signature was right. When it ends and whether it was revoked is looked at each time.
struct Opened {
    claims: Claims,
    caller: Arc<Caller>,
}

/// Verifies tokens.
pub struct Verifier {
    keys: Keys,
    opened: RwLock<HashMap<String, Arc<Opened>>>,
    clock: Arc<dyn Clock>,
    revocations: Arc<Revocations>,
}

impl Verifier {
    /// A verifier that waits for its first revocation list, see [`crate::feed::RevocationFeed`].
    #[must_use]
    pub fn new(ring: &KeyRing, clock: Arc<dyn Clock>) -> Self {
        Self::with_revocations(ring, clock, Arc::new(Revocations::default()))
    }

    /// A verifier over a list that someone else keeps.
    #[must_use]
    pub fn with_revocations(
        ring: &KeyRing,
        clock: Arc<dyn Clock>,
        revocations: Arc<Revocations>,
    ) -> Self {
        Self {
            keys: ring.derive(Purpose::Tokens),
            opened: RwLock::default(),
            clock,
            revocations,
        }
    }

    /// The revocations it checks against.
    #[must_use]
    pub const fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Who bears this token.
    ///
    /// # Errors
    /// When it is not ours, expired, revoked, or no revocation list was had yet.
    pub fn verify(&self, token: &str) -> Result<Arc<Caller>, VerifyError> {
        self.valid(token).map(|opened| Arc::clone(&opened.caller))
    }

    /// What a valid token says.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn claims(&self, token: &str) -> Result<Claims, VerifyError> {
        self.valid(token).map(|opened| opened.claims.clone())
    }

    fn valid(&self, token: &str) -> Result<Arc<Opened>, VerifyError> {
        let opened = self.open(token)?;
        if opened.claims.expires_at <= self.clock.now() {
            return Err(VerifyError::Expired);
        }
        if !self.revocations.is_known() {
            return Err(VerifyError::NotReady);
        }
        if self.revocations.covers(&opened.claims) {
            return Err(VerifyError::Revoked);
        }
        Ok(opened)
    }

    /// The token, its signature checked now or before.
    fn open(&self, token: &str) -> Result<Arc<Opened>, TokenError> {
        // Nothing under this lock can panic half-way through a change.
        let known = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = known.get(token) {
            return Ok(Arc::clone(opened));
        }
        drop(known);
        let claims = token::open(token, &self.keys)?;
        let caller = Arc::new(Caller::from_claims(&claims));
        let opened = Arc::new(Opened { claims, caller });
        let mut known = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= OPENED_MAX {
            known.clear();
        }
        known.insert(token.to_owned(), Arc::clone(&opened));
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::Subject;
    use crate::revocation::tests::{claims, event};
    use core::time::Duration;
    use onggi_common_host::SystemEntropy;
    use onggi_common_units::UtcTime;

    struct Fixed(UtcTime);
    impl Clock for Fixed {
        fn now(&self) -> UtcTime {
            self.0
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn at(micros: u64) -> Arc<dyn Clock> {
        Arc::new(Fixed(UtcTime::from_micros(micros)))
    }

    #[test]
    fn a_token_serves_until_it_expires_or_is_revoked() {
        let ring = KeyRing::generate(&SystemEntropy);
        let text = token::sign(&claims("u", "p", 100), &ring.derive(Purpose::Tokens)).unwrap();
        let own = || Arc::new(Revocations::own("run".to_owned(), Vec::new()));
        let verifier = Verifier::with_revocations(&ring, at(1_099), own());
        assert_eq!(
            verifier.verify(&text).unwrap().account.as_deref(),
            Some("AUTH_p")
        );
        verifier.revocations().add(event(
            Subject::User {
                user_id: "u".to_owned(),
            },
            100,
        ));
        assert_eq!(verifier.verify(&text), Err(VerifyError::Revoked));
        let later = Verifier::with_revocations(&ring, at(1_100), own());
        assert_eq!(later.verify(&text), Err(VerifyError::Expired));
    }

    #[test]
    fn more_tokens_than_are_remembered_serve_all_the_same() {
        let ring = KeyRing::generate(&SystemEntropy);
        let own = Arc::new(Revocations::own("run".to_owned(), Vec::new()));
        let verifier = Verifier::with_revocations(&ring, at(1_000), own);
        let keys = ring.derive(Purpose::Tokens);
        let user = |number: usize| format!("u{number}");
        let tokens: Vec<String> = (0..OPENED_MAX + 2)
            .map(|number| token::sign(&claims(&user(number), "p", 100), &keys).unwrap())
            .collect();
        for _ in 0..2 {
            for (number, token) in tokens.iter().enumerate() {
                assert_eq!(verifier.verify(token).unwrap().user_id, user(number));
                // Nearly the same text is not the same token.
                let other = format!("{token}A");
                assert!(matches!(
                    verifier.verify(&other),
                    Err(VerifyError::Token(_))
                ));
            }
            assert!(verifier.opened.read().unwrap().len() <= OPENED_MAX);
        }
    }

    #[test]
    fn nothing_is_believed_before_the_first_revocation_list() {
        let ring = KeyRing::generate(&SystemEntropy);
        let text = token::sign(&claims("u", "p", 100), &ring.derive(Purpose::Tokens)).unwrap();
        let verifier = Verifier::new(&ring, at(100));
        assert_eq!(verifier.verify(&text), Err(VerifyError::NotReady));
        let source = Revocations::own("run".to_owned(), Vec::new());
        verifier
            .revocations()
            .apply(source.update_since("", 0), UtcTime::EPOCH);
        assert!(verifier.verify(&text).is_ok());
        let forged = token::sign(&claims("u", "p", 100), &ring.derive(Purpose::Nodes)).unwrap();
        assert_eq!(
            verifier.verify(&forged),
            Err(VerifyError::Token(TokenError::Forged))
        );
    }
}

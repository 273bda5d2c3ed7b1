//! Token in, [`Caller`] out: in any process, without the store and without asking.

use crate::caller::Caller;
use crate::keys::{KeyRing, Keys, Purpose};
use crate::revocation::Revocations;
use crate::token::{self, Claims, TokenError};
use onggi_common_host::Clock;
use std::sync::Arc;

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

/// Verifies tokens.
pub struct Verifier {
    keys: Keys,
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
    pub fn verify(&self, token: &str) -> Result<Caller, VerifyError> {
        self.claims(token)
            .map(|claims| Caller::from_claims(&claims))
    }

    /// What a valid token says.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn claims(&self, token: &str) -> Result<Claims, VerifyError> {
        let claims = token::open(token, &self.keys)?;
        if claims.expires_at <= self.clock.now() {
            return Err(VerifyError::Expired);
        }
        if !self.revocations.is_known() {
            return Err(VerifyError::NotReady);
        }
        if self.revocations.covers(&claims) {
            return Err(VerifyError::Revoked);
        }
        Ok(claims)
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

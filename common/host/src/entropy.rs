//! Random bytes.

use onggi_common_units::{HexId, Uuid};

/// A source of random bytes fit for keys and ids.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);

    /// A new random UUID.
    fn uuid(&self) -> Uuid {
        Uuid::from_random(self.bytes())
    }

    /// A new random 32-digit id.
    fn hex_id(&self) -> HexId {
        HexId::from_random(self.bytes())
    }

    /// Sixteen random bytes.
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        bytes
    }

    /// A random text of letters and digits, for passwords and CHAP secrets.
    fn alphanumeric(&self, length: usize) -> String {
        const ALPHABET: &[u8; 62] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::with_capacity(length);
        while text.len() < length {
            // Bytes past the last whole multiple of 62 are thrown away, so that no letter is likelier than another.
            let fresh = self.bytes().into_iter().filter(|byte| *byte < 248);
            let letters =
                fresh.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
            text.extend(letters.take(length - text.len()));
        }
        text
    }
}

/// The kernel's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::rand::getrandom(
                &mut buffer[filled..],
                rustix::rand::GetRandomFlags::empty(),
            ) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                // getrandom(2) fails otherwise only for a bad address or bad flags, which these are not.
                Err(error) => unreachable!("getrandom: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_texts_have_their_length_and_differ() {
        let (a, b) = (
            SystemEntropy.alphanumeric(33),
            SystemEntropy.alphanumeric(33),
        );
        assert_eq!(a.len(), 33);
        assert!(a.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(a, b);
    }
}

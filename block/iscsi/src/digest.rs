//! Header and data digests: CRC32C (RFC 7143 §13.1), sent least significant byte first.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

/// How long a digest is on the wire.
pub const DIGEST_BYTES: usize = 4;

/// The digest of the parts, one after another, as it goes on the wire.
#[must_use]
pub fn crc32c<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; DIGEST_BYTES] {
    parts
        .into_iter()
        .fold(0, crc32c::crc32c_append)
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_3720_appendix_b4_hold() {
        assert_eq!(crc32c([[0u8; 32].as_slice()]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c([[0xffu8; 32].as_slice()]), [0x43, 0xab, 0xa8, 0x62]);
        let rising: Vec<u8> = (0..32).collect();
        let (a, b) = rising.split_at(7);
        assert_eq!(crc32c([a, b]), [0x4e, 0x79, 0xdd, 0x46]);
    }
}

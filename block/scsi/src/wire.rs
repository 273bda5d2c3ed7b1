//! Big-endian fields: the parameter data builder and the bounds-checked reader.

/// Builds parameter data.
#[derive(Debug, Default)]
pub(crate) struct Builder(Vec<u8>);

impl Builder {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len().saturating_add(count), 0);
        self
    }

    /// A text in a field of fixed length: cut or filled with spaces, as SPC wants for ASCII fields.
    pub(crate) fn padded(&mut self, text: &str, length: usize) -> &mut Self {
        let end = self.0.len().saturating_add(length);
        self.0.extend(text.bytes().take(length));
        self.0.resize(end, b' ');
        self
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// A length for a 16-bit field; what is longer does not occur in what this crate builds.
pub(crate) fn length16(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX)
}

/// A length for a 32-bit field.
pub(crate) fn length32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// At most `allocation` bytes of `data`: what a command with an allocation length returns.
pub(crate) fn cut(mut data: Vec<u8>, allocation: u32) -> Vec<u8> {
    data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
    data
}

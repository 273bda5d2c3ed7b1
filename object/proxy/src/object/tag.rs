//! The MD5 of a body, made beside whatever else happens to its bytes.
//!
//! MD5 knows no parallel form, and at 0.7 GB/s it is what a long PUT would wait for most. So of a long body it is made on
//! threads that may block, of some of the bytes at a time, while the next ones are received and sent on.

use crate::fault::Fault;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use onggi_object_model::Etag;
use onggi_object_wire::object::BUFFERED_BYTES_MAX;
use tokio::task::JoinHandle;

/// So many bytes are worth a hop to another thread. Twice as many are held.
const GATHER_BYTES: usize = 512 << 10;
/// So many pieces at most are held for that: a client that sends a byte at a time makes each of them one.
const PIECES_MAX: usize = 1_024;

/// The MD5 of the bytes so far.
pub(super) struct Tag {
    md5: State,
    gathered: Vec<Bytes>,
    bytes: usize,
    /// Bytes that came in all, up to where a body is long.
    short: usize,
}

enum State {
    Here(Md5),
    Beside(JoinHandle<Md5>),
    /// The thread was cut off: there is no tag.
    Lost,
}

impl Tag {
    pub(super) fn new() -> Self {
        Self {
            md5: State::Here(Md5::new()),
            gathered: Vec::new(),
            bytes: 0,
            short: 0,
        }
    }

    /// Takes the next bytes. Waits when it is behind.
    pub(super) async fn add(&mut self, bytes: &Bytes) -> Result<(), Fault> {
        if self.short <= BUFFERED_BYTES_MAX
            && let State::Here(md5) = &mut self.md5
        {
            self.short += bytes.len();
            md5.update(bytes);
            return Ok(());
        }
        self.bytes += bytes.len();
        self.gathered.push(bytes.clone());
        if self.bytes < GATHER_BYTES && self.gathered.len() < PIECES_MAX {
            return Ok(());
        }
        let mut md5 = self.so_far().await?;
        let gathered = core::mem::take(&mut self.gathered);
        self.bytes = 0;
        self.md5 = State::Beside(tokio::task::spawn_blocking(move || {
            for bytes in gathered {
                md5.update(&bytes);
            }
            md5
        }));
        Ok(())
    }

    async fn so_far(&mut self) -> Result<Md5, Fault> {
        match core::mem::replace(&mut self.md5, State::Lost) {
            State::Here(md5) => Ok(md5),
            State::Beside(hashing) => hashing.await.map_err(|error| {
                tracing::error!(%error, "hashing a body was cut off");
                Fault::Unavailable
            }),
            State::Lost => Err(Fault::Unavailable),
        }
    }

    /// The MD5 of all of them.
    pub(super) async fn finish(mut self) -> Result<Etag, Fault> {
        let mut md5 = self.so_far().await?;
        for bytes in &self.gathered {
            md5.update(bytes);
        }
        Ok(Etag::new(md5.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tag_is_that_of_all_bytes_in_any_pieces() {
        let body: Vec<u8> = (0..=250).cycle().take(3_000_001).collect();
        let body = Bytes::from(body);
        for length in [0, 1, BUFFERED_BYTES_MAX, GATHER_BYTES + 1, 3_000_001] {
            for piece in [1_009, 70_000, 1 << 20] {
                let mut tag = Tag::new();
                let whole = body.slice(..length);
                for start in (0..length).step_by(piece) {
                    let end = length.min(start + piece);
                    tag.add(&whole.slice(start..end)).await.unwrap();
                }
                let expected = Etag::new(Md5::digest(&whole).into());
                assert_eq!(tag.finish().await.unwrap(), expected, "{length} by {piece}");
            }
        }
    }

    #[tokio::test]
    async fn no_more_pieces_are_held_than_are_allowed() {
        let (mut tag, mut most) = (Tag::new(), 0);
        let body = Bytes::from(vec![7; BUFFERED_BYTES_MAX + 3 * PIECES_MAX]);
        for at in 0..body.len() {
            tag.add(&body.slice(at..=at)).await.unwrap();
            most = most.max(tag.gathered.len());
        }
        assert!(most > 0 && most < PIECES_MAX, "{most}");
        let expected = Etag::new(Md5::digest(&body).into());
        assert_eq!(tag.finish().await.unwrap(), expected);
    }
}

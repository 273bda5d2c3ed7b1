//! A body on its way in: every byte is hashed for the client as it comes, and for the nodes as they get it.

use super::tag::{Hashers, Tag};
use crate::fault::Fault;
use crate::middleware::encryption::encrypt;
use bytes::{Bytes, BytesMut};
use core::time::Duration;
use http_body_util::BodyExt as _;
use onggi_common_host::direct::Block;
use onggi_common_service::http::{Body, Stalled};
use onggi_object_encryption::Sealing;
use onggi_object_model::limits::OBJECT_BYTES_MAX;
use onggi_object_model::{Etag, Metadata};
use onggi_object_wire::body::BodyHash;
use onggi_object_wire::object::{BUFFERED_BYTES_MAX, Tail};
use onggi_object_wire::{ChunkHasher, Root};
use std::sync::Arc;

/// Bytes of a long body wait so long at most for more to go on with them.
const GATHER_MAX: Duration = Duration::from_secs(1);

/// A body under way.
pub(super) struct Arriving {
    body: Body,
    tag: Tag,
    chunks: ChunkHasher,
    sealing: Option<Sealing>,
    /// What came and is not taken yet.
    left: Bytes,
}

/// How a body begins.
pub(super) enum Beginning {
    /// It is so short that this is all.
    Whole(Bytes),
    /// There is more: see [`Arriving::next_block`].
    Long,
}

/// A body that came whole.
pub(super) struct Arrived {
    /// The MD5 of what the client sent.
    pub(super) etag: Etag,
    /// What nodes are told.
    pub(super) tail: Tail,
    /// The hashes of what they get.
    pub(super) hash: Arc<BodyHash>,
}

async fn next_frame(body: &mut Body) -> Result<Option<Bytes>, Fault> {
    loop {
        let frame = match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => frame,
            Some(Err(error)) if error.is::<Stalled>() => return Err(Fault::RequestTimeout),
            Some(Err(_)) => return Err(Fault::ClientDisconnect),
        };
        match frame.into_data() {
            Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Whether a request has no body.
pub(crate) async fn is_empty(mut body: Body) -> Result<bool, Fault> {
    Ok(next_frame(&mut body).await?.is_none())
}

impl Arriving {
    pub(super) fn new(body: Body, sealing: Option<Sealing>, hashers: &Arc<Hashers>) -> Self {
        Self {
            body,
            tag: Tag::new(hashers),
            chunks: ChunkHasher::new(),
            sealing,
            left: Bytes::new(),
        }
    }

    /// The first bytes, until there are more than fit one message or that is all.
    pub(super) async fn begin(&mut self) -> Result<Beginning, Fault> {
        let mut first = BytesMut::new();
        // Mostly it comes in one piece, which needs no copy.
        let mut only = Bytes::new();
        while first.len() + only.len() <= BUFFERED_BYTES_MAX {
            let Some(bytes) = next_frame(&mut self.body).await? else {
                let whole = if first.is_empty() {
                    only
                } else {
                    first.freeze()
                };
                return self.take(whole).await.map(Beginning::Whole);
            };
            if first.is_empty() && only.is_empty() {
                only = bytes;
            } else {
                first.extend_from_slice(&core::mem::take(&mut only));
                first.extend_from_slice(&bytes);
            }
        }
        self.left = if first.is_empty() {
            only
        } else {
            first.freeze()
        };
        Ok(Beginning::Long)
    }

    /// The next bytes of a long body as they are stored; `None` at the end. They fill a block that all devices of this
    /// process can write from where it is, unless they come so slowly that what is there goes on without the rest.
    pub(super) async fn next_block(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut block = Block::new();
        loop {
            let taken = block.fill(&self.left);
            drop(self.left.split_to(taken));
            if block.is_full() {
                break;
            }
            let frame = next_frame(&mut self.body);
            let frame = if block.is_empty() {
                frame.await?
            } else {
                match tokio::time::timeout(GATHER_MAX, frame).await {
                    Ok(frame) => frame?,
                    Err(_elapsed) => break,
                }
            };
            match frame {
                Some(bytes) => self.left = bytes,
                None if block.is_empty() => return Ok(None),
                None => break,
            }
        }
        let (memory, range) = block.into_part();
        self.take(Bytes::from(memory).slice(range)).await.map(Some)
    }

    /// Hashes some bytes, which are what is stored from then on.
    async fn take(&mut self, bytes: Bytes) -> Result<Bytes, Fault> {
        self.tag.add(&bytes).await?;
        let bytes = match &mut self.sealing {
            None => bytes,
            Some(sealing) => encrypt(sealing, bytes),
        };
        self.chunks.update(&bytes);
        if self.chunks.length() > OBJECT_BYTES_MAX {
            return Err(Fault::TooLarge);
        }
        Ok(bytes)
    }

    pub(super) async fn finish(self) -> Result<Arrived, Fault> {
        let hash = self.chunks.finish();
        let etag = self.tag.finish().await?;
        let (kept, system) = match self.sealing {
            None => (etag, Metadata::default()),
            Some(sealing) => (stand_in(&hash.root), sealing.finish(&etag)),
        };
        let tail = Tail {
            length: hash.length,
            etag: kept,
            root: hash.root,
            system,
            settled: None,
        };
        let hash = Arc::new(hash);
        Ok(Arrived { etag, tail, hash })
    }
}

/// What nodes keep in the place of an encrypted body's MD5, which they must not know: the beginning of the root that they
/// check the bytes against. Nobody is shown it.
fn stand_in(root: &Root) -> Etag {
    let digest = root.as_bytes().first_chunk();
    digest.map_or(Etag::EMPTY, |digest| Etag::new(*digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Frame;
    use onggi_common_host::direct::BLOCK_BYTES;
    use onggi_object_md5::Md5;
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use tokio::time::Sleep;

    /// Frames, each after a pause.
    struct Slowly {
        frames: VecDeque<(Duration, Bytes)>,
        pause: Option<core::pin::Pin<Box<Sleep>>>,
    }

    impl hyper::body::Body for Slowly {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: core::pin::Pin<&mut Self>,
            context: &mut core::task::Context<'_>,
        ) -> core::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some((pause, _)) = self.frames.front() else {
                return core::task::Poll::Ready(None);
            };
            let pause = *pause;
            let sleep = self
                .pause
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            core::task::ready!(Future::poll(sleep.as_mut(), context));
            self.pause = None;
            let frame = self.frames.pop_front().map(|(_, bytes)| bytes);
            core::task::Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    fn arriving(frames: Vec<(Duration, Bytes)>) -> Arriving {
        let body = Slowly {
            frames: frames.into(),
            pause: None,
        };
        let body = body.map_err(|never| match never {}).boxed_unsync();
        Arriving::new(body, None, &Arc::default())
    }

    fn at_once(frames: &[Bytes]) -> Vec<(Duration, Bytes)> {
        let frames = frames.iter();
        frames
            .map(|bytes| (Duration::ZERO, bytes.clone()))
            .collect()
    }

    fn bytes(length: usize) -> Bytes {
        (0..=250).cycle().take(length).collect()
    }

    async fn blocks(arriving: &mut Arriving) -> Vec<Bytes> {
        let mut blocks = Vec::new();
        while let Some(block) = arriving.next_block().await.unwrap() {
            blocks.push(block);
        }
        blocks
    }

    #[tokio::test(start_paused = true)]
    async fn what_fits_one_message_is_whole_however_it_comes() {
        for length in [0, 1, 7_000, BUFFERED_BYTES_MAX] {
            for frame in [1 << 20, 1_000] {
                let whole = bytes(length);
                let frames: Vec<Bytes> = whole.chunks(frame).map(Bytes::copy_from_slice).collect();
                let mut arriving = arriving(at_once(&frames));
                let Beginning::Whole(first) = arriving.begin().await.unwrap() else {
                    panic!("{length} bytes are not whole");
                };
                assert_eq!(first, whole);
                let arrived = arriving.finish().await.unwrap();
                assert_eq!(arrived.etag, Etag::new(Md5::of(&whole)));
                assert_eq!(arrived.tail.root, Root::of(&whole));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_body_goes_on_in_whole_blocks() {
        for length in [
            BUFFERED_BYTES_MAX + 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            3 * BLOCK_BYTES + 70_001,
        ] {
            for frame in [5_000, 400_000, 1 << 21] {
                let whole = bytes(length);
                let frames: Vec<Bytes> = whole.chunks(frame).map(Bytes::copy_from_slice).collect();
                let mut arriving = arriving(at_once(&frames));
                assert!(matches!(arriving.begin().await.unwrap(), Beginning::Long));
                let blocks = blocks(&mut arriving).await;
                let (last, others) = blocks.split_last().unwrap();
                assert!(others.iter().all(|block| block.len() == BLOCK_BYTES));
                assert!(!last.is_empty(), "{length} by {frame}");
                assert_eq!(blocks.concat(), whole);
                let arrived = arriving.finish().await.unwrap();
                assert_eq!(arrived.etag, Etag::new(Md5::of(&whole)));
                assert_eq!(arrived.tail.root, Root::of(&whole));
                assert_eq!(arrived.hash.length, length as u64);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_do_not_wait_for_a_slow_client() {
        let (second, half) = (GATHER_MAX, GATHER_MAX / 2);
        let piece = bytes(BUFFERED_BYTES_MAX + 1);
        let mut arriving = arriving(vec![
            (Duration::ZERO, piece.clone()),
            (half, piece.clone()),
            (second * 3, piece.clone()),
        ]);
        assert!(matches!(arriving.begin().await.unwrap(), Beginning::Long));
        let begun = tokio::time::Instant::now();
        let first = arriving.next_block().await.unwrap().unwrap();
        assert_eq!(first, [&*piece, &*piece].concat());
        assert!(begun.elapsed() < second * 2, "{:?}", begun.elapsed());
        // It waits for what comes late without giving it up.
        assert_eq!(arriving.next_block().await.unwrap(), Some(piece));
        assert_eq!(arriving.next_block().await.unwrap(), None);
    }
}

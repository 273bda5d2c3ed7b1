//! The MD5 of a body, made beside whatever else happens to its bytes.
//!
//! MD5 knows no parallel form, and at 0.7 to 0.9 GB/s it is what a long PUT would wait for most. So of a long body it is made
//! on a thread that may block while the next bytes are received and sent on, and that thread takes all bodies that come at
//! the same time beside each other: sixteen of them cost little more than one.

use crate::fault::Fault;
use bytes::Bytes;
use onggi_common_host::direct::BLOCK_BYTES;
use onggi_object_md5::{Job, LANES_MAX, Md5, advance};
use onggi_object_model::Etag;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Less than this of a body is hashed where it comes: a hop to another thread gains nothing.
const BESIDE_FROM: usize = BLOCK_BYTES;
/// Pieces of a body that wait for the thread or are with it.
const PIECES_MAX: u32 = 3;
/// Threads that hash. One takes sixteen bodies at several GB/s in all.
const THREADS_MAX: usize = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads that hash long bodies. They are there while there is something to hash.
#[derive(Debug, Default)]
pub(crate) struct Hashers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    streams: VecDeque<Arc<Stream>>,
    threads: usize,
}

/// A body that is hashed.
#[derive(Debug)]
struct Stream {
    going: Mutex<Going>,
    /// One for each piece that may be added; all are there when all bytes are taken.
    room: Semaphore,
}

#[derive(Debug)]
struct Going {
    md5: Md5,
    pieces: VecDeque<Bytes>,
    /// Whether a thread goes on with it, or it waits for one.
    is_taken: bool,
}

/// What one thread is at.
struct Bench<'a> {
    hashers: &'a Hashers,
    jobs: Vec<Job>,
    /// What each of them is for, and how many pieces it took.
    streams: Vec<(Arc<Stream>, usize)>,
    has_ended: bool,
}

impl Hashers {
    fn add(self: &Arc<Self>, stream: Arc<Stream>) {
        let is_wanted = {
            let mut waiting = lock(&self.0);
            waiting.streams.push_back(stream);
            let is_wanted = waiting.threads == 0
                || (waiting.streams.len() > LANES_MAX && waiting.threads < THREADS_MAX);
            waiting.threads += usize::from(is_wanted);
            is_wanted
        };
        if is_wanted {
            let hashers = Arc::clone(self);
            drop(tokio::task::spawn_blocking(move || hashers.work()));
        }
    }

    fn work(&self) {
        let mut bench = Bench {
            hashers: self,
            jobs: Vec::new(),
            streams: Vec::new(),
            has_ended: false,
        };
        while bench.fill() {
            advance(&mut bench.jobs);
            bench.clear();
        }
    }
}

impl Bench<'_> {
    /// Takes what waits. False when there is nothing to do: then the next body gets a thread of its own.
    fn fill(&mut self) -> bool {
        let mut waiting = lock(&self.hashers.0);
        while self.jobs.len() < LANES_MAX
            && let Some(stream) = waiting.streams.pop_front()
        {
            let (md5, pieces) = {
                let mut going = lock(&stream.going);
                (going.md5.clone(), core::mem::take(&mut going.pieces))
            };
            self.streams.push((stream, pieces.len()));
            self.jobs.push(Job::new(md5, pieces));
        }
        self.has_ended = self.jobs.is_empty();
        waiting.threads -= usize::from(self.has_ended);
        !self.has_ended
    }

    /// Gives back what has come to its end. What came for it meanwhile waits for its turn behind the others.
    fn clear(&mut self) {
        let mut index = 0;
        while let Some(job) = self.jobs.get(index) {
            if !job.is_done() {
                index += 1;
                continue;
            }
            let md5 = self.jobs.swap_remove(index).into_md5();
            let (stream, pieces) = self.streams.swap_remove(index);
            let goes_on = {
                let mut going = lock(&stream.going);
                going.md5 = md5;
                going.is_taken = !going.pieces.is_empty();
                going.is_taken
            };
            stream.room.add_permits(pieces);
            if goes_on {
                lock(&self.hashers.0).streams.push_back(stream);
            }
        }
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            // It was cut off: nobody waits in vain for what it had.
            self.streams
                .iter()
                .for_each(|(stream, _)| stream.room.close());
            lock(&self.hashers.0).threads -= 1;
        }
    }
}

/// The MD5 of the bytes so far.
pub(super) struct Tag {
    hashers: Arc<Hashers>,
    state: State,
}

enum State {
    Here { md5: Md5, bytes: usize },
    Beside(Arc<Stream>),
}

impl Tag {
    pub(super) fn new(hashers: &Arc<Hashers>) -> Self {
        Self {
            hashers: Arc::clone(hashers),
            state: State::Here {
                md5: Md5::new(),
                bytes: 0,
            },
        }
    }

    /// Takes the next bytes. Waits when it is behind.
    pub(super) async fn add(&mut self, piece: &Bytes) -> Result<(), Fault> {
        if let State::Here { md5, bytes } = &mut self.state {
            *bytes += piece.len();
            if *bytes < BESIDE_FROM {
                md5.update(piece);
                return Ok(());
            }
            self.state = State::Beside(Arc::new(Stream {
                going: Mutex::new(Going {
                    md5: md5.clone(),
                    pieces: VecDeque::new(),
                    is_taken: false,
                }),
                room: Semaphore::new(PIECES_MAX as usize),
            }));
        }
        if let State::Beside(stream) = &self.state {
            stream.room.acquire().await.map_err(cut_off)?.forget();
            let was_taken = {
                let mut going = lock(&stream.going);
                going.pieces.push_back(piece.clone());
                core::mem::replace(&mut going.is_taken, true)
            };
            if !was_taken {
                self.hashers.add(Arc::clone(stream));
            }
        }
        Ok(())
    }

    /// The MD5 of all of them.
    pub(super) async fn finish(self) -> Result<Etag, Fault> {
        let md5 = match self.state {
            State::Here { md5, .. } => md5,
            State::Beside(stream) => {
                drop(
                    stream
                        .room
                        .acquire_many(PIECES_MAX)
                        .await
                        .map_err(cut_off)?,
                );
                lock(&stream.going).md5.clone()
            }
        };
        Ok(Etag::new(md5.finish()))
    }
}

fn cut_off(_closed: tokio::sync::AcquireError) -> Fault {
    tracing::error!("hashing a body was cut off");
    Fault::Unavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize, seed: u8) -> Bytes {
        let bytes = (0..=250_u8).map(|byte| byte ^ seed).cycle();
        bytes.take(length).collect()
    }

    async fn tag_of(hashers: Arc<Hashers>, whole: Bytes, piece: usize) -> Etag {
        let mut tag = Tag::new(&hashers);
        for start in (0..whole.len()).step_by(piece) {
            let end = whole.len().min(start + piece);
            tag.add(&whole.slice(start..end)).await.unwrap();
        }
        tag.finish().await.unwrap()
    }

    #[tokio::test]
    async fn the_tag_is_that_of_all_bytes_in_any_pieces() {
        let hashers = Arc::new(Hashers::default());
        for length in [0, 1, BESIDE_FROM - 1, BESIDE_FROM, 3_000_001] {
            for piece in [1_009, 70_000, 1 << 20] {
                let whole = body(length, 0);
                let tag = tag_of(Arc::clone(&hashers), whole.clone(), piece).await;
                assert_eq!(tag, Etag::new(Md5::of(&whole)), "{length} by {piece}");
            }
        }
        let waiting = lock(&hashers.0);
        assert!(waiting.streams.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_bodies_at_once_get_their_own_tags() {
        let hashers = Arc::new(Hashers::default());
        let mut tags = tokio::task::JoinSet::new();
        for seed in 0..60_u8 {
            let whole = body(500_000 + 30_007 * usize::from(seed), seed);
            let hashers = Arc::clone(&hashers);
            tags.spawn(async move {
                let expected = Etag::new(Md5::of(&whole));
                let piece = 1_000 + 997 * usize::from(seed);
                (tag_of(hashers, whole, piece).await, expected)
            });
        }
        while let Some(tag) = tags.join_next().await {
            let (tag, expected) = tag.unwrap();
            assert_eq!(tag, expected);
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_those_who_always_have_more() {
        let hashers = Arc::new(Hashers::default());
        // This is the thread, and there are to be no others.
        lock(&hashers.0).threads = THREADS_MAX;
        let mut bench = Bench {
            hashers: &hashers,
            jobs: Vec::new(),
            streams: Vec::new(),
            has_ended: false,
        };
        let piece = body(BESIDE_FROM, 0);
        let mut tags: Vec<Tag> = (0..=LANES_MAX).map(|_| Tag::new(&hashers)).collect();
        let is_idle = |tag: &Tag| match &tag.state {
            State::Beside(stream) => !lock(&stream.going).is_taken,
            State::Here { .. } => true,
        };
        for tag in &mut tags {
            tag.add(&piece).await.unwrap();
        }
        let mut rounds = 0;
        while !is_idle(&tags[LANES_MAX]) {
            assert!(bench.fill());
            for tag in &mut tags[..LANES_MAX] {
                tag.add(&piece).await.unwrap();
            }
            advance(&mut bench.jobs);
            bench.clear();
            rounds += 1;
            assert!(rounds < 5, "the last one never has its turn");
        }
    }

    #[tokio::test]
    async fn what_is_behind_holds_back_what_comes() {
        let stream = Arc::new(Stream {
            going: Mutex::new(Going {
                md5: Md5::new(),
                pieces: VecDeque::new(),
                // As if a thread had it that does not come to it.
                is_taken: true,
            }),
            room: Semaphore::new(PIECES_MAX as usize),
        });
        let mut tag = Tag {
            hashers: Arc::default(),
            state: State::Beside(Arc::clone(&stream)),
        };
        let piece = Bytes::from_static(b"piece");
        for _ in 0..PIECES_MAX {
            tag.add(&piece).await.unwrap();
        }
        let more = tokio::time::timeout(core::time::Duration::from_millis(20), tag.add(&piece));
        assert!(more.await.is_err());
        // And when that thread is cut off, nobody waits for it.
        let hashers = Hashers::default();
        lock(&hashers.0).threads = 1;
        drop(Bench {
            hashers: &hashers,
            jobs: Vec::new(),
            streams: vec![(stream, 0)],
            has_ended: false,
        });
        assert_eq!(lock(&hashers.0).threads, 0);
        assert_eq!(tag.add(&piece).await, Err(Fault::Unavailable));
        assert_eq!(tag.finish().await, Err(Fault::Unavailable));
    }
}

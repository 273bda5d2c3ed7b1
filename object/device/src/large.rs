//! Files of large bodies.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | n | the body, so that it can be sent from its place |
//! | n | 32 · chunks | the BLAKE3 hash of each 64 KiB chunk |
//! | | k | the object's key and row, enough to rebuild the index from files alone |
//! | | 60 | footer: magic 8, version 2, length 8, chunks 4, k 4, zero 2, BLAKE3 of trailer and footer so far 32 |
//!
//! The trailer comes last because it is known last. A file is given its name only after all of it is on stable storage
//! (O3), and its row is written only after the name is.

use crate::error::{DeviceError, io_at};
use crate::format::{BODIES, INCOMING, QUARANTINE};
use crate::key::{OBJECT_KEY_BYTES, ObjectKey};
use core::sync::atomic::{AtomicU64, Ordering};
use onggi_common_host::direct::{DirectFile, DirectReader};
use onggi_common_host::{durable, page_cache};
use onggi_object_wire::ObjectRow;
use onggi_object_wire::Root;
use onggi_object_wire::body::{BodyHash, CHUNK_BYTES, chunk_hash};
use onggi_object_wire::codec::{Reader, Writer};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags};
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"ONGGIBDY";
const VERSION: u16 = 1;
const FOOTER_BYTES: usize = 60;
/// The most bytes of a key and row in a trailer.
const ROW_BYTES_MAX: u64 = 1 << 20;
/// A body of this size or more, or of a size not known yet, is written past the page cache: block by block, so that of a
/// small one of unknown size nothing is.
const DIRECT_BYTES_MIN: u64 = 4 << 20;
/// Bodies that are known to have been read lately.
const WARM_MAX: usize = 1_024;

/// A body on its way into a file.
#[derive(Debug)]
pub(crate) struct Incoming {
    out: Out,
    /// Its temporary name, where the file system has no unnamed files.
    name: Option<PathBuf>,
}

/// How its bytes reach the file.
#[derive(Debug)]
enum Out {
    /// Through the page cache, from where a body of this size may well be read again soon.
    Cached(File),
    /// Past it.
    Direct(Box<DirectFile>),
}

impl Out {
    fn new(file: File, length: Option<u64>) -> Self {
        if length.is_none_or(|length| length >= DIRECT_BYTES_MIN) {
            Self::Direct(Box::new(DirectFile::new(file)))
        } else {
            Self::Cached(file)
        }
    }

    /// The file with all that was written.
    fn finish(&mut self) -> io::Result<&File> {
        match self {
            Self::Cached(file) => Ok(file),
            Self::Direct(file) => file.finish(),
        }
    }
}

impl Incoming {
    /// Begins a file on the device. With a length its space is taken now, so that it cannot run out half-way.
    pub(crate) fn begin(
        device: &Path,
        unique: &str,
        length: Option<u64>,
    ) -> Result<Self, DeviceError> {
        let bodies = device.join(BODIES);
        let mode = Mode::RUSR | Mode::WUSR;
        let unnamed = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (file, name): (File, _) = match rustix::fs::open(&bodies, unnamed, mode) {
            Ok(descriptor) => (descriptor.into(), None),
            Err(_unsupported) => {
                let path = device.join(INCOMING).join(unique);
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let descriptor = rustix::fs::open(&path, flags, mode)
                    .map_err(|errno| io_at("creating", &path)(errno.into()))?;
                (descriptor.into(), Some(path))
            }
        };
        if let Some(length) = length.filter(|length| *length > 0) {
            let taken = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, length);
            match taken {
                // Not every file system can; then the free space was looked at, which is the best there is.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(io_at("taking space on", device)(errno.into())),
            }
        }
        Ok(Self {
            out: Out::new(file, length),
            name,
        })
    }

    pub(crate) fn write(&mut self, device: &Path, bytes: &[u8]) -> Result<(), DeviceError> {
        let written = match &mut self.out {
            Out::Cached(file) => file.write_all(bytes),
            Out::Direct(file) => file.write(bytes),
        };
        written.map_err(io_at("writing a body on", device))
    }

    /// Ends the file, makes it durable and gives it its name.
    pub(crate) fn finish(
        self,
        device: &Path,
        name: &str,
        trailer: &[u8],
    ) -> Result<(), DeviceError> {
        self.finish_at(&body_path(device, name), trailer)
    }

    /// The same for a file of another folder.
    pub(crate) fn finish_at(mut self, path: &Path, trailer: &[u8]) -> Result<(), DeviceError> {
        self.write(path, trailer)?;
        let file = self
            .out
            .finish()
            .map_err(io_at("writing a body on", path))?;
        file.sync_data().map_err(io_at("syncing", path))?;
        let linked = match &self.name {
            None => {
                let own = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)
            }
            Some(temporary) => rustix::fs::linkat(CWD, temporary, CWD, path, AtFlags::empty()),
        };
        linked.map_err(|errno| io_at("naming", path)(errno.into()))?;
        let shelf = path.parent().unwrap_or(path);
        durable::sync_dir(shelf).map_err(|error| io_at("syncing", &error.path)(error.source))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(temporary) = &self.name {
            // What stays behind is swept at the next start.
            drop(std::fs::remove_file(temporary));
        }
    }
}

/// The name of a body's file: its key, its moment, and something that no other upload has.
pub(crate) fn file_name(key: &ObjectKey, unique: &str) -> String {
    format!("{}.{unique}", key.text())
}

/// The key a file's name begins with.
pub(crate) fn key_of(name: &str) -> Option<ObjectKey> {
    let (key, _) = name.split_once('.')?;
    let bytes: [u8; OBJECT_KEY_BYTES] = onggi_object_wire::head::from_hex(key)?;
    ObjectKey::from_bytes(&bytes)
}

/// Where a file of this name is. The shelf is the first byte of the path hash, after four digits of the policy.
pub(crate) fn body_path(device: &Path, name: &str) -> PathBuf {
    let shelf = name.get(4..6).unwrap_or("00");
    device.join(BODIES).join(shelf).join(name)
}

/// Moves a file that failed its checksums out of the way. It stays for people to look at.
pub(crate) fn quarantine(device: &Path, name: &str) -> Result<(), DeviceError> {
    let (from, to) = (body_path(device, name), device.join(QUARANTINE).join(name));
    match rustix::fs::renameat(CWD, &from, CWD, &to) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(io_at("quarantining", &from)(errno.into())),
    }
}

/// Gives a file a second name among those that are out of service, so that it outlives its row.
pub(crate) fn link_aside(device: &Path, name: &str) -> Result<(), DeviceError> {
    let (from, to) = (body_path(device, name), device.join(QUARANTINE).join(name));
    match rustix::fs::linkat(CWD, &from, CWD, &to, AtFlags::empty()) {
        // It may have been done before a crash; and what is missing cannot be kept.
        Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(io_at("setting aside", &from)(errno.into())),
    }
    durable::sync_dir(&device.join(QUARANTINE))
        .map_err(|error| io_at("syncing", &error.path)(error.source))
}

pub(crate) fn remove(device: &Path, name: &str) -> Result<(), DeviceError> {
    let path = body_path(device, name);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_at("removing", &path)(error)),
    }
}

/// What follows the body in its file.
pub(crate) fn trailer(key: &ObjectKey, row: &ObjectRow, hash: &BodyHash) -> Vec<u8> {
    let mut writer = Writer::new();
    for chunk in &hash.hashes {
        writer.raw(chunk);
    }
    let hashes_end = writer.len();
    writer.raw(&key.bytes());
    row.encode(&mut writer);
    let row_bytes = writer.len() - hashes_end;
    writer.raw(MAGIC);
    writer.u16(VERSION);
    writer.u64(hash.length);
    writer.u32(u32::try_from(hash.hashes.len()).unwrap_or(u32::MAX));
    writer.u32(u32::try_from(row_bytes).unwrap_or(u32::MAX));
    writer.u16(0);
    let mut bytes = writer.finish();
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// Which bodies were read lately. One that is read again goes through the page cache, so that what is wanted by many is
/// read from the disk once, and what is read once does not push it out.
#[derive(Debug)]
pub(crate) struct Warmth(Vec<AtomicU64>);

impl Warmth {
    pub(crate) fn new() -> Self {
        Self((0..WARM_MAX).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether the body of this name was not read lately; now it was.
    pub(crate) fn was_cold(&self, name: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let mark = hasher.finish();
        let place = usize::try_from(mark % WARM_MAX as u64).unwrap_or(0);
        // Another body of the same place takes it: then this one is cold again.
        let place = self.0.get(place);
        place.is_none_or(|place| place.swap(mark, Ordering::Relaxed) != mark)
    }
}

/// A large body's file, its trailer read and proven.
#[derive(Debug)]
pub(crate) struct LargeBody {
    pub(crate) file: DirectReader,
    pub(crate) hashes: Vec<[u8; 32]>,
    pub(crate) root: Root,
}

/// Why a file is no whole body.
#[derive(Debug)]
pub(crate) enum LargeError {
    /// Its bytes are not what was written.
    Damaged(String),
    /// The machine refused.
    Io(io::Error),
}

impl From<io::Error> for LargeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Damaged("the file is missing".to_owned()),
            ErrorKind::UnexpectedEof => Self::Damaged("the file is cut short".to_owned()),
            _ => Self::Io(error),
        }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], LargeError> {
    let part = bytes.get(at..at + N).and_then(|part| part.try_into().ok());
    part.ok_or_else(|| LargeError::Damaged("the footer is cut short".to_owned()))
}

impl LargeBody {
    /// Reads every byte and compares it with its chunk's hash.
    pub(crate) fn verify(&self, length: u64) -> Result<(), LargeError> {
        let mut at = 0;
        for (number, hash) in self.hashes.iter().enumerate() {
            let bytes = (length - at).min(CHUNK_BYTES as u64);
            let length = usize::try_from(bytes).unwrap_or(CHUNK_BYTES);
            let (memory, chunk) = self.file.read_exact_at(at, length)?;
            if chunk_hash(memory.get(chunk).unwrap_or_default()) != *hash {
                return Err(LargeError::Damaged(format!(
                    "chunk {number} fails its checksum"
                )));
            }
            at += bytes;
        }
        Ok(())
    }
}

/// The key and row in a body file's trailer, which is proven.
pub(crate) fn read_row(path: &Path) -> Result<(ObjectKey, ObjectRow), LargeError> {
    let damaged = |detail: &str| LargeError::Damaged(detail.to_owned());
    let file = File::open(path)?;
    let footer_at = file.metadata()?.len().checked_sub(FOOTER_BYTES as u64);
    let footer_at = footer_at.ok_or_else(|| damaged("the file is cut short"))?;
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_at)?;
    let length = u64::from_be_bytes(field(&footer, 10)?);
    let row_bytes = u64::from(u32::from_be_bytes(field(&footer, 22)?));
    let body = open(path, length, true)?;
    let row_at = footer_at.checked_sub(row_bytes);
    let row_at = row_at.ok_or_else(|| damaged("the file is cut short"))?;
    let mut bytes = vec![0; usize::try_from(row_bytes).unwrap_or(0)];
    file.read_exact_at(&mut bytes, row_at)?;
    let mut reader = Reader::new(&bytes);
    let decoded = reader
        .array("a key")
        .and_then(|key: [u8; OBJECT_KEY_BYTES]| {
            let row = ObjectRow::decode(&mut reader)?;
            reader.end("a trailer")?;
            Ok((key, row))
        });
    let (key, row) = decoded.map_err(|error| LargeError::Damaged(error.to_string()))?;
    let key = ObjectKey::from_bytes(&key).ok_or_else(|| damaged("its key is none"))?;
    let is_own = |own: &onggi_object_wire::Body| own.root == body.root && own.length == length;
    if !row.body.as_ref().is_some_and(is_own) {
        return Err(damaged("its row is another object's"));
    }
    Ok((key, row))
}

/// Whether most of a body is in the page cache, as far as the kernel says.
fn is_cached(file: &File, length: u64) -> bool {
    const PAGE_BYTES: u64 = 4 << 10;
    let pages = page_cache::cached_pages(file, 0, length);
    pages.is_ok_and(|pages| pages.saturating_mul(PAGE_BYTES) > length / 2)
}

/// Opens a body's file and proves its trailer. What is long and `is_cold` is read past the page cache.
pub(crate) fn open(path: &Path, length: u64, is_cold: bool) -> Result<LargeBody, LargeError> {
    let damaged = |detail: &str| LargeError::Damaged(detail.to_owned());
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let footer_at = file_bytes
        .checked_sub(FOOTER_BYTES as u64)
        .filter(|at| *at >= length)
        .ok_or_else(|| damaged("the file is cut short"))?;
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_at)?;
    if footer[..8] != *MAGIC || u16::from_be_bytes(field(&footer, 8)?) != VERSION {
        return Err(damaged("the footer is of no known version"));
    }
    let count = u64::from(u32::from_be_bytes(field(&footer, 18)?));
    let row_bytes = u64::from(u32::from_be_bytes(field(&footer, 22)?));
    let fits = u64::from_be_bytes(field(&footer, 10)?) == length
        && count == length.div_ceil(CHUNK_BYTES as u64)
        && row_bytes <= ROW_BYTES_MAX
        && footer_at == length + count * 32 + row_bytes;
    if !fits {
        return Err(damaged("the footer does not fit the row"));
    }
    let trailer_bytes = usize::try_from(count * 32 + row_bytes);
    let mut trailer = vec![
        0;
        trailer_bytes
            .ok()
            .ok_or_else(|| damaged("the trailer is too long"))?
    ];
    file.read_exact_at(&mut trailer, length)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&trailer).update(&footer[..FOOTER_BYTES - 32]);
    if hasher.finalize().as_bytes() != &footer[FOOTER_BYTES - 32..] {
        return Err(damaged("the trailer fails its checksum"));
    }
    let hashes: Vec<[u8; 32]> = trailer
        .chunks_exact(32)
        .take(usize::try_from(count).unwrap_or(0))
        .map(|hash| hash.try_into().unwrap_or([0; 32]))
        .collect();
    let root = Root::of_chunks(length, &hashes);
    let past_cache = is_cold && length >= DIRECT_BYTES_MIN && !is_cached(&file, length);
    Ok(LargeBody {
        file: DirectReader::new(file, past_cache),
        hashes,
        root,
    })
}

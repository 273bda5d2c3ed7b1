//! Writing and reading long files past the page cache.
//!
//! What is written once and synced at once, or read once, and is longer than what anybody reads again soon gains nothing
//! from the page cache: it costs a copy, pages that others could use, and their way back.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

/// Written at a time, from memory that is aligned as any device wants it.
pub const BLOCK_BYTES: usize = 512 << 10;
const ALIGN_BYTES: usize = 4 << 10;

/// Memory for so many bytes, with where they begin so that they are aligned.
fn aligned(length: usize) -> (Vec<u8>, usize) {
    let memory = vec![0; length + ALIGN_BYTES];
    let start = memory.as_ptr().align_offset(ALIGN_BYTES);
    (memory, start.min(ALIGN_BYTES))
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGN_BYTES) == 0
}

/// Memory that is filled from its beginning, up to [`BLOCK_BYTES`], and that a [`DirectFile`] writes from where it is.
#[derive(Debug)]
pub struct Block {
    memory: Vec<u8>,
    start: usize,
}

impl Default for Block {
    fn default() -> Self {
        Self::new()
    }
}

impl Block {
    /// Without any bytes.
    #[must_use]
    pub fn new() -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(BLOCK_BYTES + ALIGN_BYTES);
        let start = memory.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
        // What follows is appended and never moved: it fits the capacity.
        memory.resize(start, 0);
        Self { memory, start }
    }

    /// Takes as many of these bytes as there is room for; how many.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let room = BLOCK_BYTES - self.len();
        let (now, _) = bytes.split_at(bytes.len().min(room));
        self.memory.extend_from_slice(now);
        now.len()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..).unwrap_or_default()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() == BLOCK_BYTES
    }

    /// Its bytes: which part of the memory they are.
    #[must_use]
    pub fn into_part(self) -> Part {
        let end = self.memory.len();
        (self.memory, self.start..end)
    }
}

fn set_direct(file: &File, on: bool) -> rustix::io::Result<()> {
    let flags = fcntl_getfl(file)?;
    let wanted = if on {
        flags | OFlags::DIRECT
    } else {
        flags & !OFlags::DIRECT
    };
    fcntl_setfl(file, wanted)
}

/// A file that grows at its end. Whole blocks go past the page cache where the file system can do that; the rest goes
/// the usual way.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    is_direct: bool,
    /// What does not fill a block, or is not aligned in memory, gathers here.
    gathered: Option<Block>,
}

impl DirectFile {
    /// Takes an empty file.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self {
            is_direct: set_direct(&file, true).is_ok(),
            file,
            gathered: None,
        }
    }

    /// Appends bytes. They are in the file once [`Self::finish`] has returned.
    ///
    /// # Errors
    /// When the file system refuses; what is in the file then is of no use.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // A block that is aligned already needs no copy.
            let is_between = self.gathered.as_ref().is_none_or(Block::is_empty);
            if is_between && bytes.len() >= BLOCK_BYTES && is_aligned(bytes) {
                let (now, later) = bytes.split_at(BLOCK_BYTES);
                self.append(now)?;
                bytes = later;
                continue;
            }
            let gathered = self.gathered.get_or_insert_default();
            let taken = gathered.fill(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            if gathered.is_full() {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is left and shows the file, which is an ordinary one from then on. Nothing is synced.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn finish(&mut self) -> io::Result<&File> {
        self.leave_direct()?;
        self.flush()?;
        Ok(&self.file)
    }

    fn leave_direct(&mut self) -> io::Result<()> {
        if core::mem::take(&mut self.is_direct) {
            set_direct(&self.file, false)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(mut gathered) = self.gathered.take() else {
            return Ok(());
        };
        let appended = self.append(gathered.bytes());
        gathered.memory.truncate(gathered.start);
        self.gathered = Some(gathered);
        appended
    }

    /// Writes bytes that are aligned in memory, unless the file is an ordinary one by now.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while self.is_direct && !left.is_empty() {
            match self.file.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    left = left.get(count..).unwrap_or_default();
                    // A write that was cut short within a block of the device cannot be gone on with like this.
                    if !(bytes.len() - left.len()).is_multiple_of(ALIGN_BYTES) {
                        self.leave_direct()?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The flag was taken, and the file system or the device below it cannot do it after all.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.leave_direct()?,
                Err(error) => return Err(error),
            }
        }
        self.file.write_all(left)
    }
}

/// A file that is read in long pieces, past the page cache where the file system can do that.
#[derive(Debug)]
pub struct DirectReader {
    file: File,
    is_direct: AtomicBool,
}

/// Bytes that were read: which part of the memory they are.
pub type Part = (Vec<u8>, Range<usize>);

impl DirectReader {
    /// Reads past the page cache, or through it as any file is read.
    #[must_use]
    pub fn new(file: File, past_cache: bool) -> Self {
        let is_direct = past_cache && set_direct(&file, true).is_ok();
        Self {
            file,
            is_direct: AtomicBool::new(is_direct),
        }
    }

    /// Reads so many bytes from an offset.
    ///
    /// # Errors
    /// When the file ends before them, or cannot be read.
    pub fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Part> {
        let is_aligned = offset.is_multiple_of(ALIGN_BYTES as u64);
        if is_aligned && self.is_direct.load(Ordering::Relaxed) {
            match self.read_direct(offset, length) {
                Ok(Some(part)) => return Ok(part),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) => return Err(error),
            }
        }
        if self.is_direct.swap(false, Ordering::Relaxed) {
            set_direct(&self.file, false)?;
        }
        let mut memory = vec![0; length];
        self.file.read_exact_at(&mut memory, offset)?;
        Ok((memory, 0..length))
    }

    /// `None` when fewer bytes came and the rest does not begin where such a read can.
    fn read_direct(&self, offset: u64, length: usize) -> io::Result<Option<Part>> {
        let padded = length.next_multiple_of(ALIGN_BYTES);
        let (mut memory, start) = aligned(padded);
        let mut filled = 0;
        while filled < length {
            let room = memory.get_mut(start + filled..start + padded);
            match self
                .file
                .read_at(room.unwrap_or_default(), offset + filled as u64)
            {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if filled < length && !filled.is_multiple_of(ALIGN_BYTES) {
                return Ok(None);
            }
        }
        Ok(Some((memory, start..start + length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _};

    fn bytes(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[test]
    fn a_file_of_any_length_in_any_pieces_has_its_bytes() {
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 4_097] {
            for piece in [1_000, 65_536, 2 * BLOCK_BYTES] {
                let mut file = DirectFile::new(tempfile::tempfile().unwrap());
                let wanted = bytes(length);
                for piece in wanted.chunks(piece) {
                    file.write(piece).unwrap();
                }
                let mut file = file.finish().unwrap();
                // It is an ordinary file again: nothing is aligned any more.
                file.write_all(b"end").unwrap();
                file.rewind().unwrap();
                let mut read = Vec::new();
                file.read_to_end(&mut read).unwrap();
                assert_eq!(read, [wanted.as_slice(), b"end"].concat(), "{length}");
            }
        }
    }

    #[test]
    fn what_is_aligned_already_is_written_from_where_it_is() {
        let wanted = bytes(2 * BLOCK_BYTES + 100);
        let mut file = DirectFile::new(tempfile::tempfile().unwrap());
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let mut block = Block::new();
            assert!(block.is_empty() && !block.is_full());
            let (first, second) = (block.fill(&rest[..1]), block.fill(&rest[1..]));
            rest = &rest[first + second..];
            let (memory, range) = block.into_part();
            assert!(is_aligned(&memory[range.clone()]));
            let is_whole = range.len() == BLOCK_BYTES;
            file.write(&memory[range]).unwrap();
            assert_eq!(file.gathered.is_none(), is_whole);
        }
        let mut file = file.finish().unwrap();
        file.rewind().unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == wanted);
    }

    #[test]
    fn whole_blocks_leave_nothing_in_the_page_cache_where_that_can_be() {
        let mut file = DirectFile::new(tempfile::tempfile().unwrap());
        let is_direct = file.is_direct;
        file.write(&bytes(4 * BLOCK_BYTES)).unwrap();
        if !(is_direct && file.is_direct) {
            println!("skipped, because the file system knows no direct writes");
            return;
        }
        let file = file.finish().unwrap();
        match crate::page_cache::cached_pages(file, 0, 0) {
            Ok(pages) => assert_eq!(pages, 0),
            Err(error) => println!("skipped, because the kernel does not say: {error}"),
        }
    }

    #[test]
    fn any_piece_is_read_either_way() {
        let wanted = bytes(3 * BLOCK_BYTES + 4_097);
        let whole = wanted.len() as u64;
        for past_cache in [false, true] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&wanted).unwrap();
            let reader = DirectReader::new(file, past_cache);
            for (offset, length) in [
                (0, BLOCK_BYTES),
                (BLOCK_BYTES as u64, 2 * BLOCK_BYTES),
                (whole - 4_097, 4_097),
                (4_096, 1),
                (0, wanted.len()),
                (7, 100),
                (4_096, 0),
            ] {
                let (memory, range) = reader.read_exact_at(offset, length).unwrap();
                let at = usize::try_from(offset).unwrap();
                assert!(
                    memory[range] == wanted[at..at + length],
                    "{offset} {length}"
                );
            }
            for offset in [0, whole - 4_097, 1 << 40] {
                let error = reader.read_exact_at(offset, wanted.len() + 1).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }
}

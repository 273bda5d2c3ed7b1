//! File systems that are parts of a disk a power cut left: mounted on this machine, which replays their journals.
//!
//! A cut may tear a file system's superblock, which is two sectors long: then nothing can be mounted. An administrator runs
//! `e2fsck -fy` and goes on, and so does the [`Mounter`]; what is looked at afterwards is looked at as strictly as ever.

use anyhow::{Context as _, Result};
use onggi_common_host::durable;
use onggi_common_host::run::{Run, RunError};
use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A part of the disk that is all zeros is left out in pieces of this length.
const PIECE_BYTES: usize = 16 << 10;
/// The blocks of a group of a file system whose blocks are of 4 KiB (`mkfs.ext4 -g`). By itself `mkfs` makes one group of
/// what is smaller than 128 MiB, without a copy of its superblock, which nobody does on a disk that matters.
pub const BLOCKS_PER_GROUP: usize = 8_192;
/// Where the second half of a superblock is, in which its checksum is.
const TORN: core::ops::Range<usize> = 1_536..2_048;
/// `e2fsck` ends with at most this where nothing is left uncorrected.
const CORRECTED: i32 = 2;

/// A file system's place on the disk, and where it is mounted below the root of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it begins on the disk.
    pub offset: usize,
    /// How long it is.
    pub length: usize,
    /// Where it belongs, below the first one's root; empty for that.
    pub place: &'static str,
}

/// Mounts file systems of disks, which needs root and loop devices.
#[derive(Debug)]
pub struct Mounter {
    folder: PathBuf,
    parts: Vec<Part>,
    tears: bool,
    repaired: Cell<usize>,
}

impl Mounter {
    /// A mounter of these parts, the outermost first, that has a folder for itself. Much is written there: one in memory
    /// is the quickest.
    #[must_use]
    pub const fn new(folder: PathBuf, parts: Vec<Part>) -> Self {
        Self {
            folder,
            parts,
            tears: false,
            repaired: Cell::new(0),
        }
    }

    /// Loses the second half of every superblock, so that each file system has to be repaired.
    #[must_use]
    pub const fn tearing(mut self) -> Self {
        self.tears = true;
        self
    }

    /// How many file systems have had to be repaired.
    #[must_use]
    pub const fn repaired(&self) -> usize {
        self.repaired.get()
    }

    /// Mounts the parts of a disk, lets `look` look at the root, and unmounts them. What cannot be mounted is a finding.
    ///
    /// # Errors
    /// When the machine refuses, and what `look` returns.
    pub fn look(
        &self,
        disk: &[u8],
        look: impl FnOnce(&Path) -> Result<Option<String>>,
    ) -> Result<Option<String>> {
        let root = self.folder.join("mounted");
        durable::create_dir_all(&root)?;
        let mut mounts = Mounts(Vec::new());
        for (number, part) in self.parts.iter().enumerate() {
            let bytes = disk.get(part.offset..part.offset + part.length);
            let image = self.folder.join(format!("image{number}"));
            write_sparse(&image, bytes.context("the disk is too small")?)?;
            if self.tears {
                let file = File::options().write(true).open(&image)?;
                file.write_all_at(&[0; TORN.end - TORN.start], u64::try_from(TORN.start)?)?;
            }
            let place = root.join(part.place);
            if !place.is_dir() {
                return Ok(Some(format!("{} is not there", place.display())));
            }
            let mount = Run::new("mount").args(["-o", "loop"]);
            let mount = mount.arg(&image).arg(&place);
            if let Err(error) = mount.clone().output() {
                self.repaired.set(self.repaired.get() + 1);
                let mounted = repair(&image).and_then(|()| mount.output());
                if let Err(after) = mounted {
                    return Ok(Some(format!(
                        "a file system cannot be mounted: {error}; nor repaired: {after}"
                    )));
                }
            }
            mounts.0.push(place);
        }
        let looked = look(&root);
        mounts.unmount()?;
        looked
    }
}

/// What an administrator does with a file system that cannot be mounted: `e2fsck -fy`, and where that finds no superblock
/// by itself, with the place of the first copy.
fn repair(image: &Path) -> Result<(), RunError> {
    let copy = BLOCKS_PER_GROUP.to_string();
    let tries: [&[&str]; 2] = [&["-fy"], &["-fy", "-b", &copy, "-B", "4096"]];
    let mut last = Ok(());
    for options in tries {
        last = match Run::new("e2fsck").args(options).arg(image).output() {
            Ok(_) => return Ok(()),
            Err(RunError::Failed {
                code: Some(code), ..
            }) if code <= CORRECTED => return Ok(()),
            Err(error) => Err(error),
        };
    }
    last
}

/// What is mounted, the outermost first. An end of the value is an end of the mounts.
#[derive(Debug)]
struct Mounts(Vec<PathBuf>);

impl Mounts {
    fn unmount(&mut self) -> Result<()> {
        while let Some(place) = self.0.pop() {
            Run::new("umount").arg(&place).output().context("umount")?;
        }
        Ok(())
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        // Only after another error, which is the one to tell.
        drop(self.unmount());
    }
}

fn write_sparse(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    file.set_len(u64::try_from(bytes.len())?)?;
    let zeros = [0; PIECE_BYTES];
    for (index, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
        if piece != &zeros[..piece.len()] {
            file.write_all_at(piece, u64::try_from(index * PIECE_BYTES)?)?;
        }
    }
    Ok(())
}

/// A folder for a mounter: in memory, where there is room for it.
///
/// # Errors
/// When none can be made.
pub fn folder(bytes: usize) -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|told| {
        told.f_bavail.saturating_mul(told.f_frsize) > u64::try_from(bytes).unwrap_or(u64::MAX)
    });
    let mut made = tempfile::Builder::new();
    made.prefix("onggi-cut-");
    let folder = if has_room {
        made.tempdir_in(memory)
    } else {
        made.tempdir()
    };
    folder.context("making a folder for file systems")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_reads_as_it_was_written_over_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let mut bytes = vec![0; 5 * PIECE_BYTES + 7];
        bytes[PIECE_BYTES + 3] = 1;
        write_sparse(&path, &[9; 6 * PIECE_BYTES]).unwrap();
        write_sparse(&path, &bytes).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

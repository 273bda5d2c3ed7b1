//! File systems that are parts of a disk a power cut left: mounted on this machine, which replays their journals.

use anyhow::{Context as _, Result};
use onggi_common_host::durable;
use onggi_common_host::run::Run;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A part of the disk that is all zeros is left out in pieces of this length.
const PIECE_BYTES: usize = 16 << 10;

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
}

impl Mounter {
    /// A mounter of these parts, the outermost first, that has a folder for itself. Much is written there: one in memory
    /// is the quickest.
    #[must_use]
    pub const fn new(folder: PathBuf, parts: Vec<Part>) -> Self {
        Self { folder, parts }
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
            let place = root.join(part.place);
            if !place.is_dir() {
                return Ok(Some(format!("{} is not there", place.display())));
            }
            let mount = Run::new("mount").args(["-o", "loop"]);
            if let Err(error) = mount.arg(&image).arg(&place).output() {
                return Ok(Some(format!("a file system cannot be mounted: {error}")));
            }
            mounts.0.push(place);
        }
        let looked = look(&root);
        mounts.unmount()?;
        looked
    }
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

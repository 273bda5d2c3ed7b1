//! The archives an initramfs is made of (cpio, "newc"), so that a test can put files of its own into a guest.
//!
//! Each entry: `070701`, thirteen numbers of eight hexadecimal digits (inode, mode, uid, gid, links, time, size, four
//! device numbers, length of the name with its NUL, checksum), the name, the content; name and content each end at a
//! multiple of four. The kernel takes several archives after another when each begins at a multiple of four.

use anyhow::{Context as _, Result};
use std::collections::BTreeSet;

/// Archives begin at multiples of this; four would do.
pub(super) const ALIGNMENT: usize = 512;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// An archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    next_inode: u32,
}

impl Archive {
    /// Adds a file and the folders above it; `path` has no leading slash.
    ///
    /// # Errors
    /// When the file is too large for the format.
    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        for (at, _) in path.match_indices('/') {
            let folder = path.get(..at).unwrap_or_default();
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, DIRECTORY, &[])?;
            }
        }
        self.entry(path, FILE | permissions, content)
    }

    /// The finished archive.
    ///
    /// # Errors
    /// Never in practice: its last entry is empty.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.pad_to(ALIGNMENT);
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.next_inode += 1;
        let size = u32::try_from(content.len())
            .with_context(|| format!("{name} is too large for an initramfs"))?;
        let name_bytes = u32::try_from(name.len() + 1).context("a name is too long")?;
        self.bytes.extend(b"070701");
        for field in [
            self.next_inode,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_bytes,
            0,
        ] {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad_to(4);
        self.bytes.extend(content);
        self.pad_to(4);
        Ok(())
    }

    fn pad_to(&mut self, multiple: usize) {
        let end = self.bytes.len().next_multiple_of(multiple);
        self.bytes.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_the_kernel_reads_them() {
        let mut archive = Archive::default();
        archive.file("a/b", 0o644, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let text = String::from_utf8_lossy(&bytes);
        let folder = "070701000000010000".to_owned()
            + "41ed"
            + &"0".repeat(16)
            + "00000001"
            + &"0".repeat(48);
        assert!(text.starts_with(&folder), "{text}");
        let file = text.match_indices("070701").nth(1).unwrap().0;
        assert_eq!(file % 4, 0);
        assert_eq!(&text[file + 14..file + 22], "000081a4");
        assert_eq!(&text[file + 54..file + 62], "00000005");
        assert_eq!(&text[file + 94..file + 102], "00000004");
        assert_eq!(&text[file + 110..file + 113], "a/b");
        assert_eq!(&text[file + 116..file + 121], "hello");
        assert!(text.contains("TRAILER!!!"));
    }
}

//! The orphan sweep: body files without a row, left by a crash between naming a file and writing its row.

use crate::device::Device;
use crate::error::DeviceError;
use crate::error::io_at;
use crate::format::{BODIES, INCOMING};
use crate::large;
use crate::stored::Location;
use std::path::Path;

fn names_in(directory: &Path) -> Result<Vec<String>, DeviceError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_at("reading", directory))? {
        let entry = entry.map_err(io_at("reading", directory))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

impl Device {
    /// Removes body files that no row names; how many. Uploads in flight are left alone.
    ///
    /// # Errors
    /// When the store or the machine refuses.
    pub fn sweep(&self) -> Result<u64, DeviceError> {
        (0..=u8::MAX).try_fold(0, |removed, shelf| Ok(removed + self.sweep_shelf(shelf)?))
    }

    /// The same for the bodies whose path hashes begin with this byte. It reads each one's row.
    ///
    /// # Errors
    /// When the store or the machine refuses.
    pub fn sweep_shelf(&self, shelf: u8) -> Result<u64, DeviceError> {
        let directory = self.directory().join(BODIES).join(format!("{shelf:02x}"));
        let mut names = names_in(&directory)?;
        // In the order of the rows, so that neighbours are read together.
        names.sort_unstable();
        names.iter().try_fold(0, |removed, name| {
            Ok(removed + u64::from(self.sweep_body(name)?))
        })
    }

    /// Removes what uploads of an earlier process left where files have names from the start.
    pub(crate) fn sweep_incoming(&self) -> Result<(), DeviceError> {
        let incoming = self.directory().join(INCOMING);
        for name in names_in(&incoming)? {
            let path = incoming.join(name);
            std::fs::remove_file(&path).map_err(io_at("removing", &path))?;
        }
        Ok(())
    }

    fn sweep_body(&self, name: &str) -> Result<bool, DeviceError> {
        let Some(key) = large::key_of(name) else {
            return Ok(false);
        };
        // Naming a file, writing its row and leaving the set happen under this lock.
        let guard = self.stripes().lock(key.slot());
        if self.with_in_flight(|names| names.contains(name)) {
            return Ok(false);
        }
        let stored = self.get_object(&key)?;
        let is_named = stored
            .is_some_and(|stored| matches!(&stored.location, Location::File(own) if own == name));
        if !is_named {
            large::remove(self.directory(), name)?;
            tracing::info!(name, "removed a body that no row names");
        }
        drop(guard);
        Ok(!is_named)
    }
}

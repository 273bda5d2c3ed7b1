//! Doubling the partitions of a ring that is in use, in the steps of Swift's tools.
//!
//! Swift's object servers keep files in folders by partition: they have to link each object to where the larger ring will
//! look for it, between *prepare* and *increase*, and to remove the old links between *increase* and *finish*. Onggi's
//! devices place rows by hash, so there is nothing to do in between; the steps are the same so that a ring can be used by
//! both. Each half of a partition has the devices of the whole, so that nothing moves.

use super::{BuilderError, RingBuilder, place};
use crate::hash::PartPower;
use onggi_common_units::UtcTime;

impl RingBuilder {
    /// The part power the ring is on its way to, or has come to and not finished with.
    #[must_use]
    pub const fn next_part_power(&self) -> Option<PartPower> {
        self.next_part_power
    }

    /// Announces that the part power grows by one.
    ///
    /// # Errors
    /// When that is announced already, or the part power cannot grow.
    pub fn prepare_increase(&mut self) -> Result<PartPower, BuilderError> {
        if self.next_part_power.is_some() {
            return Err(BuilderError::Prepared);
        }
        let next = self.part_power.next().ok_or(BuilderError::PartPowerMax)?;
        self.next_part_power = Some(next);
        self.version += 1;
        Ok(next)
    }

    /// Makes two partitions of each, on the same devices.
    ///
    /// # Errors
    /// When it was not prepared, or is done.
    pub fn increase(&mut self, now: UtcTime) -> Result<PartPower, BuilderError> {
        let next = self.announced().ok_or(BuilderError::NotPrepared)?;
        for row in &mut self.table {
            *row = row.iter().flat_map(|device| [*device; 2]).collect();
        }
        let hours = self.rested_hours.iter();
        self.rested_hours = hours.flat_map(|hours| [*hours; 2]).collect();
        self.part_power = next;
        place::rest(self, now);
        self.version += 1;
        Ok(next)
    }

    /// Takes the announcement back; [`Self::finish_increase`] ends it.
    ///
    /// # Errors
    /// When nothing is announced, or the part power has grown already.
    pub fn cancel_increase(&mut self) -> Result<PartPower, BuilderError> {
        self.announced().ok_or(BuilderError::NotCanceled)?;
        self.next_part_power = Some(self.part_power);
        self.version += 1;
        Ok(self.part_power)
    }

    /// Ends an increase that is done or was taken back.
    ///
    /// # Errors
    /// When there is none.
    pub fn finish_increase(&mut self) -> Result<(), BuilderError> {
        if self.next_part_power != Some(self.part_power) {
            return Err(BuilderError::NotFinished);
        }
        self.next_part_power = None;
        self.version += 1;
        Ok(())
    }

    /// The part power that is announced and not reached.
    fn announced(&self) -> Option<PartPower> {
        let next = self.next_part_power?;
        (Some(next) == self.part_power.next()).then_some(next)
    }
}

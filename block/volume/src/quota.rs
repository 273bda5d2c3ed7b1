//! Quotas. What is used is counted from the rows themselves, in the transaction that adds one: there is no counter that
//! could drift.

use crate::volume::SizeGib;

/// What a project may have; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Volumes.
    pub volumes: Option<u64>,
    /// GiB of all volumes together.
    pub gigabytes: Option<u64>,
    /// GiB of one volume.
    pub per_volume_gigabytes: Option<u64>,
}

impl Default for QuotaLimits {
    /// Cinder's own.
    fn default() -> Self {
        Self {
            volumes: Some(10),
            gigabytes: Some(1_000),
            per_volume_gigabytes: None,
        }
    }
}

/// What a project has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaUsage {
    /// Volumes.
    pub volumes: u64,
    /// GiB of all volumes together.
    pub gigabytes: u64,
}

/// What a quota is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaResource {
    /// Volumes.
    Volumes,
    /// GiB of all volumes together.
    Gigabytes,
    /// GiB of one volume.
    PerVolumeGigabytes,
}

/// More than a project may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{requested} more exceed the quota of {limit} for {resource:?}: {in_use} are in use")]
pub struct QuotaExceeded {
    /// What there would be too much of.
    pub resource: QuotaResource,
    /// What is allowed.
    pub limit: u64,
    /// What is there.
    pub in_use: u64,
    /// What was asked for in addition.
    pub requested: u64,
}

const fn check(
    resource: QuotaResource,
    limit: Option<u64>,
    in_use: u64,
    requested: u64,
) -> Result<(), QuotaExceeded> {
    match limit {
        Some(limit) if in_use.saturating_add(requested) > limit => Err(QuotaExceeded {
            resource,
            limit,
            in_use,
            requested,
        }),
        Some(_) | None => Ok(()),
    }
}

impl QuotaUsage {
    /// What volumes of these sizes use.
    #[must_use]
    pub fn of(sizes: impl IntoIterator<Item = SizeGib>) -> Self {
        sizes.into_iter().fold(Self::default(), |usage, size| Self {
            volumes: usage.volumes + 1,
            gigabytes: usage.gigabytes + u64::from(size.gib()),
        })
    }

    /// Whether one more volume of this size fits.
    ///
    /// # Errors
    /// When it does not: says what there would be too much of.
    pub fn check_new(&self, limits: &QuotaLimits, size: SizeGib) -> Result<(), QuotaExceeded> {
        let gib = u64::from(size.gib());
        check(
            QuotaResource::PerVolumeGigabytes,
            limits.per_volume_gigabytes,
            0,
            gib,
        )?;
        check(QuotaResource::Volumes, limits.volumes, self.volumes, 1)?;
        check(
            QuotaResource::Gigabytes,
            limits.gigabytes,
            self.gigabytes,
            gib,
        )
    }

    /// Whether a volume of the project may grow.
    ///
    /// # Errors
    /// When it may not: says what there would be too much of.
    pub fn check_growth(
        &self,
        limits: &QuotaLimits,
        from: SizeGib,
        to: SizeGib,
    ) -> Result<(), QuotaExceeded> {
        let per_volume = limits.per_volume_gigabytes;
        check(
            QuotaResource::PerVolumeGigabytes,
            per_volume,
            0,
            u64::from(to.gib()),
        )?;
        let more = u64::from(to.gib().saturating_sub(from.gib()));
        check(
            QuotaResource::Gigabytes,
            limits.gigabytes,
            self.gigabytes,
            more,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gib(gib: u32) -> SizeGib {
        SizeGib::try_from(gib).unwrap()
    }

    #[test]
    fn what_exactly_fits_is_allowed_and_one_more_is_not() {
        let limits = QuotaLimits {
            volumes: Some(3),
            gigabytes: Some(10),
            per_volume_gigabytes: Some(7),
        };
        let usage = QuotaUsage::of([gib(1), gib(4)]);
        assert_eq!(
            usage,
            QuotaUsage {
                volumes: 2,
                gigabytes: 5
            }
        );
        assert_eq!(usage.check_new(&limits, gib(5)), Ok(()));
        assert_eq!(
            usage.check_new(&limits, gib(6)).unwrap_err().resource,
            QuotaResource::Gigabytes
        );
        assert_eq!(
            usage.check_new(&limits, gib(8)).unwrap_err().resource,
            QuotaResource::PerVolumeGigabytes
        );
        let full = QuotaUsage::of([gib(1), gib(1), gib(1)]);
        assert_eq!(
            full.check_new(&limits, gib(1)).unwrap_err().resource,
            QuotaResource::Volumes
        );
        assert_eq!(usage.check_growth(&limits, gib(1), gib(6)), Ok(()));
        assert!(usage.check_growth(&limits, gib(1), gib(7)).is_err());
        let unlimited = QuotaLimits {
            volumes: None,
            gigabytes: None,
            per_volume_gigabytes: None,
        };
        assert_eq!(
            full.check_new(&unlimited, gib(crate::volume::SIZE_GIB_MAX)),
            Ok(())
        );
    }
}

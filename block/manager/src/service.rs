//! Pools and services as operators ask for them.

use crate::detail::{PoolStatus, ServiceStatus};
use crate::manager::{Inner, Manager, Place};
use onggi_block_volume::{PoolReport, QuotaUsage, Volume};
use onggi_common_units::ByteCount;

impl Manager {
    /// Every pool, read now.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolStatus> {
        let inner = &self.inner;
        let volumes = inner.catalog.volumes();
        let status = |place: &Place| {
            let here = |volume: &&Volume| {
                volume.pool.backend() == place.address.backend()
                    && volume.pool.pool() == place.address.pool()
            };
            let volumes = volumes.as_deref().unwrap_or_default().iter().filter(here);
            let used = QuotaUsage::of(volumes.map(|volume| volume.size));
            PoolStatus {
                address: place.address.clone(),
                kind: place.pool.kind(),
                report: inner.report(place),
                allocated: ByteCount::from_gib(used.gigabytes),
                volume_count: usize::try_from(used.volumes).unwrap_or(usize::MAX),
                measured_at: inner.clock.now(),
            }
        };
        inner.places.iter().map(status).collect()
    }

    /// The services, looked at now.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceStatus> {
        let inner = &self.inner;
        let service = |binary, host, reason: Option<String>| ServiceStatus {
            binary,
            host,
            zone: inner.availability_zone.clone(),
            is_up: reason.is_none(),
            reason,
            updated_at: inner.clock.now(),
        };
        let catalog = inner.catalog.plans().err().map(|error| error.to_string());
        let target = inner.target.portals().err().map(|error| error.to_string());
        let mut services = vec![service("cinder-scheduler", inner.host.clone(), catalog)];
        for place in &inner.places {
            let host = place.address.service();
            let reason = inner.report(place).err().or_else(|| target.clone());
            services.push(service("cinder-volume", host, reason));
        }
        services
    }
}

impl Inner {
    /// What a pool says about its room.
    pub(crate) fn report(&self, place: &Place) -> Result<PoolReport, String> {
        let capacity = place.pool.capacity().map_err(|error| error.to_string())?;
        Ok(PoolReport {
            address: place.address.clone(),
            total: capacity.total,
            free: capacity.free,
            provisioned: capacity.provisioned,
            reclaiming: capacity.reclaiming,
            is_thin: place.pool.kind().is_thin(),
            over_subscription_percent: self.over_subscription_percent,
        })
    }
}

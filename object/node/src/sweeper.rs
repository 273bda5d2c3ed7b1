//! The sweeper: removes body files that a crash left without a row, once after the start.
//!
//! It reads the row of every large body, which may take minutes; nobody has to wait for it.

use crate::disks::Disk;
use crate::server::Node;
use onggi_common_service::Drain;
use std::sync::Arc;

impl Node {
    /// Sweeps every device once, or until the drain begins.
    pub async fn sweep(self: Arc<Self>, drain: Drain) {
        tokio::select! {
            () = self.sweep_once() => {}
            () = drain.requested() => {}
        }
    }

    /// Sweeps every device.
    pub async fn sweep_once(&self) {
        for disk in self.disks.serving() {
            let removed = sweep_disk(disk).await;
            if removed > 0 {
                tracing::info!(device = %disk.name, removed, "bodies of writes that a crash cut short are gone");
            }
        }
    }
}

async fn sweep_disk(disk: &Disk) -> u64 {
    let mut removed = 0;
    for shelf in 0..=u8::MAX {
        match disk.call(move |device| device.sweep_shelf(shelf)).await {
            Ok(count) => removed += count,
            Err(error) => {
                tracing::warn!(device = %disk.name, %error, "bodies without a row stay until the next start");
                break;
            }
        }
    }
    removed
}

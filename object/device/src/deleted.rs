//! Accounts that were deleted and still list containers: what the reaper looks for.

use crate::device::Device;
use crate::error::DeviceError;
use crate::key::{RosterKey, RosterKind};
use crate::roster_row::RosterRow;
use crate::tables::ROSTER;
use core::ops::ControlFlow;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::Order;
use onggi_common_meta::table;

impl Device {
    /// The next accounts after a key that are marked as deleted and still list something, at most so many.
    ///
    /// # Errors
    /// When the store cannot answer, or a row is damaged.
    pub fn deleted_accounts(
        &self,
        after: Option<&RosterKey>,
        limit: usize,
    ) -> Result<Vec<(RosterKey, RosterRow)>, DeviceError> {
        let all = KeyRange::prefix([RosterKind::Account.byte()]);
        let range = after.map_or_else(|| all.clone(), |key| all.resume_after(&key.bytes()));
        let mut found = Vec::new();
        let mut failed = None;
        self.reader()
            .visit(ROSTER, &range, Order::Ascending, &mut |key, value| {
                match table::decode::<RosterRow>(value) {
                    Ok(row) if row.is_deleted() && row.live_count > 0 => {
                        found.extend(RosterKey::from_bytes(key).map(|key| (key, row)));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                if found.len() < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        failed.map_or(Ok(found), |error| Err(error.into()))
    }
}

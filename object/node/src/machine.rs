//! What a node finds around it: clock, entropy, network and disks of the machine, or of a simulated one.

use crate::options::Options;
use core::pin::Pin;
use onggi_common_host::{Clock, Entropy, SystemClock, SystemEntropy};
use onggi_object_client::{NodeClient, Transport};
use onggi_object_device::{Device, DeviceOptions, OpenError};
use std::sync::Arc;

/// Opens a device.
pub type OpenDevice =
    Arc<dyn Fn(&DeviceOptions, &dyn Entropy) -> Result<Device, OpenError> + Send + Sync>;

/// The machine is off: what was to be done on it is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine is off")]
pub struct Off;

/// What a call to a device waits for in simulation: the time its disk takes, or for ever when the disk hangs.
pub trait Gate: core::fmt::Debug + Send + Sync + 'static {
    /// Resolves when the call may be made.
    ///
    /// # Errors
    /// When the machine is off.
    fn pass<'a>(&'a self) -> Pin<Box<dyn Future<Output = Result<(), Off>> + Send + 'a>>;
}

/// Where calls to devices run.
#[derive(Debug, Clone, Default)]
pub enum Calls {
    /// On blocking threads of the runtime.
    #[default]
    Threads,
    /// In the task that makes them, so that one seed gives one order.
    InPlace(Arc<dyn Gate>),
}

/// What a node finds around it.
#[derive(Clone)]
pub struct Machine {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// How other nodes are reached.
    pub client: Arc<dyn NodeClient>,
    /// How devices are opened.
    pub open_device: OpenDevice,
    /// Where calls to them run.
    pub calls: Calls,
}

impl core::fmt::Debug for Machine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

impl Machine {
    /// The machine this program runs on.
    #[must_use]
    pub fn real(options: &Options) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (keys, local) = (options.keys.clone(), Arc::clone(&options.local));
        let (timeouts, wall) = (options.timeouts, Arc::clone(&clock));
        let client = Transport::new(keys, wall, &SystemEntropy, timeouts, local);
        Self {
            clock,
            entropy: Arc::new(SystemEntropy),
            client: Arc::new(client),
            open_device: Arc::new(Device::open),
            calls: Calls::Threads,
        }
    }
}

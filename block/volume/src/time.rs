//! Moments in stored rows: microseconds since 1970.

use onggi_common_units::UtcTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) fn serialize<S: Serializer>(time: &UtcTime, serializer: S) -> Result<S::Ok, S::Error> {
    time.micros().serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UtcTime, D::Error> {
    u64::deserialize(deserializer).map(UtcTime::from_micros)
}

/// The same for a moment that may not have come.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Serialize, Serializer, UtcTime};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<UtcTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(UtcTime::micros).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<UtcTime>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(UtcTime::from_micros))
    }
}

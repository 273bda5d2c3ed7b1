//! Volume types. There is one until types can be made.

use onggi_common_units::Uuid;
use serde::{Deserialize, Serialize};

/// A type of volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeType {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whether every project can use it.
    pub is_public: bool,
}

impl VolumeType {
    /// The name of the type of volumes that name none, as Cinder calls it.
    pub const DEFAULT_NAME: &str = "__DEFAULT__";

    /// The type of volumes that name none. Its id is the same everywhere.
    #[must_use]
    pub fn default_type() -> Self {
        Self {
            id: Uuid::from_random(*b"onggi default vt"),
            name: Self::DEFAULT_NAME.to_owned(),
            description: Some("Default Volume Type".to_owned()),
            is_public: true,
        }
    }

    /// Whether a text names it: by name or by id.
    #[must_use]
    pub fn is_named(&self, text: &str) -> bool {
        self.name == text || text.parse() == Ok(self.id)
    }
}

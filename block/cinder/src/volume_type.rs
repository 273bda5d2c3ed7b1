//! Volume types.

use onggi_common_units::Uuid;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The type volumes have that name none.
pub const DEFAULT_NAME: &str = "__DEFAULT__";

/// Everything the API can show of a volume type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeTypeView {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// Whether every project may use it.
    pub is_public: bool,
    /// What pools must offer to hold such volumes.
    pub extra_specs: BTreeMap<String, String>,
}

impl VolumeTypeView {
    /// The type as every caller sees it, extra specs for admins only.
    #[must_use]
    pub fn detail(&self, is_admin: bool) -> Value {
        let mut shown = json!({
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "is_public": self.is_public,
            "os-volume-type-access:is_public": self.is_public,
        });
        if is_admin {
            shown["extra_specs"] = json!(self.extra_specs);
            shown["qos_specs_id"] = Value::Null;
        }
        shown
    }

    /// Whether `wanted` is its id or name.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        self.name == wanted || self.id.to_string() == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_specs_are_for_admins() {
        let view = VolumeTypeView {
            id: Uuid::from_random([1; 16]),
            name: DEFAULT_NAME.to_owned(),
            description: None,
            is_public: true,
            extra_specs: BTreeMap::new(),
        };
        assert!(view.detail(false).get("extra_specs").is_none());
        assert_eq!(view.detail(true)["extra_specs"], json!({}));
        assert!(view.is(DEFAULT_NAME) && view.is(&view.id.to_string()) && !view.is("x"));
    }
}

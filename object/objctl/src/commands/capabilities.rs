//! `capabilities`: what the store says it can do.

use crate::output::{self, printable};
use crate::store::Store;
use anyhow::Result;
use serde_json::Value;

pub(super) async fn run(store: &Store, json: bool) -> Result<()> {
    let told = store.capabilities().await?;
    if json {
        return output::json(&told);
    }
    for line in lines(&told) {
        output::line(&line)?;
    }
    Ok(())
}

/// Each feature with its options below it.
fn lines(told: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (feature, options) in told.as_object().into_iter().flatten() {
        lines.push(printable(feature));
        for (name, value) in options.as_object().into_iter().flatten() {
            let value = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            lines.push(format!("  {}: {}", printable(name), printable(&value)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_their_options_below_them() {
        let told = serde_json::json!({
            "slo": { "max_manifest_segments": 1000 },
            "swift": { "version": "x", "policies": [{ "name": "gold" }] },
            "copy": {},
        });
        assert_eq!(
            lines(&told),
            [
                "copy",
                "slo",
                "  max_manifest_segments: 1000",
                "swift",
                "  policies: [{\"name\":\"gold\"}]",
                "  version: x"
            ]
        );
    }
}

//! Reading request objects the way Cinder's JSON schemas do, with the same messages.

use crate::Fault;
use onggi_common_units::Uuid;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Characters of names, descriptions, metadata keys and values, types and zones.
pub const TEXT_CHARS_MAX: usize = 255;
/// Metadata items a volume may have.
pub const METADATA_ITEMS_MAX: usize = 128;
/// The largest size in GiB the API can say (Cinder keeps it in a signed 32-bit column).
pub const SIZE_GIB_MAX: u64 = 2_147_483_647;
/// Where a request to make a volume says which hosts it likes.
const SCHEDULER_HINTS: &str = "OS-SCH-HNT:scheduler_hints";
/// Characters of a wrong value that are said back.
const ECHO_CHARS_MAX: usize = 256;

/// The object under one key of a request, for example `volume`.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    name: &'a str,
    map: &'a Map<String, Value>,
}

/// A value as Python would print it inside a container, which is how Cinder's messages show it.
#[must_use]
pub fn representation(value: &Value) -> String {
    let mut out = String::new();
    represent(value, &mut out);
    out
}

fn represent(value: &Value, out: &mut String) {
    if out.len() > 4 * ECHO_CHARS_MAX {
        return;
    }
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        // Writing to a string cannot fail.
        Value::Number(number) => drop(write!(out, "{number}")),
        Value::String(text) => quote(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                represent(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (index, (key, item)) in map.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                quote(key, out);
                out.push_str(": ");
                represent(item, out);
            }
            out.push('}');
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('\'');
    for character in text.chars().take(ECHO_CHARS_MAX) {
        match character {
            '\'' => out.push_str("\\'"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => drop(write!(out, "\\x{:02x}", u32::from(control))),
            plain => out.push(plain),
        }
    }
    out.push('\'');
}

/// 400 about one field: `Invalid input for field/attribute size. Value: x. 'x' does not match '^[0-9]+$'`.
#[must_use]
pub fn invalid(field: &str, value: &Value, problem: &str) -> Fault {
    let shown = value
        .as_str()
        .map_or_else(|| representation(value), str::to_owned);
    let shown: String = shown.chars().take(ECHO_CHARS_MAX).collect();
    Fault::bad_request(format!(
        "Invalid input for field/attribute {field}. Value: {shown}. {problem}"
    ))
}

impl<'a> Fields<'a> {
    /// The object under `name` in a request body.
    ///
    /// # Errors
    /// 400 when the body is no object, has no such key, or has something else under it.
    pub fn of(body: &'a Value, name: &'a str) -> Result<Self, Fault> {
        let Some(root) = body.as_object() else {
            return Err(Fault::bad_request(format!(
                "{} is not of type 'object'",
                representation(body)
            )));
        };
        refuse_beside(name, root)?;
        let missing = || Fault::bad_request(format!("'{name}' is a required property"));
        let value = root.get(name).ok_or_else(missing)?;
        let map = value
            .as_object()
            .ok_or_else(|| not_of_type(name, value, "object"))?;
        Ok(Self { name, map })
    }

    /// The value under a key; null counts as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, even with null.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The whole object.
    #[must_use]
    pub const fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// Refuses keys that are not listed.
    ///
    /// # Errors
    /// 400 naming the keys.
    pub fn only(&self, allowed: &[&str]) -> Result<(), Fault> {
        let unexpected = self
            .map
            .keys()
            .filter(|key| !allowed.contains(&key.as_str()));
        refuse_unexpected(self.name, self.map, unexpected)
    }

    /// The value under a key that must be there and not null.
    ///
    /// # Errors
    /// 400 when it is not.
    pub fn required(&self, key: &str) -> Result<&'a Value, Fault> {
        self.get(key).ok_or_else(|| {
            let whole = Value::Object(self.map.clone());
            invalid(
                self.name,
                &whole,
                &format!("'{key}' is a required property"),
            )
        })
    }

    /// A text of at most 255 characters.
    ///
    /// # Errors
    /// 400 when it is no text or too long.
    pub fn text(&self, key: &str) -> Result<Option<String>, Fault> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let text = value
            .as_str()
            .ok_or_else(|| not_of_type(key, value, "string"))?;
        if text.chars().count() > TEXT_CHARS_MAX {
            return Err(invalid(
                key,
                value,
                &format!("{} is too long", representation(value)),
            ));
        }
        Ok(Some(text.to_owned()))
    }

    /// A name or description: 255 characters once white space around it is gone, without control characters.
    ///
    /// # Errors
    /// 400 when it is something else.
    pub fn label(&self, key: &str, noun: &str) -> Result<Option<String>, Fault> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let text = value
            .as_str()
            .ok_or_else(|| not_of_type(key, value, "string"))?
            .trim();
        let length = text.chars().count();
        if length > TEXT_CHARS_MAX {
            let message = format!("{noun} has {length} characters, more than {TEXT_CHARS_MAX}.");
            return Err(Fault::invalid_input(message));
        }
        // A NUL or a line break would break every table and log line it is shown in.
        if text.contains('\0') || (noun == "name" && text.chars().any(char::is_control)) {
            return Err(invalid(key, value, "control characters are not allowed"));
        }
        Ok(Some(text.to_owned()))
    }

    /// A UUID.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn uuid(&self, key: &str) -> Result<Option<Uuid>, Fault> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let text = value
            .as_str()
            .ok_or_else(|| not_of_type(key, value, "string"))?;
        let parsed = text.parse().ok();
        let problem = || {
            invalid(
                key,
                value,
                &format!("{} is not a 'uuid'", representation(value)),
            )
        };
        parsed.ok_or_else(problem).map(Some)
    }

    /// A size in GiB, as an integer or its digits.
    ///
    /// # Errors
    /// 400 when it is something else or out of range.
    pub fn size(&self, key: &str) -> Result<Option<u64>, Fault> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let out_of_range = |side: &str, end: &str, bound: u64| {
            let shown = value
                .as_str()
                .map_or_else(|| representation(value), str::to_owned);
            invalid(
                key,
                value,
                &format!("{shown:.32} is {side} than the {end} of {bound}"),
            )
        };
        let too_large = || out_of_range("greater", "maximum", SIZE_GIB_MAX);
        let too_small = || out_of_range("less", "minimum", 1);
        let size = match value {
            Value::Number(number) if number.is_u64() => number.as_u64().unwrap_or(u64::MAX),
            Value::Number(number) if number.is_i64() => return Err(too_small()),
            Value::Number(number)
                if number
                    .as_f64()
                    .is_some_and(|f| f.fract() == 0.0 && f > 1e18) =>
            {
                return Err(too_large());
            }
            Value::String(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                // More digits than 64 bits hold are too many in any case.
                text.parse().unwrap_or(u64::MAX)
            }
            Value::String(_) => {
                let problem = format!("{} does not match '^[0-9]+$'", representation(value));
                return Err(invalid(key, value, &problem));
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                return Err(not_of_type(key, value, "integer', 'string"));
            }
        };
        match size {
            0 => Err(too_small()),
            1..=SIZE_GIB_MAX => Ok(Some(size)),
            _ => Err(too_large()),
        }
    }

    /// A truth value in any of the spellings Cinder takes.
    ///
    /// # Errors
    /// 400 when it is none of them.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Fault> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let spelled = match value {
            Value::Bool(truth) => Some(*truth),
            Value::String(text) => truth(text),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let problem = || {
            invalid(
                key,
                value,
                &format!("{} is not a boolean", representation(value)),
            )
        };
        spelled.ok_or_else(problem).map(Some)
    }

    /// Metadata: up to 128 texts by name.
    ///
    /// # Errors
    /// 400 when names or values are not what the schema allows.
    pub fn metadata(&self, key: &str) -> Result<Option<BTreeMap<String, String>>, Fault> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let map = value
            .as_object()
            .ok_or_else(|| not_of_type(key, value, "object"))?;
        refuse_unexpected(key, map, map.keys().filter(|name| !is_metadata_key(name)))?;
        if map.len() > METADATA_ITEMS_MAX {
            let message = format!(
                "{} metadata items, at most {METADATA_ITEMS_MAX} are allowed",
                map.len()
            );
            return Err(Fault::bad_request(format!("Invalid metadata: {message}.")));
        }
        let item = |(name, value): (&String, &Value)| {
            let text = value
                .as_str()
                .ok_or_else(|| not_of_type(name, value, "string"))?;
            if text.chars().count() > TEXT_CHARS_MAX {
                return Err(invalid(
                    name,
                    value,
                    &format!("{} is too long", representation(value)),
                ));
            }
            Ok((name.clone(), text.to_owned()))
        };
        map.iter().map(item).collect::<Result<_, _>>().map(Some)
    }
}

/// Refuses what stands beside a request's object.
fn refuse_beside(name: &str, root: &Map<String, Value>) -> Result<(), Fault> {
    if root
        .get(SCHEDULER_HINTS)
        .is_some_and(|hints| hints.as_object().is_some_and(|map| !map.is_empty()))
    {
        return Err(Fault::not_implemented("place volumes by scheduler hints"));
    }
    let beside = root
        .keys()
        .find(|key| key.as_str() != name && key.as_str() != SCHEDULER_HINTS);
    match beside {
        Some(key) if root.contains_key(name) => {
            let key: String = key.chars().take(64).collect();
            let key = representation(&Value::String(key));
            Err(Fault::bad_request(format!(
                "Additional properties are not allowed ({key} was unexpected)"
            )))
        }
        Some(_) | None => Ok(()),
    }
}

/// The truth value a text spells, in Cinder's spellings.
#[must_use]
pub fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" | "y" | "t" => Some(true),
        "false" | "0" | "off" | "no" | "n" | "f" => Some(false),
        _ => None,
    }
}

fn is_metadata_key(key: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:. /".contains(&byte);
    (1..=TEXT_CHARS_MAX).contains(&key.len()) && key.bytes().all(allowed)
}

fn refuse_unexpected<'k>(
    field: &str,
    map: &Map<String, Value>,
    unexpected: impl Iterator<Item = &'k String>,
) -> Result<(), Fault> {
    let names: Vec<String> = unexpected
        .take(8)
        .map(|key| representation(&Value::String(key.clone())))
        .collect();
    let verb = match names.len() {
        0 => return Ok(()),
        1 => "was",
        _ => "were",
    };
    let problem = format!(
        "Additional properties are not allowed ({} {verb} unexpected)",
        names.join(", ")
    );
    Err(invalid(field, &Value::Object(map.clone()), &problem))
}

/// 400: the value has another type than the schema says.
#[must_use]
pub fn not_of_type(field: &str, value: &Value, expected: &str) -> Fault {
    let shown: String = representation(value).chars().take(ECHO_CHARS_MAX).collect();
    invalid(
        field,
        value,
        &format!("{shown} is not of type '{expected}'"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn size_fault(size: Value) -> String {
        let body = json!({"volume": {"size": size}});
        Fields::of(&body, "volume")
            .unwrap()
            .size("size")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn sizes_out_of_range_get_cinders_messages() {
        let field = "Invalid input for field/attribute size. Value:";
        assert_eq!(
            size_fault(json!("x")),
            format!("{field} x. 'x' does not match '^[0-9]+$'")
        );
        assert_eq!(
            size_fault(json!(0)),
            format!("{field} 0. 0 is less than the minimum of 1")
        );
        assert_eq!(
            size_fault(json!(-1)),
            format!("{field} -1. -1 is less than the minimum of 1")
        );
        assert!(
            size_fault(json!(1_000_000_000_000_000_000u64))
                .contains("greater than the maximum of 2147483647")
        );
        assert!(
            size_fault(json!(1e18)).contains("is not of type")
                || size_fault(json!(1e18)).contains("greater")
        );
        assert!(size_fault(json!("99999999999999999999999")).contains("greater than the maximum"));
        assert!(size_fault(json!(1.5)).contains("is not of type 'integer', 'string'"));
        assert!(size_fault(json!(true)).contains("True is not of type"));
        assert!(size_fault(json!([1])).contains("[1] is not of type"));
        assert!(size_fault(json!("")).contains("does not match"));
    }

    #[test]
    fn a_name_may_have_255_characters_and_not_256() {
        let body = json!({"volume": {"name": "옹".repeat(255), "description": "d".repeat(256)}});
        let fields = Fields::of(&body, "volume").unwrap();
        assert_eq!(
            fields
                .label("name", "name")
                .unwrap()
                .unwrap()
                .chars()
                .count(),
            255
        );
        let fault = fields.label("description", "description").unwrap_err();
        assert_eq!(
            fault.message(),
            "Invalid input received: description has 256 characters, more than 255."
        );
    }

    #[test]
    fn missing_and_wrong_bodies_say_what_is_wrong() {
        let message = |body: Value| Fields::of(&body, "volume").unwrap_err().to_string();
        assert_eq!(message(json!({})), "'volume' is a required property");
        assert_eq!(message(json!([])), "[] is not of type 'object'");
        assert!(message(json!({"volume": 3})).ends_with("3 is not of type 'object'"));
        let beside = "Additional properties are not allowed ('x' was unexpected)";
        assert_eq!(message(json!({"volume": {}, "x": 1})), beside);
        let hints = json!({"volume": {}, "OS-SCH-HNT:scheduler_hints": {"same_host": ["h"]}});
        assert_eq!(Fields::of(&hints, "volume").unwrap_err().code(), 501);
        let none = json!({"volume": {}, "OS-SCH-HNT:scheduler_hints": {}});
        assert!(Fields::of(&none, "volume").is_ok());
        let body = json!({"attachment": {"mode": "rw"}});
        let fault = Fields::of(&body, "attachment")
            .unwrap()
            .required("volume_uuid")
            .unwrap_err();
        assert!(
            fault
                .message()
                .ends_with("Value: {'mode': 'rw'}. 'volume_uuid' is a required property"),
            "{fault}"
        );
    }

    #[test]
    fn metadata_names_values_and_their_number_are_bounded() {
        let read = |metadata: Value| {
            let body = json!({"volume": {"metadata": metadata}});
            Fields::of(&body, "volume").unwrap().metadata("metadata")
        };
        assert_eq!(
            read(json!({"a b:c-1": "x"})).unwrap().unwrap()["a b:c-1"],
            "x"
        );
        assert_eq!(read(Value::Null).unwrap(), None);
        for bad in [
            json!({"": "x"}),
            json!({"k$": "x"}),
            json!({"k": 1}),
            json!({"k": "v".repeat(256)}),
            json!("x"),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().code(), 400, "{bad}");
        }
        let many: Map<String, Value> = (0..129).map(|n| (format!("k{n}"), json!("v"))).collect();
        assert!(
            read(Value::Object(many))
                .unwrap_err()
                .message()
                .contains("at most 128")
        );
    }

    #[test]
    fn unexpected_keys_are_named() {
        let body = json!({"attachment": {"x": 1, "y": 2}});
        let fault = Fields::of(&body, "attachment")
            .unwrap()
            .only(&["x"])
            .unwrap_err();
        assert!(fault.message().contains("('y' was unexpected)"), "{fault}");
    }

    #[test]
    fn values_are_shown_as_python_shows_them() {
        let value = json!({"a": [null, true, "it's"], "b": 1});
        assert_eq!(
            representation(&value),
            "{'a': [None, True, 'it\\'s'], 'b': 1}"
        );
    }

    proptest! {
        #[test]
        fn a_message_stays_short_whatever_the_value(text in ".{0,2000}") {
            let body = json!({"volume": {"size": text, "deep": [text]}});
            if let Err(fault) = Fields::of(&body, "volume").unwrap().size("size") {
                prop_assert!(fault.message().chars().count() < 3 * ECHO_CHARS_MAX + 200);
            }
        }
    }
}

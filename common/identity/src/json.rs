//! JSON from outside: bounded depth, no key twice, and errors that never repeat what was sent.

use core::fmt;
use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep arrays and objects may be nested.
pub(crate) const DEPTH_MAX: usize = 32;

/// Why a body is refused. It holds no piece of the body: that may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error(
        "The body is not JSON (line {line}, column {column}), has a key twice, or is nested deeper than {DEPTH_MAX}."
    )]
    Syntax { line: usize, column: usize },
    #[error("Expecting to find {field} in request body.")]
    Missing { field: String },
    #[error("A value in the body has the wrong type.")]
    Shape,
}

/// Reads a body.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, JsonError> {
    let syntax = |error: &serde_json::Error| JsonError::Syntax {
        line: error.line(),
        column: error.column(),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Strict {
        depth_left: DEPTH_MAX,
    }
    .deserialize(&mut deserializer);
    let value = value
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|e| syntax(&e))?;
    serde_json::from_value(value).map_err(|error| {
        // serde names a missing field as the program does; every other message may quote the body.
        let text = error.to_string();
        let field = text
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next());
        field.map_or(JsonError::Shape, |field| JsonError::Missing {
            field: field.to_owned(),
        })
    })
}

#[derive(Clone, Copy)]
struct Strict {
    depth_left: usize,
}

impl Strict {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth_left = self
            .depth_left
            .checked_sub(1)
            .ok_or_else(|| E::custom("too deep"))?;
        Ok(Self { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(value) = entries.next_element_seed(inner)? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(inner)?;
            if object.insert(key, value).is_some() {
                return Err(serde::de::Error::custom("a key comes twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, serde::Deserialize)]
    struct Wanted {
        #[expect(dead_code, reason = "only whether it can be read matters")]
        user: Map<String, Value>,
    }

    #[test]
    fn bombs_and_doubtful_bodies_are_refused() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<Value>(nested(DEPTH_MAX).as_bytes()).is_ok());
        for bad in [
            nested(DEPTH_MAX + 1),
            nested(100_000),
            "{\"a\":".repeat(50_000),
            r#"{"a":1,"a":2}"#.to_owned(),
            r#"{"a":{"b":1,"b":1}}"#.to_owned(),
            r#"{"a":NaN}"#.to_owned(),
            r#"{"a":1e999}"#.to_owned(),
            r#"{"a":1} x"#.to_owned(),
            String::new(),
        ] {
            assert!(parse::<Value>(bad.as_bytes()).is_err(), "{:.40}", bad);
        }
        assert!(parse::<Value>(b"\"\xff\"").is_err());
    }

    #[test]
    fn errors_name_what_is_missing_and_never_what_was_sent() {
        assert_eq!(
            parse::<Wanted>(b"{}").unwrap_err(),
            JsonError::Missing {
                field: "user".to_owned()
            }
        );
        for body in [
            r#"{"user":"hunter2"}"#,
            r#"{"user" hunter2"#,
            r#""hunter2""#,
        ] {
            let error = parse::<Wanted>(body.as_bytes()).unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{error:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_json_without_a_key_twice_reads_as_serde_reads_it(text in "[\\[\\]{}\",:a-c0-9.e+ -]{0,40}") {
            if let Ok(value) = parse::<Value>(text.as_bytes()) {
                prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
            }
        }
    }
}

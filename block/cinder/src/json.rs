//! JSON from outside: bounded in size and depth, and without two keys of one name.

use crate::Fault;
use core::fmt;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Bytes a request body may have (Cinder's `osapi_max_request_body_size`).
pub const BODY_BYTES_MAX: usize = 114_688;
/// How deep arrays and objects may nest.
pub const DEPTH_MAX: usize = 32;

/// Reads a request body.
///
/// # Errors
/// 400 when it is no JSON, nests too deep, or has a key twice.
pub fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    let malformed = |reason: serde_json::Error| {
        Fault::bad_request(format!(
            "Malformed message body: cannot understand JSON: {reason}"
        ))
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }
        .deserialize(&mut deserializer)
        .map_err(malformed)?;
    deserializer.end().map_err(malformed)?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("more than {DEPTH_MAX} levels deep")));
        }
        Ok(Self {
            depth: self.depth + 1,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                let key: String = key.chars().take(64).collect();
                return Err(A::Error::custom(format_args!(
                    "the key {key:?} is there twice"
                )));
            }
            let value = entries.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_reads_as_it_is() {
        let text = br#"{"volume": {"size": 1, "name": null, "metadata": {"a": "b"}, "list": [1.5, -2, true]}}"#;
        assert_eq!(
            parse(text).unwrap(),
            serde_json::from_slice::<Value>(text).unwrap()
        );
    }

    #[test]
    fn what_is_no_document_is_a_bad_request() {
        for bad in [
            "",
            "{",
            "{]",
            "nope",
            "{} {}",
            "NaN",
            "{\"a\": Infinity}",
            "\u{0}",
            "{\"a\":1,}",
        ] {
            assert_eq!(parse(bad.as_bytes()).unwrap_err().code(), 400, "{bad}");
        }
    }

    #[test]
    fn a_key_given_twice_is_named() {
        let fault = parse(br#"{"volume": {"size": 1, "size": 9}}"#).unwrap_err();
        assert!(
            fault.message().contains("\"size\" is there twice"),
            "{fault}"
        );
    }

    #[test]
    fn a_nesting_bomb_is_refused() {
        let bomb = "[".repeat(50_000);
        assert!(
            parse(bomb.as_bytes())
                .unwrap_err()
                .message()
                .contains("levels deep")
        );
        let objects = "{\"a\":".repeat(10_000);
        assert_eq!(parse(objects.as_bytes()).unwrap_err().code(), 400);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
        }
    }
}

//! One request, parsed, and the answer to it.

use crate::caller::Caller;
use crate::fault::Fault;
use crate::json;
use crate::realm::Realm;
use crate::token::Claims;
use crate::verifier::VerifyError;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Segments of a path: none of ours has more than eight.
const SEGMENTS_MAX: usize = 12;
/// Pairs of a query.
const QUERY_PAIRS_MAX: usize = 64;

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) realm: &'a Realm,
    pub(crate) method: Method,
    /// The path's segments, decoded, without empty ones.
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: bytes::Bytes,
    /// The target as it came: what the feed's proof covers.
    pub(crate) target: String,
    /// How the client reached us, for links: `http://host:port`.
    pub(crate) base: String,
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: AnswerBody,
}

#[derive(Debug)]
pub(crate) enum AnswerBody {
    None,
    Json(Value),
    Bytes {
        content_type: &'static str,
        bytes: Vec<u8>,
    },
}

impl Answer {
    pub(crate) fn json(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: AnswerBody::Json(body),
        }
    }

    pub(crate) fn ok(body: Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    pub(crate) fn created(body: Value) -> Self {
        Self::json(StatusCode::CREATED, body)
    }

    pub(crate) const fn no_content() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            headers: Vec::new(),
            body: AnswerBody::None,
        }
    }
}

fn decode(text: &str) -> Result<String, Fault> {
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned());
    let decoded = decoded.ok().filter(|text| !text.contains('\0'));
    decoded.ok_or_else(|| Fault::bad("The path or query is not valid UTF-8."))
}

/// The decoded, non-empty segments of a path.
pub(crate) fn segments(path: &str) -> Result<Vec<String>, Fault> {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let segments: Vec<_> = segments.take(SEGMENTS_MAX + 1).collect();
    if segments.len() > SEGMENTS_MAX {
        return Err(Fault::NoSuchPath);
    }
    segments.into_iter().map(decode).collect()
}

/// The decoded pairs of a query; a key without `=` has an empty value.
pub(crate) fn query_pairs(query: &str) -> Result<Vec<(String, String)>, Fault> {
    let pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .take(QUERY_PAIRS_MAX);
    let decode = |text: &str| decode(&text.replace('+', " "));
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        })
        .collect()
}

impl Call<'_> {
    pub(crate) fn segments(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a switch like `?nocatalog` is on.
    pub(crate) fn has_switch(&self, name: &str) -> bool {
        self.query(name)
            .is_some_and(|value| !matches!(value, "0" | "false" | "False"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .and_then(|value| core::str::from_utf8(value.as_bytes()).ok())
    }

    /// What the caller's token says.
    pub(crate) fn claims(&self) -> Result<Claims, Fault> {
        let token = self.header("x-auth-token").ok_or(Fault::Unauthorized)?;
        self.realm
            .verifier
            .claims(token)
            .map_err(|error| match error {
                VerifyError::Token(_) | VerifyError::Expired | VerifyError::Revoked => {
                    Fault::Unauthorized
                }
                VerifyError::NotReady => Fault::Busy,
            })
    }

    pub(crate) fn caller(&self) -> Result<Caller, Fault> {
        self.claims().map(|claims| Caller::from_claims(&claims))
    }

    /// The caller, who must be an admin.
    pub(crate) fn admin(&self, action: &'static str) -> Result<Caller, Fault> {
        let caller = self.caller()?;
        if caller.is_admin() {
            Ok(caller)
        } else {
            Err(Fault::Forbidden { action })
        }
    }

    /// The caller, who must be an admin or this user.
    pub(crate) fn admin_or_user(
        &self,
        action: &'static str,
        user_id: &str,
    ) -> Result<Caller, Fault> {
        let caller = self.caller()?;
        let is_self = caller.user_id == user_id;
        if is_self || caller.is_admin() {
            Ok(caller)
        } else {
            Err(Fault::Forbidden { action })
        }
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        Ok(json::parse(&self.body)?)
    }

    /// The fields of the object named `kind` in the body.
    pub(crate) fn fields(&self, kind: &'static str) -> Result<Fields, Fault> {
        let mut body: Map<String, Value> = self.json()?;
        match body.remove(kind) {
            Some(Value::Object(fields)) => Ok(Fields(fields)),
            _ => Err(Fault::bad(format!(
                "Expecting to find {kind} in request body. The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error."
            ))),
        }
    }

    /// The link of something under `/v3`.
    pub(crate) fn link(&self, path: &str) -> String {
        format!("{}/v3/{path}", self.base)
    }

    /// A list as Keystone gives it.
    pub(crate) fn list(&self, name: &str, entries: Vec<Value>) -> Answer {
        let own = format!("{}{}", self.base, self.target);
        let links = serde_json::json!({"next": null, "self": own, "previous": null});
        let mut body = Map::new();
        body.insert(name.to_owned(), Value::Array(entries));
        body.insert("links".to_owned(), links);
        Answer::ok(Value::Object(body))
    }
}

/// Bytes all unknown attributes of one entity may have together.
const EXTRA_BYTES_MAX: usize = 32 << 10;
/// Unknown attributes of one entity.
const EXTRA_COUNT_MAX: usize = 64;

/// The fields of an entity in a body, taken out one by one; what is left is the client's own.
pub(crate) struct Fields(Map<String, Value>);

fn invalid(field: &str, rule: &str) -> Fault {
    Fault::bad(format!("Invalid input for field '{field}': {rule}."))
}

impl Fields {
    /// A text; absent or null is `None`.
    pub(crate) fn text(&mut self, field: &str) -> Result<Option<String>, Fault> {
        Ok(self.text_or_null(field)?.flatten())
    }

    /// A text, null, or nothing at all.
    pub(crate) fn text_or_null(&mut self, field: &str) -> Result<Option<Option<String>>, Fault> {
        match self.0.remove(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(text)) if !text.contains('\0') => Ok(Some(Some(text))),
            Some(_) => Err(invalid(field, "it is not a text")),
        }
    }

    /// A name of 1 to `chars_max` characters, if there is one.
    pub(crate) fn name(&mut self, chars_max: usize) -> Result<Option<String>, Fault> {
        let name = self.text("name")?;
        match &name {
            Some(text) if text.trim().is_empty() => Err(invalid("name", "it is empty")),
            Some(text) if text.chars().count() > chars_max => Err(invalid(
                "name",
                &format!("it is longer than {chars_max} characters"),
            )),
            Some(text) if text.chars().any(char::is_control) => {
                Err(invalid("name", "it has control characters"))
            }
            Some(_) | None => Ok(name),
        }
    }

    /// A name that must be there.
    pub(crate) fn required_name(&mut self, chars_max: usize) -> Result<String, Fault> {
        self.name(chars_max)?
            .ok_or_else(|| Fault::bad("'name' is a required property."))
    }

    pub(crate) fn required_text(&mut self, field: &str) -> Result<String, Fault> {
        self.text(field)?
            .ok_or_else(|| Fault::bad(format!("'{field}' is a required property.")))
    }

    pub(crate) fn flag(&mut self, field: &str) -> Result<Option<bool>, Fault> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(invalid(field, "it is not a boolean")),
        }
    }

    /// A list of texts, if there is one.
    pub(crate) fn texts(&mut self, field: &str) -> Result<Option<Vec<String>>, Fault> {
        let Some(value) = self.0.remove(field) else {
            return Ok(None);
        };
        let texts: Option<Vec<String>> = serde_json::from_value(value).ok();
        texts
            .map(Some)
            .ok_or_else(|| invalid(field, "it is not a list of texts"))
    }

    /// Takes fields out whose value does not matter.
    pub(crate) fn ignore(&mut self, fields: &[&str]) {
        fields.iter().for_each(|field| drop(self.0.remove(*field)));
    }

    /// What is left, laid over what was there before.
    pub(crate) fn extra(self, before: &Map<String, Value>) -> Result<Map<String, Value>, Fault> {
        let mut extra = before.clone();
        extra.extend(self.0);
        let bytes: usize = extra
            .iter()
            .map(|(key, value)| key.len() + value.to_string().len())
            .sum();
        if extra.len() > EXTRA_COUNT_MAX || bytes > EXTRA_BYTES_MAX {
            return Err(Fault::bad("The attributes are too many or too long."));
        }
        Ok(extra)
    }
}

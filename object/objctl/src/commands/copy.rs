//! `copy`: objects within the store.

use super::Crew;
use crate::cli::Copy;
use crate::output::{Done, printable};
use crate::store::{Name, Store, headers};
use anyhow::{Context as _, Result, bail};
use http::{HeaderValue, Method};
use onggi_object_model::path::{encode_rest, encode_segment};
use std::sync::Arc;

/// Where an object goes: `/container` or `/container/object`.
fn target(destination: Option<&str>, container: &str, object: &str) -> Result<(String, String)> {
    let Some(destination) = destination else {
        return Ok((container.to_owned(), object.to_owned()));
    };
    let path = destination.strip_prefix('/').with_context(|| {
        format!("{destination}: a destination is /container or /container/object")
    })?;
    let (container, name) = path.split_once('/').unwrap_or((path, ""));
    if container.is_empty() {
        bail!("{destination} names no container");
    }
    let name = if name.is_empty() { object } else { name };
    Ok((container.to_owned(), name.to_owned()))
}

pub(super) async fn run(store: &Arc<Store>, asked: Copy, json: bool) -> Result<()> {
    let destination = asked.destination.as_deref();
    let names_object = destination.is_some_and(|path| path.trim_start_matches('/').contains('/'));
    if names_object && asked.objects.len() > 1 {
        bail!("a destination with an object's name is for one object");
    }
    let mut all = headers(&asked.meta, "x-object-meta-")?;
    all.extend(headers(&asked.header, "")?);
    if asked.fresh_metadata {
        all.insert("x-fresh-metadata", HeaderValue::from_static("true"));
    }
    let mut crew = Crew::new(asked.threads, json);
    for object in asked.objects {
        let (container, name) = target(destination, &asked.container, &object)?;
        let source = format!(
            "{}/{}",
            encode_segment(&asked.container),
            encode_rest(&object)
        );
        let mut all = all.clone();
        all.insert("x-copy-from", HeaderValue::from_str(&source)?);
        let store = Arc::clone(store);
        crew.add(async move {
            let to = Name::Object(container.clone(), name.clone());
            store.tell(Method::PUT, &to, all).await?;
            let text = format!("{} -> {}", printable(&object), printable(&to.to_string()));
            Ok(Some(Done {
                text,
                ..Done::new("copy", &container, &name)
            }))
        })
        .await?;
    }
    crew.finish().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_names_a_container_and_maybe_an_object() {
        let to = |text| target(text, "c", "a/b").map(|(c, o)| format!("{c}|{o}"));
        assert_eq!(to(None).unwrap(), "c|a/b");
        assert_eq!(to(Some("/d")).unwrap(), "d|a/b");
        assert_eq!(to(Some("/d/")).unwrap(), "d|a/b");
        assert_eq!(to(Some("/d/x/y")).unwrap(), "d|x/y");
        assert!(to(Some("d")).is_err() && to(Some("/")).is_err());
    }
}

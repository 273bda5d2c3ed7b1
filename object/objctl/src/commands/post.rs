//! `post`: containers are made, metadata is changed.

use crate::cli::Post;
use crate::store::{Name, Store, headers};
use anyhow::{Result, bail};
use http::{HeaderValue, Method};

pub(super) async fn run(store: &Store, post: Post) -> Result<()> {
    let name = Name::of(post.container, post.object);
    let (prefix, method) = match &name {
        Name::Account => ("x-account-meta-", Method::POST),
        // PUT makes the container when it is not there and changes it when it is.
        Name::Container(_) => ("x-container-meta-", Method::PUT),
        Name::Object(..) => ("x-object-meta-", Method::POST),
    };
    let mut all = headers(&post.meta, prefix)?;
    all.extend(headers(&post.header, "")?);
    for (acl, header) in [
        (post.read_acl, "x-container-read"),
        (post.write_acl, "x-container-write"),
    ] {
        let Some(acl) = acl else { continue };
        if !matches!(name, Name::Container(_)) {
            bail!("{name} has no ACLs: only containers do");
        }
        all.insert(header, HeaderValue::from_bytes(acl.as_bytes())?);
    }
    store.tell(method, &name, all).await
}

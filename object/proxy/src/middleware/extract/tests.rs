//! Where files of an archive go, and what becomes of their attributes.

use super::*;
use onggi_object_model::Resource;

#[test]
fn files_go_below_what_the_url_names_and_never_beside_it() {
    let base_of = |path: &str| base(&Resource::parse(path).unwrap());
    assert_eq!(base_of("/v1/a"), "");
    assert_eq!(base_of("/v1/a/c"), "c/");
    assert_eq!(base_of("/v1/a/c/p/q/"), "c/p/q/");
    let to = |base: &str, name: &str| {
        place(base, name.as_bytes()).map(|(whole, _)| String::from_utf8(whole).unwrap())
    };
    assert_eq!(to("", "./c/o").as_deref(), Some("c/o"));
    assert_eq!(to("", "//c/o").as_deref(), Some("c/o"));
    assert_eq!(to("", "file"), None);
    assert_eq!(to("c/", "file").as_deref(), Some("c/file"));
    // A name is no path in a file system: this is an object called so.
    assert_eq!(to("c/", "../x/o").as_deref(), Some("c/../x/o"));
}

#[test]
fn names_that_are_none_are_told_apart() {
    let account: AccountName = "AUTH_a".parse().unwrap();
    let of = |place: &[u8]| object_path(&account, place);
    assert!(of("c/옹기".as_bytes()).is_ok());
    assert_eq!(of(b"c/\xff"), Err(StatusCode::PRECONDITION_FAILED));
    assert_eq!(of(b"\0versions\0c/o"), Err(StatusCode::PRECONDITION_FAILED));
    let long = format!("c/{}", "x".repeat(OBJECT_NAME_BYTES_MAX + 1));
    assert_eq!(of(long.as_bytes()), Err(StatusCode::BAD_REQUEST));
    assert_eq!(of(b"c/"), Err(StatusCode::BAD_REQUEST));
    assert_eq!(shown(b"c/a b\xff"), "c/a%20b%FF");
}

#[test]
fn attributes_become_headers_and_only_those_of_users() {
    let attributes = [
        ("SCHILY.xattr.user.mime_type", "text/x-a"),
        ("LIBARCHIVE.xattr.user.meta.Lunch", "burger"),
        ("SCHILY.xattr.user.meta.bad\r\nname", "x"),
        ("SCHILY.xattr.user.x-object-sysmeta-a", "x"),
        ("SCHILY.xattr.trusted.meta.a", "x"),
    ];
    let entry = TarEntry {
        name: b"o".to_vec(),
        kind: TarKind::File,
        size: 7,
        attributes: attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect(),
    };
    let mut request = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/x-tar"),
        ("x-object-meta-all", "yes"),
        ("x-delete-after", "60"),
        ("x-object-manifest", "c/p"),
        ("etag", "x"),
    ] {
        request.insert(name, HeaderValue::from_static(value));
    }
    let mut made = HeaderMap::new();
    headers(&request, &entry, &mut made);
    let mut names: Vec<&str> = made.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-length",
            "content-type",
            "x-delete-after",
            "x-object-meta-all",
            "x-object-meta-lunch"
        ]
    );
    assert_eq!(made["content-type"], "text/x-a");
}

//! Realms, destinations and signatures: what Swift itself makes, and what hostile files and headers do.

use super::*;
use file::Problem;
use proptest::prelude::*;

const FILE: &str = "\
# a comment\n\
[DEFAULT]\n\
mtime_check_interval = 7.5\n\
\n\
[Realm1]\n\
key = realm key\n\
key2: other%%key\n\
cluster_One = https://one.example.com/v1/\n\
cluster_two=http://[::1]:8080/swift/v1\n\
; another\n\
[lonely]\n\
key = k\n";

fn realms() -> Realms {
    Realms::parse(FILE).unwrap()
}

fn request<'a>(method: &'a str, path: &'a str, timestamp: &'a str) -> SyncRequest<'a> {
    SyncRequest {
        method,
        path,
        timestamp,
    }
}

#[test]
fn signatures_are_those_swift_2_38_3_makes() {
    let put = request("PUT", "/v1/AUTH_a/c/o%20%C3%A9", "1700000000.12345");
    assert_eq!(
        signature(
            &Secret::new("realm key"),
            &put,
            "nonce",
            &Secret::new("user key")
        ),
        "f0181291df6f4e9e34295d3f4592d6ca88436c59"
    );
    let delete = request("DELETE", "/v1/AUTH_a/c/o", "0");
    assert_eq!(
        signature(&Secret::new("k2"), &delete, "n", &Secret::new("옹기")),
        "bcd194e897288fa57ff42144ac39123ddef8cf8d"
    );
}

#[test]
fn a_request_holds_under_either_key_of_its_realm_and_over_nothing_else() {
    let (realms, key) = (realms(), Secret::new("user key"));
    let put = request("PUT", "/v1/a/c/o", "1.00000");
    let auth = realms.sign("REALM1", &put, "n", &key).unwrap();
    assert_eq!(realms.verify(&auth, &put, Some(&key)), Ok(()));
    let second = signature(&Secret::new("other%key"), &put, "n", &key);
    let second = format!("realm1 n {second}");
    assert_eq!(realms.verify(&second, &put, Some(&key)), Ok(()));
    for other in [
        request("DELETE", "/v1/a/c/o", "1.00000"),
        request("PUT", "/v1/a/c/p", "1.00000"),
        request("PUT", "/v1/a/c/o", "2.00000"),
    ] {
        let said = realms.verify(&auth, &other, Some(&key));
        assert_eq!(said, Err(SyncRefusal::Forged), "{other:?}");
    }
    let wrong = Secret::new("another");
    for (auth, key, why) in [
        (auth.as_str(), Some(&wrong), SyncRefusal::Forged),
        (&auth, None, SyncRefusal::NoContainerKey),
        (&auth, Some(&Secret::new("")), SyncRefusal::NoContainerKey),
        ("realm1 n", Some(&key), SyncRefusal::Malformed),
        ("", Some(&key), SyncRefusal::Malformed),
        ("nowhere n 00", Some(&key), SyncRefusal::NoRealmKey),
        ("realm1 n \u{e9}", Some(&key), SyncRefusal::Forged),
        (&"a ".repeat(600), Some(&key), SyncRefusal::Malformed),
    ] {
        assert_eq!(realms.verify(auth, &put, key), Err(why), "{auth}");
    }
}

#[test]
fn a_file_is_read_as_swift_reads_it() {
    let realms = realms();
    assert_eq!(realms.check_interval(), Duration::from_millis(7_500));
    let shown: Vec<_> = realms
        .clusters()
        .map(|(realm, clusters)| (realm.to_owned(), clusters.collect::<Vec<_>>().join(" ")))
        .collect();
    assert_eq!(shown, [("REALM1".to_owned(), "ONE TWO".to_owned())]);
    let to = realms.destination("//REALM1/two/AUTH_x/c%20d/").unwrap();
    let to = to.unwrap();
    assert_eq!(
        (
            to.path.as_str(),
            to.endpoint.host.as_str(),
            to.endpoint.port
        ),
        ("/swift/v1/AUTH_x/c%20d", "::1", 8080)
    );
    assert_eq!(to.object("a b/c?"), "/swift/v1/AUTH_x/c%20d/a%20b/c%3F");
    let to = realms.destination("//realm1/ONE/AUTH_x/옹기").unwrap();
    let to = to.unwrap();
    assert!(to.endpoint.is_secure && to.endpoint.port == 443);
    assert_eq!(to.path, "/v1/AUTH_x/%EC%98%B9%EA%B8%B0");
    assert!(Realms::parse("").unwrap().clusters().next().is_none());
}

#[test]
fn a_destination_that_leads_nowhere_is_told_in_swifts_words() {
    let realms = realms();
    assert_eq!(realms.destination(""), Ok(None));
    assert_eq!(realms.destination("//"), Ok(None));
    for (value, words) in [
        ("//a/b", "Invalid X-Container-Sync-To format '//a/b'"),
        ("//realm1/one/a/c/o", "Invalid X-Container-Sync-To format"),
        ("//realm1/one/../c", "Invalid X-Container-Sync-To format"),
        (
            "//realm1/one/a/%2e%2e",
            "Invalid X-Container-Sync-To format",
        ),
        ("//realm1/one/a%2Fb/c", "Invalid X-Container-Sync-To format"),
        ("//realm1/one//c", "Invalid X-Container-Sync-To format"),
        ("//realm1/one/a/%ff", "Invalid X-Container-Sync-To format"),
        ("nonsense", "Invalid X-Container-Sync-To format"),
        ("//x/one/a/c", "No realm key for 'x'"),
        ("//realm1/x/a/c", "No cluster endpoint for 'realm1' 'x'"),
        ("http://host/v1/a/c", "Full URLs are not allowed"),
    ] {
        let said = realms.destination(value).unwrap_err().to_string();
        assert!(said.starts_with(words), "{value}: {said}");
    }
}

#[test]
fn a_malformed_file_is_told_by_line_and_never_by_value() {
    for (text, line, problem) in [
        ("key = sesame", 1, Problem::NoSection),
        ("[r]\nkey = sesame\nkey = sesame", 3, Problem::Twice),
        ("[r]\nkey = sesame\n[R]\nkey = sesame", 3, Problem::Twice),
        ("[r]\nkey = sesame\n  more sesame", 3, Problem::Continued),
        ("[r]\nkey = sesame%s", 2, Problem::Percent),
        ("[r]\nkey =", 2, Problem::EmptyKey),
        ("\n[r]\nkey2 = sesame", 2, Problem::NoKey),
        ("[r]\nkye = sesame", 2, Problem::Unknown),
        ("[r\nkey = sesame", 1, Problem::Syntax),
        ("[r]\nsesame", 2, Problem::Syntax),
        ("[r]\n= sesame", 2, Problem::Syntax),
        ("[r s]", 1, Problem::Name),
        ("[r/s]", 1, Problem::Name),
        ("[]", 1, Problem::Name),
        ("[DEFAULT]\nkey = sesame", 2, Problem::Unknown),
        ("[DEFAULT]\nmtime_check_interval = -1", 2, Problem::Interval),
        (
            "[DEFAULT]\nmtime_check_interval = nan",
            2,
            Problem::Interval,
        ),
        ("[r]\ncluster_ = http://h/v1", 2, Problem::Name),
        ("[r]\ncluster_a = ftp://h/v1", 2, Problem::Endpoint),
        ("[r]\ncluster_a = http://h", 2, Problem::Endpoint),
        (
            "[r]\ncluster_a = http://u:sesame@h/v1",
            2,
            Problem::Endpoint,
        ),
        ("[r]\ncluster_a = http://h:0/v1", 2, Problem::Endpoint),
        ("[r]\ncluster_a = http://[::1/v1", 2, Problem::Endpoint),
        ("[r]\ncluster_a = http://h/v1?x", 2, Problem::Endpoint),
    ] {
        let error = Realms::parse(text).unwrap_err();
        assert_eq!((error.line, &error.problem), (line, &problem), "{text}");
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
    let large = format!("[r]\nkey = k\n#{}", "x".repeat(FILE_BYTES_MAX));
    assert_eq!(
        Realms::parse(&large).unwrap_err().problem,
        Problem::TooLarge
    );
    let many = "[r]\nkey = k\n".to_owned()
        + &(0..1_001)
            .map(|n| format!("cluster_{n} = http://h/v1\n"))
            .collect::<String>();
    assert_eq!(Realms::parse(&many).unwrap_err().problem, Problem::TooLarge);
    let shown = format!("{:?}", Realms::parse("[r]\nkey = sesame").unwrap());
    assert!(!shown.contains("sesame"), "{shown}");
}

proptest! {
    #[test]
    fn nothing_makes_the_readers_panic(text in "(\\PC|[\\[\\]=:%/\n]){0,80}") {
        drop(Realms::parse(&text));
        drop(Realms::parse(&format!("[r]\nkey = k\ncluster_a = {text}")));
        drop(realms().destination(&text));
        drop(realms().destination(&format!("//realm1/one/{text}")));
        let put = request("PUT", "/v1/a/c/o", "1");
        prop_assert!(realms().verify(&text, &put, Some(&Secret::new("k"))).is_err());
    }
}

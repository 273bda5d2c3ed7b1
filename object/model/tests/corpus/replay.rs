//! The fuzzers' corpus through the functions they call: what was once found stays found.

#[path = "../../../../integration/fuzz/object_entry.rs"]
mod object_entry;

use std::path::Path;

fn replay(target: &str, take: impl Fn(&[u8])) {
    // Asked when it runs: a build that another clone of this source made is taken as it is.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let folder = Path::new(&here)
        .join("../../integration/fuzz/corpus")
        .join(target);
    let mut inputs = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        take(&bytes);
        // What is cut short is an input of its own.
        take(&bytes[..bytes.len() / 2]);
        inputs += 1;
    }
    assert!(inputs >= 20, "{inputs} inputs in {}", folder.display());
}

#[test]
fn the_corpus_of_paths_queries_and_headers() {
    replay("headers", object_entry::headers);
}

#[test]
fn the_corpus_of_ranges() {
    replay("range", object_entry::range);
}

#[test]
fn the_corpus_of_listings() {
    replay("xml", object_entry::xml);
}

#[test]
fn the_corpus_of_archives() {
    replay("tar", object_entry::tar);
}

#[test]
fn the_corpus_of_forms() {
    replay("multipart", object_entry::multipart);
}

//! The fuzzers' corpus through the functions they call: what was once found stays found.

#[path = "../../../../integration/fuzz/entry.rs"]
mod entry;

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
fn the_corpus_of_the_pdu_decoder() {
    replay("pdu", entry::pdu);
}

#[test]
fn the_corpus_of_text_negotiation() {
    replay("text", entry::text);
}

#[test]
fn the_corpus_of_cdbs() {
    replay("cdb", entry::cdb);
}

#[test]
fn the_corpus_of_whole_connections() {
    replay("connection", entry::connection);
}

#![no_main]

#[path = "../object_entry.rs"]
mod object_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| object_entry::range(bytes));

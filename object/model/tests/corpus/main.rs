//! What fuzzers found of the object API's parsers.

#[cfg(test)]
mod replay;

//! What the pool and the LVM worker say to each other: one JSON object a line, one answer to each request, in order.
//!
//! The worker is another program because liblvm2cmd keeps process-wide state, allows one thread only, and can end the
//! process it runs in.

use serde::{Deserialize, Serialize};

/// The status of a command that ran into its time limit, as timeout(1) has it.
pub const STATUS_TIMED_OUT: i32 = 124;

/// The status of a command that could not be started at all, as a shell has it.
pub const STATUS_NOT_STARTED: i32 = 127;

/// How many words a command may have: liblvm2cmd splits a line into at most 64, and refuses exactly 64.
pub const WORD_COUNT_MAX: usize = 63;

/// What one answer may have: the report of a group with some ten thousand volumes.
pub const ANSWER_BYTES_MAX: usize = 32 << 20;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Comes back in the answer.
    pub id: u64,
    /// The LVM command and its arguments, without `lvm` itself.
    pub args: Vec<String>,
    /// How long it may take. The library cannot be interrupted: there the caller ends the worker.
    pub limit_ms: u64,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// The request's.
    pub id: u64,
    /// 0 for success, else the exit status `lvm` has: 2 no such command, 3 bad arguments, 5 failed.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it warned and complained about.
    pub log: String,
}

/// Why a command cannot be handed to LVM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// There are no words, or too many.
    #[error("an LVM command of {count} words; 1 to {WORD_COUNT_MAX} are possible")]
    Count {
        /// How many.
        count: usize,
    },
    /// A word is empty, not printable ASCII, or mixes quotes in a way LVM's own splitting cannot express.
    #[error("{word:?} cannot be a word of an LVM command")]
    Word {
        /// The word.
        word: String,
    },
}

/// The command as the one line liblvm2cmd wants, split again into the same words.
///
/// LVM's splitting knows quotes only around a whole word, and nothing that would escape them.
///
/// # Errors
/// When the words cannot be expressed. The same holds when `lvm` is run as a program, so that both behave alike.
pub fn command_line(words: &[String]) -> Result<String, WordError> {
    if words.is_empty() || words.len() > WORD_COUNT_MAX {
        return Err(WordError::Count { count: words.len() });
    }
    let quoted: Result<Vec<String>, WordError> = words.iter().map(|word| quote(word)).collect();
    Ok(quoted?.join(" "))
}

fn quote(word: &str) -> Result<String, WordError> {
    let is_fit = !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let needs_quotes = word.contains([' ', '"', '\'']);
    match (
        is_fit,
        needs_quotes,
        word.contains('\''),
        word.contains('"'),
    ) {
        (true, false, _, _) => Ok(word.to_owned()),
        (true, true, false, _) => Ok(format!("'{word}'")),
        (true, true, true, false) => Ok(format!("\"{word}\"")),
        _ => Err(WordError::Word {
            word: word.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What lvm_split() of LVM's lvmcmdline.c does, written down from its behaviour.
    fn split(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut rest = line;
        loop {
            rest = rest.trim_start_matches(' ');
            let Some(first) = rest.chars().next() else {
                return words;
            };
            let (body, end) = match first {
                '\'' | '"' => (&rest[1..], rest[1..].find(first)),
                _ => (rest, rest.find(' ')),
            };
            let end = end.unwrap_or(body.len());
            words.push(body[..end].to_owned());
            rest = body.get(end + 1..).unwrap_or("");
        }
    }

    #[test]
    fn the_json_lines_stay_as_they_are() {
        let request = Request {
            id: 1,
            args: vec!["vgs".to_owned()],
            limit_ms: 5,
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"id":1,"args":["vgs"],"limit_ms":5}"#
        );
        let response = Response {
            id: 1,
            status: 5,
            stdout: String::new(),
            log: "no".to_owned(),
        };
        assert_eq!(
            serde_json::to_string(&response).unwrap(),
            r#"{"id":1,"status":5,"stdout":"","log":"no"}"#
        );
    }

    #[test]
    fn what_lvm_cannot_split_is_refused() {
        for bad in ["", "a\nb", "a\tb", "é", "it's \"both\"", "\0"] {
            assert!(
                matches!(command_line(&[bad.to_owned()]), Err(WordError::Word { .. })),
                "{bad:?}"
            );
        }
        assert_eq!(command_line(&[]), Err(WordError::Count { count: 0 }));
        assert_eq!(
            command_line(&vec!["a".to_owned(); 64]),
            Err(WordError::Count { count: 64 })
        );
    }

    proptest! {
        #[test]
        fn a_line_splits_into_the_same_words(words in prop::collection::vec("[ -~]{0,8}", 0..8)) {
            if let Ok(line) = command_line(&words) {
                prop_assert_eq!(split(&line), words);
            }
        }
    }
}

//! What is printed: lines on standard output, complaints on standard error.

use anyhow::Result;
use std::io::Write as _;

/// Prints a line.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Something that was done, as it is told.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Done {
    /// `upload`, `download`, `delete` or `copy`.
    pub(crate) action: &'static str,
    /// The container; none for a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    /// The object or file.
    pub(crate) name: String,
    /// How it reads for people.
    #[serde(skip)]
    pub(crate) text: String,
}

impl Done {
    /// An object, told by its name alone.
    pub(crate) fn new(action: &'static str, container: &str, object: &str) -> Self {
        Self {
            action,
            container: Some(container.to_owned()),
            name: object.to_owned(),
            text: printable(object),
        }
    }

    /// The same with what was done to it.
    pub(crate) fn with_action(action: &'static str, container: &str, object: &str) -> Self {
        Self {
            text: format!("{action} {}", printable(object)),
            ..Self::new(action, container, object)
        }
    }

    /// Prints it: a line, or a line of JSON.
    pub(crate) fn tell(&self, json: bool) -> Result<()> {
        if json {
            return line(&serde_json::to_string(self)?);
        }
        line(&self.text)
    }
}

/// Says in one line what went wrong.
pub(crate) fn complain(error: &anyhow::Error) {
    // When even standard error is gone there is nobody left to tell.
    drop(writeln!(std::io::stderr(), "objctl: {error:#}"));
}

/// Whether the reader of our output has gone: `objctl list | head` is no failure.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let broken = |io: &std::io::Error| io.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(broken)
}

/// A name fit for a terminal: control characters are escaped.
pub(crate) fn printable(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// Bytes as `ls -h` writes them: three digits and a unit.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{}{}", tenths / 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (10 << 10, "10K"),
            (1 << 20, "1.0M"),
            (5 << 30, "5.0G"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn names_cannot_play_with_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc 한"), "a\\u{1b}[2Jb\\nc 한");
    }
}

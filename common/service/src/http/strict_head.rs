//! What no head of a request may have although the HTTP library takes it: lines that end with a bare LF, and more than one
//! word about where the body ends. Servers that read these differently are what requests are smuggled through.

/// Looks at the bytes of heads, one by one.
#[derive(Debug, Default)]
pub(super) struct HeadJudge {
    before: u8,
    /// Whether the request line is over.
    has_begun: bool,
    /// Whether the line has a byte yet.
    is_line: bool,
    length: Word,
    coding: Word,
    /// Lines that say where the body ends.
    framings: usize,
}

/// How much of a header's name the line begins with; `None` when it begins otherwise.
#[derive(Debug)]
struct Word(Option<usize>);

impl Default for Word {
    fn default() -> Self {
        Self(Some(0))
    }
}

impl Word {
    /// Takes the line's next byte; whether it ends the name.
    fn take(&mut self, name: &[u8], byte: u8) -> bool {
        let Some(matched) = self.0 else { return false };
        let next = name.get(matched);
        let goes_on = next.is_some_and(|next| byte.eq_ignore_ascii_case(next));
        self.0 = goes_on.then_some(matched + 1);
        next.is_none() && byte == b':'
    }
}

impl HeadJudge {
    /// Takes the next byte of a head; whether it may stand there.
    pub(super) fn admits(&mut self, byte: u8) -> bool {
        let before = core::mem::replace(&mut self.before, byte);
        match byte {
            b'\n' if before != b'\r' => false,
            b'\n' => self.end_line(),
            b'\r' => true,
            _ => {
                self.is_line = true;
                let names = self.length.take(b"content-length", byte)
                    || self.coding.take(b"transfer-encoding", byte);
                self.framings += usize::from(names);
                true
            }
        }
    }

    /// How many of the next bytes of a head are admitted whatever they are: the rest of a line that says nothing about where
    /// the body ends, but for its last byte. The caller passes over them.
    pub(super) fn indifferent(&self, bytes: &[u8]) -> usize {
        if !self.is_line || self.length.0.is_some() || self.coding.0.is_some() {
            return 0;
        }
        let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let end = bytes.iter().position(is_end).unwrap_or(bytes.len());
        end.saturating_sub(1)
    }

    fn end_line(&mut self) -> bool {
        let is_blank = !core::mem::take(&mut self.is_line);
        (self.length, self.coding) = Default::default();
        if !is_blank {
            self.has_begun = true;
        } else if self.has_begun {
            let framings = self.framings;
            *self = Self::default();
            return framings <= 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first byte that may not stand there.
    fn refused(head: &str) -> Option<usize> {
        let mut judge = HeadJudge::default();
        head.bytes().position(|byte| !judge.admits(byte))
    }

    #[test]
    fn a_head_says_once_where_the_body_ends() {
        let head = |lines: &str| format!("PUT / HTTP/1.1\r\n{lines}\r\n");
        for fine in [
            "",
            "Content-Length: 3\r\n",
            "transfer-encoding: chunked\r\nX-Content-Length: 3\r\nContent-Lengths: 3\r\n",
            "X: Content-Length: 3\r\nContent-Length: 3\r\n",
        ] {
            assert_eq!(refused(&head(fine)), None, "{fine:?}");
            // Each head for itself, also behind an empty line.
            let twice = format!("{}\r\n{}", head(fine), head(fine));
            assert_eq!(refused(&twice), None, "{fine:?}");
        }
        for bad in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "TRANSFER-ENCODING: chunked\r\ncontent-length: 3\r\n",
            "Content-Length: 3\r\nA: b\r\nContent-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ] {
            let head = head(bad);
            assert_eq!(refused(&head), Some(head.len() - 1), "{bad:?}");
        }
    }

    #[test]
    fn lines_end_with_both() {
        assert_eq!(refused("GET / HTTP/1.1\n"), Some(14));
        assert_eq!(refused("GET / HTTP/1.1\r\nA: b\n"), Some(20));
        assert_eq!(refused("GET / HTTP/1.1\r\nA: b\r\n\n"), Some(22));
        assert_eq!(refused("\n"), Some(0));
    }
}

//! Where a chunked body ends. It is followed as the HTTP library reads it, which alone judges what it is: of a body that
//! the library refuses nothing is said, because the connection ends with it.

/// Where the next byte of a chunked body belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// At the first digit of a size.
    Start,
    Size(u64),
    /// Behind the digits.
    Blank(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    DataLineEnd,
    /// Before a trailer's line or the last, empty one.
    Trailers,
    Trailer,
    TrailerEnd,
    LastEnd,
}

/// What a byte leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Within(Chunk),
    /// The body is over.
    Over,
    /// The library takes no such body.
    Lost,
}

impl Chunk {
    pub(super) fn after(self, byte: u8) -> Next {
        let next = match (self, byte) {
            (Self::Start, _) => return Self::digit(0, byte),
            (Self::Size(size) | Self::Blank(size), b' ' | b'\t') => Self::Blank(size),
            (Self::Size(size) | Self::Blank(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Blank(size) | Self::Extension(size), b'\r') => {
                Self::SizeEnd(size)
            }
            (Self::Size(size), _) => return Self::digit(size, byte),
            (Self::Blank(_), _) | (Self::Extension(_), b'\n') => return Next::Lost,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeEnd(0), b'\n') | (Self::TrailerEnd, b'\n') => Self::Trailers,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::Data(left), _) => Self::after_data(left, 1),
            (Self::DataEnd, b'\r') => Self::DataLineEnd,
            (Self::DataLineEnd, b'\n') => Self::Start,
            (Self::Trailers, b'\r') => Self::LastEnd,
            (Self::LastEnd, b'\n') => return Next::Over,
            (Self::Trailer, b'\r') => Self::TrailerEnd,
            (Self::Trailers | Self::Trailer, _) => Self::Trailer,
            (
                Self::SizeEnd(_)
                | Self::DataEnd
                | Self::DataLineEnd
                | Self::TrailerEnd
                | Self::LastEnd,
                _,
            ) => return Next::Lost,
        };
        Next::Within(next)
    }

    /// Where it goes on behind so many bytes of data.
    pub(super) const fn after_data(left: u64, count: u64) -> Self {
        match left.saturating_sub(count) {
            0 => Self::DataEnd,
            left => Self::Data(left),
        }
    }

    fn digit(size: u64, byte: u8) -> Next {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        let size = digit.and_then(|digit| size.checked_mul(16)?.checked_add(digit));
        size.map_or(Next::Lost, |size| Next::Within(Self::Size(size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes the body has; `None` when it is lost or goes on.
    fn length(body: &str) -> Option<usize> {
        let mut chunk = Chunk::Start;
        for (at, byte) in body.bytes().enumerate() {
            match chunk.after(byte) {
                Next::Within(next) => chunk = next,
                Next::Over => return Some(at + 1),
                Next::Lost => return None,
            }
        }
        None
    }

    #[test]
    fn a_body_ends_behind_its_last_line() {
        for body in [
            "0\r\n\r\n",
            "3\r\njar\r\n0\r\n\r\n",
            "A ;x=y\r\n0\r\n\r\n67890\r\n00\r\nX: y\r\nZ: 1\r\n\r\n",
            "1\t\r\n\n\r\n0;\r\n\r\n",
        ] {
            assert_eq!(length(&format!("{body}GET")), Some(body.len()), "{body:?}");
        }
    }

    #[test]
    fn what_the_library_does_not_take_is_lost() {
        for body in [
            "\r\n",
            "g\r\n",
            "1\n",
            "1;a\nb\r\n",
            "1\rx",
            "1\r\nab",
            "1\r\na\rb",
            "1 1\r\n",
            "fffffffffffffffff\r\n",
            "0\r\nX: y\rz",
            "0\r\n\rx",
        ] {
            assert_eq!(length(body), None, "{body:?}");
        }
    }
}

//! What browsers send is read, what is no form is refused, and a cut at any byte changes nothing.

use super::*;
use proptest::prelude::*;

type Part = (PartHead, Vec<u8>);

/// The parts of a body that comes in pieces.
fn read<'a>(
    boundary: &str,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Part>, MultipartError> {
    let mut decoder = MultipartDecoder::new(boundary)?;
    let mut parts: Vec<Part> = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(event) = decoder.read()? {
            match event {
                MultipartEvent::Part(head) => parts.push((head, Vec::new())),
                MultipartEvent::Bytes(bytes) => {
                    let (_, content) = parts.last_mut().expect("bytes follow a head");
                    content.extend(bytes);
                }
                MultipartEvent::PartEnd => {}
                MultipartEvent::End => break,
            }
        }
        assert!(decoder.held.len() <= HEAD_BYTES_MAX + piece.len());
    }
    decoder.finish()?;
    Ok(parts)
}

fn part(name: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n");
    [head.as_bytes(), content].concat()
}

fn body(boundary: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut body = format!("--{boundary}").into_bytes();
    for part in parts {
        body.extend(b"\r\n");
        body.extend(part);
        body.extend(format!("\r\n--{boundary}").as_bytes());
    }
    body.extend(b"--\r\nepilogue");
    body
}

#[test]
fn a_form_is_read_as_browsers_write_it() {
    let form = "------B\r\nContent-Disposition: form-data; name=\"redirect\"\r\n\r\nhttp://a/\r\n------B\r\nContent-Disposition: form-data; name=\"file1\"; filename=\"a \"b\"; c.txt\"\r\nContent-Type: text/plain\r\n\r\n\r\nline\r\n------C\r\n\r\n------B--\r\n";
    let parts = read("----B", [form.as_bytes()]).unwrap();
    let names: Vec<_> = parts
        .iter()
        .map(|(head, _)| head.disposition().get("name").unwrap().to_owned())
        .collect();
    assert_eq!(names, ["redirect", "file1"]);
    assert_eq!(parts[0].1, b"http://a/");
    assert_eq!(parts[1].0.get("content-type"), Some("text/plain"));
    assert_eq!(parts[1].1, b"\r\nline\r\n------C\r\n");
}

#[test]
fn dispositions_have_quoted_and_bare_attributes() {
    let read = |text: &str| Disposition::parse(text);
    let both = read("Form-Data; Name=a ; filename=\"x; y.txt\"");
    assert_eq!(both.kind, "form-data");
    assert_eq!(
        (both.get("name"), both.get("filename")),
        (Some("a"), Some("x; y.txt"))
    );
    assert_eq!(
        read("form-data; filename=\"a\"b\"").get("filename"),
        Some("a\"b")
    );
    assert_eq!(
        read("form-data; filename=\"C:\\d\\f\"").get("filename"),
        Some("C:\\d\\f")
    );
    assert_eq!(read("form-data; filename=\"open").get("filename"), None);
    assert_eq!(read("").kind, "");
    assert_eq!(
        boundary("multipart/form-data; charset=x; boundary=\"a b\"").as_deref(),
        Some("a b")
    );
    for other in [
        "multipart/mixed; boundary=a",
        "multipart/form-data",
        "multipart/form-data; boundary=",
    ] {
        assert_eq!(boundary(other), None, "{other}");
    }
}

#[test]
fn what_is_no_form_is_refused() {
    let of = |text: &[u8]| read("B", [text]);
    let good = body("B", &[part("a", b"1")]);
    assert_eq!(of(&good).unwrap().len(), 1);
    assert_eq!(
        of(&[b"\r\n\r\n", good.as_slice()].concat()).unwrap().len(),
        1
    );
    assert_eq!(of(b"--B--").unwrap(), []);
    assert_eq!(of(b""), Err(MultipartError::Start));
    assert_eq!(of(b"--C\r\n"), Err(MultipartError::Start));
    assert_eq!(of(&[b'x'; 100]), Err(MultipartError::Start));
    assert_eq!(of("\r\n".repeat(9).as_bytes()), Err(MultipartError::Start));
    assert_eq!(of(b"--Bx\r\n"), Err(MultipartError::Boundary));
    let spaces = format!("--B{}", " ".repeat(PADDING_BYTES_MAX + 1));
    assert_eq!(of(spaces.as_bytes()), Err(MultipartError::Boundary));
    assert_eq!(of(&good[..good.len() - 12]), Err(MultipartError::Truncated));
    assert_eq!(
        of(b"--B\r\nno colon\r\n\r\nx\r\n--B--"),
        Err(MultipartError::Head)
    );
    assert_eq!(
        of(b"--B\r\na: b\nc: d\r\n\r\nx\r\n--B--"),
        Err(MultipartError::Head)
    );
    let endless = format!("--B\r\na: {}", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(of(endless.as_bytes()), Err(MultipartError::Head));
    let long = "b".repeat(BOUNDARY_BYTES_MAX + 1);
    assert_eq!(read(&long, [&b""[..]]), Err(MultipartError::NoBoundary));
}

/// Contents that look like boundaries more often than chance would have it.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\r\n--b".to_vec()),
        Just(b"\r\n--".to_vec()),
        Just(b"--bB".to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn parts_come_back_whatever_is_in_them_and_wherever_they_are_cut(
        contents in prop::collection::vec(contents(), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let contents: Vec<_> = contents
            .into_iter()
            .filter(|content| find(&[content.as_slice(), b"\r\n--bBx"].concat(), b"\r\n--bB") == Some(content.len()))
            .collect();
        let parts: Vec<_> = contents.iter().map(|content| part("n", content)).collect();
        let body = body("bB", &parts);
        let whole = read("bB", [body.as_slice()]).unwrap();
        let found: Vec<_> = whole.iter().map(|(_, content)| content.clone()).collect();
        prop_assert_eq!(found, contents);
        let (front, back) = body.split_at(cut.index(body.len()));
        prop_assert_eq!(&read("bB", [front, back]).unwrap(), &whole);
        prop_assert_eq!(&read("bB", body.chunks(1)).unwrap(), &whole);
    }

    #[test]
    fn damage_is_an_error_or_other_parts_and_never_a_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = body("bB", &[part("a", b"1"), part("b", b"\r\n--b"), part("c", b"")]);
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let whole = read("bB", [body.as_slice()]);
        let (front, back) = body.split_at(cut.index(body.len()));
        prop_assert_eq!(read("bB", [front, back]), whole.clone());
        prop_assert_eq!(read("bB", body.chunks(1)), whole);
    }

    #[test]
    fn any_bytes_are_read_the_same_in_one_piece_and_in_many(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let framed = [b"--B\r\n", bytes.as_slice()].concat();
        prop_assert_eq!(read("B", [framed.as_slice()]), read("B", framed.chunks(3)));
        let text = String::from_utf8_lossy(&bytes);
        let _read = Disposition::parse(&text);
        let _boundary = boundary(&text);
    }
}

use super::*;
use proptest::prelude::*;

const MAX: usize = 1_000;

fn decoder(boundary: &str) -> Multipart {
    Multipart::new(&format!("multipart/x-mixed-replace; boundary={boundary}"), MAX).expect("a good type")
}

fn bodies(parts: &[Part]) -> Vec<&[u8]> {
    parts.iter().map(|part| part.body.as_slice()).collect()
}

#[test]
fn what_real_cameras_send_is_read() {
    // mjpg-streamer, an Axis camera, and a server that announces its boundary with the dashes and ends lines with LF.
    let cases: [(&str, &[u8]); 4] = [
        ("boundarydonotcross", b"--boundarydonotcross\r\nContent-Type: image/jpeg\r\nContent-Length: 3\r\nX-Timestamp: 0.1\r\n\r\nabc\r\n--boundarydonotcross\r\nContent-Type: image/jpeg\r\nContent-Length: 2\r\n\r\nde\r\n"),
        ("myboundary", b"--myboundary\r\nContent-Type: image/jpeg\r\n\r\nabc\r\n--myboundary\r\nContent-Type: image/jpeg\r\n\r\nde\r\n--myboundary\r\n"),
        ("--frame", b"preamble\n--frame\nContent-type: image/jpeg\n\nabc\n--frame\nContent-type: image/jpeg\n\nde\n--frame--\n"),
        ("\"--frame\"", b"----frame\r\nContent-Type: IMAGE/JPEG; q=1\r\n\r\nabc\r\n----frame\r\ncontent-type:image/jpeg\r\n\r\nde\r\n----frame--"),
    ];
    for (boundary, bytes) in cases {
        let parts = decoder(boundary).push(bytes).expect(boundary);
        assert_eq!(bodies(&parts), [&b"abc"[..], b"de"], "{boundary}");
        assert!(parts.iter().all(|part| part.content_type == "image/jpeg"), "{parts:?}");
    }
}

#[test]
fn the_end_is_seen_and_what_follows_is_ignored() {
    let mut decoder = decoder("x");
    decoder.push(b"--x\r\n\r\na\r\n--x--\r\nepilogue").expect("an end");
    assert!(decoder.is_ended());
    assert_eq!(decoder.push(&[7; 100_000]), Ok(vec![]));
    assert_eq!(decoder.waiting(), 0);
}

#[test]
fn other_types_and_missing_boundaries_are_named() {
    let none = "multipart/x-mixed-replace";
    for text in ["", "image/jpeg", "text/html; boundary=x", none, "multipart/x-mixed-replace; boundary=--"] {
        let error = Multipart::new(text, MAX).expect_err(text);
        assert_eq!(error.code(), ErrorCode::Unsupported, "{text}");
    }
}

#[test]
fn everything_that_does_not_end_has_a_bound() {
    let endless = |start: &[u8], more: &[u8]| {
        let mut decoder = decoder("x");
        decoder.push(start).expect("a good start");
        (0..1_000_000 / more.len()).find_map(|_| decoder.push(more).err()).expect("a bound")
    };
    assert_eq!(endless(b"", b"not a boundary"), MultipartError::NoBoundary);
    assert_eq!(endless(b"--x", b" "), MultipartError::NoBoundary);
    assert_eq!(endless(b"--x\r\n", b"X-More: headers\r\n"), MultipartError::Head);
    assert_eq!(endless(b"--x\r\n\r\n", b"body"), MultipartError::TooLarge { max: MAX });
    assert_eq!(
        endless(b"--x\r\ncontent-length: 1\r\n\r\nab", b"more than was said"),
        MultipartError::NoBoundary
    );
    for (head, error) in [
        ("content-length: 1001", MultipartError::TooLarge { max: MAX }),
        ("content-length: 99999999999999999", MultipartError::TooLarge { max: MAX }),
        ("content-length: -1", MultipartError::Length("-1".to_owned())),
        ("content-length: 0x10", MultipartError::Length("0x10".to_owned())),
    ] {
        let got = decoder("x").push(format!("--x\r\n{head}\r\n\r\n").as_bytes());
        assert_eq!(got, Err(error), "{head}");
    }
}

/// Parts as a server sends them, with or without their lengths.
fn encode(boundary: &str, parts: &[Vec<u8>], lengths: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for body in parts {
        out.extend_from_slice(format!("--{boundary}\r\nContent-Type: image/jpeg\r\n").as_bytes());
        if lengths {
            out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    out
}

/// Pushes the bytes cut at these places.
fn push_cut(
    decoder: &mut Multipart,
    bytes: &[u8],
    cuts: &[prop::sample::Index],
) -> Result<Vec<Part>, MultipartError> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    let mut parts = Vec::new();
    for pair in places.windows(2) {
        parts.extend(decoder.push(&bytes[pair[0]..pair[1]])?);
    }
    Ok(parts)
}

proptest! {
    #[test]
    fn parts_come_out_as_they_went_in_however_the_bytes_are_cut(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
        lengths: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes = encode("a-boundary", &parts, lengths);
        let mut decoder = decoder("a-boundary");
        let got = push_cut(&mut decoder, &bytes, &cuts).expect("good bytes");
        prop_assert_eq!(bodies(&got), parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        prop_assert!(decoder.is_ended());
    }

    #[test]
    fn any_bytes_mean_the_same_however_they_are_cut_and_take_bounded_memory(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            Just(b"--x\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\r\n\r\n".to_vec()),
            Just(b"content-length: 5\r\n".to_vec()),
            Just(b"-".to_vec()),
            Just(b"--x--".to_vec()),
        ], 0..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let bytes = pieces.concat();
        let (mut whole, mut cut) = (decoder("x"), decoder("x"));
        let at_once = whole.push(&bytes);
        let piecewise = push_cut(&mut cut, &bytes, &cuts);
        prop_assert_eq!(at_once, piecewise);
        prop_assert!(whole.waiting() <= MAX + HEAD + GAP + PIECE);
    }
}

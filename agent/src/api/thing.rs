//! The raw thing as JSON: `{"image": "<base64>"}`, or the model's own pixels as `{"pixels": [[…]]}` or as the list alone;
//! `{"audio": "<base64>"}` for a model that takes recordings. Of one that takes rows or tensors the document is the input itself.

use super::problem::Problem;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::pipeline::{ImageInput, Input as Takes};
use http::StatusCode;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// What a document holds.
#[derive(Debug, PartialEq)]
pub(super) enum Thing {
    /// A picture or a recording.
    File(Vec<u8>),
    /// Pixels of the model's size.
    Pixels(Vec<u8>),
    /// The document itself is the input.
    Document,
}

/// Reads a document for a model that takes this.
pub(super) fn read(body: &[u8], takes: &Takes) -> Result<Thing, Problem> {
    match takes {
        Takes::Image(image) => picture(body, image),
        Takes::Sound(_) => recording(body),
        Takes::Table(_) | Takes::Tensors(_) => Ok(Thing::Document),
    }
}

fn recording(body: &[u8]) -> Result<Thing, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Recording {
        audio: String,
    }
    let bad = |detail: String| {
        let detail = format!("{detail}; this model takes {{\"audio\": \"<base64 of a WAV>\"}}");
        Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail)
    };
    let Recording { audio } =
        serde_json::from_slice(body).map_err(|e| bad(format!("the document is not usable: {e}")))?;
    decoded(&audio).map(Thing::File).map_err(|e| bad(format!("audio is not base64: {e}")))
}

/// Base64, with or without what pages have before it: `data:image/png;base64,…`
fn decoded(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let base64 = match text.strip_prefix("data:") {
        Some(uri) => uri.split_once(',').map_or("", |(_, base64)| base64),
        None => text,
    };
    STANDARD.decode(base64.trim())
}

fn picture(body: &[u8], image: &ImageInput) -> Result<Thing, Problem> {
    let takes = takes(image);
    let bad = |detail: String| {
        let detail = format!("{detail}; this model takes {takes}");
        Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail)
    };
    match serde_json::from_slice(body).map_err(|e| bad(format!("the document is not usable: {e}")))? {
        Document::Image(text) => {
            decoded(&text).map(Thing::File).map_err(|e| bad(format!("image is not base64: {e}")))
        }
        Document::Pixels(pixels) => {
            let expected = expected(image);
            // One channel needs no list of its own.
            let flat = image.colour.channels() == 1 && pixels.shape == expected[..2];
            if !flat && pixels.shape != expected {
                return Err(bad(format!("pixels has the shape {:?}, expected {expected:?}", pixels.shape)));
            }
            Ok(Thing::Pixels(pixels.bytes))
        }
    }
}

fn expected(image: &ImageInput) -> [usize; 3] {
    [image.height as usize, image.width as usize, image.colour.channels()]
}

/// What such a model takes, in words.
fn takes(image: &ImageInput) -> String {
    let [rows, columns, channels] = expected(image);
    format!(
        "{{\"image\": \"<base64 of a PNG or JPEG>\"}} or {{\"pixels\": rows of bytes, {rows} x {columns} x {channels}}}"
    )
}

enum Document {
    Image(String),
    Pixels(Pixels),
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with image or pixels, or a list of pixels")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Document, A::Error> {
        let mut pixels = Pixels::default();
        Level { pixels: &mut pixels, depth: 0 }.visit_seq(list)?;
        Ok(Document::Pixels(pixels))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            let next = match key.as_str() {
                "image" => Document::Image(map.next_value()?),
                "pixels" => Document::Pixels(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    let key: String = key.chars().take(64).collect();
                    return Err(A::Error::custom(format!("there is no {key:?}, but image or pixels")));
                }
            };
            if found.replace(next).is_some() {
                return Err(A::Error::custom("there is more than one image or pixels"));
            }
        }
        found.ok_or_else(|| A::Error::custom("there is neither image nor pixels"))
    }
}

/// Bytes in lists of lists.
#[derive(Default)]
struct Pixels {
    bytes: Vec<u8>,
    /// Lengths of the lists, the outermost first; a list that is not open any more has the length of all its like.
    shape: Vec<usize>,
}

/// Rows, columns, channels; deeper is no picture.
const DEPTH: usize = 3;

impl<'de> Deserialize<'de> for Pixels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut pixels = Self::default();
        deserializer.deserialize_seq(Level { pixels: &mut pixels, depth: 0 })?;
        Ok(pixels)
    }
}

/// A list at this depth, or what is in one.
struct Level<'a> {
    pixels: &'a mut Pixels,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Level<'_> {
    fn whole<E: Error>(self, number: Option<u8>) -> Result<(), E> {
        // Numbers lie in the deepest lists only.
        if self.depth != self.pixels.shape.len() {
            return Err(E::custom("pixels are numbers in one place and lists in another"));
        }
        let number = number.ok_or_else(|| E::custom("a pixel is not a whole number from 0 to 255"))?;
        self.pixels.bytes.push(number);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0 to 255, or a list of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { pixels, depth } = self;
        if depth >= DEPTH {
            return Err(A::Error::custom("pixels are nested deeper than rows, columns and channels"));
        }
        let first = pixels.shape.len() == depth;
        if first {
            if !pixels.bytes.is_empty() {
                return Err(A::Error::custom("pixels are numbers in one place and lists in another"));
            }
            pixels.shape.push(0);
        }
        let mut length = 0;
        while list.next_element_seed(Level { pixels: &mut *pixels, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        if !first && pixels.shape[depth] != length {
            let before = pixels.shape[depth];
            return Err(A::Error::custom(format!(
                "one list of pixels has {length} elements, another {before}"
            )));
        }
        pixels.shape[depth] = length;
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.whole(u8::try_from(number).ok())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.whole(u8::try_from(number).ok())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        let whole = (0.0..=255.0).contains(&number) && number.fract() == 0.0;
        self.whole(whole.then_some(number as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_protocol::pipeline::{Colour, Layout, Resize};
    use proptest::prelude::*;

    fn image(width: u32, height: u32, colour: Colour) -> ImageInput {
        let (mean, std) = (vec![0.0; colour.channels()], vec![1.0; colour.channels()]);
        ImageInput {
            width,
            height,
            colour,
            resize: Resize::Stretch,
            layout: Layout::Nchw,
            mean,
            std,
            ..ImageInput::none()
        }
    }

    fn pixels(text: &str, colour: Colour) -> Result<Vec<u8>, String> {
        match picture(text.as_bytes(), &image(3, 2, colour)) {
            Ok(Thing::Pixels(bytes)) => Ok(bytes),
            Ok(other) => Err(format!("{other:?}")),
            Err(problem) => Err(problem.detail().to_owned()),
        }
    }

    #[test]
    fn pixels_have_the_models_shape_and_the_error_says_expected_and_got() {
        let grey = |text| pixels(text, Colour::Grey);
        for good in ["[[1,2,3],[4,5,6]]", "{\"pixels\": [[[1],[2.0],[3]],[[4],[5],[6]]]}"] {
            assert_eq!(grey(good), Ok(vec![1, 2, 3, 4, 5, 6]), "{good}");
        }
        assert_eq!(
            pixels("[[[1,2,3],[4,5,6],[7,8,9]],[[0,0,0],[0,0,0],[255,0,1]]]", Colour::Rgb).map(|b| b.len()),
            Ok(18)
        );
        for (bad, word) in [
            ("[[1,2],[3,4],[5,6]]", "has the shape [3, 2], expected [2, 3, 1]"),
            ("[]", "has the shape [0], expected"),
            ("[1,2,3,4,5,6]", "has the shape [6]"),
            ("[[1,2,3],[4,5]]", "one list of pixels has 2 elements, another 3"),
            ("[[1,2,3],4]", "numbers in one place"),
            ("[1,[2]]", "numbers in one place"),
            ("[[[[1]]]]", "nested deeper"),
            ("[[1,2,256],[4,5,6]]", "from 0 to 255"),
            ("[[1,2,-1],[4,5,6]]", "from 0 to 255"),
            ("[[1,2,0.5],[4,5,6]]", "from 0 to 255"),
            ("[[1,2,null],[4,5,6]]", "from 0 to 255"),
            ("[[1,2,\"3\"],[4,5,6]]", "from 0 to 255"),
            ("{\"pixels\": 3}", "not usable"),
            ("{\"pixels\": {}}", "not usable"),
            ("{}", "neither image nor pixels"),
            ("{\"age\": 3}", "there is no \"age\""),
            ("{\"image\": \"\", \"pixels\": []}", "more than one"),
            ("{\"image\": 7}", "not usable"),
            ("{\"image\": \"???\"}", "not base64"),
            ("7", "an object with image or pixels"),
            ("{", "not usable"),
        ] {
            let problem = grey(bad).expect_err(bad);
            assert!(problem.contains(word) && problem.contains("2 x 3 x 1"), "{bad}: {problem}");
        }
    }

    #[test]
    fn a_recording_comes_as_base64_and_a_picture_is_none() {
        for text in [r#"{"audio": "AQID"}"#, r#"{"audio": "data:audio/wav;base64,AQID"}"#] {
            assert_eq!(recording(text.as_bytes()).ok(), Some(Thing::File(vec![1, 2, 3])), "{text}");
        }
        for (bad, word) in [
            (r#"{"image": "AQID"}"#, "unknown field `image`"),
            (r#"{"audio": "???"}"#, "not base64"),
            ("[1, 2]", "not usable"),
        ] {
            let problem = recording(bad.as_bytes()).expect_err(bad);
            assert!(problem.detail().contains(word) && problem.detail().contains("base64 of a WAV"), "{bad}");
        }
    }

    #[test]
    fn a_picture_comes_as_base64_with_or_without_its_type() {
        for text in ["{\"image\": \"AQID\"}", "{\"image\": \"data:image/png;base64,AQID\"}"] {
            let got = picture(text.as_bytes(), &image(3, 2, Colour::Grey)).ok();
            assert_eq!(got, Some(Thing::File(vec![1, 2, 3])), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_picture_comes_through(width in 1u32..9, height in 1u32..9, rgb: bool, seed: u8) {
            let colour = if rgb { Colour::Rgb } else { Colour::Grey };
            let [rows, columns, channels] = [height as usize, width as usize, colour.channels()];
            let bytes: Vec<u8> = (0..rows * columns * channels).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            let nested: Vec<Vec<&[u8]>> =
                bytes.chunks(columns * channels).map(|row| row.chunks(channels).collect()).collect();
            let text = serde_json::json!({ "pixels": nested }).to_string();
            prop_assert_eq!(picture(text.as_bytes(), &image(width, height, colour)).ok(), Some(Thing::Pixels(bytes)));
        }

        #[test]
        fn no_text_is_a_panic(text in "[\\[\\]{}:,0-9a-z\" .-]{0,60}") {
            let _ = picture(text.as_bytes(), &image(3, 2, Colour::Grey));
        }
    }
}

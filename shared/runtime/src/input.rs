//! What an application sends to be predicted.

/// One raw input, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A picture as PNG or JPEG, or another of [`crate::PICTURES`].
    Encoded(&'a [u8]),
    /// Pixels: exactly rows x columns x channels bytes of the model's own size and colour, row by row, the
    /// channels of a pixel beside each other.
    Raw(&'a [u8]),
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xff\xd8\xff";

impl<'a> Input<'a> {
    /// Tells the two forms apart by the signatures of PNG and JPEG files. Golden vectors and evaluation data
    /// are read this way, in every build alike; whoever knows the form says it instead.
    pub fn of(bytes: &'a [u8]) -> Self {
        if bytes.starts_with(PNG) || bytes.starts_with(JPEG) {
            Input::Encoded(bytes)
        } else {
            Input::Raw(bytes)
        }
    }
}

/// Whatever can be looked at as an [`Input`]: bytes are told apart by [`Input::of`].
pub trait AsInput {
    /// The input.
    fn as_input(&self) -> Input<'_>;
}

impl AsInput for Input<'_> {
    fn as_input(&self) -> Input<'_> {
        *self
    }
}

impl AsInput for [u8] {
    fn as_input(&self) -> Input<'_> {
        Input::of(self)
    }
}

impl AsInput for Vec<u8> {
    fn as_input(&self) -> Input<'_> {
        Input::of(self)
    }
}

impl AsInput for bytes::Bytes {
    fn as_input(&self) -> Input<'_> {
        Input::of(self)
    }
}

impl<T: AsInput + ?Sized> AsInput for &T {
    fn as_input(&self) -> Input<'_> {
        (**self).as_input()
    }
}

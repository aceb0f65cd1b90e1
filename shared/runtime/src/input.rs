//! What an application sends to be predicted.

/// One raw input, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A file: a picture as PNG or JPEG, or another of [`crate::PICTURES`]; a recording as WAV, or another of
    /// [`crate::sound`]; a row of a table as JSON or CSV; tensors as JSON.
    Encoded(&'a [u8]),
    /// The values themselves. Of a picture: exactly rows x columns x channels bytes of the model's own size and colour, row
    /// by row, the channels of a pixel beside each other. Of a recording: its samples, one channel at the model's rate, as
    /// little-endian 32-bit floats from -1 to 1. Of tensors: their values, little-endian, one after the other.
    Raw(&'a [u8]),
    /// One of the two: told apart by what the model takes and how the bytes begin. Golden vectors and evaluation data are
    /// read this way, in every build alike; whoever knows the form says it instead.
    Unsaid(&'a [u8]),
}

impl<'a> Input<'a> {
    /// The bytes.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Input::Encoded(bytes) | Input::Raw(bytes) | Input::Unsaid(bytes) => bytes,
        }
    }
}

/// Whatever can be looked at as an [`Input`]: bytes are [`Input::Unsaid`].
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
        Input::Unsaid(self)
    }
}

impl AsInput for Vec<u8> {
    fn as_input(&self) -> Input<'_> {
        Input::Unsaid(self)
    }
}

impl AsInput for bytes::Bytes {
    fn as_input(&self) -> Input<'_> {
        Input::Unsaid(self)
    }
}

impl<T: AsInput + ?Sized> AsInput for &T {
    fn as_input(&self) -> Input<'_> {
        (**self).as_input()
    }
}

//! Where the pixels of an activation lie in a buffer.

use crate::error::{Result, within};
use crate::{MAX_BYTES, MAX_SIDE};

/// Where the pixels of an activation lie in a buffer of bytes: rows of pixels, the channels of a pixel side by side. It may be
/// a part of a larger one: some channels of it, or what lies within a halo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Where the first channel of the first pixel is.
    pub offset: usize,
    /// Rows.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Channels of a pixel.
    pub channels: usize,
    /// Bytes from one pixel to the next.
    pub pixel: usize,
    /// Bytes from one row to the next.
    pub row: usize,
}

impl View {
    /// A whole buffer without any gap.
    #[must_use]
    pub const fn packed(height: usize, width: usize, channels: usize) -> Self {
        Self { offset: 0, height, width, channels, pixel: channels, row: width.saturating_mul(channels) }
    }

    /// Refuses views that are empty, too large, or whose pixels lie on each other.
    pub(crate) fn check(&self) -> Result<()> {
        within("the height", self.height, 1, MAX_SIDE, "from 1 to 65536")?;
        within("the width", self.width, 1, MAX_SIDE, "from 1 to 65536")?;
        within("the number of channels", self.channels, 1, MAX_SIDE, "from 1 to 65536")?;
        within("the step from pixel to pixel", self.pixel, self.channels, MAX_BYTES, "a pixel at least")?;
        let row = (self.width - 1).saturating_mul(self.pixel).saturating_add(self.channels);
        within("the step from row to row", self.row, row, MAX_BYTES, "a row at least")?;
        within("the activation", self.end(), 1, MAX_BYTES, "a gibibyte at most")
    }

    /// The first byte behind it.
    #[must_use]
    pub const fn end(&self) -> usize {
        let rows = self.height.saturating_sub(1).saturating_mul(self.row);
        let pixels = self.width.saturating_sub(1).saturating_mul(self.pixel);
        self.offset.saturating_add(rows).saturating_add(pixels).saturating_add(self.channels)
    }
}

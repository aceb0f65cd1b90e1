//! Frames of MPEG audio, told from other bytes: one in a few thousand rows of floats begins with what could be one.

/// Kilobits a second by their number in the header, of MPEG 1 and of the later, slower ones; 0 is no number of any.
const FAST: [usize; 14] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
const SLOW: [usize; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

/// Whether bytes begin with a frame of layer III (ISO/IEC 11172-3, 2.4.1.3) and go on with another one, a tag, or nothing.
pub(super) fn is_mp3(bytes: &[u8]) -> bool {
    let Some(rest) = frame(bytes).and_then(|length| bytes.get(length..)) else { return false };
    rest.is_empty() || rest.starts_with(b"TAG") || frame(rest).is_some()
}

/// Bytes of the frame that begins here.
fn frame(bytes: &[u8]) -> Option<usize> {
    let &[0xff, version, rates, _, ..] = bytes else { return None };
    if version & 0xe6 != 0xe2 {
        return None;
    }
    let (kind, padding) = (version >> 3 & 3, usize::from(rates >> 1 & 1));
    let rate = *[44_100, 48_000, 32_000].get(usize::from(rates >> 2 & 3))?;
    let place = usize::from(rates >> 4).checked_sub(1)?;
    let (bits, slots, rate) = match kind {
        3 => (FAST.get(place)?, 144, rate),
        2 => (SLOW.get(place)?, 72, rate / 2),
        0 => (SLOW.get(place)?, 72, rate / 4),
        _ => return None,
    };
    Some(slots * bits * 1_000 / rate + padding)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 128 kbit/s at 44.1 kHz: 417 bytes.
    const HEADER: [u8; 4] = [0xff, 0xfb, 0x90, 0x00];

    fn framed(length: usize) -> Vec<u8> {
        let mut frame = HEADER.to_vec();
        frame.resize(length, 0x55);
        frame
    }

    #[test]
    fn frames_follow_each_other() {
        assert_eq!(frame(&HEADER), Some(417));
        // 64 kbit/s at 22.05 kHz, with a byte of padding.
        assert_eq!(frame(&[0xff, 0xf3, 0x82, 0x00]), Some(209));
        assert!(is_mp3(&framed(417)));
        assert!(is_mp3(&[framed(417), framed(417)].concat()));
        assert!(is_mp3(&[framed(417), b"TAG and its text".to_vec()].concat()));
    }

    #[test]
    fn samples_that_look_like_a_frame_are_none() {
        let odd = f32::from_le_bytes([0xff, 0xfb, 0x90, 0x3e]);
        assert!((0.0..1.0).contains(&odd), "an ordinary sample");
        let samples: Vec<u8> = (0..1_000).flat_map(|_| odd.to_le_bytes()).collect();
        assert!(!is_mp3(&samples));
        assert!(!is_mp3(&framed(400)), "nothing is cut short");
        for second in [0x00, 0xe0, 0xe9, 0xfd] {
            assert_eq!(frame(&[0xff, second, 0x90, 0x00]), None, "{second:x}");
        }
        for rates in [0x00, 0xf0, 0x9c] {
            assert_eq!(frame(&[0xff, 0xfb, rates, 0x00]), None, "{rates:x}");
        }
    }
}

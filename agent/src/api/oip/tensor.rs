//! Texts in a tensor.

/// Texts of a BYTES tensor: each with its length before it, four bytes little-endian.
pub(super) fn texts_to_binary(texts: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_carry_their_lengths() {
        assert_eq!(texts_to_binary(&["ab".into(), String::new()]), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
    }
}

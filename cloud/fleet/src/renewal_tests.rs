//! Challenges count once and for a while; signatures count for their key.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};

const NOW: u64 = 1_800_000_000_000;

#[test]
fn a_challenge_is_good_once_for_a_while_and_at_the_place_that_gave_it() {
    let (here, elsewhere) = (Challenges::new(), Challenges::new());
    let nonce = here.give(NOW).nonce;
    assert_ne!(nonce, here.give(NOW).nonce);
    assert!(here.is_fresh(&nonce, NOW + CHALLENGE_MS));
    assert!(!here.is_fresh(&nonce, NOW + CHALLENGE_MS + 1), "too old");
    assert!(!elsewhere.is_fresh(&nonce, NOW), "of another server");
    for at in 0..nonce.len() {
        let mut changed = nonce.clone().into_bytes();
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        assert!(!here.is_fresh(&String::from_utf8(changed).unwrap(), NOW), "digit {at}");
    }
    for wrong in ["", "zz", &nonce[2..], &format!("{nonce}00")] {
        assert!(!here.is_fresh(wrong, NOW), "{wrong}");
    }
    assert!(here.take(&nonce, NOW));
    assert!(!here.take(&nonce, NOW), "once");
    assert!(!here.take(&nonce.to_ascii_uppercase(), NOW), "however it is written");
}

#[test]
fn a_signature_counts_for_its_key_and_text_only() {
    for key in [KeyPair::generate().unwrap(), KeyPair::generate_for(&PKCS_ED25519).unwrap()] {
        let other = KeyPair::generate().unwrap();
        let info = key.subject_public_key_info();
        let signed = key.sign(b"text").unwrap();
        assert!(verifies(&info, b"text", &signed));
        assert!(!verifies(&info, b"other", &signed));
        assert!(!verifies(&other.subject_public_key_info(), b"text", &signed));
        assert!(!verifies(&info, b"text", &signed[1..]));
        assert!(!verifies(b"not a key", b"text", &signed));
    }
}

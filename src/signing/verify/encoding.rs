//! The two spellings of a MAC of 32 bytes. Each takes exactly one length.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::SHA256_OUTPUT_LEN;

pub(super) type Mac = [u8; SHA256_OUTPUT_LEN];

/// 64 digits. Senders write small letters; capitals say the same and are as good.
pub(super) fn hex(text: &[u8]) -> Option<Mac> {
    let mut mac = Mac::default();
    if text.len() != 2 * mac.len() {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    for (byte, pair) in mac.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(mac)
}

/// Standard alphabet with padding; the unused last bits must be zero, as every encoder has them.
pub(super) fn base64<const BYTES: usize>(text: &[u8]) -> Option<[u8; BYTES]> {
    // The length first: nothing longer is decoded.
    if text.len() != BYTES.div_ceil(3) * 4 {
        return None;
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

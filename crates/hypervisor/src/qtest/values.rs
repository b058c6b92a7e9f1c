//! Numbers and data as the protocol writes them.

/// A number as C's `strtoul` with base 0 takes it: decimal, `0x` hexadecimal or `0` octal, with a sign; the whole of
/// `word`.
pub(super) fn number(word: &str) -> Option<u64> {
    let word = word.trim_start();
    let (negative, digits) = match word.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, digits.get(2..)?),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    // A second sign is none of the number's.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

/// A signed number of nanoseconds.
pub(super) fn signed(word: &str) -> Option<i64> {
    match word.trim_start().strip_prefix('-') {
        Some(rest) => number(rest)
            .filter(|_| !rest.starts_with(['-', '+', ' ']))
            .and_then(|value| i64::try_from(value).ok())
            .map(|value| -value),
        None => number(word).and_then(|value| i64::try_from(value).ok()),
    }
}

/// Appends two lower-case digits a byte.
pub(super) fn hex(data: &[u8], into: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    into.reserve(2 * data.len());
    for byte in data {
        for nibble in [byte >> 4, byte & 0xf] {
            into.push(DIGITS.get(usize::from(nibble)).copied().unwrap_or('0'));
        }
    }
}

/// `len` bytes of `0x` and two digits each. Where digits are missing the bytes are zero; what is no digit sets all the
/// bits that are left, as in QEMU.
pub(super) fn unhex(word: &str, len: usize) -> Vec<u8> {
    let nibble = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let mut data: Vec<u8> = word
        .as_bytes()
        .get(2..)
        .unwrap_or_default()
        .chunks_exact(2)
        .take(len)
        .map(|pair| match pair {
            [high, low] => nibble(*high).unwrap_or(0xf) << 4 | nibble(*low).unwrap_or(0xff),
            _ => 0,
        })
        .collect();
    data.resize(len, 0);
    data
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648, section 4).
pub(super) fn base64(data: &[u8]) -> String {
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place > chunk.len() {
                text.push('=');
                continue;
            }
            let index = (word >> (18 - 6 * place)) & 0x3f;
            let digit = BASE64.get(index as usize).copied().unwrap_or(b'=');
            text.push(char::from(digit));
        }
    }
    text
}

/// The bytes of a base64 text; characters of other alphabets are skipped, `=` ends it.
pub(super) fn unbase64(text: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0);
    for byte in text.bytes().take_while(|byte| *byte != b'=') {
        let Some(value) = BASE64.iter().position(|digit| *digit == byte) else {
            continue;
        };
        word = (word << 6 | u32::try_from(value).unwrap_or(0)) & 0xff_ffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            let [low, ..] = (word >> bits).to_le_bytes();
            data.push(low);
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (word, value) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("0x10", Some(16)),
            ("0XfF", Some(255)),
            ("010", Some(8)),
            ("-1", Some(u64::MAX)),
            ("+7", Some(7)),
            (" 7", Some(7)),
            ("", None),
            ("0x", None),
            ("08", None),
            ("--1", None),
            ("0x-1", None),
            ("1 ", None),
            ("18446744073709551616", None),
            ("é", None),
        ] {
            assert_eq!(number(word), value, "{word:?}");
        }
        assert_eq!(signed("-5"), Some(-5));
        assert_eq!(signed("--5"), None);
        assert_eq!(signed("0x8000000000000000"), None);
    }

    #[test]
    fn data_survives_both_codings() {
        for len in 0..70 {
            let data: Vec<u8> = (0..len).map(|n: u8| n.wrapping_mul(37)).collect();
            let mut text = "0x".to_owned();
            hex(&data, &mut text);
            assert_eq!(unhex(&text, data.len()), data);
            assert_eq!(unbase64(&base64(&data)), data);
        }
        assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
    }

    #[test]
    fn short_or_wrong_digits_are_taken_as_qemu_takes_them() {
        assert_eq!(unhex("0x0102", 4), [1, 2, 0, 0]);
        assert_eq!(unhex("0x010203", 2), [1, 2]);
        assert_eq!(unhex("0xg1", 1), [0xf1]);
        assert_eq!(unhex("0x1g", 1), [0xff]);
        assert_eq!(unhex("0x1", 1), [0]);
    }
}

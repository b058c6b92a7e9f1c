//! Single values: booleans, numbers, sizes; and the guess at what a mistyped word meant.

/// Reads a boolean: `on`/`off`, and their older spellings yes/no, true/false, y/n.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// Reads an unsigned number, decimal or `0x` hexadecimal.
pub fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

/// Reads a signed number, decimal or `0x` hexadecimal.
pub fn parse_signed(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(digits) => 0i64.checked_sub_unsigned(parse_number(digits)?),
        None => i64::try_from(parse_number(text)?).ok(),
    }
}

/// Reads a size in bytes: a number, optionally with a suffix b, k, M, G, T, P, E in powers of 1024 (either case). Without
/// a suffix the number is multiplied by `default_unit_bytes`. A decimal fraction is taken with a suffix (`1.5G`).
pub fn parse_size(text: &str, default_unit_bytes: u64) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return parse_number(text)
            .filter(|_| !hex.is_empty())?
            .checked_mul(default_unit_bytes);
    }
    let (number, unit) = match text.char_indices().next_back()? {
        (at, letter) if letter.is_ascii_alphabetic() => {
            let exponent = "bkmgtpe".find(letter.to_ascii_lowercase())?;
            (
                text.get(..at)?,
                1u64.checked_shl(u32::try_from(exponent).ok()?.checked_mul(10)?)?,
            )
        }
        _ => (text, default_unit_bytes),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bytes = if whole.is_empty() {
        0
    } else {
        parse_decimal(whole)?.checked_mul(unit)?
    };
    if fraction.is_empty() {
        return number.bytes().all(|b| b.is_ascii_digit()).then_some(bytes);
    }
    if fraction.len() > 18 || unit == 1 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(parse_decimal(fraction)?) * u128::from(unit) / scale;
    bytes.checked_add(u64::try_from(part).ok()?)
}

fn parse_decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// The known word nearest to `word`, if one is near enough that it may have been meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long word is no typing error, and the comparison is quadratic.
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let normal = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let wanted = normal(word);
    let limit = (wanted.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .filter_map(|candidate| {
            let distance = edit_distance(&wanted, &normal(candidate));
            (distance <= limit && distance < wanted.len()).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete or replace to get from one word to the other; a swap of neighbours counts as one.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let width = b.len() + 1;
    let mut table = vec![0usize; (a.len() + 1) * width];
    let at = |table: &[usize], i: usize, j: usize| {
        table.get(i * width + j).copied().unwrap_or(usize::MAX / 2)
    };
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let cost = if i == 0 || j == 0 {
                i + j
            } else {
                let differs = usize::from(a.get(i - 1) != b.get(j - 1));
                let mut best = (at(&table, i - 1, j) + 1)
                    .min(at(&table, i, j - 1) + 1)
                    .min(at(&table, i - 1, j - 1) + differs);
                if i > 1 && j > 1 && a.get(i - 1) == b.get(j - 2) && a.get(i - 2) == b.get(j - 1) {
                    best = best.min(at(&table, i - 2, j - 2) + 1);
                }
                best
            };
            if let Some(cell) = table.get_mut(i * width + j) {
                *cell = cost;
            }
        }
    }
    at(&table, a.len(), b.len())
}

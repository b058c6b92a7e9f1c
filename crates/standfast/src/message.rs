//! The one line on standard error that an error gets.

/// An error with its causes. Most of our errors say in their own text why; such a cause is not said again.
pub fn of(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

/// Keeps it on one line, and says the system's sentences without Rust's "(os error N)".
pub fn one_line(text: &str) -> String {
    const NUMBER: &str = " (os error ";
    let mut line = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(NUMBER) {
        line.push_str(before);
        rest = match after.split_once(')') {
            Some((number, after)) if number.bytes().all(|b| b.is_ascii_digit()) => after,
            _ => {
                line.push_str(NUMBER);
                after
            }
        };
    }
    line.push_str(rest);
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once() {
        let refused = std::io::Error::from_raw_os_error(libc::EACCES);
        let said = format!("/dev/kvm cannot be opened: {refused}; run as root");
        let error = Err::<(), _>(refused).context(said).unwrap_err();
        let line = one_line(&of(&error));
        assert_eq!(
            line,
            "/dev/kvm cannot be opened: Permission denied; run as root"
        );
        let new = Err::<(), _>(std::io::Error::other("why")).context("what");
        assert_eq!(of(&new.unwrap_err()), "what: why");
    }

    #[test]
    fn what_only_looks_like_a_number_stays() {
        assert_eq!(
            one_line("a\nb (os error x) (os error 2)"),
            "a b (os error x)"
        );
        assert_eq!(one_line("(os error 2"), "(os error 2");
    }
}

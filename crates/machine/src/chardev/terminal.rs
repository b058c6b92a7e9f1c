//! The terminal on standard input, made raw: every key at once, to the guest and not to this process.

use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal};

/// A raw terminal; as it was when dropped.
pub(super) struct RawTerminal(Termios);

impl RawTerminal {
    /// Makes standard input raw, if it is a terminal. With `signals` Ctrl-C, Ctrl-Z and Ctrl-\ stay what they are.
    pub(super) fn stdin(signals: bool) -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.input_modes -= InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON;
        raw.local_modes -=
            LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN;
        if !signals {
            raw.local_modes -= LocalModes::ISIG;
        }
        match tcsetattr(&stdin, OptionalActions::Now, &raw) {
            Ok(()) => Some(Self(before)),
            Err(error) => {
                tracing::warn!(%error, "the terminal stays as it is: keys come line by line");
                None
            }
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may have gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

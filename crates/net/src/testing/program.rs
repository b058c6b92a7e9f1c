//! Programs that a test has run, for the tests within this crate and those outside of it (`tests/netns`).

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program with this text, in a folder that it can name as `$here`. It is written by another process: a descriptor of ours
/// would be inherited by whatever another test starts in this moment, and a program that somebody has open for writing
/// cannot be run.
pub(crate) fn program(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    let text = format!("#!/bin/sh\nhere='{}'\n{text}\n", folder.display());
    let written = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .arg(text)
        .status();
    assert!(written.expect("there is a shell").success());
    path
}

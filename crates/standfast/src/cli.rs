//! QEMU's command line.
//!
//! The parser is our own and small: QEMU's options have one dash or two, take their argument as the next word whatever
//! it looks like, may be repeated, and carry `key=value` lists or JSON. clap, which the other programs here use, can
//! express none of these together; the `key=value` part is the config crate's anyway.
//!
//! All options are declared in one table ([`options::OPTIONS`]): it drives the parsing, `-help`, the suggestions for a
//! mistyped option, docs/options.md and the man page.

mod builder;
pub mod help;
pub mod options;

use std::ffi::OsString;

use config::syntax::nearest;
use config::vm::VmConfig;
use config::{Error, OptionError};

pub use builder::Builder;
use options::{OPTIONS, OptionSpec};

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run this machine. It has been validated.
    Run(Box<VmConfig>),
    /// Print this text and leave with status 0.
    Print(String),
}

/// Why an option stops the parsing.
#[derive(Debug)]
pub enum Stop {
    /// It is wrong.
    Wrong(Error),
    /// It asks for this text.
    Print(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Wrong(error)
    }
}

/// Reads the arguments (without the program's name) and validates what they ask for.
///
/// # Errors
/// The first wrong option. Its `Display` is one line that names the option and says what would be right.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, OptionError> {
    let mut builder = Builder::default();
    let mut arguments = arguments.into_iter();
    while let Some(word) = arguments.next() {
        let word = word.into_string().map_err(|word| not_utf8(&word))?;
        let spec = find(&word)?;
        let argument = match (spec.argument, arguments_next(spec, &mut arguments)) {
            (None, _) => String::new(),
            (Some(_), Some(argument)) => argument.into_string().map_err(|word| not_utf8(&word))?,
            (Some(_), None) => {
                return Err(OptionError::new(
                    &word,
                    "",
                    Error::other("requires an argument"),
                ));
            }
        };
        let shown = dashed(spec.name);
        match (spec.apply)(&mut builder, &argument) {
            Ok(()) => {}
            Err(Stop::Print(text)) => return Ok(Invocation::Print(text)),
            Err(Stop::Wrong(error)) => {
                return Err(OptionError::new(&shown, &one_line(&argument), error));
            }
        }
    }
    match builder.finish() {
        Ok(config) => Ok(Invocation::Run(Box::new(config))),
        Err(Stopped::Print(text)) => Ok(Invocation::Print(text)),
        Err(Stopped::Wrong(error)) => Err(error),
    }
}

/// Why the end of the parsing stops it.
#[derive(Debug)]
pub enum Stopped {
    /// An option is wrong.
    Wrong(OptionError),
    /// An option asks for this text.
    Print(String),
}

impl From<OptionError> for Stopped {
    fn from(error: OptionError) -> Self {
        Self::Wrong(error)
    }
}

fn arguments_next(
    spec: &OptionSpec,
    arguments: &mut impl Iterator<Item = OsString>,
) -> Option<OsString> {
    spec.argument.and_then(|_| arguments.next())
}

/// The option that a word names, with one dash or two.
fn find(word: &str) -> Result<&'static OptionSpec, OptionError> {
    let Some(name) = word.strip_prefix('-') else {
        let error = Error::Other(format!(
            "not an option; a disk image is given by -drive file={},format=raw,if=virtio",
            one_line(word).replace(',', ",,")
        ));
        return Err(OptionError::new(&one_line(word), "", error));
    };
    let name = name.strip_prefix('-').unwrap_or(name);
    let found = OPTIONS
        .iter()
        .find(|spec| spec.name == name || spec.aliases.contains(&name));
    found.ok_or_else(|| {
        let known = OPTIONS
            .iter()
            .flat_map(|spec| std::iter::once(spec.name).chain(spec.aliases.iter().copied()));
        let near = nearest(name, known);
        let remedy = match near {
            Some(near) => format!("did you mean '{}'?", dashed(near)),
            None => "-help lists the options".to_owned(),
        };
        OptionError::new(
            &one_line(word),
            "",
            Error::Other(format!("invalid option ({remedy})")),
        )
    })
}

/// An option's name as QEMU users write it: with one dash.
fn dashed(name: &str) -> String {
    format!("-{name}")
}

/// Keeps a message on one line, and short enough to read.
pub(crate) fn one_line(text: &str) -> String {
    const MOST: usize = 512;
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST)
        .collect();
    if text.chars().nth(MOST).is_some() {
        line.push('…');
    }
    line
}

fn not_utf8(word: &OsString) -> OptionError {
    OptionError::new(
        &one_line(&word.to_string_lossy()),
        "",
        Error::other("not valid UTF-8"),
    )
}

//! The options with a few words in them: `-name`, `-rtc`, `-incoming`, `-boot`, `-global`, `-add-fd`, `-mon`, `-msg`.

use super::{FdSetMember, GlobalProperty, Incoming, MonitorConfig, MonitorMode, RtcBase};
use crate::error::{Error, Result};
use crate::syntax::{Options, Reader, Source};

/// `-name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameConfig {
    /// The guest's name.
    pub guest: Option<String>,
    /// Threads carry names of their own.
    pub debug_threads: bool,
}

impl NameConfig {
    /// Reads the options of `-name`.
    ///
    /// # Errors
    /// An unknown option.
    pub fn from_options(options: Options) -> Result<Self> {
        let mut reader = Reader::new(options, Source::CommandLine);
        let guest = reader.string("guest")?;
        let debug_threads = reader.flag_or("debug-threads", true)?;
        reader.ignore(&["process"]);
        reader.finish()?;
        Ok(Self {
            guest,
            debug_threads,
        })
    }
}

impl RtcBase {
    /// Reads the options of `-rtc`.
    ///
    /// # Errors
    /// A moment that is none, a clock that does not exist here.
    pub fn from_options(options: Options) -> Result<Self> {
        let mut reader = Reader::new(options, Source::CommandLine);
        let base = reader.string("base")?;
        if let Some(clock @ ("vm" | "rt")) = reader.choice("clock", &["host", "rt", "vm"])? {
            return Err(Error::Other(format!(
                "clock={clock} is not supported; the clock follows the host's"
            )));
        }
        reader.choice("driftfix", &["none", "slew"])?;
        reader.finish()?;
        match base.as_deref() {
            None | Some("utc") => Ok(Self::Utc),
            Some("localtime") => Ok(Self::LocalTime),
            Some(text) => parse_moment(text)
                .map(Self::At)
                .ok_or_else(|| Error::BadValue {
                    name: "base".to_owned(),
                    expected: format!(
                        "utc, localtime, 2024-12-31 or 2024-12-31T23:59:59, not '{text}'"
                    ),
                }),
        }
    }
}

/// Seconds since 1970 of `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM:SS`.
fn parse_moment(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let [year, month, day] = fields(date, '-')?;
    let [hour, minute, second] = fields(time, ':')?;
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = |year, month| match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=length(year, month)).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    if !valid {
        return None;
    }
    let days: i64 = (1970..year)
        .map(|year| 365 + i64::from(leap(year)))
        .sum::<i64>()
        + (1..month).map(|month| length(year, month)).sum::<i64>()
        + day
        - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn fields(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let digits = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if digits { part.parse().ok() } else { None }
    });
    let fields = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(fields)
}

impl Incoming {
    /// Reads the argument of `-incoming`.
    ///
    /// # Errors
    /// A URI of an unknown protocol, or a JSON channel (which has no place for a plain URI here).
    pub fn from_argument(text: &str) -> Result<Self> {
        if text == "defer" {
            return Ok(Self::Defer);
        }
        if text.starts_with('{') {
            return Err(Error::other(
                "a channel in JSON is not supported; use a URI such as tcp:[::]:4444, or defer",
            ));
        }
        let known = ["tcp:", "unix:", "fd:", "exec:", "file:"];
        if known.iter().any(|scheme| text.starts_with(scheme)) {
            Ok(Self::Uri(text.to_owned()))
        } else {
            Err(Error::Other(format!("unknown migration protocol: {text}")))
        }
    }
}

impl super::BootConfig {
    /// Checks the options of `-boot`; they choose nothing, since a kernel is always booted directly.
    ///
    /// # Errors
    /// An unknown option.
    pub fn check_boot_options(options: Options) -> Result<()> {
        let mut reader = Reader::new(options, Source::CommandLine);
        reader.flag("strict")?;
        reader.flag("menu")?;
        reader.ignore(&["order", "once", "splash", "splash-time", "reboot-timeout"]);
        reader.finish()
    }
}

impl GlobalProperty {
    /// Reads the argument of `-global`: `DRIVER.PROPERTY=VALUE` or `driver=…,property=…,value=…`.
    ///
    /// # Errors
    /// Neither of the two.
    pub fn from_argument(text: &str) -> Result<Self> {
        let short = text.split_once('=').and_then(|(name, value)| {
            let (driver, property) = name.split_once('.')?;
            Some(Self {
                driver: driver.to_owned(),
                property: property.to_owned(),
                value: value.to_owned(),
            })
        });
        match short {
            Some(global) if !global.driver.is_empty() && !global.property.is_empty() => Ok(global),
            _ => {
                let mut reader = Reader::new(Options::parse(text, None)?, Source::CommandLine);
                let wrong = |_| Error::Other("expected DRIVER.PROPERTY=VALUE".to_owned());
                let global = Self {
                    driver: reader.required("driver").map_err(wrong)?,
                    property: reader.required("property").map_err(wrong)?,
                    value: reader.required("value").map_err(wrong)?,
                };
                reader.finish()?;
                Ok(global)
            }
        }
    }
}

impl FdSetMember {
    /// Reads the options of `-add-fd`.
    ///
    /// # Errors
    /// A missing or bad number, one of the three standard descriptors.
    pub fn from_options(options: Options) -> Result<Self> {
        let mut reader = Reader::new(options, Source::CommandLine);
        let set = reader
            .number("set", 0, 0x7fff_ffff)?
            .ok_or_else(|| Error::Missing("set".to_owned()))?;
        let fd = reader
            .number("fd", 0, 0x7fff_ffff)?
            .ok_or_else(|| Error::Missing("fd".to_owned()))?;
        let opaque = reader.string("opaque")?;
        reader.finish()?;
        if fd <= 2 {
            return Err(Error::other("fd cannot be a standard I/O stream"));
        }
        Ok(Self {
            set: u32::try_from(set).unwrap_or(0),
            fd: i32::try_from(fd).unwrap_or(-1),
            opaque,
        })
    }
}

impl MonitorConfig {
    /// Reads the options of `-mon`.
    ///
    /// # Errors
    /// No chardev, a bad mode.
    pub fn from_options(options: Options) -> Result<Self> {
        let mut reader = Reader::new(options, Source::CommandLine);
        let id = if reader.has("id") {
            Some(reader.id()?)
        } else {
            None
        };
        let chardev = reader.required("chardev")?;
        let mode = match reader.choice("mode", &["readline", "control"])? {
            Some("control") => MonitorMode::Control,
            _ => MonitorMode::Readline,
        };
        let pretty = reader.flag("pretty")?;
        if pretty.is_some() && mode == MonitorMode::Readline {
            return Err(Error::other("'pretty' is not compatible with HMP"));
        }
        reader.finish()?;
        Ok(Self {
            id,
            chardev,
            mode,
            pretty: pretty.unwrap_or(false),
        })
    }
}

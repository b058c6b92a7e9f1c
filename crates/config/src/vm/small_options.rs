//! The options with a few words in them: `-name`, `-rtc`, `-incoming`, `-boot`, `-global`, `-add-fd`, `-mon`, `-msg`, `-metrics`.

use std::fmt;
use std::path::PathBuf;

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

/// `-metrics`: where monitoring systems ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A unix socket, which is made.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port; 0 is any that is free.
        port: u16,
    },
}

impl MetricsAddress {
    /// Reads the argument of `-metrics`.
    ///
    /// # Errors
    /// Neither `unix:PATH` nor `tcp:HOST:PORT`.
    pub fn from_argument(argument: &str) -> Result<Self> {
        let wrong = |what: &str| Error::Other(format!("{what}; give unix:PATH or tcp:HOST:PORT"));
        match argument.split_once(':') {
            Some(("unix", "")) => Err(wrong("a path is missing")),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("tcp", place)) => {
                let (host, port) = place
                    .rsplit_once(':')
                    .ok_or_else(|| wrong("a port is missing"))?;
                // An IPv6 address is written in brackets, as in a URL.
                let host = match host.strip_prefix('[') {
                    Some(rest) => rest.strip_suffix(']').unwrap_or(host),
                    None => host,
                };
                let port = port
                    .parse()
                    .map_err(|_| wrong(&format!("'{port}' is no port")))?;
                if host.is_empty() {
                    // Who may read them is to be said, not guessed.
                    return Err(wrong("a host is missing (127.0.0.1: this machine alone)"));
                }
                Ok(Self::Tcp {
                    host: host.to_owned(),
                    port,
                })
            }
            _ => Err(wrong(&format!("'{argument}' is no address"))),
        }
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_asked_for_at_an_address() {
        for text in [
            "unix:/run/m",
            "tcp:127.0.0.1:9100",
            "tcp:[::1]:0",
            "tcp:host:1",
        ] {
            let address = MetricsAddress::from_argument(text).unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "",
            "unix:",
            "tcp:9100",
            "tcp::9100",
            "tcp:h:99999",
            "udp:h:1",
            "/run/m",
        ] {
            let error = MetricsAddress::from_argument(text).unwrap_err().to_string();
            assert!(
                error.contains("give unix:PATH or tcp:HOST:PORT"),
                "{text}: {error}"
            );
        }
    }
}

//! Parameters of QEMU's migrations that change nothing here: what they govern (post-copy, several connections, compression,
//! throttling) cannot be switched on. They are taken, checked and shown as QEMU does, so that a client that sets them goes on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::parameters::ParameterError;

/// A value of such a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// A switch.
    Switch(bool),
    /// A number, in the parameter's own unit.
    Number(u64),
    /// A word or a name.
    Text(String),
    /// QAPI's null: a name is taken back.
    Null,
}

/// Which values are taken.
enum Rule {
    /// Numbers from the first to the second; the text says so in QEMU's words.
    Range(u64, u64, &'static str),
    /// A power of two that is a page at least.
    CacheSize,
    /// Either.
    Switch,
    /// `off` alone, and why.
    Off(&'static str),
    /// The first word alone, and why.
    Only(&'static str, &'static str),
    /// Any text.
    Text,
    /// No text, and why.
    NoText(&'static str),
}

/// A parameter's default.
enum First {
    Switch(bool),
    Number(u64),
    Text(&'static str),
}

struct Parameter(&'static str, First, Rule);

/// Above it the guest is never slowed down, so it has to be no less than this one.
const THROTTLE_FIRST: &str = "cpu-throttle-initial";
const THROTTLE_MOST: &str = "max-cpu-throttle";

const NO_TLS: &str =
    "expects '': the stream is not encrypted; send it through a tunnel, by exec: or fd:";
const NO_MODE: &str = "expects 'normal': guest memory cannot be handed to another program";
const NO_DIRECT: &str = "expects 'off': files are written through the page cache";

#[rustfmt::skip]
const PARAMETERS: &[Parameter] = &[
    Parameter("throttle-trigger-threshold", First::Number(50), Rule::Range(1, 100, "expects an integer in the range of 1 to 100")),
    Parameter(THROTTLE_FIRST, First::Number(20), Rule::Range(1, 99, "expects an integer in the range of 1 to 99")),
    Parameter("cpu-throttle-increment", First::Number(10), Rule::Range(1, 99, "expects an integer in the range of 1 to 99")),
    Parameter("cpu-throttle-tailslow", First::Switch(false), Rule::Switch),
    Parameter(THROTTLE_MOST, First::Number(99), Rule::Range(0, 99, "expects an integer in the range of cpu_throttle_initial to 99")),
    Parameter("tls-creds", First::Text(""), Rule::NoText(NO_TLS)),
    Parameter("tls-hostname", First::Text(""), Rule::Text),
    Parameter("tls-authz", First::Text(""), Rule::Text),
    Parameter("x-checkpoint-delay", First::Number(20_000), Rule::Range(0, u32::MAX as u64, "expects an integer of 32 bits")),
    Parameter("multifd-channels", First::Number(2), Rule::Range(1, 255, "expects a value between 1 and 255")),
    Parameter("multifd-compression", First::Text("none"), Rule::Text),
    Parameter("multifd-zlib-level", First::Number(1), Rule::Range(0, 9, "expects a value between 0 and 9")),
    Parameter("multifd-zstd-level", First::Number(1), Rule::Range(0, 20, "expects a value between 0 and 20")),
    Parameter("multifd-qatzip-level", First::Number(1), Rule::Range(1, 9, "expects a value between 1 and 9")),
    Parameter("xbzrle-cache-size", First::Number(64 << 20), Rule::CacheSize),
    Parameter("max-postcopy-bandwidth", First::Number(0), Rule::Range(0, u64::MAX, "")),
    Parameter("x-vcpu-dirty-limit-period", First::Number(1000), Rule::Range(1, 1000, "expects a value between 1 and 1000")),
    Parameter("vcpu-dirty-limit", First::Number(1), Rule::Range(1, u64::MAX, "must be greater than 1 MB/s")),
    Parameter("mode", First::Text("normal"), Rule::Only("normal", NO_MODE)),
    Parameter("zero-page-detection", First::Text("multifd"), Rule::Text),
    Parameter("direct-io", First::Switch(false), Rule::Off(NO_DIRECT)),
];

impl Parameter {
    fn default(&self) -> Setting {
        match self.1 {
            First::Switch(on) => Setting::Switch(on),
            First::Number(number) => Setting::Number(number),
            First::Text(text) => Setting::Text(text.to_owned()),
        }
    }

    /// Whether it takes `value`; of a wrong kind it takes none, which the monitor's types do not let through.
    fn check(&self, value: &Setting) -> Result<(), ParameterError> {
        let Self(name, _, rule) = self;
        let taken = match (rule, value) {
            (Rule::Range(min, max, _), Setting::Number(number)) => (min..=max).contains(&number),
            (Rule::CacheSize, Setting::Number(bytes)) => {
                bytes.is_power_of_two() && *bytes >= memory::PAGE_SIZE_BYTES
            }
            (Rule::Switch, Setting::Switch(_)) => true,
            (Rule::Off(_), Setting::Switch(on)) => !on,
            (Rule::Only(word, _), Setting::Text(text)) => word == text,
            (Rule::Text, Setting::Text(_) | Setting::Null) => true,
            (Rule::NoText(_), Setting::Text(text)) => text.is_empty(),
            (Rule::NoText(_), Setting::Null) => true,
            _ => false,
        };
        if taken {
            return Ok(());
        }
        // QEMU's own spelling in its messages.
        let qemus = if name.starts_with("x-") {
            (*name).to_owned()
        } else {
            name.replace('-', "_")
        };
        Err(match rule {
            Rule::Range(_, _, words) => ParameterError::new(&qemus, words),
            Rule::CacheSize => ParameterError::new(
                &qemus,
                "expects a power of two no less than the target page size",
            ),
            Rule::Switch => ParameterError::new(name, "expects 'on' or 'off'"),
            Rule::Off(why) | Rule::Only(_, why) | Rule::NoText(why) => {
                ParameterError::new(name, why)
            }
            Rule::Text => ParameterError::new(name, "expects a text"),
        })
    }
}

/// All of them, by name; QEMU's defaults at first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inert(BTreeMap<String, Setting>);

impl Default for Inert {
    fn default() -> Self {
        let first = |each: &Parameter| (each.0.to_owned(), each.default());
        Self(PARAMETERS.iter().map(first).collect())
    }
}

impl Inert {
    /// Makes all the changes. After an error some may be made: the caller keeps what was there before.
    ///
    /// # Errors
    /// The first value that is refused, or a name that is no parameter.
    pub(crate) fn update(
        &mut self,
        changes: &BTreeMap<String, Setting>,
    ) -> Result<(), ParameterError> {
        for (name, value) in changes {
            let known = PARAMETERS.iter().find(|each| each.0 == name);
            let known = known.ok_or_else(|| ParameterError::new(name, "is unexpected"))?;
            known.check(value)?;
            let value = match value {
                Setting::Null => known.default(),
                value => value.clone(),
            };
            self.0.insert(name.clone(), value);
        }
        let number = |name: &str| match self.0.get(name) {
            Some(Setting::Number(number)) => *number,
            _ => 0,
        };
        if number(THROTTLE_MOST) < number(THROTTLE_FIRST) {
            return Err(ParameterError::new(
                "max_cpu_throttle",
                "expects an integer in the range of cpu_throttle_initial to 99",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn set(name: &str, value: Setting) -> Result<Setting, String> {
        let mut all = Inert::default();
        let changes = BTreeMap::from([(name.to_owned(), value)]);
        all.update(&changes).map_err(|error| error.to_string())?;
        Ok(all.0.get(name).unwrap().clone())
    }

    #[test]
    fn every_default_is_a_value_that_is_taken() {
        for parameter in PARAMETERS {
            assert_eq!(parameter.check(&parameter.default()), Ok(()));
        }
    }

    #[test]
    fn values_are_checked_as_qemu_does() {
        use Setting::{Null, Number, Switch, Text};
        assert_eq!(set("multifd-channels", Number(255)), Ok(Number(255)));
        assert_eq!(
            set("multifd-channels", Number(0)).unwrap_err(),
            "Parameter 'multifd_channels' expects a value between 1 and 255"
        );
        assert!(set("xbzrle-cache-size", Number(5000)).is_err());
        assert!(set("xbzrle-cache-size", Number(0)).is_err());
        assert!(set("xbzrle-cache-size", Number(4096)).is_ok());
        assert!(set("max-cpu-throttle", Number(19)).is_err());
        assert_eq!(
            set("vcpu-dirty-limit", Number(0)).unwrap_err(),
            "Parameter 'vcpu_dirty_limit' must be greater than 1 MB/s"
        );
        assert_eq!(set("tls-hostname", Null), Ok(Text(String::new())));
        assert!(set("cpu-throttle-tailslow", Switch(true)).is_ok());
        assert_eq!(
            set("nope", Switch(true)).unwrap_err(),
            "Parameter 'nope' is unexpected"
        );
    }

    #[test]
    fn what_would_be_a_promise_is_refused() {
        use Setting::{Switch, Text};
        let error = set("tls-creds", Text("tls0".to_owned())).unwrap_err();
        assert!(error.contains("not encrypted"), "{error}");
        assert!(set("mode", Text("cpr-reboot".to_owned())).is_err());
        assert!(set("direct-io", Switch(true)).is_err());
        assert!(set("direct-io", Switch(false)).is_ok());
    }
}

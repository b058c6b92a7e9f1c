//! Taking typed values out of [`Options`], and complaining about what nobody took.

use super::options::{Options, Source, Value};
use super::scalar::{nearest, parse_bool, parse_number, parse_size};
use crate::error::{Error, Result};

/// Takes options out one by one; [`Reader::finish`] refuses those left over.
#[derive(Debug)]
pub struct Reader {
    options: Options,
    source: Source,
    asked: Vec<String>,
}

impl Reader {
    /// Starts reading.
    pub fn new(options: Options, source: Source) -> Self {
        Self {
            options,
            source,
            asked: Vec::new(),
        }
    }

    /// Who is asking.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether the key is given (and not taken yet).
    pub fn has(&self, key: &str) -> bool {
        self.options.get(key).is_some()
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.asked.push(key.to_owned());
        self.options.remove(key)
    }

    /// A string.
    ///
    /// # Errors
    /// A JSON value that is neither a string nor a number.
    pub fn string(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Text(text) | Value::Json(serde_json::Value::String(text))) => {
                Ok(Some(text))
            }
            Some(Value::Json(serde_json::Value::Number(number))) => Ok(Some(number.to_string())),
            Some(Value::Json(_)) => Err(Error::BadType {
                name: key.to_owned(),
                expected: "string",
            }),
        }
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// It is not, or has the wrong type.
    pub fn required(&mut self, key: &str) -> Result<String> {
        self.string(key)?
            .ok_or_else(|| Error::Missing(key.to_owned()))
    }

    /// An identifier that must be there and be well formed.
    ///
    /// # Errors
    /// It is not.
    pub fn id(&mut self) -> Result<String> {
        let id = self.required("id")?;
        check_id(&id)?;
        Ok(id)
    }

    /// A boolean.
    ///
    /// # Errors
    /// Anything but on and off.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key).map(|value| bool_of(key, &value)).transpose()
    }

    /// A boolean with a default.
    ///
    /// # Errors
    /// Anything but on and off.
    pub fn flag_or(&mut self, key: &str, default: bool) -> Result<bool> {
        Ok(self.flag(key)?.unwrap_or(default))
    }

    /// A number of at least `min` and at most `max`.
    ///
    /// # Errors
    /// Anything else.
    pub fn number(&mut self, key: &str, min: u64, max: u64) -> Result<Option<u64>> {
        self.take(key)
            .map(|value| number_of(key, &value, min, max))
            .transpose()
    }

    /// A size in bytes.
    ///
    /// # Errors
    /// Anything else.
    pub fn size(&mut self, key: &str) -> Result<Option<u64>> {
        self.take(key)
            .map(|value| size_of(key, &value, 1))
            .transpose()
    }

    /// A size whose plain numbers count units of `unit_bytes`.
    ///
    /// # Errors
    /// Anything else.
    pub fn size_in(&mut self, key: &str, unit_bytes: u64) -> Result<Option<u64>> {
        self.take(key)
            .map(|value| size_of(key, &value, unit_bytes))
            .transpose()
    }

    /// One of a few words.
    ///
    /// # Errors
    /// Any other word.
    pub fn choice(&mut self, key: &str, words: &[&'static str]) -> Result<Option<&'static str>> {
        let Some(text) = self.string(key)? else {
            return Ok(None);
        };
        let found = words.iter().find(|word| **word == text);
        found.copied().map(Some).ok_or_else(|| Error::BadValue {
            name: key.to_owned(),
            expected: format!("one of {}, not '{text}'", words.join(", ")),
        })
    }

    /// A list: `key.0`, `key.1`, … or a single `key`.
    ///
    /// # Errors
    /// An element of the wrong type.
    pub fn list(&mut self, key: &str) -> Result<Vec<String>> {
        let mut list: Vec<String> = self.string(key)?.into_iter().collect();
        for index in 0.. {
            match self.string(&format!("{key}.{index}"))? {
                Some(value) => list.push(value),
                None => break,
            }
        }
        Ok(list)
    }

    /// Takes options that are accepted and change nothing, whatever their value.
    pub fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.take(key);
        }
    }

    /// Renames what is left of the keys that begin with `from`, so that they begin with `to`.
    pub fn rename_prefix(&mut self, from: &str, to: &str) {
        let mut renamed = Options::new();
        for (key, value) in self.options.iter() {
            let key = match key.strip_prefix(from) {
                Some(rest) => format!("{to}{rest}"),
                None => key.to_owned(),
            };
            renamed.set(&key, value.clone());
        }
        self.options = renamed;
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// An option that nobody took, by name, with the nearest one that would have been.
    pub fn finish(self) -> Result<()> {
        let Some((name, value)) = self.options.iter().next() else {
            return Ok(());
        };
        if self.source == Source::Monitor && matches!(value, Value::Json(_)) {
            return Err(Error::Unexpected(name.to_owned()));
        }
        let suggestion = nearest(name, self.asked.iter().map(String::as_str)).map(str::to_owned);
        Err(Error::UnknownParameter {
            name: name.to_owned(),
            suggestion,
        })
    }
}

/// Whether a word can be an identifier: a letter, then letters, digits, `-`, `.`, `_`.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let mut bytes = id.bytes();
    let well_formed = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if well_formed {
        Ok(())
    } else {
        Err(Error::BadId(id.to_owned()))
    }
}

/// A boolean; strings are taken in JSON too, as QEMU before 9 took them.
pub(crate) fn bool_of(key: &str, value: &Value) -> Result<bool> {
    match value {
        Value::Text(text) => parse_bool(text).ok_or_else(|| Error::BadValue {
            name: key.to_owned(),
            expected: "'on' or 'off'".to_owned(),
        }),
        Value::Json(serde_json::Value::Bool(on)) => Ok(*on),
        Value::Json(serde_json::Value::String(text)) if parse_bool(text).is_some() => {
            Ok(parse_bool(text) == Some(true))
        }
        Value::Json(_) => Err(Error::BadType {
            name: key.to_owned(),
            expected: "boolean",
        }),
    }
}

pub(crate) fn number_of(key: &str, value: &Value, min: u64, max: u64) -> Result<u64> {
    let number = match value {
        Value::Text(text) => parse_number(text),
        Value::Json(serde_json::Value::Number(number)) => number.as_u64(),
        Value::Json(serde_json::Value::String(text)) => parse_number(text),
        Value::Json(_) => {
            return Err(Error::BadType {
                name: key.to_owned(),
                expected: "integer",
            });
        }
    };
    number
        .filter(|n| (min..=max).contains(n))
        .ok_or_else(|| Error::BadValue {
            name: key.to_owned(),
            expected: format!("a number from {min} to {max}"),
        })
}

pub(crate) fn size_of(key: &str, value: &Value, unit_bytes: u64) -> Result<u64> {
    let size = match value {
        Value::Text(text) | Value::Json(serde_json::Value::String(text)) => {
            parse_size(text, unit_bytes)
        }
        Value::Json(serde_json::Value::Number(number)) => {
            number.as_u64().and_then(|n| n.checked_mul(unit_bytes))
        }
        Value::Json(_) => {
            return Err(Error::BadType {
                name: key.to_owned(),
                expected: "size",
            });
        }
    };
    size.ok_or_else(|| Error::BadValue {
        name: key.to_owned(),
        expected: "a size below 2^64, such as 512M or 4G".to_owned(),
    })
}

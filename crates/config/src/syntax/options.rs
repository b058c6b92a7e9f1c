//! The ordered map of options.

use std::fmt;

use crate::error::{Error, Result};

/// Who is asking: QEMU words a few errors differently for the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line, at start.
    CommandLine,
    /// A monitor, while the machine runs.
    Monitor,
}

/// A value as it was given: text, or a JSON scalar.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// From `key=value`.
    Text(String),
    /// From JSON; never an object or a list inside [`Options`], those are flattened.
    Json(serde_json::Value),
}

impl Value {
    /// The value in option syntax, unescaped: `on`/`off` for booleans.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Json(serde_json::Value::String(text)) => text.clone(),
            Self::Json(serde_json::Value::Bool(true)) => "on".to_owned(),
            Self::Json(serde_json::Value::Bool(false)) => "off".to_owned(),
            Self::Json(other) => other.to_string(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Boolean options whose own name begins with "no": as bare words they mean themselves, not the negation.
const NOT_NEGATIONS: &[&str] = &["nodelay", "noreboot"];

/// How many options one string or object may hold; more is nobody's honest wish.
const MAX_OPTIONS: usize = 4096;

/// Options in the order they were given; a key given twice has its last value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    entries: Vec<(String, Value)>,
}

impl Options {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads an option's argument: JSON if it begins with `{`, `key=value,…` otherwise. `implied` is the key of a
    /// first word without `=`.
    ///
    /// # Errors
    /// Malformed JSON, an empty key, or thousands of options.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<Self> {
        if text.starts_with('{') {
            Self::parse_json(text)
        } else {
            Self::parse_key_value(text, implied)
        }
    }

    /// Reads a JSON object.
    ///
    /// # Errors
    /// Malformed JSON, or anything but an object.
    pub fn parse_json(text: &str) -> Result<Self> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| Error::Json(error.to_string()))?;
        match value {
            serde_json::Value::Object(map) => Self::from_json(&map),
            _ => Err(Error::Json("expecting an object".to_owned())),
        }
    }

    /// Takes the arguments of a monitor command. Objects and lists within become dotted keys (`file.driver`,
    /// `addr.0`); a `null` counts as absent.
    ///
    /// # Errors
    /// Thousands of options.
    pub fn from_json(map: &serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        let mut options = Self::new();
        for (key, value) in map {
            options.flatten(key, value)?;
        }
        Ok(options)
    }

    fn flatten(&mut self, key: &str, value: &serde_json::Value) -> Result<()> {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::Object(map) => {
                for (inner, value) in map {
                    self.flatten(&format!("{key}.{inner}"), value)?;
                }
            }
            serde_json::Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    self.flatten(&format!("{key}.{index}"), value)?;
                }
            }
            scalar => self.set(key, Value::Json(scalar.clone())),
        }
        if self.entries.len() > MAX_OPTIONS {
            Err(Error::other("too many parameters"))
        } else {
            Ok(())
        }
    }

    fn parse_key_value(text: &str, implied: Option<&str>) -> Result<Self> {
        let mut options = Self::new();
        let mut rest = text;
        let mut first = true;
        while !rest.is_empty() {
            let (element_end, has_equals) = key_end(rest);
            let (word, after) = rest.split_at(element_end);
            if has_equals {
                let (value, after) = take_value(after.get(1..).unwrap_or(""));
                if word.is_empty() {
                    return Err(Error::UnknownParameter {
                        name: String::new(),
                        suggestion: None,
                    });
                }
                options.set(word, Value::Text(value));
                rest = after;
            } else if let (true, Some(implied)) = (first, implied) {
                let (value, after) = take_value(rest);
                options.set(implied, Value::Text(value));
                rest = after;
            } else {
                if word.is_empty() {
                    return Err(Error::UnknownParameter {
                        name: String::new(),
                        suggestion: None,
                    });
                }
                match word.strip_prefix("no") {
                    Some(positive) if !positive.is_empty() && !NOT_NEGATIONS.contains(&word) => {
                        options.set(positive, Value::from("off"));
                    }
                    _ => options.set(word, Value::from("on")),
                }
                rest = after.get(1..).unwrap_or("");
            }
            first = false;
            if options.entries.len() > MAX_OPTIONS {
                return Err(Error::other("too many parameters"));
            }
        }
        Ok(options)
    }

    /// Sets a key; a value it had is replaced and moves to the end.
    pub fn set(&mut self, key: &str, value: Value) {
        self.entries.retain(|(name, _)| name != key);
        self.entries.push((key.to_owned(), value));
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// The value of a key as text.
    pub fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(Value::text)
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let index = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(index).1)
    }

    /// Whether the user asks what there is to choose from: a bare `help` or `?`.
    pub fn asks_for_help(&self) -> bool {
        ["help", "?"]
            .iter()
            .any(|key| self.get(key) == Some(&Value::from("on")))
    }

    /// All options in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Prints options so that [`Options::parse`] reads them again: `key=value,…`, commas doubled.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.entries.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{key}={}", value.text().replace(',', ",,"))?;
        }
        Ok(())
    }
}

/// Where the key at the start of `text` ends, and whether a `=` ends it (rather than a comma or the end).
fn key_end(text: &str) -> (usize, bool) {
    match text.find(['=', ',']) {
        Some(at) => (at, text.as_bytes().get(at) == Some(&b'=')),
        None => (text.len(), false),
    }
}

/// Takes a value up to a single comma; gives it with doubled commas made single, and what follows the comma.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        let (before, after) = rest.split_at(comma);
        value.push_str(before);
        let after = after.get(1..).unwrap_or("");
        match after.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, after),
        }
    }
    value.push_str(rest);
    (value, "")
}

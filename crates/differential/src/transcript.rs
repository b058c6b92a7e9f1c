//! What a client saw, in order.

use std::fmt;

use serde_json::Value;

/// One thing that a client saw of one VMM.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What it is: `query-pci`, `event MIGRATION active`, `stderr`, `exit`. Entries of the two programs with one key belong
    /// together.
    pub key: String,
    /// What it said.
    pub value: Value,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.value)
    }
}

/// All of one VMM.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcript {
    /// The VMM's part in the scenario: `source`, `target`, `vm`.
    pub part: String,
    /// In the order in which they came.
    pub entries: Vec<Entry>,
}

impl Transcript {
    /// Adds one.
    pub fn push(&mut self, key: impl Into<String>, value: Value) {
        self.entries.push(Entry {
            key: key.into(),
            value,
        });
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            writeln!(f, "  {}: {entry}", self.part)?;
        }
        Ok(())
    }
}

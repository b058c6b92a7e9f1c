//! Why the machine could not do what a migration asked of it.

/// One line for people, from the machine's side of [`crate::Source`] and [`crate::Target`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reason(pub String);

impl Reason {
    /// Of anything that can be shown.
    pub fn new(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// The guest keeps its primaries: why, for people and for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Kept {
    /// The word for programs; none if nobody waits any more.
    pub name: Option<&'static str>,
    /// One line for people.
    pub why: String,
}

impl Kept {
    /// Nobody waits any more.
    pub fn interrupted() -> Self {
        Self {
            name: None,
            why: "interrupted".to_owned(),
        }
    }
}

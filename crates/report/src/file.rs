//! A report on disk.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::document::Document;
use crate::page::page;

/// A report could not be written; says which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report {path}: {error}")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// Writes a file whole or not at all: a reader sees the old one or the new one. The folder has to exist.
///
/// # Errors
/// The folder is not there or not writable, or the disk is full; then the old file is as it was.
pub fn write_atomically(path: &Path, text: &str) -> Result<(), WriteError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".report")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_data()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| WriteError {
        path: path.to_owned(),
        error,
    })
}

/// Where page and JSON of a report go: the page to `path` and the JSON beside it as `.json`; the other way round for a
/// `path` that ends so itself.
#[must_use]
pub(crate) fn places(path: &Path) -> (PathBuf, PathBuf) {
    if path.extension().is_some_and(|ending| ending == "json") {
        (path.with_extension("html"), path.to_owned())
    } else {
        (path.to_owned(), path.with_extension("json"))
    }
}

/// Writes the page and the JSON of a document: the page to `path` and the JSON beside it, ending in `.json`; a `path`
/// that ends so itself is the JSON's, and the page's ends in `.html`.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_both(path: &Path, document: &Document) -> Result<(), WriteError> {
    let (html, json) = places(path);
    let text = serde_json::to_string_pretty(document).map_err(|error| WriteError {
        path: json.clone(),
        error: io::Error::other(error),
    })?;
    write_atomically(&json, &(text + "\n"))?;
    write_atomically(&html, &page(document))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_old_file_stays_where_the_new_one_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        write_both(&path, &Document::default()).unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .starts_with("<!DOCTYPE html>")
        );
        let json = std::fs::read_to_string(path.with_extension("json")).unwrap();
        assert_eq!(
            serde_json::from_str::<Document>(&json).unwrap(),
            Document::default()
        );
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["report.html", "report.json"]);

        // A folder in its place cannot be replaced by a file.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        let error = write_atomically(&taken, "x").unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
        assert!(taken.is_dir());
        assert!(write_atomically(Path::new("/nowhere/report.html"), "x").is_err());
    }

    #[test]
    fn each_has_its_ending() {
        let (html, json) = places(Path::new("/run/a.json"));
        assert_eq!(
            (html.as_path(), json.as_path()),
            (Path::new("/run/a.html"), Path::new("/run/a.json"))
        );
        let (html, json) = places(Path::new("/run/a"));
        assert_eq!(
            (html.as_path(), json.as_path()),
            (Path::new("/run/a"), Path::new("/run/a.json"))
        );
    }
}

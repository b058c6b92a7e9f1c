//! The committed help, options page and man page say what the tables say.
#![allow(clippy::unwrap_used)]

use std::path::Path;

fn check(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("STANDFAST_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = committed
        .lines()
        .zip(made.lines())
        .find(|(old, new)| old != new);
    assert!(
        committed == made,
        "{name} is stale ({differs:?}); STANDFAST_WRITE_DOCS=1 cargo test -p standfast --test docs writes it anew"
    );
}

#[test]
fn the_options_page_is_fresh() {
    check("../../docs/options.md", &standfast::docs::markdown());
}

#[test]
fn the_man_page_is_fresh() {
    check("../../docs/standfast.1", &standfast::docs::man_page());
}

#[test]
fn the_metrics_page_is_fresh() {
    check("../../docs/metrics.md", &standfast::metrics::page());
}

#[test]
fn the_help_is_fresh() {
    check("tests/golden/help.txt", &standfast::cli::help::options());
}

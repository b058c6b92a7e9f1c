//! The table: each scenario, and `same` or what differs on purpose.

use std::fmt::Write;

use crate::scenario::Outcome;

/// As text, a line a scenario; what is wrong stands below its scenario.
pub fn table(outcomes: &[Outcome]) -> String {
    let width = outcomes
        .iter()
        .map(|each| each.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for outcome in outcomes {
        let _ = writeln!(text, "{:width$}  {}", outcome.name, verdict(outcome));
        for line in &outcome.wrong {
            let _ = writeln!(text, "{:width$}    {line}", "");
        }
    }
    let passed = outcomes.iter().filter(|each| each.passed()).count();
    let _ = writeln!(text, "{passed} of {} scenarios as intended", outcomes.len());
    text
}

/// One word or a list of names.
pub fn verdict(outcome: &Outcome) -> String {
    if !outcome.passed() {
        "DIFFERS".to_owned()
    } else if outcome.seen.is_empty() {
        "same".to_owned()
    } else {
        let names: Vec<&str> = outcome.seen.iter().map(|each| each.name).collect();
        names.join(", ")
    }
}

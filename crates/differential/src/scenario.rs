//! A scenario, and playing it to both programs.

use std::borrow::Borrow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;

use crate::compare::{Difference, compare};
use crate::intended::{EVERYWHERE, Intended};
use crate::program::{Program, Programs};
use crate::stage::Stage;
use crate::transcript::Transcript;

/// What is played.
pub struct Scenario {
    /// Its name, unique.
    pub name: &'static str,
    /// What it plays, in a few words.
    pub about: &'static str,
    /// The play. An error is a step that could not be carried out at all, such as an event that never came.
    pub play: fn(&mut Stage) -> Result<()>,
    /// What may differ, and then has to.
    pub intended: &'static [Intended],
}

/// A scenario in short: its name, what it plays, the play, and what may differ.
macro_rules! row {
    ($name:literal, $about:literal, $play:expr) => {
        row!($name, $about, $play, &[])
    };
    ($name:literal, $about:literal, $play:expr, $intended:expr) => {
        Scenario {
            name: $name,
            about: $about,
            play: $play,
            intended: $intended,
        }
    };
}
pub(crate) use row;

/// What came of it.
pub struct Outcome {
    /// The scenario's name.
    pub name: &'static str,
    /// What it plays.
    pub about: &'static str,
    /// The intended differences that were seen.
    pub seen: Vec<Intended>,
    /// What nobody intended: differences, listed ones that did not occur, steps that failed.
    pub wrong: Vec<String>,
    /// All that differs, intended or not.
    pub differences: Vec<Difference>,
    /// What QEMU's client saw.
    pub qemu: Vec<Transcript>,
    /// What ours saw.
    pub ours: Vec<Transcript>,
}

impl Outcome {
    /// Whether nothing is wrong.
    pub fn passed(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// Plays it to one program; what was seen, and how a step failed.
pub fn perform(scenario: &Scenario, program: &Program) -> (Vec<Transcript>, Option<String>) {
    let mut stage = match Stage::new(program) {
        Ok(stage) => stage,
        Err(error) => return (Vec::new(), Some(format!("{error:#}"))),
    };
    let result = (scenario.play)(&mut stage);
    let error = result.err().map(|error| format!("{error:#}"));
    (stage.into_transcripts(), error)
}

/// Plays it to both and compares.
pub fn play(scenario: &Scenario, programs: &Programs) -> Outcome {
    let ((qemu, theirs_failed), (ours, ours_failed)) = thread::scope(|scope| {
        let theirs = scope.spawn(|| perform(scenario, &programs.qemu));
        let ours = perform(scenario, &programs.ours);
        let broken = |_| (Vec::new(), Some("the scenario panicked".to_owned()));
        (theirs.join().unwrap_or_else(broken), ours)
    });
    let mut wrong = Vec::new();
    for (label, failed) in [("QEMU", theirs_failed), ("ours", ours_failed)] {
        wrong.extend(failed.map(|why| format!("{label}: {why}")));
    }
    let differences = compare(&qemu, &ours);
    let seen = judge(scenario.intended, &differences, &mut wrong);
    Outcome {
        name: scenario.name,
        about: scenario.about,
        seen,
        wrong,
        differences,
        qemu,
        ours,
    }
}

/// Sorts differences into intended ones, which are returned, and wrong ones.
pub fn judge(
    intended: &[Intended],
    differences: &[Difference],
    wrong: &mut Vec<String>,
) -> Vec<Intended> {
    let explained = |difference: &&Difference| {
        intended
            .iter()
            .chain(EVERYWHERE)
            .any(|each| each.explains(&difference.to_string()))
    };
    let unexplained = differences
        .iter()
        .filter(|difference| !explained(difference));
    wrong.extend(unexplained.map(ToString::to_string));
    let occurs = |each: &&Intended| {
        differences
            .iter()
            .any(|difference| each.explains(&difference.to_string()))
    };
    let (seen, stale): (Vec<&Intended>, Vec<&Intended>) = intended.iter().partition(occurs);
    wrong.extend(
        stale
            .iter()
            .map(|each| format!("listed as intended, but did not occur: {}", each.name)),
    );
    seen.into_iter().copied().collect()
}

/// Plays several at a time; outcomes are in the order of the scenarios.
pub fn play_all<S: Borrow<Scenario> + Sync>(
    scenarios: &[S],
    programs: &Programs,
    at_once: usize,
) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(number) else {
                        return;
                    };
                    let outcome = play(scenario.borrow(), programs);
                    let mut outcomes = outcomes
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    outcomes.push((number, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: Intended = Intended {
        name: "listed",
        reason: "for the test",
        patterns: &["vm: known *"],
    };

    fn judged(differences: &[&str]) -> Vec<String> {
        let differences: Vec<_> = differences
            .iter()
            .map(|text| Difference((*text).to_owned()))
            .collect();
        let mut wrong = Vec::new();
        judge(&[LISTED], &differences, &mut wrong);
        wrong
    }

    #[test]
    fn what_is_listed_has_to_occur_and_what_occurs_has_to_be_listed() {
        assert!(judged(&["vm: known thing"]).is_empty());
        assert_eq!(judged(&["vm: known thing", "vm: other"]), ["vm: other"]);
        assert_eq!(
            judged(&[]),
            ["listed as intended, but did not occur: listed"]
        );
    }
}

//! Programs that take too long. When it is too long a test says: no clock decides.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use tempfile::TempDir;

use super::*;
use crate::testing::{eventually, program};

/// Longer than any program takes here.
const LONG: Duration = Duration::from_secs(60);
/// Over before anybody looks.
const SHORT: Duration = Duration::from_millis(1);

/// How a wait for a program ends.
enum Word {
    TooLong,
    /// With the program.
    Wait,
}

struct Bench {
    folder: TempDir,
    hook: Hook,
    troubles: Receiver<Trouble>,
    /// One for each program, in their order.
    word: Sender<Word>,
}

fn bench(text: &str, timeout: Duration) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let config = HookConfig {
        program: program(folder.path(), "hook", text),
        timeout,
    };
    let (word, words) = channel();
    let wait = move |child: &mut Child, _: Duration| match words.recv() {
        Ok(Word::TooLong) => Ok(None),
        Ok(Word::Wait) | Err(_) => child::wait(child, LONG),
    };
    let hook = Hook::start_with("net1", config, Box::new(wait)).unwrap();
    let (sender, troubles) = channel();
    hook.set_listener(Arc::new(move |trouble| {
        let _ = sender.send(trouble);
    }));
    Bench {
        folder,
        hook,
        troubles,
        word,
    }
}

impl Bench {
    fn hand(&self, moment: Moment) {
        let json = format!("{{\"moment\":\"{}\"}}\n", moment.name());
        self.hook.hand(moment, json.into_bytes());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a program wrote to a file that appears whole.
    fn written(&self, name: &str) -> String {
        eventually(name, || fs::read_to_string(self.path(name)).ok())
    }
}

#[test]
fn one_that_does_not_end_is_killed_with_all_it_began_and_nobody_waits_for_it() {
    let mut bench = bench(
        "read line; case $line in *to-standby*) sleep 1000 & echo $! > $here/new; mv $here/new $here/child; wait;; esac
         echo $line >> $here/told",
        LONG,
    );
    // Nobody has said yet that the first has had its time: who waited for it would wait for ever.
    bench.hand(Moment::ToStandby);
    bench.hand(Moment::ToPrimary);
    let child = bench.written("child");
    bench.word.send(Word::TooLong).unwrap();
    let trouble = bench.troubles.recv_timeout(LONG).unwrap();
    assert_eq!(trouble.moment, Moment::ToStandby);
    assert_eq!(trouble.error, "not done after 60000 ms, killed");
    let stat = format!("/proc/{}/stat", child.trim());
    eventually("what it began is gone", || {
        let stat = fs::read_to_string(&stat).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z")).then_some(())
    });
    bench.word.send(Word::Wait).unwrap();
    bench.hook.finish();
    assert_eq!(bench.written("told"), "{\"moment\":\"to-primary\"}\n");
    assert!(bench.troubles.try_recv().is_err());
}

#[test]
fn more_than_it_can_be_told_is_lost_and_said_to_be_and_the_end_does_not_wait_for_ever() {
    let mut bench = bench("touch $here/runs; exec sleep 1000", SHORT);
    for _ in 0..100 {
        bench.hand(Moment::ToStandby);
    }
    let trouble = bench.troubles.recv_timeout(LONG).unwrap();
    assert_eq!(trouble.error, "32 earlier steps still wait for it");
    bench.written("runs");
    bench.hook.finish();
    // Back, and the program still runs.
    assert!(bench.troubles.try_recv().is_err());
    bench.word.send(Word::TooLong).unwrap();
    drop(bench.hook);
    let mut errors = bench.troubles.iter().map(|trouble| trouble.error);
    assert_eq!(errors.next().unwrap(), "not done after 1 ms, killed");
    let rest: Vec<_> = errors.collect();
    assert!((31..=32).contains(&rest.len()), "{rest:?}");
    let ended = "the machine ended before its turn";
    assert!(rest.iter().all(|error| error == ended), "{rest:?}");
}

//! A client that stands in for the processors and listens for the program, which connects to both of its sockets.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Nothing here takes longer, however busy the host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A conversation in lines.
struct Lines {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Lines {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            reader: BufReader::new(stream.try_clone().unwrap()),
            writer: stream,
        }
    }

    fn send(&mut self, line: &str) {
        self.writer
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    fn receive(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// A machine under the client's hands.
pub(crate) struct Machine {
    child: Child,
    qtest: Lines,
    qmp: Lines,
    events: VecDeque<Value>,
    /// Kept for as long as the machine runs.
    pub(crate) folder: tempfile::TempDir,
}

fn accept(listener: &UnixListener, child: &mut Child) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(_) => {
                assert!(child.try_wait().unwrap().is_none(), "the program has ended");
                assert!(Instant::now() < end, "nobody connects");
                std::thread::yield_now();
            }
        }
    }
}

/// The program under a name of QEMU's.
pub(crate) fn program(folder: &Path) -> PathBuf {
    let link = folder.join("standfast-system-x86_64");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_standfast"), &link).unwrap();
    }
    link
}

impl Machine {
    /// Starts the program with these options and what such a client adds to them.
    pub(crate) fn start(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let listeners = ["qtest", "qmp"].map(|name| UnixListener::bind(at(name)).unwrap());
        let mut child = Command::new(program(folder.path()))
            .args(["-qtest", &format!("unix:{}", at("qtest").display())])
            .args(["-qtest-log", "/dev/null"])
            .args([
                "-chardev",
                &format!("socket,path={},id=char0", at("qmp").display()),
            ])
            .args(["-mon", "chardev=char0,mode=control"])
            .args(["-display", "none", "-audio", "none"])
            .args(options.split_whitespace())
            .args(["-accel", "qtest"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let [qtest, qmp] = listeners.map(|listener| Lines::new(accept(&listener, &mut child)));
        let mut machine = Self {
            child,
            qtest,
            qmp,
            events: VecDeque::new(),
            folder,
        };
        assert!(machine.qmp.receive().starts_with("{\"QMP\""));
        machine.qmp("qmp_capabilities", json!({})).unwrap();
        assert_eq!(machine.command("endianness"), "little");
        machine
    }

    /// A line of the qtest protocol; what comes after `OK`.
    pub(crate) fn command(&mut self, line: &str) -> String {
        self.qtest.send(line);
        let answer = self.qtest.receive();
        let rest = answer.strip_prefix("OK");
        rest.unwrap_or_else(|| panic!("{line}: {answer}"))
            .trim()
            .to_owned()
    }

    /// The same, where the answer is a number.
    pub(crate) fn number(&mut self, line: &str) -> u64 {
        let answer = self.command(line);
        u64::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap()
    }

    /// A monitor command; the error's text is its description.
    pub(crate) fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.qmp
            .send(&json!({"execute": command, "arguments": arguments}).to_string());
        loop {
            let mut answer: Value = serde_json::from_str(&self.qmp.receive()).unwrap();
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            } else if let Some(error) = answer.get("error") {
                return Err(error["desc"].as_str().unwrap().to_owned());
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Waits for an event and gives its data; those before it are thrown away.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            let mut event = match self.events.pop_front() {
                Some(event) => event,
                None => serde_json::from_str(&self.qmp.receive()).unwrap(),
            };
            if event["event"] == name {
                return event["data"].take();
            }
        }
    }

    /// `query-migrate`'s status.
    pub(crate) fn status(&mut self) -> String {
        let info = self.qmp("query-migrate", json!({})).unwrap();
        info["status"].as_str().unwrap_or("").to_owned()
    }

    /// The first pair of `query-failover`.
    pub(crate) fn pair(&mut self) -> Value {
        self.qmp("query-failover", json!({})).unwrap()[0].take()
    }

    /// Whether an event of this name came that nobody waited for. What happened before the last command is known.
    pub(crate) fn has_told(&mut self, name: &str) -> bool {
        self.told(name) > 0
    }

    /// How many of them came.
    pub(crate) fn told(&self, name: &str) -> usize {
        let named = self.events.iter().filter(|event| event["event"] == name);
        named.count()
    }

    /// Changes parameters of migrations.
    pub(crate) fn set_parameters(&mut self, parameters: Value) {
        self.qmp("migrate-set-parameters", parameters).unwrap();
    }

    /// Asks for the status until it is `wanted`; on the way it may only be one of `others`.
    pub(crate) fn until(&mut self, wanted: &str, others: &[&str]) {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if status == wanted {
                return;
            }
            assert!(others.contains(&status.as_str()), "{status}, not {wanted}");
            assert!(Instant::now() < end, "still {status}, not {wanted}");
        }
    }

    /// Ends it by SIGTERM, and looks at its status.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Ended already, or a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! L1's agent: serves one command at a time on each of its channels.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::wire::{Frame, MAX_PAYLOAD_BYTES, Open};

/// Serves every channel until the machine ends; returns only if there is none.
pub fn run() -> Result<()> {
    let mut threads = Vec::new();
    for (name, device) in ports()? {
        if name.starts_with("lab.") {
            let port = OpenOptions::new().read(true).write(true).open(&device)?;
            threads.push(thread::spawn(move || serve(port)));
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
    anyhow::bail!("no channel to serve")
}

/// The names of the virtio-serial ports and their devices; there is no udev to link them.
fn ports() -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/virtio-ports")
        .context("no virtio-serial port")?
        .flatten()
    {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        found.push((
            name.trim().to_owned(),
            PathBuf::from("/dev").join(entry.file_name()),
        ));
    }
    Ok(found)
}

/// Turns "the host end is closed", which a port reports as zero bytes, into an end of file that
/// does not spin.
struct Port(File);

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if count == 0 {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(count)
    }
}

type Sender = Arc<Mutex<File>>;

fn send(port: &Sender, frame: &Frame) {
    // A client that is gone takes nothing; its command is ended by the reading side.
    let _ = frame.write(&mut *lock(port));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves a channel for ever: an end of file is a client that left, and the next may come.
fn serve(reader: File) {
    let Ok(writer) = reader.try_clone() else {
        return;
    };
    let port: Sender = Arc::new(Mutex::new(writer));
    let mut reader = Port(reader);
    let mut running: Option<Running> = None;
    let mut greeted = false;
    loop {
        match Frame::read(&mut reader) {
            Ok(Frame::Hello(nonce)) => {
                running = None;
                greeted = true;
                send(&port, &Frame::Hello(nonce));
            }
            Ok(Frame::Open(request)) if greeted => {
                running = match Running::start(&request, &port) {
                    Ok(started) => {
                        // Whoever asked knows now that the request was not lost on the way.
                        send(&port, &Frame::Hello(Vec::new()));
                        Some(started)
                    }
                    Err(error) => {
                        send(&port, &Frame::Error(format!("{error:#}\n").into_bytes()));
                        send(&port, &Frame::Exit(127));
                        None
                    }
                };
            }
            Ok(Frame::Input(bytes)) => {
                if let Some(running) = &mut running {
                    running.input(&bytes);
                }
            }
            Ok(_) => {}
            Err(_) => {
                running = None;
                greeted = false;
            }
        }
    }
}

/// A command in progress; dropping it kills its whole process group.
struct Running {
    group: Option<Pid>,
    input: Option<Input>,
    alive: Arc<Mutex<bool>>,
}

enum Input {
    Pipe(ChildStdin),
    Terminal(File),
}

impl Running {
    fn start(request: &[u8], port: &Sender) -> Result<Self> {
        let request: Open = serde_json::from_slice(request).context("the request is no JSON")?;
        let (program, arguments) = request.argv.split_first().context("no program named")?;
        let mut sources: Vec<Source> = Vec::new();
        let mut child;
        let input;
        if let Some((rows, columns)) = request.tty {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
            grantpt(&master)?;
            unlockpt(&master)?;
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&master, size)?;
            let slave = ptsname(&master, Vec::new())?;
            child = Command::new(std::env::current_exe()?)
                .arg("exec")
                .arg("--tty")
                .arg(slave.to_str()?)
                .arg("--")
                .args(&request.argv)
                .envs(request.env)
                .spawn()?;
            let master = File::from(master);
            sources.push((Box::new(master.try_clone()?), Frame::Output));
            input = Input::Terminal(master);
        } else {
            child = Command::new(program)
                .args(arguments)
                .envs(request.env)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot run {program}"))?;
            sources.push((file(child.stdout.take().map(OwnedFd::from))?, Frame::Output));
            sources.push((file(child.stderr.take().map(OwnedFd::from))?, Frame::Error));
            input = Input::Pipe(child.stdin.take().context("no stdin")?);
        }
        let alive = Arc::new(Mutex::new(true));
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        watch(child, sources, Arc::clone(port), Arc::clone(&alive));
        Ok(Self {
            group,
            input: Some(input),
            alive,
        })
    }

    fn input(&mut self, bytes: &[u8]) {
        match &mut self.input {
            Some(Input::Pipe(_)) if bytes.is_empty() => self.input = None,
            Some(Input::Pipe(pipe)) => drop(pipe.write_all(bytes)),
            Some(Input::Terminal(master)) => drop(master.write_all(bytes)),
            None => {}
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Held over the kill, so that the id cannot have been reaped and given to another.
        let alive = lock(&self.alive);
        if let (true, Some(group)) = (*alive, self.group) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

type Source = (Box<dyn Read + Send>, fn(Vec<u8>) -> Frame);

fn file(fd: Option<OwnedFd>) -> Result<Box<dyn Read + Send>> {
    Ok(Box::new(File::from(fd.context("no pipe")?)))
}

/// Passes on what the command says, and its status once it has ended.
///
/// A program left in the background may hold the pipes open; half a second after the command's
/// own end nothing more of it is waited for.
fn watch(mut child: Child, sources: Vec<Source>, port: Sender, alive: Arc<Mutex<bool>>) {
    let (done, wait_done) = std::sync::mpsc::channel::<()>();
    let open = Arc::new(Mutex::new(true));
    let count = sources.len();
    for (mut source, frame) in sources {
        let (port, done, open) = (Arc::clone(&port), done.clone(), Arc::clone(&open));
        thread::spawn(move || {
            let mut buffer = vec![0; MAX_PAYLOAD_BYTES];
            while let Ok(size @ 1..) = source.read(&mut buffer) {
                let open = lock(&open);
                if *open {
                    send(
                        &port,
                        &frame(buffer.get(..size).unwrap_or_default().to_vec()),
                    );
                }
            }
            let _ = done.send(());
        });
    }
    thread::spawn(move || {
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // Waits without reaping first, so that the kill in `Drop` never meets a reused id.
        if let Some(id) = id {
            let options =
                rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
            let _ = rustix::process::waitid(rustix::process::WaitId::Pid(id), options);
        }
        *lock(&alive) = false;
        let status = child.wait();
        for _ in 0..count {
            let _ = wait_done.recv_timeout(Duration::from_millis(500));
        }
        *lock(&open) = false;
        let code = status.map_or(127, |status| {
            status
                .code()
                .or_else(|| status.signal().map(|signal| 128 + signal))
                .unwrap_or(127)
        });
        send(&port, &Frame::Exit(code));
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::channel::Channel;

    fn served() -> Channel {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || serve(File::from(OwnedFd::from(theirs))));
        let mut channel = Channel::over(ours, tempfile::tempfile().unwrap());
        channel.greet(Duration::from_secs(60)).unwrap();
        channel
    }

    #[test]
    fn a_command_gives_its_output_its_errors_and_its_status() {
        let mut channel = served();
        let argv = ["sh", "-c", "echo out; echo $WORD >&2; exit 3"]
            .map(str::to_owned)
            .to_vec();
        let open = Open {
            argv,
            env: vec![("WORD".into(), "err".into())],
            tty: None,
        };
        let (mut output, mut error) = (Vec::new(), Vec::new());
        let code = channel
            .run(&open, |b| output.write_all(b), |b| error.write_all(b))
            .unwrap();
        assert_eq!(
            (code, output.as_slice(), error.as_slice()),
            (3, &b"out\n"[..], &b"err\n"[..])
        );
        assert_eq!(
            channel.capture(&["printf", "%s", "again"]).unwrap(),
            "again"
        );
        assert!(channel.capture(&["false"]).is_err());
        assert!(channel.capture(&["/no/such/program"]).is_err());
    }

    #[test]
    fn much_output_arrives_whole() {
        let text = served()
            .capture(&["sh", "-c", "yes 0123456789 | head -n 100000"])
            .unwrap();
        assert_eq!(text.len(), 1_100_000);
    }

    #[test]
    fn a_new_greeting_ends_what_the_client_before_left_running() {
        let mut channel = served();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!(
            "echo $$ > {}.new; mv {0}.new {0}; exec sleep 1000",
            file.display()
        );
        channel.send(&Frame::Open(
            serde_json::to_vec(&Open {
                argv: vec!["sh".into(), "-c".into(), script],
                env: Vec::new(),
                tty: None,
            })
            .unwrap(),
        ));
        let pid = loop {
            if let Ok(text) = fs::read_to_string(&file) {
                break text.trim().to_owned();
            }
            thread::yield_now();
        };
        channel.greet(Duration::from_secs(60)).unwrap();
        // The kill is sent before the greeting is answered; the reaping may take a moment more.
        while fs::exists(format!("/proc/{pid}")).unwrap() {
            thread::yield_now();
        }
    }
}

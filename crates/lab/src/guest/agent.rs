//! The guest's agent: answers questions on its second serial line, reports every change of its
//! network devices there by itself, and echoes TCP.
//!
//! A line in is a [`Request`] as JSON; a line out is a [`Reply`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

use super::links::{self, Links};
use crate::modules;

/// The port on which the guest echoes what it is sent.
pub const ECHO_PORT: u16 = 7;

/// The most of a command's output that is passed on, in bytes: the line is slow.
const MAX_OUTPUT_BYTES: usize = 16 * 1024;

/// How long the guest keeps to itself that a network device has gone.
const REMOVAL_REST: Duration = Duration::from_millis(500);

/// What the guest is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the reply.
    pub id: u64,
    /// A shell command; or none, and only the state is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// A module of the image to load first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

/// What the guest says: an answer (`id`), or on its own accord (no `id`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// Of the request it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The command's exit status.
    #[serde(default)]
    pub code: i32,
    /// The command's output, or an error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub out: String,
    /// Seconds since the guest booted.
    pub up: f64,
    /// What tells this boot from another: the first part of the kernel's boot id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// The network devices.
    pub links: Links,
}

impl Reply {
    fn now(id: Option<u64>) -> Self {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            id,
            code: 0,
            out: String::new(),
            up: uptime
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0),
            boot: if id.is_some() {
                boot.chars().take(8).collect()
            } else {
                String::new()
            },
            links: links::read(),
        }
    }
}

type Line = Arc<Mutex<File>>;

fn say(line: &Line, reply: &Reply) {
    if let Ok(mut text) = serde_json::to_vec(reply) {
        text.push(b'\n');
        let _ = line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&text);
    }
}

/// Starts the agent's threads.
pub fn start() {
    thread::spawn(echo);
    let Ok(port) = OpenOptions::new().read(true).write(true).open("/dev/ttyS1") else {
        println!("lab: no second serial line, so no agent");
        return;
    };
    let raw = tcgetattr(&port).map(|mut settings| {
        settings.make_raw();
        tcsetattr(&port, OptionalActions::Now, &settings)
    });
    let Ok(output) = port.try_clone() else { return };
    if !matches!(raw, Ok(Ok(()))) {
        println!("lab: the second serial line does not work, so no agent");
        return;
    }
    let line: Line = Arc::new(Mutex::new(output));
    let watch = Arc::clone(&line);
    thread::spawn(move || answer(port, &line));
    thread::spawn(move || {
        if let Err(error) = report_changes(&watch) {
            println!("lab: cannot watch the network devices: {error}");
        }
    });
}

fn answer(port: File, line: &Line) {
    let mut lines = BufReader::new(port);
    loop {
        let mut text = Vec::new();
        match lines.read_until(b'\n', &mut text) {
            Ok(1..) => {}
            // A hang-up of the line ends a read, and the line comes back.
            _ => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        }
        let Ok(request) = serde_json::from_slice::<Request>(&text) else {
            continue;
        };
        let line = Arc::clone(line);
        thread::spawn(move || {
            let (code, out) = perform(&request);
            say(
                &line,
                &Reply {
                    code,
                    out,
                    ..Reply::now(Some(request.id))
                },
            );
        });
    }
}

fn perform(request: &Request) -> (i32, String) {
    if let Some(module) = &request.module
        && let Err(error) = modules::load(module)
    {
        return (1, error.to_string());
    }
    let Some(shell) = &request.shell else {
        return (0, String::new());
    };
    let output = Command::new("/bin/busybox")
        .args(["sh", "-c", shell])
        .env("PATH", "/bin")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(mut output) => {
            output.stdout.append(&mut output.stderr);
            output.stdout.truncate(MAX_OUTPUT_BYTES);
            (
                output.status.code().unwrap_or(128),
                String::from_utf8_lossy(&output.stdout).into_owned(),
            )
        }
        Err(error) => (127, error.to_string()),
    }
}

/// Says the state of the network devices whenever the kernel tells of a change.
fn report_changes(line: &Line) -> io::Result<()> {
    const RTMGRP_LINK: u32 = 1;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
    let mut buffer = vec![0_u8; 32 * 1024];
    let mut known = Links::new();
    loop {
        let mut links = links::read();
        if links.len() < known.len() {
            // Nobody waits for the news that a device has gone, and each byte of it is an exit of the processor that is
            // busy removing the device.
            thread::sleep(REMOVAL_REST);
            links = links::read();
        }
        if links != known {
            known.clone_from(&links);
            say(
                line,
                &Reply {
                    links,
                    ..Reply::now(None)
                },
            );
        }
        // The notes only say *that* something changed; an overrun says the same.
        let _ = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty());
    }
}

fn echo() {
    let Ok(listener) = TcpListener::bind(("0.0.0.0", ECHO_PORT)) else {
        return;
    };
    for mut stream in listener.incoming().flatten() {
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let mut buffer = [0; 4096];
            while let Ok(size @ 1..) = stream.read(&mut buffer) {
                if stream
                    .write_all(buffer.get(..size).unwrap_or_default())
                    .is_err()
                {
                    break;
                }
            }
        });
    }
}

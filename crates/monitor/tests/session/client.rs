//! The other end of a monitor's socket.

use serde_json::Value;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A test that waits longer has found a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the monitor listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has a timeout");
        let reader = BufReader::new(stream.try_clone().expect("descriptors are left"));
        Self { stream, reader }
    }

    /// Connects, checks the greeting and negotiates.
    pub(crate) fn negotiated(path: &Path) -> Self {
        let mut client = Self::connect(path);
        client.greeting();
        assert_eq!(
            client.execute(r#"{"execute": "qmp_capabilities"}"#),
            serde_json::json!({"return": {}})
        );
        client
    }

    pub(crate) fn greeting(&mut self) {
        assert_eq!(
            self.line(),
            "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \
             \"package\": \"Standfast 0.1.0\"}, \"capabilities\": [\"oob\"]}}\r\n"
        );
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the monitor reads");
    }

    pub(crate) fn send_with_fd(&mut self, bytes: &[u8], fd: BorrowedFd<'_>) {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(
            self.stream.as_fd(),
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::empty(),
        )
        .expect("sends");
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader
            .read_line(&mut line)
            .expect("the monitor answers in time");
        line
    }

    pub(crate) fn message(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Sends a command and reads one message.
    pub(crate) fn execute(&mut self, command: &str) -> Value {
        self.send(command);
        self.message()
    }

    /// Reads up to the prompt of HMP, which is left out.
    pub(crate) fn until_prompt(&mut self) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"(qemu) ") {
            self.reader
                .read_exact(&mut byte)
                .expect("the monitor prompts in time");
            text.push(byte[0]);
        }
        text.truncate(text.len() - 7);
        String::from_utf8(text).expect("text")
    }

    /// The monitor hangs up; what it said before is given back.
    pub(crate) fn until_end(&mut self) -> String {
        let mut text = String::new();
        self.reader
            .read_to_string(&mut text)
            .expect("the monitor hangs up in time");
        text
    }
}

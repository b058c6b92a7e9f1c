use crate::client::{Client, PATIENCE};
use crate::{machine, qmp};
use monitor::{Endpoint, EndpointError, Mode, Monitors};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

const QMP: Mode = Mode::Qmp { pretty: false };

fn monitors() -> Monitors {
    let machine = machine::start();
    Monitors::new(machine::identity(), machine.clone(), machine.events.clone())
        .expect("descriptors")
}

#[test]
fn one_client_after_the_other() {
    let setup = qmp();
    for round in 0..20 {
        let mut client = Client::negotiated(&setup.socket);
        // Another waits in the backlog meanwhile.
        let mut waiting = Client::connect(&setup.socket);
        assert_eq!(
            client.execute(r#"{"execute": "query-status"}"#)["return"]["running"],
            json!(true)
        );
        match round % 3 {
            0 => drop(client),
            // In the middle of a command, and with one that was not answered yet.
            1 => {
                client.send(r#"{"execute": "query-"#);
                drop(client);
            }
            _ => {
                client.send(r#"{"execute": "query-pci"}{"execute": "system_powerdown"}"#);
                drop(client);
            }
        }
        waiting.greeting();
    }
}

#[test]
fn a_client_that_only_stops_writing_still_gets_its_answers() {
    let setup = qmp();
    let mut client = Client::connect(&setup.socket);
    client.greeting();
    client.send(
        r#"{"execute": "qmp_capabilities"}{"execute": "query-status"}{"execute": "query-name"}"#,
    );
    client.stream.shutdown(Shutdown::Write).expect("a socket");
    let answers = client.until_end();
    assert_eq!(answers.lines().count(), 3, "{answers}");
    assert!(
        answers.ends_with("{\"return\": {\"name\": \"guest\"}}\r\n"),
        "{answers}"
    );
}

#[test]
fn tcp_and_several_monitors_at_once() {
    let mut monitors = monitors();
    let mut addresses = Vec::new();
    for _ in 0..3 {
        let endpoint = Endpoint::TcpServer {
            host: "127.0.0.1".to_owned(),
            port: 0,
            wait: false,
        }
        .open()
        .expect("a port");
        addresses.push(endpoint.tcp_address().expect("it listens"));
        monitors.serve(QMP, endpoint).expect("threads");
    }
    let mut clients: Vec<_> = addresses
        .iter()
        .map(|address| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            stream
                .write_all(br#"{"execute": "qmp_capabilities"}"#)
                .expect("writes");
            let mut reader = BufReader::new(stream.try_clone().expect("descriptors are left"));
            for _ in 0..2 {
                reader
                    .read_line(&mut String::new())
                    .expect("greeting and answer");
            }
            (stream, reader)
        })
        .collect();
    clients[0]
        .0
        .write_all(br#"{"execute": "stop"}"#)
        .expect("writes");
    for (_, reader) in &mut clients {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an event");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["event"], "STOP", "every client sees it");
    }
}

#[test]
fn an_inherited_listening_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let listener = UnixListener::bind(&path).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    let mut monitors = monitors();
    let endpoint = Endpoint::ListeningFd {
        fd: listener.into(),
        wait: false,
    }
    .open()
    .expect("it listens");
    monitors.serve(QMP, endpoint).expect("threads");
    for _ in 0..2 {
        Client::negotiated(&path);
    }
    monitors.close(Duration::from_secs(1));
    assert!(path.exists(), "the socket is not ours to remove");
    let (one, _other) = UnixStream::pair().expect("sockets");
    let error = Endpoint::ListeningFd {
        fd: one.into(),
        wait: false,
    }
    .open()
    .expect_err("it does not listen");
    assert!(error.to_string().contains("does not listen"), "{error}");
}

#[test]
fn an_inherited_connection_and_a_client_of_ours() {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut monitors = monitors();
    monitors
        .serve(
            QMP,
            Endpoint::ConnectedFd(ours.into()).open().expect("a socket"),
        )
        .expect("threads");
    monitors
        .serve(
            QMP,
            Endpoint::UnixClient { path }.open().expect("it listens"),
        )
        .expect("threads");
    let (accepted, _) = listener.accept().expect("it connected");
    for mut stream in [theirs, accepted] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut start = [0; 8];
        stream.read_exact(&mut start).expect("the greeting");
        assert_eq!(&start, b"{\"QMP\": ");
    }
}

#[test]
fn standard_input_and_output() {
    let mut child = Command::new(std::env::current_exe().expect("a program"))
        .args([
            "endpoints::stdio_child",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(br#"{"execute": "qmp_capabilities"}{"execute": "query-qmp-schema"}{"execute": "query-name"}"#).expect("writes");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    let session = text
        .find("{\"QMP\": ")
        .and_then(|at| text.get(at..))
        .expect("the greeting");
    let lines: Vec<&str> = session.lines().collect();
    assert_eq!(lines[1], "{\"return\": {}}");
    assert!(lines[2].len() > 10_000, "longer than a pipe takes at once");
    assert_eq!(lines[3], "{\"return\": {\"name\": \"guest\"}}");
}

#[test]
#[ignore = "the child of standard_input_and_output"]
fn stdio_child() {
    let mut monitors = monitors();
    monitors
        .serve(QMP, Endpoint::Stdio.open().expect("they are open"))
        .expect("threads");
    monitors.wait();
}

#[test]
fn waiting_for_the_first_client() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let early = path.clone();
    let client = std::thread::spawn(move || {
        // The socket appears while the other thread opens it.
        while !early.exists() {
            std::thread::yield_now();
        }
        loop {
            match UnixStream::connect(&early) {
                Ok(stream) => return stream,
                Err(_) => std::thread::yield_now(),
            }
        }
    });
    let endpoint = Endpoint::UnixServer {
        path: path.clone(),
        wait: true,
    }
    .open()
    .expect("a client came");
    let mut stream = client.join().expect("it connected");
    let mut monitors = monitors();
    monitors.serve(QMP, endpoint).expect("threads");
    let mut start = [0; 8];
    stream.read_exact(&mut start).expect("the greeting");
}

#[test]
fn what_cannot_be_had_is_told_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").expect("writes");
    let error = Endpoint::UnixServer {
        path: file.clone(),
        wait: false,
    }
    .open()
    .expect_err("a file");
    assert!(matches!(error, EndpointError::NotASocket(_)), "{error}");
    assert_eq!(
        std::fs::read_to_string(&file).expect("still there"),
        "precious"
    );
    let absent = folder.path().join("no/where");
    let error = Endpoint::UnixServer {
        path: absent.clone(),
        wait: false,
    }
    .open()
    .expect_err("no folder");
    assert!(error.to_string().contains("no/where"), "{error}");
    let error = Endpoint::UnixClient { path: absent }
        .open()
        .expect_err("nobody");
    assert!(error.to_string().contains("cannot connect"), "{error}");
    // A stale socket is replaced; one that took our place meanwhile is not removed.
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).expect("a socket"));
    let endpoint = Endpoint::UnixServer {
        path: path.clone(),
        wait: false,
    }
    .open()
    .expect("replaces it");
    let second = Endpoint::UnixServer {
        path: path.clone(),
        wait: false,
    }
    .open()
    .expect("replaces it");
    drop(endpoint);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

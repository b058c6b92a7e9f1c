//! HTTP for one question. A client has a few seconds and a few kilobytes, then it is left; whatever it does, nothing but
//! its own thread waits for it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use config::vm::MetricsAddress;

/// How long a client may take to ask, and then to read.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request.
const MAX_REQUEST: usize = 8192;
/// Its headers.
const MAX_HEADERS: usize = 64;
/// Clients at a time; the next one is turned away.
const MAX_CLIENTS: usize = 8;
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Makes the text; `None` once the machine has ended.
pub type Source = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The server at work; it ends, and its socket's file goes, when this is dropped.
pub struct MetricsServer {
    over: Arc<AtomicBool>,
    address: Where,
}

enum Where {
    Unix(PathBuf),
    Tcp(std::net::SocketAddr),
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection of either kind.
trait Client: Read + Write + Send {
    fn set_limit(&self, limit: Duration) -> io::Result<()>;
}

impl Client for UnixStream {
    fn set_limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

impl Client for TcpStream {
    fn set_limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

impl Listener {
    fn open(address: &MetricsAddress) -> anyhow::Result<(Self, Where)> {
        match address {
            MetricsAddress::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                Ok((Self::Unix(listener), Where::Unix(path.clone())))
            }
            MetricsAddress::Tcp { host, port } => {
                let listener = TcpListener::bind((host.as_str(), *port))?;
                let address = listener.local_addr()?;
                Ok((Self::Tcp(listener), Where::Tcp(address)))
            }
        }
    }

    fn accept(&self) -> io::Result<Box<dyn Client>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept()?.0),
            Self::Tcp(listener) => Box::new(listener.accept()?.0),
        })
    }
}

/// A socket that nobody listens on any more is in the way; anything else stays.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    anyhow::ensure!(
        found.file_type().is_socket(),
        "there is something that is no socket; name another path"
    );
    anyhow::ensure!(
        UnixStream::connect(path).is_err(),
        "another program listens there; name another path"
    );
    std::fs::remove_file(path)?;
    Ok(())
}

/// Listens by the time this returns.
///
/// # Errors
/// The address cannot be had; one line names the option.
pub fn serve(address: &MetricsAddress, source: Source) -> anyhow::Result<MetricsServer> {
    let (listener, place) =
        Listener::open(address).with_context(|| format!("-metrics {address}"))?;
    let over = Arc::new(AtomicBool::new(false));
    let ending = Arc::clone(&over);
    thread::Builder::new()
        .name("metrics".into())
        .spawn(move || accept(&listener, &ending, &source))?;
    Ok(MetricsServer {
        over,
        address: place,
    })
}

fn accept(listener: &Listener, over: &AtomicBool, source: &Source) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let client = listener.accept();
        if over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut client) = client else {
            // Out of descriptors, or a client that was gone before it was here: neither may make this spin.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            // It need not read it.
            let _ = client.set_limit(Duration::from_millis(10));
            let _ = client.write_all(&answer("503 Service Unavailable", "too many clients\n"));
            continue;
        }
        let (source, count) = (Arc::clone(source), Arc::clone(&clients));
        let started = thread::Builder::new()
            .name("metrics client".into())
            .spawn(move || {
                if let Err(error) = attend(&mut *client, &source) {
                    tracing::debug!(%error, "a client of -metrics");
                }
                count.fetch_sub(1, Ordering::Relaxed);
            });
        if started.is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let kind = if status.starts_with("200") {
        CONTENT_TYPE
    } else {
        "text/plain; charset=utf-8"
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Metrics { body: bool },
    Wrong(&'static str, &'static str),
}

/// Reads a request's head; `None` while it is not whole.
fn read_head(bytes: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < MAX_REQUEST => return None,
        Ok(httparse::Status::Partial) => {
            return Some(Asked::Wrong(
                "431 Request Header Fields Too Large",
                "the request is too long\n",
            ));
        }
        Err(_) => return Some(Asked::Wrong("400 Bad Request", "this is no HTTP request\n")),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    Some(match (request.method, path) {
        (Some("GET"), "/metrics") => Asked::Metrics { body: true },
        (Some("HEAD"), "/metrics") => Asked::Metrics { body: false },
        (Some("GET" | "HEAD"), _) => Asked::Wrong("404 Not Found", "there is /metrics only\n"),
        _ => Asked::Wrong("405 Method Not Allowed", "GET only\n"),
    })
}

/// What is left of a client's time.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn attend(client: &mut dyn Client, source: &Source) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut request = Vec::new();
    let asked = loop {
        if let Some(asked) = read_head(&request) {
            break asked;
        }
        client.set_limit(left(deadline)?)?;
        let mut piece = [0; 1024];
        let size = client.read(&mut piece)?;
        if size == 0 {
            return Ok(());
        }
        let room = MAX_REQUEST.saturating_sub(request.len());
        request.extend_from_slice(piece.get(..size.min(room)).unwrap_or_default());
    };
    let reply = match asked {
        Asked::Wrong(status, why) => answer(status, why),
        Asked::Metrics { body } => match source() {
            Some(text) => {
                let mut reply = answer("200 OK", &text);
                if !body {
                    reply.truncate(reply.len().saturating_sub(text.len()));
                }
                reply
            }
            None => answer("503 Service Unavailable", "the machine has ended\n"),
        },
    };
    let deadline = Instant::now() + PATIENCE;
    let mut rest = reply.as_slice();
    while !rest.is_empty() {
        client.set_limit(left(deadline)?)?;
        let size = client.write(rest)?;
        if size == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = rest.get(size..).unwrap_or_default();
    }
    Ok(())
}

impl MetricsServer {
    /// Where it listens, for TCP.
    pub fn tcp_address(&self) -> Option<std::net::SocketAddr> {
        match &self.address {
            Where::Tcp(address) => Some(*address),
            Where::Unix(_) => None,
        }
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // A connection wakes the one that waits for it.
        match &self.address {
            Where::Unix(path) => {
                let _ = UnixStream::connect(path);
                let _ = std::fs::remove_file(path);
            }
            Where::Tcp(address) => {
                let _ = TcpStream::connect_timeout(address, Duration::from_secs(1));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn started(text: &str) -> (MetricsServer, std::net::SocketAddr) {
        let text = text.to_owned();
        let address = MetricsAddress::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        };
        let server = serve(&address, Arc::new(move || Some(text.clone()))).unwrap();
        let at = server.tcp_address().unwrap();
        (server, at)
    }

    fn ask(at: std::net::SocketAddr, request: &[u8]) -> String {
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(request).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn it_answers_what_it_is_asked() {
        let (_server, at) = started("x 1\n# EOF\n");
        let reply = ask(at, b"GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text"));
        assert!(reply.ends_with("\r\n\r\nx 1\n# EOF\n"), "{reply}");
        let reply = ask(at, b"HEAD /metrics HTTP/1.0\r\n\r\n");
        assert!(
            reply.contains("Content-Length: 10\r\n") && reply.ends_with("\r\n\r\n"),
            "{reply}"
        );
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("\x16\x03\x01 hello\r\n\r\n", "400"),
        ] {
            let reply = ask(at, request.as_bytes());
            assert!(
                reply.starts_with(&format!("HTTP/1.1 {status}")),
                "{request}: {reply}"
            );
        }
    }

    #[test]
    fn a_request_has_its_bounds() {
        assert_eq!(read_head(b"GET /metrics HTTP/1.1\r\nA: "), None);
        let mut endless = b"GET /metrics HTTP/1.1\r\nA: ".to_vec();
        endless.resize(MAX_REQUEST, b'a');
        assert!(
            matches!(read_head(&endless), Some(Asked::Wrong(status, _)) if status.starts_with("431"))
        );
        let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
        let many = format!("GET /metrics HTTP/1.1\r\n{many}\r\n");
        assert!(
            matches!(read_head(many.as_bytes()), Some(Asked::Wrong(status, _)) if status.starts_with("400"))
        );
    }

    /// Those who connect and say nothing are in nobody's way but each other's.
    #[test]
    fn silent_clients_do_not_keep_others_waiting() {
        let (_server, at) = started("# EOF\n");
        let silent: Vec<TcpStream> = (0..MAX_CLIENTS - 1)
            .map(|_| TcpStream::connect(at).unwrap())
            .collect();
        let reply = ask(at, b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        // Until one of its clients is done with, it may count it still: more than there may be are turned away.
        let more: Vec<TcpStream> = (0..2 * MAX_CLIENTS)
            .map(|_| TcpStream::connect(at).unwrap())
            .collect();
        // The last of them for certain, and at once.
        let refused = more.iter().rev().any(|client| {
            client
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            let mut word = [0; 12];
            let mut client = client;
            client.read_exact(&mut word).is_ok() && word.ends_with(b"503")
        });
        assert!(refused);
        drop(silent);
    }

    #[test]
    fn a_socket_that_is_left_over_is_replaced_and_anything_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        drop(UnixListener::bind(&path).unwrap());
        let address = MetricsAddress::Unix(path.clone());
        let server = serve(&address, Arc::new(|| None)).unwrap();
        let error = serve(&address, Arc::new(|| None)).err().unwrap();
        assert!(
            format!("{error:#}").contains("another program listens"),
            "{error:#}"
        );
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 503"), "{text}");
        drop(server);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        let error = serve(&address, Arc::new(|| None)).err().unwrap();
        assert!(format!("{error:#}").contains("-metrics unix:"), "{error:#}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}

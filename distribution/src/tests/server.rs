//! An HTTP server on loopback that does what a test says, right or wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Where the wanted part begins.
    pub(super) fn range(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// What follows the header of an answer.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// The first bytes of a body that is said to have more, then the end of the connection.
    Cut(Vec<u8>, usize),
    /// The first bytes of a body that is said to have more, then nothing.
    Stuck(Vec<u8>, usize),
    /// Byte by byte, with pauses.
    Drip(Vec<u8>, Duration),
    /// Zeros without an end, with no length.
    Endless,
    /// The first bytes of a body that is said to have more, then a reset of the connection.
    Reset(Vec<u8>, usize),
    /// Not even a header.
    Silence,
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

impl Answer {
    pub(super) fn ok(body: impl Into<Vec<u8>>) -> Answer {
        Answer::status(200).with_body(Body::Whole(body.into()))
    }

    pub(super) fn status(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: Body::Whole(Vec::new()),
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn with_body(mut self, body: Body) -> Answer {
        self.body = body;
        self
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Request>>,
    connections: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

/// The server; its threads end with it, also when a test fails.
pub(super) struct Server {
    port: u16,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let handler: Arc<Handler> = Arc::new(handler);
        let accepting = Arc::clone(&state);
        let acceptor = thread::spawn(move || {
            for connection in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(connection) = connection else { return };
                let kept = connection.try_clone().unwrap();
                accepting.connections.lock().unwrap().push(kept);
                let (state, handler) = (Arc::clone(&accepting), Arc::clone(&handler));
                // Ends when its connection is shut down.
                thread::spawn(move || serve(connection, &state, &*handler));
            }
        });
        Server {
            port,
            state,
            acceptor: Some(acceptor),
        }
    }

    /// Host and port.
    pub(super) fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The same under another name, for who compares hosts.
    pub(super) fn other_name(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// What came so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How often something with this in its target was asked for.
    pub(super) fn count(&self, part: &str) -> usize {
        self.requests()
            .iter()
            .filter(|request| request.target.contains(part))
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes up who accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for connection in self.state.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn serve(connection: TcpStream, state: &State, handler: &Handler) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    if let Some(request) = read(&mut reader) {
        state.requests.lock().unwrap().push(request.clone());
        let answer = handler(&request);
        let reset = matches!(answer.body, Body::Reset(..));
        // Whoever has hung up does not want it.
        let _ = write(&connection, answer, &mut reader);
        if reset {
            drop(reader);
            return abort(connection, state);
        }
    }
    let _ = connection.shutdown(Shutdown::Both);
}

/// Closes the last descriptor of a connection in such a way that the other end is told of a reset, not of an end: see
/// SO_LINGER in socket(7). What was sent and not read yet is lost there, too.
fn abort(connection: TcpStream, state: &State) {
    let peer = connection.peer_addr().unwrap();
    let is_other = |kept: &mut TcpStream| kept.peer_addr().ok() != Some(peer);
    state.connections.lock().unwrap().retain_mut(is_other);
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&connection, Linger, &at_once).unwrap();
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        target,
        headers,
        body: String::from_utf8(body).ok()?,
    })
}

fn write(mut to: &TcpStream, answer: Answer, reader: &mut impl Read) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} Whatever\r\nconnection: close\r\n",
        answer.status
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = match &answer.body {
        Body::Whole(body) | Body::Drip(body, _) => Some(body.len()),
        Body::Cut(_, length) | Body::Stuck(_, length) | Body::Reset(_, length) => Some(*length),
        Body::Endless | Body::Silence => None,
    };
    if let Some(length) = length {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    if !matches!(answer.body, Body::Silence) {
        to.write_all(format!("{head}\r\n").as_bytes())?;
    }
    match answer.body {
        Body::Whole(body) | Body::Cut(body, _) | Body::Reset(body, _) => to.write_all(&body),
        Body::Stuck(body, _) => {
            to.write_all(&body)?;
            wait_for_hang_up(reader)
        }
        Body::Drip(body, pause) => body.iter().try_for_each(|byte| {
            thread::sleep(pause);
            to.write_all(&[*byte])
        }),
        Body::Endless => loop {
            to.write_all(&[0; 65536])?;
        },
        Body::Silence => wait_for_hang_up(reader),
    }
}

fn wait_for_hang_up(reader: &mut impl Read) -> std::io::Result<()> {
    std::io::copy(reader, &mut std::io::sink()).map(|_| ())
}

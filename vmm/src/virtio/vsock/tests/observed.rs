//! Connections that are watched: the tap sees what the host gets, holds it back, and learns of the end.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::super::Route;
use super::super::connection::Ports;
use super::super::observer::{Flow, MAX_SHOWN, Observer, Tap};
use super::super::packet::{Op, Shutdown};
use super::super::switchboard::Limits;
use super::conversations::noise;
use super::guest::Guest;
use super::machine::to_guest;

const PORT: u32 = 7;
const LATER: Duration = Duration::from_secs(3600);
const SEND: Shutdown = Shutdown {
    receive: false,
    send: true,
};

/// What the observer of a test knows, and how its taps behave.
struct Notes {
    opened: usize,
    closed: usize,
    /// What the taps took, the connections one after the other.
    taken: Vec<Vec<u8>>,
    /// Bytes that the taps may take yet.
    room: usize,
    /// How long a tap wants to wait.
    patience: Duration,
    /// How often a tap was asked.
    asked: usize,
    /// Done while a tap looks at its bytes.
    meanwhile: Option<Box<dyn FnMut() + Send>>,
    /// Connections are left waiting.
    closed_for_now: bool,
}

struct Watcher {
    notes: Arc<Mutex<Notes>>,
    event: EventFd,
}

struct Witness {
    notes: Arc<Mutex<Notes>>,
    number: usize,
}

impl Observer for Watcher {
    fn connected(&mut self) -> Box<dyn Tap> {
        let mut notes = self.notes.lock().unwrap();
        notes.opened += 1;
        notes.taken.push(Vec::new());
        Box::new(Witness {
            notes: self.notes.clone(),
            number: notes.taken.len() - 1,
        })
    }

    fn admits(&self) -> bool {
        !self.notes.lock().unwrap().closed_for_now
    }

    fn resumption(&self) -> BorrowedFd<'_> {
        // SAFETY: the event is open as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}

impl Tap for Witness {
    fn data(&mut self, bytes: &[u8]) -> Flow {
        assert!((1..=MAX_SHOWN).contains(&bytes.len()));
        let mut notes = self.notes.lock().unwrap();
        notes.asked += 1;
        if let Some(deed) = &mut notes.meanwhile {
            deed();
        }
        let taken = bytes.len().min(notes.room);
        notes.room -= taken;
        notes.taken[self.number].extend(&bytes[..taken]);
        if taken == bytes.len() {
            return Flow::Passed;
        }
        let until = Instant::now() + notes.patience;
        Flow::Stalled { taken, until }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.notes.lock().unwrap().closed += 1;
    }
}

/// A guest that listens at a port, where connections are watched.
struct Scene {
    guest: Guest,
    notes: Arc<Mutex<Notes>>,
    event: EventFd,
    directory: TempDir,
}

impl Scene {
    /// The taps have room for so many bytes.
    fn new(room: usize) -> Scene {
        let notes = Arc::new(Mutex::new(Notes {
            opened: 0,
            closed: 0,
            taken: Vec::new(),
            room,
            patience: LATER,
            asked: 0,
            meanwhile: None,
            closed_for_now: false,
        }));
        let directory = tempfile::tempdir().unwrap();
        let event = EventFd::new(0).unwrap();
        let watcher = Watcher {
            notes: notes.clone(),
            event: event.try_clone().unwrap(),
        };
        let (mut route, _) = to_guest(&directory, PORT);
        if let Route::ToGuest { observer, .. } = &mut route {
            *observer = Some(Box::new(watcher));
        }
        let limits = Limits {
            closing: Duration::from_millis(50),
            ..Limits::DEVICE
        };
        let mut guest = Guest::with_limits(vec![route], limits);
        guest.listening.push(PORT);
        Scene {
            guest,
            notes,
            event,
            directory,
        }
    }

    /// A host program that opened a connection, and the connection's ports.
    fn connect(&mut self) -> (UnixStream, Ports) {
        let before: Vec<Ports> = self.guest.sockets.keys().copied().collect();
        let host = self.call();
        self.guest
            .wait("a connection", |guest| guest.sockets.len() > before.len());
        let new = |ports: &&Ports| !before.contains(ports);
        let ports = *self.guest.sockets.keys().find(new).unwrap();
        (host, ports)
    }

    fn call(&self) -> UnixStream {
        let path = self.directory.path().join(format!("{PORT}.sock"));
        let host = UnixStream::connect(path).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        host
    }

    fn make_room(&mut self, room: usize) {
        self.notes.lock().unwrap().room = room;
        self.event.write(1).unwrap();
    }

    /// Sends all the credit that the guest has.
    fn fill_window(&mut self, ports: Ports) -> Vec<u8> {
        let data = noise(21, 1 << 20);
        let mut sent = 0;
        while self.guest.socket(ports).credit() > 0 {
            sent += self.guest.send_some(ports, &data[sent..]);
            self.guest.say(ports, Op::CreditRequest);
            self.guest.rest();
        }
        data[..sent].to_vec()
    }

    /// What the taps took of the connection with this number.
    fn taken(&self, number: usize) -> Vec<u8> {
        self.notes.lock().unwrap().taken[number].clone()
    }

    fn asked(&self) -> usize {
        self.notes.lock().unwrap().asked
    }

    /// Connections that the observer heard of, and those that it knows to be over.
    fn counts(&self) -> (usize, usize) {
        let notes = self.notes.lock().unwrap();
        (notes.opened, notes.closed)
    }

    fn wait_for_the_end(&mut self) {
        let notes = self.notes.clone();
        self.guest.wait("the end of the connection", |_| {
            notes.lock().unwrap().closed == 1
        });
        assert_eq!(self.counts(), (1, 1));
        assert_eq!(self.guest.connections(), 0);
    }
}

/// What the host can read without waiting.
fn read_available(host: &mut UnixStream) -> Vec<u8> {
    host.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let end = host.read_to_end(&mut bytes);
    host.set_nonblocking(false).unwrap();
    assert!(end.is_ok() || end.unwrap_err().kind() == ErrorKind::WouldBlock);
    bytes
}

#[test]
fn a_tap_sees_all_that_a_slow_host_gets() {
    let mut scene = Scene::new(usize::MAX);
    let (mut host, ports) = scene.connect();
    let data = noise(22, 3 << 20);
    let mut sent = 0;
    let mut received = Vec::new();
    let mut size = 1;
    while received.len() < data.len() {
        size = size * 7 % 65_521;
        if sent < data.len() && scene.guest.socket(ports).credit() > 0 {
            let end = data.len().min(sent + size);
            sent += scene.guest.send_some(ports, &data[sent..end]);
            scene.guest.step(Duration::ZERO);
            // The host reads only when the socket and the window are full, so that there is a backlog.
            continue;
        }
        received.extend(read_available(&mut host));
        scene.guest.say(ports, Op::CreditRequest);
        scene.guest.rest();
        assert!(
            scene.taken(0).starts_with(&received),
            "the host got more than was shown"
        );
    }
    assert!(received == data);
    assert!(scene.taken(0) == data);
    assert_eq!(scene.guest.backlog(ports), 0);
}

#[test]
fn the_host_gets_what_was_shown_although_the_guest_changes_it() {
    let mut scene = Scene::new(usize::MAX);
    let (mut host, ports) = scene.connect();
    let memory = scene.guest.machine.memory.clone();
    // The buffers of the transmit queue, which begins at 1 MiB.
    let overwrite = move || {
        let buffers = GuestAddress((1 << 20) + 0x1_0000);
        memory.write_slice(&[b'x'; 1 << 18], buffers).unwrap();
    };
    scene.notes.lock().unwrap().meanwhile = Some(Box::new(overwrite));
    let data = noise(23, 50_000);
    scene.guest.send(ports, &data);
    scene.guest.rest();
    assert!(read_available(&mut host) == data);
    assert!(scene.taken(0) == data);
}

#[test]
fn connections_wait_until_the_observer_admits_them() {
    let mut scene = Scene::new(usize::MAX);
    scene.notes.lock().unwrap().closed_for_now = true;
    let mut hosts = [scene.call(), scene.call()];
    hosts[0].write_all(b"early").unwrap();
    scene.guest.rest();
    assert_eq!((scene.counts(), scene.guest.sockets.len()), ((0, 0), 0));

    scene.notes.lock().unwrap().closed_for_now = false;
    scene.event.write(1).unwrap();
    scene
        .guest
        .wait("both connections", |guest| guest.sockets.len() == 2);
    scene.guest.rest();
    assert_eq!(scene.counts(), (2, 0));
    let mut received: Vec<_> = scene
        .guest
        .sockets
        .values()
        .map(|it| &it.received[..])
        .collect();
    received.sort_unstable();
    assert_eq!(received, [&b""[..], b"early"]);
}

#[test]
fn a_stalled_connection_waits_alone() {
    let mut scene = Scene::new(5);
    let (mut host, ports) = scene.connect();
    scene.guest.send(ports, b"five and more");
    scene.guest.rest();
    assert_eq!(read_available(&mut host), b"five ");
    assert_eq!(scene.guest.backlog(ports), 8);

    // What follows is not shown before the tap may take more, and the worker sleeps.
    scene.guest.send(ports, b" and more");
    scene.guest.rest();
    let (asked, wakeups) = (scene.asked(), scene.guest.machine.wakeups);
    scene.guest.step(Duration::from_millis(50));
    assert_eq!(
        (scene.asked(), scene.guest.machine.wakeups),
        (asked, wakeups)
    );

    // The other direction goes on, and so do others.
    host.write_all(b"to the guest").unwrap();
    scene.guest.rest();
    assert_eq!(scene.guest.socket(ports).received, b"to the guest");
    scene.notes.lock().unwrap().room = usize::MAX;
    let (mut other, others_ports) = scene.connect();
    scene.guest.send(others_ports, b"from another");
    scene.guest.rest();
    assert_eq!(read_available(&mut other), b"from another");
    assert_eq!(read_available(&mut host), b"");

    scene.make_room(usize::MAX);
    scene.guest.rest();
    assert_eq!(read_available(&mut host), b"and more and more");
    assert_eq!(scene.taken(0), b"five and more and more");
    assert_eq!(scene.guest.backlog(ports), 0);
}

#[test]
fn a_tap_that_takes_little_at_a_time_gets_everything() {
    let mut scene = Scene::new(0);
    let (mut host, ports) = scene.connect();
    let data = noise(24, 100_000);
    scene.guest.send(ports, &data);
    let mut received = Vec::new();
    let mut room = 1;
    while received.len() < data.len() {
        room = room * 5 % 9973;
        scene.make_room(room);
        scene.guest.rest();
        let news = read_available(&mut host);
        assert!(!news.is_empty() && news.len() <= room);
        received.extend(news);
    }
    assert!(received == data);
    assert!(scene.taken(0) == data);
}

#[test]
fn a_tap_is_asked_again_when_its_time_is_over() {
    let mut scene = Scene::new(0);
    scene.notes.lock().unwrap().patience = Duration::from_millis(20);
    let (mut host, ports) = scene.connect();
    scene.guest.send(ports, b"late");
    scene.guest.rest();
    assert_eq!(read_available(&mut host), b"");
    // Nobody tells the device.
    scene.notes.lock().unwrap().room = 4;
    let notes = scene.notes.clone();
    scene
        .guest
        .wait("the tap", |_| notes.lock().unwrap().taken[0] == b"late");
    assert_eq!(read_available(&mut host), b"late");
}

#[test]
fn a_stalled_guest_has_its_window_and_no_more() {
    let mut scene = Scene::new(0);
    let (mut host, ports) = scene.connect();
    let window = scene.guest.socket(ports).credit() as usize;
    let sent = scene.fill_window(ports);
    assert_eq!(sent.len(), window);
    assert_eq!(scene.guest.backlog(ports), window);

    // All of it is free again afterwards, for as much as the host takes.
    scene.make_room(usize::MAX);
    let mut received = Vec::new();
    while received.len() < sent.len() {
        scene.guest.rest();
        received.extend(read_available(&mut host));
    }
    assert!(received == sent);
    scene.guest.say(ports, Op::CreditRequest);
    scene.guest.rest();
    assert_eq!(scene.guest.socket(ports).credit() as usize, window);

    // One byte more than the window breaks the rules, stalled or not.
    scene.make_room(0);
    scene.fill_window(ports);
    let header = scene.guest.header(ports, Op::ReadWrite);
    scene.guest.transmit(&header, b"x");
    scene
        .guest
        .wait("a reset", |guest| guest.sockets[&ports].reset);
    scene.wait_for_the_end();
}

#[test]
fn the_end_of_the_stream_comes_after_what_was_held_back() {
    let mut scene = Scene::new(0);
    let (mut host, ports) = scene.connect();
    scene.guest.send(ports, b"last words");
    scene.guest.shutdown(ports, SEND);
    scene.guest.rest();
    assert_eq!(read_available(&mut host), b"");
    host.set_nonblocking(true).unwrap();
    assert_eq!(
        host.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    host.set_nonblocking(false).unwrap();
    scene.make_room(usize::MAX);
    scene.guest.rest();
    let mut all = String::new();
    host.read_to_string(&mut all).unwrap();
    assert_eq!(all, "last words");
    assert_eq!(scene.counts(), (1, 0));
}

#[test]
fn what_a_guest_sent_before_it_closed_is_shown_later() {
    let mut scene = Scene::new(0);
    let (mut host, ports) = scene.connect();
    scene.guest.send(ports, b"last words");
    scene.guest.close(ports);
    scene
        .guest
        .wait("a reset", |guest| guest.sockets[&ports].reset);
    scene.guest.step(Duration::from_millis(100));
    assert_eq!(scene.counts(), (1, 0));
    scene.make_room(usize::MAX);
    scene.wait_for_the_end();
    assert_eq!(scene.taken(0), b"last words");
    let mut all = String::new();
    host.read_to_string(&mut all).unwrap();
    assert_eq!(all, "last words");
}

#[test]
fn the_end_by_the_guest_is_told() {
    let mut scene = Scene::new(usize::MAX);
    let (_host, ports) = scene.connect();
    scene.guest.send(ports, b"a word");
    scene.guest.close(ports);
    scene.wait_for_the_end();
}

#[test]
fn the_end_by_the_host_is_told() {
    for room in [usize::MAX, 0] {
        let mut scene = Scene::new(room);
        let (host, ports) = scene.connect();
        scene.guest.send(ports, b"a word");
        scene.guest.rest();
        drop(host);
        // It ends whether or not the guest answers.
        scene.wait_for_the_end();
    }
}

#[test]
fn a_refusal_by_the_guest_is_told() {
    let mut scene = Scene::new(usize::MAX);
    scene.guest.listening.clear();
    let mut host = scene.call();
    scene.wait_for_the_end();
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_broken_rule_is_told() {
    let mut scene = Scene::new(0);
    let (_host, ports) = scene.connect();
    scene.guest.send(ports, b"held back");
    scene.guest.say(ports, Op::Response);
    scene.wait_for_the_end();
    assert!(scene.guest.socket(ports).reset);
}

#[test]
fn a_reset_of_the_device_is_told_and_taps_go_on_after_it() {
    let mut scene = Scene::new(0);
    let (_host, ports) = scene.connect();
    scene.guest.send(ports, b"held back");
    scene.guest.rest();
    scene.guest.restart();
    assert_eq!(scene.counts(), (1, 1));

    let (mut host, ports) = scene.connect();
    scene.guest.send(ports, b"once more");
    scene.guest.rest();
    scene.make_room(usize::MAX);
    scene.guest.rest();
    assert_eq!(read_available(&mut host), b"once more");
    assert_eq!(scene.taken(1), b"once more");
}

#[test]
fn the_end_of_the_machine_is_told() {
    let mut scene = Scene::new(0);
    let (_host, ports) = scene.connect();
    scene.guest.send(ports, b"held back");
    scene.guest.rest();
    let notes = scene.notes.clone();
    drop(scene);
    assert_eq!(notes.lock().unwrap().closed, 1);
}

#[test]
fn connections_that_the_guest_never_answers_are_told() {
    let mut scene = Scene::new(usize::MAX);
    scene.guest.listening.clear();
    scene.guest.mute = true;
    let waiting: Vec<_> = (0..5).map(|_| scene.call()).collect();
    scene.guest.rest();
    assert_eq!(scene.counts(), (5, 0));
    drop(waiting);
    scene
        .guest
        .wait("resets", |guest| guest.stray_resets.len() == 5);
    assert_eq!(scene.counts(), (5, 5));
}

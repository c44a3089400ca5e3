//! Golden vectors: the bytes of every message, as `docs/protocol.md` prints them.
//!
//! A change of any of these bytes is a change of the protocol and needs a new `VERSION`.

#![allow(clippy::unwrap_used)]

mod files;
mod guest;
mod host;
mod numbers;

use std::collections::{BTreeMap, BTreeSet};

use protocol::{
    Bytes, FileReply, FileRequest, FrameReader, GuestMessage, Hello, HostMessage, MAGIC, Stage,
    VERSION, encode,
};

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

#[derive(Debug, PartialEq)]
enum Message {
    Host(HostMessage<'static>),
    Guest(GuestMessage<'static>),
    Request(FileRequest<'static>),
    Reply(FileReply<'static>),
}
use Message::{Guest, Host, Reply, Request};

/// The name of a message in the document, the message, and its frame in hexadecimal digits.
type Vector = (&'static str, Message, &'static str);

fn bytes(text: &str) -> Bytes {
    Bytes(text.as_bytes().to_vec())
}

fn hello() -> Hello {
    Hello {
        magic: MAGIC,
        version: VERSION,
        build: "0.1.0".into(),
    }
}

fn vectors() -> Vec<Vector> {
    let all = [
        host::vectors(),
        guest::vectors(),
        files::requests(),
        files::replies(),
        files::nodes(),
    ];
    all.into_iter().flatten().collect()
}

/// The digits of `text`, without the spaces that group them.
fn digits(text: &str) -> String {
    text.split_whitespace().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn messages_encode_to_their_vectors() {
    for (name, message, vector) in vectors() {
        let mut frame = Vec::new();
        match &message {
            Host(message) => encode(message, &mut frame).unwrap(),
            Guest(message) => encode(message, &mut frame).unwrap(),
            Request(message) => encode(message, &mut frame).unwrap(),
            Reply(message) => encode(message, &mut frame).unwrap(),
        }
        assert_eq!(hex(&frame), digits(vector), "{name}");
    }
}

#[test]
fn vectors_decode_to_their_messages() {
    for (name, message, vector) in vectors() {
        let frame = unhex(&digits(vector));
        let mut reader = FrameReader::new(&frame[..]);
        match message {
            Host(message) => assert_eq!(reader.read().unwrap(), Some(message), "{name}"),
            Guest(message) => assert_eq!(reader.read().unwrap(), Some(message), "{name}"),
            Request(message) => assert_eq!(reader.read().unwrap(), Some(message), "{name}"),
            Reply(message) => assert_eq!(reader.read().unwrap(), Some(message), "{name}"),
        }
        assert_eq!(reader.read::<GuestMessage>().unwrap(), None, "{name}");
    }
}

#[test]
fn every_message_has_a_vector_and_keeps_its_number() {
    let mut seen = BTreeSet::new();
    for (name, message, vector) in vectors() {
        let (direction, number) = numbers::variant(&message);
        assert!(name.starts_with(direction), "{name}");
        assert_eq!(unhex(&digits(vector))[4], number, "{name}");
        seen.insert((direction, number));
    }
    let counts = [("host", 12), ("guest", 13), ("request", 25), ("reply", 7)];
    let expected = counts
        .into_iter()
        .flat_map(|(direction, count)| (0..count).map(move |n| (direction, n)))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn the_document_prints_the_same_vectors() {
    // Inside the fences called `vectors`: a line `name:`, then indented lines of hex.
    let mut printed: BTreeMap<&str, String> = BTreeMap::new();
    let mut inside = false;
    let mut name = "";
    for line in DOCUMENT.lines() {
        if line.starts_with("```") {
            inside = line == "```vectors";
        } else if inside && line.starts_with(' ') {
            printed.entry(name).or_default().push_str(&digits(line));
        } else if inside && let Some(title) = line.strip_suffix(':') {
            name = title;
            assert!(!printed.contains_key(name), "{name} is printed twice");
        }
    }
    let expected: BTreeMap<&str, String> = vectors()
        .into_iter()
        .map(|(name, _, vector)| (name, digits(vector)))
        .collect();
    assert_eq!(printed, expected);
}

#[test]
fn the_document_numbers_the_stages_as_the_code_does() {
    use Stage::*;
    let stages = [
        Protocol,
        Root,
        Mount,
        Hostname,
        User,
        WorkingDirectory,
        ResourceLimit,
        Stdio,
        ProgramNotFound,
        ProgramNotExecutable,
        Spawn,
        Network,
        Draining,
        Scripts,
        Init,
        Patch,
    ];
    for (number, stage) in stages.iter().enumerate() {
        assert_eq!(number, *stage as usize);
        let row = format!("| {number} | `{stage:?}` |");
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
    assert!(
        !DOCUMENT.contains(&format!("| {} | `", stages.len())),
        "a stage too many"
    );
}

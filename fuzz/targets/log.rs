//! Bytes as the segments of a log, or a good log with bytes of it changed: it is read as far as it makes sense, and the next
//! writer goes on.
#![no_main]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use logs::{LogBatch, LogOptions, LogSource, LogStream, LogStreamOptions, LogWriter, read_logs};

/// Most bytes of a log.
const LIMIT: u64 = 1 << 20;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    // In memory, where a log costs little.
    let folder = tempfile::tempdir_in("/dev/shm").expect("there is memory for files");
    let log = folder.path();
    if kind & 1 == 0 {
        let segments = usize::from(kind >> 1 & 3) + 1;
        for (number, bytes) in (1..).zip(rest.chunks(rest.len() / segments + 1)) {
            fs::write(segment(log, number), bytes).expect("there is room");
        }
    } else {
        write(log, &[b"one\ntwo", &[0xfe; 300], b"\n"]);
        change(log, rest);
    }
    read(log);
    // Nothing that is there keeps anybody from writing.
    write(log, &[b"the last words"]);
    let last = read_logs(log, &last_one()).expect("it can be read");
    assert_eq!(last[0].data, b"the last words");
    let all = read(log);
    assert_eq!(all.last(), Some(&last[0].data));
});

fn segment(log: &Path, number: u64) -> std::path::PathBuf {
    log.join(format!("{number:016x}.log"))
}

fn everything() -> LogOptions {
    LogOptions {
        sources: LogSource::ALL.to_vec(),
        ..LogOptions::default()
    }
}

fn last_one() -> LogOptions {
    LogOptions {
        tail: Some(1),
        ..everything()
    }
}

fn write(log: &Path, entries: &[&[u8]]) {
    let mut writer = LogWriter::open(log, LIMIT).expect("nobody else writes");
    let mut batch = LogBatch::new();
    for entry in entries {
        batch.push(LogSource::Stdout, 1, SystemTime::now(), entry);
    }
    writer.write(&mut batch).expect("there is room");
}

/// All that is there, which is the same however it is read.
fn read(log: &Path) -> Vec<Vec<u8>> {
    let entries = read_logs(log, &everything()).expect("it can be read");
    let options = LogStreamOptions {
        sources: LogSource::ALL.to_vec(),
        ..LogStreamOptions::default()
    };
    let mut stream = LogStream::open(log, options).expect("it can be read");
    for entry in &entries {
        let streamed = stream.blocking_recv().expect("it can be read");
        assert_eq!(streamed.as_ref(), Some(entry));
    }
    assert_eq!(stream.blocking_recv().expect("it can be read"), None);
    entries.into_iter().map(|entry| entry.data).collect()
}

/// Each change is its place (two bytes), how many bytes, and these.
fn change(log: &Path, mut changes: &[u8]) {
    let options = File::options().write(true).open(segment(log, 1));
    let file = options.expect("it was written");
    while let Some((&[high, low, count], rest)) = changes.split_first_chunk() {
        let count = usize::from(count & 15).min(rest.len());
        let (bytes, rest) = rest.split_at(count);
        let place = u64::from(u16::from_be_bytes([high & 3, low]));
        file.write_all_at(bytes, place).expect("there is room");
        changes = rest;
    }
}

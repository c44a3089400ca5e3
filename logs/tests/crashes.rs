//! A process that writes a log is killed at random moments or finds its disk full, with this program itself in its place.
//!
//! Without libtest, because the program takes a role.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

use logs::{LogBatch, LogOptions, LogSource, LogStream, LogStreamOptions, LogWriter, read_logs};

/// How often the writer is killed.
const ROUNDS: u64 = 40;

/// Bound of the log: it is full several times over.
const LIMIT: u64 = 1 << 20;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, role, directory] = &arguments[..]
        && role == "write"
    {
        return write(Path::new(directory));
    }
    let tests: [(&str, fn()); 3] = [
        ("what_was_written_survives_the_writer", killed_anywhere),
        ("of_what_a_full_disk_takes_whole_entries_stay", filled),
        ("who_follows_a_log_learns_of_its_writers_end", followed),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed", tests.len());
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg("write")
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Writes numbers, goes on from the last one that is there, and says of each that it is written.
fn write(directory: &Path) {
    let mut writer = LogWriter::open(directory, LIMIT).unwrap();
    let mut number = last(directory).map_or(0, |last| last + 1);
    let mut output = std::io::stdout();
    loop {
        let mut batch = LogBatch::new();
        let mut data = number.to_string().into_bytes();
        data.resize(
            1 + usize::try_from(number % 5000).unwrap() + data.len(),
            b' ',
        );
        batch.push(LogSource::Stdout, 1, SystemTime::now(), &data);
        writer.write(&mut batch).unwrap();
        writeln!(output, "{number}").unwrap();
        number += 1;
    }
}

fn numbers(directory: &Path, tail: Option<usize>) -> Vec<u64> {
    let options = LogOptions {
        tail,
        ..LogOptions::default()
    };
    let entries = read_logs(directory, &options).unwrap();
    let number = |text: &str| text.trim().parse().unwrap();
    entries.iter().map(|entry| number(&entry.text())).collect()
}

fn last(directory: &Path) -> Option<u64> {
    numbers(directory, Some(1)).pop()
}

/// Kills the writer after a time that is another in every round; returns the last number that it said was written.
fn kill(mut writer: Child, round: u64) -> Option<u64> {
    let output = BufReader::new(writer.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines.last().map(|line| line.parse().unwrap())
    });
    std::thread::sleep(Duration::from_millis(5 + round * 37 % 60));
    writer.kill().unwrap();
    writer.wait().unwrap();
    reader.join().unwrap()
}

fn killed_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let said = kill(start(directory.path()), round);
        let found = numbers(directory.path(), None);
        // All of them in a row, up to what the process said, and perhaps one that it had no time to tell of.
        assert!(found.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        if let Some(said) = said {
            let last = *found.last().unwrap();
            assert!(last == said || last == said + 1, "{last} after {said}");
        }
    }
}

fn filled() {
    // SAFETY: SIG_IGN is no function that could be called.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let (before, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let lengths = [20_000, 1, 30_000, 5_000, 2, 60_000];
    for room in (16..120_000).step_by(1_111).chain([16, 45, 46]) {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(directory.path(), LIMIT).unwrap();
        let mut batch = LogBatch::new();
        for length in lengths {
            batch.push(LogSource::Stdout, 1, SystemTime::now(), &vec![b'x'; length]);
        }
        setrlimit(Resource::RLIMIT_FSIZE, room, hard).unwrap();
        let result = writer.write(&mut batch);
        setrlimit(Resource::RLIMIT_FSIZE, before, hard).unwrap();
        let (kept, lost) = lengths.split_at(lengths_in(directory.path()).len());
        assert_eq!(lengths_in(directory.path()), kept);
        let lost: usize = lost.iter().sum();
        let told = result.err().map_or(0, |unwritten| unwritten.bytes);
        assert_eq!(told, lost as u64, "{room}");
        let entry = |length: &usize| 29 + *length as u64;
        let file = 16 + kept.iter().map(entry).sum::<u64>();
        assert!(file <= room && (lost == 0 || file + entry(&lengths[kept.len()]) > room));
        // It goes on where it stopped.
        batch.push(LogSource::Stdout, 1, SystemTime::now(), b"more");
        writer.write(&mut batch).unwrap();
        assert_eq!(lengths_in(directory.path()), [kept, &[4]].concat());
    }
}

/// Lengths of the entries of a log.
fn lengths_in(directory: &Path) -> Vec<usize> {
    let entries = read_logs(directory, &LogOptions::default()).unwrap();
    entries.iter().map(|entry| entry.data.len()).collect()
}

fn followed() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let mut writer = start(directory.path());
        let mut line = String::new();
        let mut output = BufReader::new(writer.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let options = LogStreamOptions {
            follow: true,
            ..LogStreamOptions::default()
        };
        let mut stream = LogStream::open(directory.path(), options).unwrap();
        let mut seen = None;
        for _ in 0..=round * 3 {
            seen = stream.blocking_recv().unwrap();
        }
        assert!(seen.is_some());
        writer.kill().unwrap();
        writer.wait().unwrap();
        let mut newest = None;
        while let Some(entry) = stream.blocking_recv().unwrap() {
            newest = Some(entry);
        }
        // What was written last is told before the end.
        let newest = newest
            .or(seen)
            .map(|entry| entry.text().trim().parse().unwrap());
        assert_eq!(newest, last(directory.path()));
    }
}

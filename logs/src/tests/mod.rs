//! Logs that are written, read, cut and spoilt.

mod rotation;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::slice;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::format::MAX_DATA;
use crate::segment;

const LIMIT: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    source: LogSource,
    session: u64,
    time: SystemTime,
    data: Vec<u8>,
}

fn written(second: u64, source: LogSource, data: &[u8]) -> Written {
    Written {
        source,
        session: 1,
        time: UNIX_EPOCH + Duration::from_secs(second),
        data: data.to_vec(),
    }
}

/// What an entry says, without its place.
fn told(entry: &LogEntry) -> Written {
    Written {
        source: entry.source,
        session: entry.session_id.unwrap_or_default(),
        time: entry.timestamp,
        data: entry.data.clone(),
    }
}

fn write(writer: &mut LogWriter, entries: &[Written]) {
    let mut batch = LogBatch::new();
    for entry in entries {
        batch.push(entry.source, entry.session, entry.time, &entry.data);
    }
    writer.write(&mut batch).unwrap();
}

fn everything() -> LogOptions {
    LogOptions {
        sources: LogSource::ALL.to_vec(),
        ..LogOptions::default()
    }
}

fn read(directory: &Path, options: &LogOptions) -> Vec<Written> {
    let entries = read_logs(directory, options).unwrap();
    entries.iter().map(told).collect()
}

/// What a stream yields until its end.
fn drain(mut stream: LogStream) -> Vec<LogEntry> {
    std::iter::from_fn(|| stream.blocking_recv().unwrap()).collect()
}

fn log_of(entries: &[Written]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(
        &mut LogWriter::open(directory.path(), LIMIT).unwrap(),
        entries,
    );
    directory
}

fn bytes_in(directory: &Path) -> u64 {
    let lengths = segment::list(directory).unwrap().into_iter().map(|number| {
        fs::metadata(segment::path(directory, number))
            .unwrap()
            .len()
    });
    lengths.sum()
}

fn last_segment(directory: &Path) -> std::path::PathBuf {
    segment::path(
        directory,
        *segment::list(directory).unwrap().last().unwrap(),
    )
}

fn any_entry() -> impl Strategy<Value = Written> {
    let source = prop::sample::select(LogSource::ALL.to_vec());
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..100),
        (1..60_000_usize).prop_map(|length| vec![0xfe; length]),
    ];
    (source, any::<u64>(), any::<u64>(), data).prop_map(|(source, session, nanos, data)| Written {
        source,
        session: if source == LogSource::System {
            0
        } else {
            session
        },
        time: UNIX_EPOCH + Duration::from_nanos(nanos),
        data,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(batches in prop::collection::vec(prop::collection::vec(any_entry(), 0..8), 0..6)) {
        let directory = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        for batch in batches {
            // A writer each: it goes on where the last one ended.
            let mut writer = LogWriter::open(directory.path(), 64 << 20).unwrap();
            write(&mut writer, &batch);
            all.extend(batch);
        }
        prop_assert_eq!(read(directory.path(), &everything()), all);
    }

    #[test]
    fn a_torn_end_costs_what_was_torn(
        entries in prop::collection::vec(any_entry(), 1..12),
        cut in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 0..60),
        more in prop::collection::vec(any_entry(), 1..4),
    ) {
        let directory = log_of(&entries);
        let path = last_segment(directory.path());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let length = cut.index(file.metadata().unwrap().len() as usize + 1) as u64;
        file.set_len(length).unwrap();
        file.write_all_at(&garbage, length).unwrap();
        let mut left = read(directory.path(), &everything());
        prop_assert_eq!(&left[..], &entries[..left.len()]);
        write(&mut LogWriter::open(directory.path(), LIMIT).unwrap(), &more);
        left.extend(more);
        prop_assert_eq!(read(directory.path(), &everything()), left);
    }

    #[test]
    fn spoilt_bytes_are_never_told_as_entries(
        entries in prop::collection::vec(any_entry(), 1..12),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 1..4),
    ) {
        let directory = log_of(&entries);
        let path = last_segment(directory.path());
        let mut bytes = fs::read(&path).unwrap();
        for (place, change) in spoilt {
            let place = place.index(bytes.len());
            bytes[place] ^= change;
        }
        fs::write(&path, bytes).unwrap();
        let found = read(directory.path(), &everything());
        prop_assert_eq!(&found[..], &entries[..found.len()]);
    }

    #[test]
    fn reading_goes_on_strictly_after_any_entry(entries in prop::collection::vec(any_entry(), 1..40)) {
        let directory = log_of(&entries);
        let all = read_logs(directory.path(), &everything()).unwrap();
        for (index, entry) in all.iter().enumerate() {
            let cursor = entry.cursor.to_string().parse().unwrap();
            let options = LogStreamOptions {
                sources: LogSource::ALL.to_vec(),
                from_cursor: Some(cursor),
                ..LogStreamOptions::default()
            };
            let rest = drain(LogStream::open(directory.path(), options).unwrap());
            prop_assert_eq!(&rest[..], &all[index + 1..]);
        }
    }

    #[test]
    fn the_end_is_what_all_ends_with(entries in prop::collection::vec(any_entry(), 0..40), count in 0..50_usize) {
        let directory = log_of(&entries);
        let all = read(directory.path(), &everything());
        let tail = read(directory.path(), &LogOptions { tail: Some(count), ..everything() });
        prop_assert_eq!(&tail[..], &all[all.len().saturating_sub(count)..]);
    }

    #[test]
    fn no_text_but_a_cursor_is_one(text in ".*") {
        if let Ok(cursor) = text.parse::<LogCursor>() {
            prop_assert_eq!(cursor.to_string().parse::<LogCursor>().unwrap(), cursor);
        }
    }
}

#[test]
fn sources_and_moments_are_chosen() {
    let directory = log_of(&[
        written(10, LogSource::Stdout, b"one"),
        written(20, LogSource::Stderr, b"two"),
        written(30, LogSource::Output, b"three"),
        written(40, LogSource::Stdout, b"\xffour\0"),
    ]);
    let moment = |second| Some(UNIX_EPOCH + Duration::from_secs(second));
    let data = |options: LogOptions| -> Vec<Vec<u8>> {
        let entries = read_logs(directory.path(), &options).unwrap();
        entries.into_iter().map(|entry| entry.data).collect()
    };
    let default = data(LogOptions::default());
    assert_eq!(default, [&b"one"[..], b"two", b"\xffour\0"]);
    // From a moment on, up to another and without it.
    let between = data(LogOptions {
        since: moment(20),
        until: moment(40),
        ..everything()
    });
    assert_eq!(between, [&b"two"[..], b"three"]);
    let stream = |options| {
        let entries = drain(LogStream::open(directory.path(), options).unwrap());
        entries.into_iter().map(|entry| entry.data).collect()
    };
    let streamed: Vec<_> = stream(LogStreamOptions {
        since: moment(15),
        until: moment(40),
        ..LogStreamOptions::default()
    });
    assert_eq!(streamed, [&b"two"[..], b"three"]);
}

#[test]
fn a_clock_that_is_set_back_hides_no_entries() {
    // It was wrong for a moment.
    let seconds = [10, 90, 11, 12];
    let entries = seconds.map(|second| written(second, LogSource::Stdout, b"line"));
    let directory = log_of(&entries);
    let moment = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
    for (since, until, expected) in [
        (None, moment(50), &[10, 11, 12][..]),
        (moment(12), moment(50), &[12]),
        (moment(50), None, &[90]),
    ] {
        let options = LogStreamOptions {
            since,
            until,
            ..LogStreamOptions::default()
        };
        let streamed = drain(LogStream::open(directory.path(), options).unwrap());
        let streamed: Vec<_> = streamed.iter().map(told).collect();
        let options = LogOptions {
            since,
            until,
            ..LogOptions::default()
        };
        assert_eq!(streamed, read(directory.path(), &options));
        let expected = expected
            .iter()
            .map(|&second| written(second, LogSource::Stdout, b"line"));
        assert_eq!(streamed, expected.collect::<Vec<_>>());
    }
    // Who waits for what comes begins and ends in its order.
    let _writer = LogWriter::open(directory.path(), LIMIT).unwrap();
    let options = LogStreamOptions {
        since: moment(11),
        until: moment(91),
        follow: true,
        ..LogStreamOptions::default()
    };
    let mut stream = LogStream::open(directory.path(), options).unwrap();
    for entry in &entries[1..] {
        assert_eq!(&told(&stream.blocking_recv().unwrap().unwrap()), entry);
    }
}

#[test]
fn a_log_has_one_writer() {
    let directory = tempfile::tempdir().unwrap();
    let writer = LogWriter::open(directory.path(), LIMIT).unwrap();
    let error = LogWriter::open(directory.path(), LIMIT).unwrap_err();
    assert!(matches!(error, LogError::InUse { .. }), "{error}");
    drop(writer);
    LogWriter::open(directory.path(), LIMIT).unwrap();
}

#[test]
fn what_nobody_writes_is_followed_to_its_end() {
    let directory = log_of(&[written(1, LogSource::Stdout, b"last words")]);
    let options = LogStreamOptions {
        follow: true,
        ..LogStreamOptions::default()
    };
    assert_eq!(
        drain(LogStream::open(directory.path(), options.clone()).unwrap()).len(),
        1
    );
    let nowhere = directory.path().join("nowhere");
    assert_eq!(drain(LogStream::open(&nowhere, options).unwrap()), []);
    assert_eq!(read(&nowhere, &everything()), []);
}

#[test]
fn a_cursor_of_another_log_is_refused() {
    let entry = [written(1, LogSource::Stdout, b"x")];
    let (one, other) = (log_of(&entry), log_of(&entry));
    let cursor = read_logs(one.path(), &everything()).unwrap()[0].cursor;
    let options = LogStreamOptions {
        from_cursor: Some(cursor),
        ..LogStreamOptions::default()
    };
    let error = LogStream::open(other.path(), options.clone()).unwrap_err();
    assert!(matches!(error, LogError::ForeignCursor { .. }), "{error}");
    let both = LogStreamOptions {
        since: Some(UNIX_EPOCH),
        ..options
    };
    let error = LogStream::open(one.path(), both).unwrap_err();
    assert!(matches!(error, LogError::TwoStarts), "{error}");
}

/// What comes after `cursor`.
fn after(directory: &Path, cursor: LogCursor) -> Vec<Written> {
    let options = LogStreamOptions {
        from_cursor: Some(cursor),
        ..LogStreamOptions::default()
    };
    let entries = drain(LogStream::open(directory, options).unwrap());
    entries.iter().map(told).collect()
}

#[test]
fn a_cursor_stays_good_behind_a_segment_without_a_header() {
    let entries = [1, 2].map(|second| written(second, LogSource::Stdout, b"x"));
    let directory = log_of(&entries);
    let cursor = read_logs(directory.path(), &everything()).unwrap()[0].cursor;
    // As a machine leaves it that lost its power when it had just begun the segment.
    fs::write(segment::path(directory.path(), u64::from(u32::MAX)), b"msb").unwrap();
    let more = written(3, LogSource::Stdout, b"y");
    let mut writer = LogWriter::open(directory.path(), LIMIT).unwrap();
    write(&mut writer, slice::from_ref(&more));
    assert_eq!(after(directory.path(), cursor), [entries[1].clone(), more]);
}

#[test]
fn a_cursor_whose_segment_is_gone_leads_to_the_oldest_entry_that_there_is() {
    let directory = log_of(&[written(1, LogSource::Stdout, b"first")]);
    let cursor = read_logs(directory.path(), &everything()).unwrap()[0].cursor;
    let mut writer = LogWriter::open(directory.path(), 0).unwrap();
    let large = written(2, LogSource::Stdout, &[7; MAX_DATA]);
    for _ in 0..20 {
        write(&mut writer, slice::from_ref(&large));
    }
    let left = read(directory.path(), &everything());
    assert!(!left.is_empty() && left.iter().all(|entry| *entry == large));
    assert_eq!(after(directory.path(), cursor), left);
}

#[test]
fn a_stream_that_is_closed_ends() {
    let directory = tempfile::tempdir().unwrap();
    let _writer = LogWriter::open(directory.path(), LIMIT).unwrap();
    let options = LogStreamOptions {
        follow: true,
        ..LogStreamOptions::default()
    };
    let mut stream = LogStream::open(directory.path(), options).unwrap();
    stream.close();
    assert_eq!(stream.blocking_recv().unwrap(), None);
}

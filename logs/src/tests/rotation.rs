//! Logs that are full: old segments give way to new ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::slice;
use std::time::UNIX_EPOCH;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;
use crate::options::Filter;
use crate::reader::LogReader;

#[test]
fn a_log_does_not_outgrow_its_bound_and_keeps_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(directory.path(), LIMIT).unwrap();
    let mut all = Vec::new();
    for second in 0..400 {
        let entry = written(second, LogSource::Stdout, &vec![second as u8; 9_999]);
        write(&mut writer, std::slice::from_ref(&entry));
        all.push(entry);
        assert!(bytes_in(directory.path()) <= LIMIT);
    }
    let kept = read(directory.path(), &everything());
    assert!(kept.len() * 9_999 > LIMIT as usize * 3 / 4);
    assert_eq!(kept[..], all[all.len() - kept.len()..]);
    // A smaller bound counts from the next segment on.
    drop(writer);
    let mut writer = LogWriter::open(directory.path(), LIMIT / 2 + 200_000).unwrap();
    for second in 400..430 {
        write(
            &mut writer,
            &[written(second, LogSource::Stdout, &[7; 9_999])],
        );
    }
    assert!(bytes_in(directory.path()) <= LIMIT / 2 + 200_000);
}

#[test]
fn who_reads_along_gets_each_entry_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(directory.path(), LIMIT).unwrap();
    let mut reader = LogReader::open(directory.path(), None).unwrap();
    let filter = Filter::from(&everything());
    // Ends of segments, and what is left of old ones, lie everywhere.
    for second in 0..3_000_u64 {
        let length = 1 + (second * 7_919 % 2_503) as usize;
        let entry = written(second, LogSource::Stdout, &vec![second as u8; length]);
        write(&mut writer, slice::from_ref(&entry));
        let read = reader.next(&filter).unwrap().map(|entry| told(&entry));
        assert_eq!(read, Some(entry));
        assert_eq!(reader.next(&filter).unwrap(), None);
    }
}

#[test]
fn a_stranger_in_the_place_of_an_old_segment_is_removed() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("x".repeat(100));
    fs::write(&target, [7; 1_000]).unwrap();
    let strangers: [&dyn Fn(&Path); 3] = [
        &|place| symlink(&target, place).unwrap(),
        &|place| fs::write(place, [9; 100_000]).unwrap(),
        &|place| mkfifo(place, Mode::S_IRWXU).unwrap(),
    ];
    // Of each segment so much that eight and room for a ninth are 27 bytes less than the bound: the stranger is the last one
    // that has to go.
    let entry = |second| written(second, LogSource::Stdout, &[3; 57_335]);
    for stranger in strangers {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(directory.path(), 0).unwrap();
        for second in 0..8 {
            write(&mut writer, &[entry(second)]);
        }
        let place = segment::path(directory.path(), 1);
        fs::remove_file(&place).unwrap();
        stranger(&place);
        for second in 8..40 {
            write(&mut writer, &[entry(second)]);
        }
        assert_eq!(fs::read(&target).unwrap(), [7; 1_000]);
        let kept = read(directory.path(), &everything());
        let expected: Vec<_> = (40 - kept.len() as u64..40).map(entry).collect();
        assert!(kept.len() >= 8);
        assert_eq!(kept, expected);
        assert!(bytes_in(directory.path()) <= 8 * 65_581);
    }
}

#[test]
fn readers_follow_a_writer_that_rotates() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(directory.path(), LIMIT).unwrap();
    let options = || LogStreamOptions {
        follow: true,
        ..LogStreamOptions::default()
    };
    let mut streams: Vec<_> = (0..3)
        .map(|_| LogStream::open(directory.path(), options()).unwrap())
        .collect();
    const ENTRIES: u64 = 2_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for second in 0..ENTRIES {
                write(
                    &mut writer,
                    &[written(second, LogSource::Stdout, &[3; 4_000])],
                );
            }
        });
        for stream in &mut streams {
            scope.spawn(|| {
                let mut last = None;
                while last != Some(ENTRIES - 1) {
                    let entry = stream.blocking_recv().unwrap().unwrap();
                    let time = entry
                        .timestamp
                        .duration_since(UNIX_EPOCH)
                        .unwrap()
                        .as_secs();
                    // A reader that is slow misses entries; it gets none twice and none out of order.
                    assert!(last.is_none_or(|last| time > last), "{time} after {last:?}");
                    assert_eq!(entry.data, [3; 4_000]);
                    last = Some(time);
                }
            });
        }
    });
}

#[test]
fn who_reads_on_after_what_was_removed_begins_with_the_oldest() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(directory.path(), LIMIT).unwrap();
    let entry = |second| written(second, LogSource::Stdout, &[7; 9_999]);
    write(&mut writer, &[entry(0), entry(1)]);
    let cursor = read_logs(directory.path(), &everything()).unwrap()[0].cursor;
    for second in 2..400 {
        write(&mut writer, &[entry(second)]);
    }
    let options = LogStreamOptions {
        from_cursor: Some(cursor),
        ..LogStreamOptions::default()
    };
    let rest = drain(LogStream::open(directory.path(), options).unwrap());
    let rest: Vec<_> = rest.iter().map(told).collect();
    assert_eq!(rest, read(directory.path(), &everything()));
    assert!(rest.len() < 399 && rest.last() == Some(&entry(399)));
}

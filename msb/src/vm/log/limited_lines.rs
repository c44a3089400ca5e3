//! Lines of other logs, of the guest's kernel and of this process, on their way to the sandbox's log.

use std::time::{Duration, Instant};

use super::LogLines;

/// Bytes of a line that are kept.
const MAX_LINE: usize = 1024;

/// Lines that may come at once.
const BURST: u32 = 200;

/// Time after which another line may come: who says the same for ever does not push out everything else.
const INTERVAL: Duration = Duration::from_millis(100);

/// Cuts a log into lines, and passes on as many as are good for another one.
#[derive(Debug)]
pub(in crate::vm) struct LimitedLines {
    lines: LogLines,
    /// Whose lines they are.
    source: &'static str,
    line: Vec<u8>,
    /// Lines that may come now.
    allowance: u32,
    /// When the allowance was last added to.
    since: Instant,
    suppressed: u64,
}

impl LimitedLines {
    /// Passes lines of `source` on to `lines`.
    pub(in crate::vm) fn new(source: &'static str, lines: LogLines) -> LimitedLines {
        LimitedLines {
            lines,
            source,
            line: Vec::new(),
            allowance: BURST,
            since: Instant::now(),
            suppressed: 0,
        }
    }

    /// Takes what was written next.
    pub(in crate::vm) fn write(&mut self, data: &[u8]) {
        for &byte in data {
            match byte {
                b'\n' => self.end_line(Instant::now()),
                b'\r' => {}
                _ if self.line.len() < MAX_LINE => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self, now: Instant) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        self.earn(now);
        match self.allowance.checked_sub(1) {
            Some(left) => self.allowance = left,
            None => {
                self.suppressed += 1;
                return;
            }
        }
        let source = self.source;
        if self.suppressed > 0 {
            let count = std::mem::take(&mut self.suppressed);
            self.lines
                .write(&format!("{source}: {count} lines were left out"));
        }
        self.lines
            .write(&format!("{source}: {}", String::from_utf8_lossy(&line)));
    }

    fn earn(&mut self, now: Instant) {
        while self.allowance < BURST && now.saturating_duration_since(self.since) >= INTERVAL {
            self.allowance += 1;
            self.since += INTERVAL;
        }
        if self.allowance == BURST {
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use microsandbox::launch::{HostPath, LogTarget};
    use microsandbox::logs::{LogOptions, LogSource, read_logs};

    use super::*;
    use crate::vm::log::Log;

    #[test]
    fn a_flood_is_cut_and_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::start(LogTarget {
            directory: HostPath(directory.path().to_owned()),
            limit: 1 << 20,
        })
        .unwrap();
        let mut kernel = LimitedLines::new("kernel", log.lines());
        let start = Instant::now();
        for line in 0..BURST * 2 {
            kernel.line = format!("line {line}").into_bytes();
            kernel.end_line(start);
        }
        kernel.line = b"later".to_vec();
        kernel.end_line(start + INTERVAL * 2);
        kernel.write(&[b'x'; 5000]);
        kernel.write(b"\r\n\n");
        log.lines().finish("ended");
        let options = LogOptions {
            sources: vec![LogSource::System],
            ..LogOptions::default()
        };
        let texts: Vec<_> = read_logs(directory.path(), &options)
            .unwrap()
            .iter()
            .map(|entry| entry.text().trim_end().to_owned())
            .collect();
        assert_eq!(texts.len(), BURST as usize + 4, "{texts:?}");
        assert_eq!(texts[BURST as usize - 1], "kernel: line 199");
        assert_eq!(texts[BURST as usize], "kernel: 200 lines were left out");
        assert_eq!(texts[BURST as usize + 1], "kernel: later");
        assert_eq!(texts[BURST as usize + 2].len(), "kernel: ".len() + MAX_LINE);
    }
}

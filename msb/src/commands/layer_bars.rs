//! How far each layer is, on a terminal.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use microsandbox::images::image::progress::{LayerState, Silent};
use microsandbox::images::image::{Digest, Progress};

/// Digits of a digest that are shown.
const DIGITS: usize = 12;

/// Does `work` with a line for each layer that comes or is made, on a terminal unless `quiet`.
pub(super) fn with_bars<T>(
    quiet: bool,
    work: impl FnOnce(Arc<dyn Progress + Send + Sync>) -> T,
) -> T {
    let bars = (!quiet && io::stderr().is_terminal())
        .then(|| Arc::new(Bars::on(ProgressDrawTarget::stderr())));
    let progress: Arc<dyn Progress + Send + Sync> = match &bars {
        Some(bars) => Arc::<Bars>::clone(bars),
        None => Arc::new(Silent),
    };
    let result = work(progress);
    if let Some(bars) = bars {
        bars.clear();
    }
    result
}

/// A line for each blob that comes, one for each layer of which a file system is made, and one for an archive.
struct Bars {
    all: MultiProgress,
    coming: ProgressStyle,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
    /// That of the archive of a layer that is made here.
    archive: Mutex<Option<ProgressBar>>,
}

impl Bars {
    fn on(target: ProgressDrawTarget) -> Bars {
        let template = "{prefix} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}";
        let style = ProgressStyle::with_template(template);
        Bars {
            all: MultiProgress::with_draw_target(target),
            coming: style.unwrap_or_else(|_| ProgressStyle::default_bar()),
            bars: Mutex::default(),
            archive: Mutex::default(),
        }
    }

    /// Removes them.
    fn clear(&self) {
        // Without a terminal there is nothing to remove.
        let _ = self.all.clear();
    }

    /// Does something with the line of `digest`, which appears now at the latest.
    fn with(&self, digest: &Digest, act: impl FnOnce(&ProgressBar)) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(*digest).or_insert_with(|| {
            let bar = ProgressBar::no_length().with_style(self.coming.clone());
            let hex = digest.hex();
            self.all
                .add(bar.with_prefix(hex.get(..DIGITS).unwrap_or(&hex).to_owned()))
        });
        act(bar);
    }
}

impl Progress for Bars {
    fn blob(&self, digest: &Digest, done: u64, total: u64) {
        self.with(digest, |bar| {
            bar.set_length(total);
            bar.set_position(done);
            if done == total {
                bar.finish_and_clear();
            }
        });
    }

    fn layer(&self, diff_id: &Digest, state: LayerState) {
        match state {
            LayerState::Converting => self.with(diff_id, |bar| {
                if let Ok(style) = ProgressStyle::with_template("{prefix} {msg}") {
                    bar.set_style(style);
                }
                bar.set_message("its file system is being made");
            }),
            LayerState::Ready => self.with(diff_id, ProgressBar::finish_and_clear),
        }
    }

    fn archive(&self, done: u64) {
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = archive.get_or_insert_with(|| {
            let bar = self.all.add(ProgressBar::no_length());
            if let Ok(style) = ProgressStyle::with_template("{msg} {bytes}, {bytes_per_sec}") {
                bar.set_style(style);
            }
            bar.with_message("changes are read:")
        });
        bar.set_position(done);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps each line that was ever drawn.
    #[derive(Debug, Clone, Default)]
    struct Drawn(Arc<Mutex<BTreeSet<String>>>);

    impl Drawn {
        fn has(&self, parts: &[&str]) -> bool {
            let lines = self.0.lock().unwrap();
            let fits = |line: &String| parts.iter().all(|part| line.contains(part));
            lines.iter().any(fits)
        }

        fn keep(&self, line: &str) -> io::Result<()> {
            self.0.lock().unwrap().insert(line.to_owned());
            Ok(())
        }
    }

    impl TermLike for Drawn {
        fn width(&self) -> u16 {
            120
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, line: &str) -> io::Result<()> {
            self.keep(line)
        }

        fn write_str(&self, line: &str) -> io::Result<()> {
            self.keep(line)
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_layer_has_a_line_of_its_own_with_what_came_of_it() {
        let drawn = Drawn::default();
        let target = ProgressDrawTarget::term_like(Box::new(drawn.clone()));
        let bars = Bars::on(target);
        let layers = ["a", "b", "c"].map(|name| Digest::of(name.as_bytes()));
        let prefix = |layer: &Digest| layer.hex()[..DIGITS].to_owned();
        for (layer, kib) in layers.iter().zip([1, 2, 3]) {
            bars.blob(layer, kib << 10, 8 << 10);
        }
        for (layer, came) in layers.iter().zip(["1.00 KiB", "2.00 KiB", "3.00 KiB"]) {
            let parts = [&*prefix(layer), came, "of 8.00 KiB"];
            assert!(drawn.has(&parts), "{parts:?}: {drawn:?}");
        }
        bars.layer(&layers[1], LayerState::Converting);
        let being_made = |layer| drawn.has(&[&*prefix(layer), "its file system is being made"]);
        assert!(being_made(&layers[1]) && !being_made(&layers[0]));
        bars.archive(5 << 20);
        assert!(drawn.has(&["changes are read: 5.00 MiB"]), "{drawn:?}");
    }
}

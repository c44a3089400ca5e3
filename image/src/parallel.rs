//! Work on several things at a time.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Most threads for the layers of one image. More would only wait for the disk.
const MAX_THREADS: usize = 4;

/// The results of `work` for all items, in their order; after an error no further item is begun.
///
/// # Errors
/// One of those that `work` returned.
pub(crate) fn map<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Vec<Mutex<Option<Result<R, E>>>> =
        items.iter().map(|_| Mutex::new(None)).collect();
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), Some(slot)) = (items.get(index), results.get(index)) else {
                return;
            };
            let result = work(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 1..items.len().min(processors).min(MAX_THREADS) {
            // This thread works as well, and does it all if there are no others.
            let _ = thread::Builder::new().spawn_scoped(scope, run);
        }
        run();
    });
    let results = results.into_iter();
    results
        .filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        let doubled = map(&items, |item| Ok::<_, ()>(item * 2)).unwrap();
        assert_eq!(
            doubled,
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
        assert_eq!(map(&[], |(): &()| Ok::<_, ()>(())).unwrap(), []);
    }

    #[test]
    fn an_error_ends_the_work() {
        let begun = AtomicUsize::new(0);
        let items = vec![(); 1000];
        let result = map(&items, |()| {
            begun.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>("broken")
        });
        assert_eq!(result, Err("broken"));
        assert!(begun.into_inner() <= MAX_THREADS);
    }
}

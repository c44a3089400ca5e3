//! The gate that the processors of a machine pass before they enter the guest: they are let through, made to wait, or sent home.
//!
//! ```text
//!            park                 rewind                 run
//!   Run ------------> Park ----------------> Rewind -----------> Run
//!    |                  '-------- end --------'------> End
//!    '- are_halted -> Look -> Run
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::kick;

/// What the processors are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Run the guest.
    Run,
    /// Wait.
    Park,
    /// Take back so many ticks of the time-stamp counter, and go on waiting.
    Rewind(u64),
    /// See whether it can ever run again, and wait.
    Look,
    /// Leave. No other order follows.
    End,
}

struct State {
    order: Order,
    /// Counts the orders, so that a processor carries out each at most once.
    number: u64,
    /// Processors that did not carry out the order yet.
    outstanding: usize,
    /// Processors whose threads have not ended, those that did not begin yet included.
    alive: usize,
    /// Threads of processors that have begun. None of them ends while the state is locked.
    threads: Vec<libc::pthread_t>,
    /// What processors ran whose threads have ended.
    spent: Duration,
    /// A processor could not rewind.
    refusal: Option<kvm_ioctls::Error>,
    /// A processor that was looked at can run.
    awake: bool,
}

/// The machine has ended, or is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

/// What all processors of a machine look at before they enter the guest. One caller at a time gives orders, but for `end`, which
/// anybody may give at any time.
pub(crate) struct Gate {
    /// Whether the order is to run, for a look without the lock.
    open: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// An open gate for this many processors.
    pub(crate) fn new(processors: u8) -> Gate {
        Gate {
            open: AtomicBool::new(true),
            state: Mutex::new(State {
                order: Order::Run,
                number: 0,
                outstanding: 0,
                alive: usize::from(processors),
                threads: Vec::with_capacity(usize::from(processors)),
                spent: Duration::ZERO,
                refusal: None,
                awake: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Lets the processors run the guest, without waiting until they do.
    pub(crate) fn run(&self) {
        drop(self.order(Order::Run));
    }

    /// Returns when no processor runs the guest any more.
    pub(crate) fn park(&self) -> Result<(), Ended> {
        let ordered = self.order(Order::Park);
        self.wait(ordered).map(drop)
    }

    /// Takes back `ticks` of the time-stamp counter of all processors, which are parked. Returns what KVM refused.
    pub(crate) fn rewind(&self, ticks: u64) -> Result<Option<kvm_ioctls::Error>, Ended> {
        let ordered = self.order(Order::Rewind(ticks));
        Ok(self.wait(ordered)?.refusal.take())
    }

    /// Whether no processor can ever run again. The gate is open before and after.
    pub(crate) fn are_halted(&self) -> Result<bool, Ended> {
        let ordered = self.order(Order::Look);
        let awake = self.wait(ordered)?.awake;
        self.run();
        Ok(!awake)
    }

    /// Makes all processors leave, without waiting. There is no way back.
    pub(crate) fn end(&self) {
        drop(self.order(Order::End));
    }

    /// Whether `end` was called.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().order == Order::End
    }

    /// How long all processors have run, in the guest and for it.
    pub(crate) fn time(&self) -> Duration {
        let state = self.lock();
        state
            .threads
            .iter()
            .filter_map(|thread| {
                // SAFETY: threads that are listed have not ended, and cannot while the state is locked.
                unsafe { time_of(*thread) }
            })
            .fold(state.spent, Duration::saturating_add)
    }

    fn order(&self, order: Order) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.order == Order::End {
            return state;
        }
        state.order = order;
        state.number = state.number.wrapping_add(1);
        state.outstanding = state.alive;
        state.awake = false;
        // Before the kicks: who is kicked looks at it next.
        self.open.store(order == Order::Run, Ordering::SeqCst);
        if matches!(order, Order::Park | Order::Look | Order::End) {
            for thread in &state.threads {
                // SAFETY: as in `time`; a thread that is listed belongs to a processor, which came after the handler.
                unsafe { kick::kick(*thread) };
            }
        }
        self.changed.notify_all();
        state
    }

    /// Waits until all processors have carried out the order.
    fn wait<'g>(&self, mut state: MutexGuard<'g, State>) -> Result<MutexGuard<'g, State>, Ended> {
        while state.order != Order::End && state.outstanding > 0 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match state.order {
            Order::End => Err(Ended),
            _ => Ok(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processor time of a thread.
///
/// # Safety
/// The thread has not ended.
unsafe fn time_of(thread: libc::pthread_t) -> Option<Duration> {
    let mut clock = 0;
    // SAFETY: the caller's promise, and a place for the number.
    if unsafe { libc::pthread_getcpuclockid(thread, &raw mut clock) } != 0 {
        return None;
    }
    let time = nix::time::clock_gettime(nix::time::ClockId::from_raw(clock)).ok()?;
    Some(time.into())
}

/// A processor at the gate: the calling thread, as long as this lives.
pub(super) struct Place<'g> {
    gate: &'g Gate,
    /// Number of the last order that was carried out.
    carried_out: u64,
}

impl<'g> Place<'g> {
    /// The calling thread is one of the processors that the gate was made for.
    pub(super) fn new(gate: &'g Gate) -> Place<'g> {
        let mut state = gate.lock();
        // SAFETY: it has no preconditions.
        state.threads.push(unsafe { libc::pthread_self() });
        Place {
            gate,
            carried_out: 0,
        }
    }

    /// Whether the guest may be entered; waits while the gate is closed. `rewind` takes back ticks of the processor's time-stamp
    /// counter, `is_halted` says whether it can ever run again by itself.
    pub(super) fn pass(
        &mut self,
        rewind: impl Fn(u64) -> Result<(), kvm_ioctls::Error>,
        is_halted: impl Fn() -> bool,
    ) -> bool {
        if self.gate.open.load(Ordering::SeqCst) {
            return true;
        }
        let mut state = self.gate.lock();
        loop {
            if self.carried_out != state.number {
                match state.order {
                    Order::Rewind(ticks) => {
                        if let Err(error) = rewind(ticks) {
                            state.refusal = Some(error);
                        }
                    }
                    Order::Look => state.awake |= !is_halted(),
                    Order::Run | Order::Park | Order::End => {}
                }
                self.carried_out = state.number;
                self.gate.settle(&mut state);
            }
            match state.order {
                Order::Run => return true,
                Order::End => return false,
                Order::Park | Order::Rewind(_) | Order::Look => {}
            }
            state = self
                .gate
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Gate {
    /// One processor less has to carry out the order.
    fn settle(&self, state: &mut State) {
        state.outstanding = state.outstanding.saturating_sub(1);
        if state.outstanding == 0 {
            self.changed.notify_all();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // SAFETY: it has no preconditions.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: it is the calling thread.
        let time = unsafe { time_of(this) };
        let mut state = self.gate.lock();
        state.spent = state.spent.saturating_add(time.unwrap_or_default());
        state.threads.retain(|thread| *thread != this);
        state.alive = state.alive.saturating_sub(1);
        if self.carried_out != state.number {
            self.gate.settle(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread::{self, JoinHandle};
    use std::time::Instant;

    use super::*;

    /// Threads that do with the gate what processors do, and count their turns in place of running a guest.
    struct Processors {
        gate: Arc<Gate>,
        turns: Arc<AtomicU64>,
        rewound: Arc<AtomicU64>,
        threads: Vec<JoinHandle<()>>,
    }

    impl Processors {
        fn start(count: u8) -> Processors {
            kick::install_handler().unwrap();
            let mut processors = Processors {
                gate: Arc::new(Gate::new(count)),
                turns: Arc::default(),
                rewound: Arc::default(),
                threads: Vec::new(),
            };
            for _ in 0..count {
                processors.begin();
            }
            processors
        }

        fn begin(&mut self) {
            let (gate, turns) = (Arc::clone(&self.gate), Arc::clone(&self.turns));
            let rewound = Arc::clone(&self.rewound);
            let rewind = move |ticks| {
                rewound.fetch_add(ticks, Ordering::SeqCst);
                Ok(())
            };
            self.threads.push(thread::spawn(move || {
                let mut place = Place::new(&gate);
                while place.pass(&rewind, || false) {
                    turns.fetch_add(1, Ordering::SeqCst);
                    // As a guest does that waits for an interrupt: only a kick wakes it before the test's time is over.
                    thread::sleep(Duration::from_millis(1));
                }
            }));
        }

        fn turns(&self) -> u64 {
            self.turns.load(Ordering::SeqCst)
        }

        fn wait_for_turns(&self) {
            let before = self.turns();
            let deadline = Instant::now() + Duration::from_secs(20);
            while self.turns() <= before {
                assert!(Instant::now() < deadline, "no processor runs");
                thread::yield_now();
            }
        }
    }

    impl Drop for Processors {
        fn drop(&mut self) {
            self.gate.end();
            for thread in self.threads.drain(..) {
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn nobody_runs_between_park_and_run() {
        let processors = Processors::start(4);
        let gate = &processors.gate;
        for round in 1..=50 {
            processors.wait_for_turns();
            gate.park().unwrap();
            let turns = processors.turns();
            assert!(gate.rewind(3).unwrap().is_none());
            thread::yield_now();
            assert_eq!(processors.turns(), turns);
            assert_eq!(processors.rewound.load(Ordering::SeqCst), round * 3 * 4);
            gate.run();
        }
        processors.wait_for_turns();
    }

    #[test]
    fn a_processor_that_begins_late_is_waited_for() {
        let mut processors = Processors::start(0);
        processors.gate = Arc::new(Gate::new(2));
        processors.begin();
        let parked = {
            let gate = Arc::clone(&processors.gate);
            thread::spawn(move || gate.park())
        };
        thread::sleep(Duration::from_millis(20));
        assert!(!parked.is_finished(), "the other one may run yet");
        processors.begin();
        parked.join().unwrap().unwrap();
        let turns = processors.turns();
        processors.gate.rewind(1).unwrap();
        assert_eq!(processors.rewound.load(Ordering::SeqCst), 2);
        assert_eq!(processors.turns(), turns);
    }

    #[test]
    fn a_processor_that_ends_is_not_waited_for() {
        let processors = Processors::start(1);
        let gate = Arc::new(Gate::new(2));
        let leaves = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let _place = Place::new(&gate);
                thread::sleep(Duration::from_millis(20));
            })
        };
        let stays = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let mut place = Place::new(&gate);
                while place.pass(|_| Ok(()), || false) {
                    thread::yield_now();
                }
            })
        };
        gate.park().unwrap();
        leaves.join().unwrap();
        gate.rewind(1).unwrap();
        gate.end();
        stays.join().unwrap();
        drop(processors);
    }

    #[test]
    fn the_end_frees_all_who_wait() {
        let mut processors = Processors::start(2);
        processors.gate.park().unwrap();
        processors.gate.end();
        for thread in processors.threads.drain(..) {
            thread.join().unwrap();
        }
        assert_eq!(processors.gate.park(), Err(Ended));

        // Also who waits for a processor that never comes.
        let gate = Arc::new(Gate::new(1));
        let parked = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.park())
        };
        thread::sleep(Duration::from_millis(10));
        gate.end();
        assert_eq!(parked.join().unwrap(), Err(Ended));
    }

    #[test]
    fn a_refusal_is_told_once() {
        let gate = Arc::new(Gate::new(1));
        let processor = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let mut place = Place::new(&gate);
                while place.pass(|_| Err(kvm_ioctls::Error::new(libc::EINVAL)), || false) {
                    thread::yield_now();
                }
            })
        };
        gate.park().unwrap();
        let refusal = gate.rewind(1).unwrap();
        assert_eq!(refusal, Some(kvm_ioctls::Error::new(libc::EINVAL)));
        gate.run();
        gate.park().unwrap();
        gate.end();
        processor.join().unwrap();
    }

    #[test]
    fn all_processors_are_halted_or_some_can_run() {
        for (first, second) in [(true, true), (true, false), (false, false)] {
            let gate = Arc::new(Gate::new(2));
            let processors = [first, second].map(|halted| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    let mut place = Place::new(&gate);
                    while place.pass(|_| Ok(()), || halted) {
                        thread::yield_now();
                    }
                })
            });
            for _ in 0..10 {
                assert_eq!(gate.are_halted(), Ok(first && second));
            }
            gate.end();
            assert_eq!(gate.are_halted(), Err(Ended));
            for processor in processors {
                processor.join().unwrap();
            }
        }
    }

    #[test]
    fn the_end_may_come_at_any_instant() {
        for round in 0..100 {
            let processors = Processors::start(3);
            let commander = {
                let gate = Arc::clone(&processors.gate);
                thread::spawn(move || {
                    while gate.park().is_ok() && gate.rewind(1).is_ok() {
                        gate.run();
                    }
                })
            };
            thread::sleep(Duration::from_micros(round * 20));
            processors.gate.end();
            commander.join().unwrap();
        }
    }

    #[test]
    fn time_is_that_of_the_threads_and_stays() {
        let processors = Processors::start(0);
        let gate = Arc::new(Gate::new(1));
        assert_eq!(gate.time(), Duration::ZERO);
        let busy = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let mut place = Place::new(&gate);
                while place.pass(|_| Ok(()), || false) {
                    std::hint::spin_loop();
                }
            })
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while gate.time() < Duration::from_millis(20) {
            assert!(Instant::now() < deadline, "time stands still");
            thread::sleep(Duration::from_millis(1));
        }
        gate.park().unwrap();
        let parked = gate.time();
        thread::sleep(Duration::from_millis(50));
        assert!(gate.time() - parked < Duration::from_millis(20));
        gate.end();
        busy.join().unwrap();
        assert!(gate.time() >= parked);
        drop(processors);
    }
}

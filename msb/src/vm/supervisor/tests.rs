use std::os::unix::net::UnixStream;

use microsandbox::control::ControlReply;
use microsandbox::protocol::Stage;

use super::*;
use crate::vm::agent::AgentError;
use crate::vm::tests::config;

const READY: Ready = Ready {
    kernel_ns: 1,
    agent_ns: 2,
};
const CLIENT: ClientId = ClientId(7);

/// A machine and the time as it sees it.
struct Life {
    supervisor: Supervisor,
    now: Instant,
}

impl Life {
    fn booting(change: impl FnOnce(&mut LaunchConfig)) -> Life {
        let mut config = config();
        change(&mut config);
        let now = Instant::now();
        let supervisor = Supervisor::new(&config, now);
        Life { supervisor, now }
    }

    fn running(change: impl FnOnce(&mut LaunchConfig)) -> Life {
        let mut life = Life::booting(change);
        let actions = life.ready();
        assert_eq!(
            actions,
            [
                Action::LetIn,
                Action::State(MachineState::Running),
                Action::ReportReady(READY)
            ]
        );
        life
    }

    fn ready(&mut self) -> Vec<Action> {
        let control = Control::new(UnixStream::pair().unwrap().0);
        self.tell(Event::Agent(AgentEvent::Ready(READY, control)))
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.supervisor.on_event(event, self.now)
    }

    /// What a request leads to besides [`ControlReply::Done`].
    fn ask(&mut self, request: ControlRequest) -> Vec<Action> {
        let mut actions = self.tell(Event::Request(CLIENT, request));
        let done = Action::Reply(CLIENT, ControlReply::Done);
        assert_eq!(actions.pop(), Some(done), "{actions:?}");
        actions
    }

    fn refused(&mut self, request: ControlRequest) {
        let actions = self.tell(Event::Request(CLIENT, request));
        assert!(
            matches!(
                &actions[..],
                [Action::Reply(CLIENT, ControlReply::Refused(refusal))] if refusal.kind == RefusalKind::State
            ),
            "{actions:?}"
        );
    }

    /// Lets the next deadline come, which is `seconds` away.
    fn wait(&mut self, seconds: u64) -> Vec<Action> {
        let deadline = self.supervisor.deadline().expect("a deadline");
        assert_eq!(deadline - self.now, Duration::from_secs(seconds));
        self.now = deadline;
        self.supervisor.on_deadline(deadline)
    }

    /// The verdict after the machine has ended so.
    fn end(mut self, ending: machine::Ending) -> Verdict {
        assert_eq!(self.tell(Event::Machine(ending)), [Action::Finish]);
        self.supervisor.into_verdict()
    }

    /// How it ended, and why.
    fn ended(self, ending: machine::Ending) -> (Ending, StopReason) {
        let verdict = self.end(ending);
        match verdict.outcome {
            Outcome::Ended(ending) => (ending, verdict.reason),
            Outcome::NotStarted(error) => panic!("{error:?}"),
        }
    }
}

fn stop(grace_ms: u32) -> ControlRequest {
    ControlRequest::Stop { grace_ms }
}

fn shut_down(grace_ms: u32) -> [Action; 2] {
    [
        Action::ShutDown { grace_ms },
        Action::State(MachineState::Stopping),
    ]
}

fn stopped() -> [Action; 2] {
    [Action::Stop, Action::State(MachineState::Stopping)]
}

fn says(event: AgentEvent) -> Event {
    Event::Agent(event)
}

#[test]
fn an_orderly_life() {
    let mut life = Life::running(|_| {});
    assert_eq!(life.supervisor.deadline(), None);
    let actions = life.tell(Event::Creator(Command::Shutdown { grace_ms: 100 }));
    assert_eq!(actions, shut_down(100));
    assert_eq!(life.tell(says(AgentEvent::Stopping)), []);
    assert_eq!(life.tell(says(AgentEvent::Goodbye)), [Action::Stop]);
    assert_eq!(
        life.ended(machine::Ending::Stopped),
        (Ending::Clean, StopReason::Stopped)
    );
}

#[test]
fn a_goodbye_counts_when_the_guest_resets_itself_at_once() {
    let mut life = Life::running(|_| {});
    life.ask(stop(100));
    life.tell(says(AgentEvent::Goodbye));
    assert_eq!(life.ended(machine::Ending::Reset).0, Ending::Clean);
}

#[test]
fn a_goodbye_that_nobody_asked_for_is_not_clean() {
    let mut life = Life::running(|_| {});
    assert_eq!(life.tell(says(AgentEvent::Goodbye)), []);
    assert_eq!(
        life.ended(machine::Ending::Reset),
        (Ending::Reset, StopReason::Crashed)
    );
}

#[test]
fn a_guest_that_does_not_answer_hangs_and_is_stopped_at_the_end_of_the_grace() {
    for (grace_ms, limit) in [(0, 2), (5_000, 5)] {
        let mut life = Life::running(|_| {});
        assert_eq!(life.ask(stop(grace_ms)), shut_down(grace_ms));
        assert_eq!(life.wait(limit), [Action::Stop]);
        assert_eq!(
            life.ended(machine::Ending::Stopped),
            (Ending::Forced, StopReason::Killed)
        );
    }
}

#[test]
fn a_guest_that_answers_has_time_to_sync() {
    let mut life = Life::running(|_| {});
    life.ask(stop(1_000));
    life.tell(says(AgentEvent::Stopping));
    assert_eq!(life.wait(11), [Action::Stop]);
    let verdict = life.end(machine::Ending::Stopped);
    assert_eq!(verdict.reason, StopReason::Killed);
    assert!(verdict.detail.unwrap().contains("in time"));
}

#[test]
fn asked_again_the_shorter_time_counts() {
    let mut life = Life::running(|_| {});
    life.ask(stop(60_000));
    life.tell(says(AgentEvent::Stopping));
    assert_eq!(life.ask(stop(70_000)), []);
    assert_eq!(
        life.ask(stop(5_000)),
        [Action::ShutDown { grace_ms: 5_000 }]
    );
    assert_eq!(life.wait(15), [Action::Stop]);
}

#[test]
fn a_kill_waits_for_nobody() {
    for mut life in [Life::booting(|_| {}), Life::running(|_| {})] {
        assert_eq!(life.ask(ControlRequest::Kill), stopped());
        assert_eq!(life.ask(ControlRequest::Kill), []);
        assert_eq!(
            life.ended(machine::Ending::Stopped),
            (Ending::Forced, StopReason::Killed)
        );
    }
    let mut life = Life::running(|_| {});
    life.ask(stop(60_000));
    assert_eq!(life.ask(ControlRequest::Kill), [Action::Stop]);
    assert_eq!(life.ended(machine::Ending::Stopped).1, StopReason::Killed);
}

#[test]
fn what_is_not_up_yet_is_stopped_by_force() {
    let mut life = Life::booting(|_| {});
    life.refused(ControlRequest::Drain);
    life.refused(ControlRequest::Resume);
    assert_eq!(life.ask(stop(10_000)), stopped());
    assert_eq!(
        life.ended(machine::Ending::Stopped),
        (Ending::Forced, StopReason::Stopped)
    );
}

#[test]
fn a_paused_machine_goes_on_before_it_is_asked_anything() {
    let paused = || {
        let mut life = Life::running(|config| config.lifetime.idle_timeout_ms = Some(1000));
        let asked = life.tell(Event::Request(CLIENT, ControlRequest::Pause));
        assert_eq!(asked, [Action::Pause(CLIENT)]);
        let actions = life.tell(Event::Paused(CLIENT));
        let done = Action::Reply(CLIENT, ControlReply::Done);
        assert_eq!(actions, [Action::State(MachineState::Paused), done]);
        // It was left so by somebody: that is not idleness. Its clock is set when it goes on.
        assert_eq!(life.supervisor.deadline(), None);
        assert_eq!(life.tell(Event::ClockSet), []);
        assert_eq!(life.ask(ControlRequest::Pause), []);
        life
    };
    let goes_on = [Action::Resume, Action::SetClock];
    let mut life = paused();
    let actions = life.ask(ControlRequest::Resume);
    assert_eq!(actions[..2], goes_on);
    assert_eq!(actions[2..], [Action::State(MachineState::Running)]);
    assert_eq!(life.ask(ControlRequest::Resume), []);
    assert_eq!(life.tell(Event::ClockSet), [Action::SetClock]);
    let mut life = paused();
    let actions = life.ask(stop(1_000));
    assert_eq!(actions[..2], goes_on);
    assert_eq!(actions[2..], shut_down(1_000));
    let mut life = paused();
    let actions = life.ask(ControlRequest::Drain);
    assert_eq!(actions[..2], goes_on);
    life.refused(ControlRequest::Pause);
    let mut life = paused();
    assert_eq!(life.ask(ControlRequest::Kill), stopped());
}

#[test]
fn draining_waits_for_the_last_session() {
    let mut life = Life::running(|_| {});
    let drain = [Action::Drain, Action::State(MachineState::Draining)];
    assert_eq!(life.ask(ControlRequest::Drain), drain);
    assert_eq!(life.ask(ControlRequest::Drain), []);
    assert_eq!(life.supervisor.deadline(), None);
    assert_eq!(life.tell(says(AgentEvent::Drained)), shut_down(GRACE_MS));
    life.tell(says(AgentEvent::Goodbye));
    assert_eq!(
        life.ended(machine::Ending::Stopped),
        (Ending::Clean, StopReason::Drained)
    );
}

#[test]
fn whoever_stops_a_draining_machine_has_stopped_it() {
    let mut life = Life::running(|_| {});
    life.ask(ControlRequest::Drain);
    assert_eq!(life.ask(stop(1_000)), shut_down(1_000));
    life.tell(says(AgentEvent::Goodbye));
    assert_eq!(life.ended(machine::Ending::Stopped).1, StopReason::Stopped);
}

#[test]
fn time_that_is_over_drains_and_then_stops() {
    let limited = |config: &mut LaunchConfig| config.lifetime.max_duration_ms = Some(60_000);
    let mut life = Life::running(limited);
    let drain = [Action::Drain, Action::State(MachineState::Draining)];
    assert_eq!(life.wait(60), drain);
    assert_eq!(life.wait(10), shut_down(GRACE_MS));
    life.tell(says(AgentEvent::Stopping));
    life.tell(says(AgentEvent::Goodbye));
    assert_eq!(
        life.ended(machine::Ending::Stopped),
        (Ending::Clean, StopReason::MaxDuration)
    );
    // What ends by itself need not be waited for.
    let mut life = Life::running(limited);
    life.wait(60);
    assert_eq!(life.tell(says(AgentEvent::Drained)), shut_down(GRACE_MS));
    life.tell(says(AgentEvent::Goodbye));
    assert_eq!(
        life.ended(machine::Ending::Stopped).1,
        StopReason::MaxDuration
    );
}

#[test]
fn idle_means_no_session_and_no_requests() {
    let mut life = Life::running(|config| config.lifetime.idle_timeout_ms = Some(30_000));
    life.now += Duration::from_secs(10);
    life.tell(Event::SessionOpened);
    assert_eq!(life.supervisor.deadline(), None);
    life.tell(Event::SessionOpened);
    life.tell(Event::SessionClosed);
    assert_eq!(life.supervisor.deadline(), None);
    life.tell(Event::SessionClosed);
    life.now += Duration::from_secs(10);
    // Looking on is no use, asking is.
    life.tell(Event::Request(CLIENT, ControlRequest::Metrics));
    assert_eq!(
        life.supervisor.deadline(),
        Some(life.now + Duration::from_secs(20))
    );
    life.ask(ControlRequest::Release);
    assert_eq!(life.wait(30), shut_down(GRACE_MS));
    life.tell(says(AgentEvent::Goodbye));
    assert_eq!(
        life.ended(machine::Ending::Stopped),
        (Ending::Clean, StopReason::Idle)
    );
}

#[test]
fn the_creator_takes_its_machine_along_unless_it_let_it_go() {
    for mut life in [Life::booting(|_| {}), Life::running(|_| {})] {
        assert_eq!(life.tell(Event::CreatorGone), stopped());
        assert_eq!(
            life.ended(machine::Ending::Stopped),
            (Ending::Forced, StopReason::CreatorDied)
        );
    }
    let mut detached = Life::running(|config| config.lifetime.detached = true);
    assert_eq!(detached.tell(Event::CreatorGone), []);
    let mut released = Life::running(|_| {});
    released.tell(Event::Creator(Command::Release));
    assert_eq!(released.tell(Event::CreatorGone), []);
    let mut released = Life::running(|_| {});
    assert_eq!(
        released.ask(ControlRequest::Release),
        [Action::LeaveCreator]
    );
    assert_eq!(released.tell(Event::CreatorGone), []);
}

#[test]
fn the_sandboxs_own_process_comes_first_and_ends_the_sandbox() {
    let with_main = |config: &mut LaunchConfig| {
        config.main = Some(Box::new(crate::vm::tests::exec()));
    };
    let mut life = Life::booting(with_main);
    assert_eq!(life.ready(), [Action::LetIn, Action::StartMain]);
    let actions = life.tell(Event::MainStarted);
    assert_eq!(
        actions,
        [
            Action::State(MachineState::Running),
            Action::ReportReady(READY)
        ]
    );
    assert_eq!(
        life.tell(Event::MainEnded(Exit::Code(3))),
        shut_down(GRACE_MS)
    );
    life.tell(says(AgentEvent::Goodbye));
    let verdict = life.end(machine::Ending::Stopped);
    assert_eq!(verdict.reason, StopReason::Completed);
    assert_eq!(verdict.exit, Some(Exit::Code(3)));

    let mut life = Life::booting(with_main);
    life.ready();
    let failure = Failure {
        stage: Stage::ProgramNotFound,
        errno: 2,
        message: "no such program".into(),
    };
    let actions = life.tell(Event::MainFailed(failure));
    assert_eq!(actions, stopped());
    let verdict = life.end(machine::Ending::Stopped);
    assert!(
        matches!(verdict.outcome, Outcome::NotStarted(StartError::Main(_))),
        "{verdict:?}"
    );
}

#[test]
fn a_guest_with_its_own_init_ends_by_resetting_or_halting_itself() {
    let with_init = |config: &mut LaunchConfig| {
        config.init = Some(microsandbox::protocol::Init::Auto);
    };
    for ending in [machine::Ending::Reset, machine::Ending::Halted] {
        let mut life = Life::running(with_init);
        life.tell(says(AgentEvent::Lost(AgentError::Closed)));
        let expected = (Ending::Clean, StopReason::Completed);
        assert_eq!(life.ended(ending), expected);
    }
    let mut life = Life::running(with_init);
    life.ask(stop(1_000));
    life.tell(says(AgentEvent::Stopping));
    life.tell(says(AgentEvent::Lost(AgentError::Closed)));
    assert_eq!(
        life.ended(machine::Ending::Reset),
        (Ending::Clean, StopReason::Stopped)
    );
    // Without the agent nobody can use it.
    let mut life = Life::running(with_init);
    life.tell(says(AgentEvent::Lost(AgentError::Closed)));
    assert_eq!(life.wait(120), stopped());
    assert_eq!(life.ended(machine::Ending::Stopped).1, StopReason::Crashed);
}

#[test]
fn every_way_to_end_is_told_apart() {
    let panicked = || machine::Ending::Panicked {
        message: "Oops".into(),
    };
    let failed = || machine::Ending::Failed {
        reason: "EIO".into(),
    };
    for (ending, expected) in [
        (machine::Ending::Reset, Ending::Reset),
        (machine::Ending::TripleFault, Ending::TripleFault),
        (machine::Ending::Halted, Ending::Halted),
        (
            panicked(),
            Ending::KernelPanic {
                message: "Oops".into(),
            },
        ),
        (
            failed(),
            Ending::MonitorFailed {
                reason: "EIO".into(),
            },
        ),
    ] {
        let mut life = Life::running(|_| {});
        life.tell(says(AgentEvent::Lost(AgentError::Closed)));
        assert_eq!(life.ended(ending), (expected, StopReason::Crashed));
    }
    let verdict = Life::booting(|_| {}).end(panicked());
    assert_eq!(verdict.reason, StopReason::StartFailed);
    assert!(verdict.detail.unwrap().contains("panicked: Oops"));
}

#[test]
fn a_guest_that_does_not_come_up_is_stopped() {
    let failure = Failure {
        stage: Stage::Root,
        errno: 2,
        message: "no root".into(),
    };
    for event in [
        AgentEvent::Failed(failure),
        AgentEvent::Lost(AgentError::Closed),
    ] {
        let mut life = Life::booting(|_| {});
        assert_eq!(life.tell(says(event)), stopped());
        let verdict = life.end(machine::Ending::Stopped);
        assert!(
            matches!(verdict.outcome, Outcome::NotStarted(_)),
            "{verdict:?}"
        );
    }
    let mut life = Life::booting(|_| {});
    assert_eq!(life.wait(60), stopped());
    let verdict = life.supervisor.into_verdict();
    assert!(
        matches!(
            verdict.outcome,
            Outcome::NotStarted(StartError::TooSlow { .. })
        ),
        "{verdict:?}"
    );
}

#[test]
fn a_machine_that_cannot_be_stopped_is_given_up() {
    let mut life = Life::running(|_| {});
    life.tell(Event::CreatorGone);
    assert_eq!(life.wait(10), [Action::Finish]);
}

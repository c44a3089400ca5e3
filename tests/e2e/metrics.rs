//! What sandboxes use, and what happens to them, as it is told to people and to programs.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use msb_tests::{Finished, Home, Running, Terminal};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

const MIB: u64 = 1 << 20;

#[track_caller]
fn remove(home: &Home, names: &[&str]) {
    let finished = home.msb(["rm", "-f"].iter().chain(names));
    assert_eq!(finished.code(), 0, "{finished}");
}

#[track_caller]
fn parse(finished: &Finished) -> Vec<Value> {
    assert_eq!(finished.code(), 0, "{finished}");
    serde_json::from_str(finished.text()).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

#[track_caller]
fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} of {value}"))
}

#[test]
fn metrics_count_what_a_sandbox_does() {
    let home = Home::new();
    home.create(&["--label=tier=web"], "busy");
    home.create(&[], "idle");
    let read = || {
        let all = parse(&home.msb(["metrics", "--format=json"]));
        assert_eq!(
            (&all[0]["name"], &all[1]["name"]),
            (&"busy".into(), &"idle".into())
        );
        all
    };
    let before = read();
    for metrics in &before {
        assert_eq!(number(metrics, "memory_limit_bytes"), 128 * MIB);
        assert!(number(metrics, "memory_bytes") > MIB, "{metrics}");
        assert!(
            number(metrics, "memory_host_resident_bytes") > MIB,
            "{metrics}"
        );
        assert!(
            number(metrics, "memory_available_bytes") > 32 * MIB,
            "{metrics}"
        );
        assert_eq!(number(metrics, "sessions"), 0);
    }
    // Memory that is taken, a disk that is written, processors that are busy.
    let script = "dd if=/dev/zero of=/dev/shm/taken bs=1M count=24 2>/dev/null
        dd if=/dev/zero of=/written bs=1M count=8 conv=fsync 2>/dev/null
        echo 3 >/proc/sys/vm/drop_caches; cat /written >/dev/null; echo done; exec tail -f /dev/null";
    let mut working = Running::start(&mut home.command(["exec", "-i", "busy", "sh", "-c", script]));
    working.stdout.wait_for("done");
    let after = read();
    let grown = |place: usize, key: &str| number(&after[place], key) - number(&before[place], key);
    assert!(grown(0, "disk_write_bytes") >= 8 * MIB, "{after:?}");
    assert!(grown(0, "disk_read_bytes") >= 8 * MIB, "{after:?}");
    assert!(grown(0, "memory_bytes") >= 16 * MIB, "{after:?}");
    assert!(
        grown(0, "vcpu_time_ns") > grown(1, "vcpu_time_ns"),
        "{after:?}"
    );
    assert_eq!(
        (number(&after[0], "sessions"), number(&after[1], "sessions")),
        (1, 0)
    );
    let uptime = |metrics: &Value| metrics["uptime_seconds"].as_f64().unwrap();
    assert!(uptime(&after[1]) > uptime(&before[1]));
    for key in ["upper_used_bytes", "upper_host_allocated_bytes"] {
        assert!(grown(0, key) >= 8 * MIB, "{key}: {before:?} {after:?}");
    }
    let free = |all: &[Value]| number(&all[0], "upper_free_bytes");
    assert!(
        free(&before) - free(&after) >= 8 * MIB,
        "{before:?} {after:?}"
    );
    working.end_input();
    drop(working);
    // One that has stopped has none, and is an error only for who asks for it.
    assert_eq!(home.msb(["stop", "busy"]).code(), 0);
    assert_eq!(parse(&home.msb(["metrics", "--format=json"])).len(), 1);
    home.msb(["metrics", "busy"])
        .assert_error(1, "msb start busy");
    home.msb(["metrics", "nobody"]).assert_error(1, "nobody");
    remove(&home, &["busy", "idle"]);
    assert_eq!(home.msb(["metrics", "--format=json"]).text(), "[]\n");
}

#[test]
fn metrics_are_a_table_and_what_prometheus_reads() {
    let home = Home::new();
    home.create(&["--label=tier=web"], "one");
    home.create(&[], "two");
    let table = home.msb(["metrics"]);
    let [titles, one, two] = table.lines()[..] else {
        panic!("{table}")
    };
    assert!(
        titles.starts_with("NAME ") && titles.contains(" CPU % "),
        "{table}"
    );
    assert!(
        one.starts_with("one ") && one.contains("128.0 MiB"),
        "{table}"
    );
    assert!(two.starts_with("two "), "{table}");
    let text = home.msb(["metrics", "--format=prometheus"]);
    for line in [
        "# TYPE msb_memory_bytes gauge",
        "# TYPE msb_vcpu_seconds_total counter",
        "msb_memory_limit_bytes{sandbox=\"one\",label_tier=\"web\"} 134217728",
        "msb_memory_limit_bytes{sandbox=\"two\"} 134217728",
        "msb_sessions{sandbox=\"two\"} 0",
    ] {
        assert!(text.lines().contains(&line), "{line} is not in {text}");
    }
    // The stream ends when the last of those who were asked for has stopped.
    let watched = [
        "metrics",
        "--watch",
        "--interval=100ms",
        "--format=json",
        "two",
    ];
    let mut watching = Running::start(&mut home.command(watched));
    assert!(watching.stdout.lines_come(2));
    assert_eq!(home.msb(["stop", "two"]).code(), 0);
    watching.end_input();
    let watched = watching.finish();
    assert_eq!(watched.code(), 1, "{watched}");
    for line in watched.text().lines() {
        let readings: Vec<Value> = serde_json::from_str(line).unwrap();
        assert!(
            readings.is_empty() || readings[0]["name"] == "two",
            "{line}"
        );
    }
    // That one is gone is told once, and a file gets text and nothing that moves a cursor.
    let watched = ["metrics", "--watch", "--interval=50ms", "one", "two"];
    let watching = Running::start(&mut home.command(watched));
    assert!(watching.stdout.lines_come(12));
    assert_eq!(home.msb(["stop", "one"]).code(), 0);
    let watched = watching.finish();
    assert_eq!(watched.errors().matches("error: ").count(), 2, "{watched}");
    assert!(!watched.text().contains('\x1b'), "{watched}");
    remove(&home, &["one", "two"]);
}

#[test]
fn stats_show_the_busiest_first_and_stay_up_to_date() {
    let home = Home::new();
    home.create(&[], "a-idle");
    home.create(&[], "b-busy");
    // It needs memory, too.
    let script = "head -c 40000000 /dev/zero >/dev/shm/taken; echo up; while :; do :; done";
    let busy = ["exec", "b-busy", "sh", "-c", script];
    let working = Running::start(&mut home.command(busy));
    working.stdout.wait_for("up");
    let by = |order: &str| {
        let stats = home.msb(["stats", "--no-stream", "--format=json", "--sort", order]);
        let names = parse(&stats)
            .iter()
            .map(|one| one["name"].clone())
            .collect::<Vec<_>>();
        (names, stats)
    };
    let (names, stats) = by("cpu");
    assert_eq!(names, ["b-busy", "a-idle"], "{stats}");
    let cpu = parse(&stats)[0]["cpu_percent"].as_f64().unwrap();
    assert!(cpu > 1.0, "{stats}");
    let (names, stats) = by("mem");
    assert_eq!(names, ["b-busy", "a-idle"], "{stats}");
    assert_eq!(by("name").0, ["a-idle", "b-busy"]);
    let largest = home.msb(["metrics", "--sort=mem"]);
    assert!(largest.lines()[1].starts_with("b-busy "), "{largest}");
    // Without a terminal it is printed once.
    assert_eq!(home.msb(["stats"]).lines().len(), 3);
    // On one it is printed in its place until it is told to end.
    let mut terminal = Terminal::start(home.command(["stats"]));
    terminal.screen.wait_for("b-busy");
    terminal.screen.wait_for("\x1b[3A\r");
    terminal.type_keys("\x03");
    drop(terminal);
    drop(working);
    remove(&home, &["a-idle", "b-busy"]);
}

/// The lines of `msb events` as far as they tell of `name`: event and reason.
#[track_caller]
fn told(events: &str, name: &str) -> Vec<(String, Option<String>)> {
    let lines = events.lines().map(|line| {
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["time"].as_str().unwrap().ends_with('Z'), "{line}");
        event
    });
    let text = |value: &Value| value.as_str().map(str::to_owned);
    lines
        .filter(|event| event["name"] == name)
        .map(|event| (text(&event["event"]).unwrap(), text(&event["reason"])))
        .collect()
}

#[test]
fn events_tell_a_life_as_it_happens() {
    let home = Home::new();
    home.create(&[], "before");
    let events = Running::start(&mut home.command(["events"]));
    // What was there is no event; what changes is. By this it is known that the watch has begun.
    for _ in 0..20 {
        if events.stdout.so_far().contains("paused") {
            break;
        }
        assert_eq!(home.msb(["pause", "before"]).code(), 0);
        assert_eq!(home.msb(["unpause", "before"]).code(), 0);
    }
    events.stdout.wait_for("paused");
    home.create(&[], "web");
    events.stdout.wait_for("\"running\",\"name\":\"web\"");
    let steps: [(&[&str], &str); 4] = [
        (&["pause", "web"], "paused"),
        (&["unpause", "web"], "running"),
        (&["stop", "web"], "stopped"),
        (&["start", "web"], "running"),
    ];
    for (command, event) in steps {
        assert_eq!(home.msb(command).code(), 0);
        events
            .stdout
            .wait_for(&format!("\"{event}\",\"name\":\"web\""));
    }
    remove(&home, &["before"]);
    kill(home.machine(), Signal::SIGKILL).unwrap();
    events.stdout.wait_for("\"crashed\",\"name\":\"web\"");
    remove(&home, &["web"]);
    events.stdout.wait_for("\"removed\",\"name\":\"web\"");
    let text = events.stdout.so_far();
    events.signal(Signal::SIGKILL);
    drop(events);
    let told = told(&text, "web");
    let names: Vec<_> = told.iter().map(|(event, _)| event.as_str()).collect();
    // Between two looks what does not last may go unseen, but nothing comes out of order.
    let wanted = [
        "created", "starting", "running", "paused", "running", "stopped", "starting", "running",
        "crashed", "removed",
    ];
    let mut rest = names.iter();
    for event in wanted {
        assert!(rest.any(|name| *name == event), "{event} in {names:?}");
    }
    let reason = |event: &str| {
        let found = told.iter().find(|(name, _)| name == event);
        found.and_then(|(_, reason)| reason.clone())
    };
    assert_eq!(reason("stopped").as_deref(), Some("stopped"));
    assert_eq!(reason("crashed").as_deref(), Some("crashed"));
    assert_eq!(reason("running"), None);
}

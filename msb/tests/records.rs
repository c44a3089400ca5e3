//! Sandboxes whose records in the database somebody damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output};

use rusqlite::Connection;
use tempfile::TempDir;

/// A home with stopped sandboxes of which nothing but their records is there.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        let home = Home { directory };
        // Makes the database.
        assert_eq!(home.msb(&["ls"]).0, 0);
        home
    }

    fn record(&self, id: &str, name: &str, config: &str) {
        let path = self.directory.path().join("db/msb.db");
        let inserted = Connection::open(path).unwrap().execute(
            "INSERT INTO sandboxes (id, name, config, ephemeral, created_at, updated_at, ever_ready, run, active)
             VALUES (?1, ?2, ?3, 0, 0, 0, 1, 1, 0)",
            [id, name, config],
        );
        assert_eq!(inserted.unwrap(), 1);
    }

    /// Runs `msb`; its exit status, what it prints, and what it says of errors.
    fn msb(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(env!("CARGO_BIN_EXE_msb"))
            .args(arguments)
            .env("MSB_HOME", self.directory.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

const GOOD: &str = r#"{ "hostname": "kept" }"#;

#[test]
fn a_configuration_that_is_no_json_hides_no_other_sandbox() {
    let home = Home::new();
    home.record("0123456789abcde0", "good", GOOD);
    home.record("0123456789abcde1", "bad", "{ \"hostname\":");
    home.record("0123456789abcde2", "last", GOOD);
    for arguments in [
        &["inspect", "good", "bad", "last"][..],
        &["inspect", "bad", "good", "last", "--format=json"],
    ] {
        let (status, text, errors) = home.msb(arguments);
        assert_eq!(status, 1, "{arguments:?}: {errors}");
        assert_eq!(text.matches("kept").count(), 2, "{arguments:?}: {text}");
        assert_eq!(
            errors,
            "error: the configuration of the sandbox \"bad\" cannot be read\n  \
             cause: what the database says of it is no JSON\n  \
             cause: EOF while parsing a value at line 1 column 13\n  \
             hint: put a backup of the database back, or remove the sandbox with `msb rm -f bad`\n"
        );
    }
    for (arguments, lines) in [(&["ls", "-q"][..], 3), (&["ps", "-a"], 4)] {
        let (status, text, errors) = home.msb(arguments);
        assert_eq!((status, text.lines().count()), (1, lines), "{text}");
        assert!(errors.contains("\"bad\" cannot be read"), "{errors}");
    }
    // What the hint says helps.
    assert_eq!(home.msb(&["rm", "-f", "bad"]).1, "bad\n");
    let (status, _, errors) = home.msb(&["ls"]);
    assert_eq!((status, &errors[..]), (0, ""));
}

#[test]
fn a_record_that_makes_no_sense_hides_no_other_sandbox() {
    let home = Home::new();
    home.record("0123456789abcde0", "good", GOOD);
    home.record("../../etc", "bad", GOOD);
    for (arguments, printed) in [
        (&["ls", "-q"][..], "good\n"),
        (&["ps", "-a", "-q"], "good\n"),
        (&["inspect", "bad"], ""),
        (&["stats", "--no-stream", "--format=json"], "[]\n"),
        (&["rm", "--label", "tier"], ""),
        (&["prune", "-f"], "good\n"),
    ] {
        let (status, text, errors) = home.msb(arguments);
        assert_eq!((status, &text[..]), (1, printed), "{arguments:?}: {errors}");
        let [what, why, .., hint] = &errors.lines().collect::<Vec<_>>()[..] else {
            panic!("{arguments:?}: {errors}");
        };
        assert!(
            what.ends_with("says of the sandbox \"bad\" cannot be read"),
            "{what}"
        );
        assert!(why.contains("no identity"), "{why}");
        assert!(
            hint.contains("the other sandboxes are as they were"),
            "{hint}"
        );
    }
}

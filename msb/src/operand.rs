//! Names in commands that are shown to be pasted into a shell.

use std::fmt;

/// `name` as an operand of a command: it stays one word whatever the shell makes of its characters, and is no option.
pub(crate) fn operand(name: impl fmt::Display) -> String {
    let name = name.to_string();
    let word = match is_plain(&name) {
        true => name.clone(),
        // Between single quotes nothing means anything but the next one (POSIX.1, Shell Command Language, 2.2.2).
        false => format!("'{}'", name.replace('\'', r"'\''")),
    };
    match name.starts_with('-') {
        // What follows is no option (POSIX.1, Utility Syntax Guidelines, 10).
        true => format!("-- {word}"),
        false => word,
    }
}

/// Whether a shell takes it as it is.
fn is_plain(name: &str) -> bool {
    let is_plain = |character: char| character.is_alphanumeric() || "-_./:@+,%".contains(character);
    !name.is_empty() && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn ordinary_names_are_as_they_were() {
        for name in ["web", "a.b-c_d", "/srv/db:1@x", "\u{fc}bung"] {
            assert_eq!(operand(name), name);
        }
    }

    #[test]
    fn a_shell_takes_a_name_for_one_word() {
        for name in [
            "my box",
            "it's",
            "''",
            "",
            "$HOME",
            "`id`",
            "a;b",
            "~",
            "#1",
            "*",
            "a\\",
            "\"",
            "!!",
            "&",
            "x\u{3000}y",
            "=ls",
            "{a,b}",
            "-x",
            "- y",
        ] {
            // What comes before is what a command gets that ends its options there.
            let script = format!(
                "set a {}; shift; test \"$1\" != -- || shift; printf '%s|%s' $# \"$1\"",
                operand(name)
            );
            let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(
                String::from_utf8(output.stdout).unwrap(),
                format!("1|{name}")
            );
        }
    }

    #[test]
    fn a_name_is_never_an_option() {
        assert_eq!(operand("-x"), "-- -x");
        assert_eq!(operand("-x y"), "-- '-x y'");
    }
}

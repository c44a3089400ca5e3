//! Commands of a running sandbox in a terminal: `msb exec`, `msb shell`, and coming back to them.

use msb_tests::{Home, Terminal};

#[test]
fn a_command_in_a_sandbox_has_a_terminal() {
    let home = Home::new();
    home.create(&[], "box");
    in_a_terminal(&home);
    left_and_come_back_to(&home);
    // What was on these terminals is in the log, under the name that it has there.
    let logged = home.msb(["logs", "--source=output", "--grep=logged", "box"]);
    assert_eq!(logged.lines(), ["logged <hello>"]);
    let none = home.msb(["logs", "--source=stdout,stderr", "--grep=logged", "box"]);
    assert_eq!(none.text(), "");
    assert_eq!(home.msb(["rm", "-f", "box"]).lines(), ["box"]);
}

fn in_a_terminal(home: &Home) {
    // Without one here, it has one there if that is asked for.
    let finished = home.msb([
        "exec",
        "-t",
        "box",
        "sh",
        "-c",
        "tty >/dev/null && stty size",
    ]);
    assert_eq!((finished.code(), finished.text()), (0, "24 80\r\n"));
    let finished = home.msb(["exec", "box", "tty"]);
    assert_eq!(finished.code(), 1, "{finished}");

    let script = "stty size; echo ready; read line; echo \"logged <$line>\"
        trap 'echo now $(stty size)' WINCH; trap 'echo caught; exit 7' INT
        echo waits; while :; do sleep 0.2; done";
    let mut terminal = Terminal::start(home.command(["exec", "-it", "box", "sh", "-c", script]));
    terminal.screen.wait_for("30 100\r\nready\r\n");
    assert!(!terminal.is_as_before(), "keys are the command's");
    terminal.type_keys("helxx\x7f\x7flo\r");
    terminal.screen.wait_for("logged <hello>\r\nwaits\r\n");
    terminal.resize((50, 132));
    terminal.screen.wait_for("now 50 132");
    terminal.type_keys("\x03");
    let closed = terminal.finish();
    assert_eq!(closed.code, 7, "{closed:?}");
    assert!(closed.screen.contains("^Ccaught\r\n"), "{closed:?}");

    // In a terminal it has one without being asked, and a shell if nothing else is named.
    for command in ["exec", "shell"] {
        let mut terminal = Terminal::start(home.command([command, "box"]));
        terminal.screen.wait_for("# ");
        terminal.type_keys("echo $((6 * 7)) $(stty size)\r");
        terminal.screen.wait_for("42 30 100\r\n");
        terminal.type_keys("exit 5\r");
        let closed = terminal.finish();
        assert_eq!(closed.code, 5, "{closed:?}");
    }
    let terminal = Terminal::start(home.command(["exec", "--no-tty", "box", "tty"]));
    let closed = terminal.finish();
    assert_eq!(closed.code, 1, "{closed:?}");
}

fn left_and_come_back_to(home: &Home) {
    let finished = home.msb(["exec", "-d", "-t", "box", "sh", "-c", "echo up; exec cat"]);
    let [number] = *finished.lines() else {
        panic!("{finished}")
    };
    let back = [
        "exec",
        "--reattach",
        number,
        "--detach-keys=ctrl-x,y",
        "box",
    ];
    let mut terminal = Terminal::start(home.command(back));
    terminal.screen.wait_for("up\r\n");
    // The first of the keys alone is one like any other.
    terminal.type_keys("one\x18z\r");
    terminal.screen.wait_for("one^Xz\r\n");
    terminal.type_keys("\x18y");
    let closed = terminal.finish();
    assert_eq!(closed.code, 0, "{closed:?}");
    let hint = format!("`msb exec --reattach {number} box`");
    assert!(closed.screen.contains(&hint), "{closed:?}");

    let mut terminal = Terminal::start(home.command(["exec", "--reattach", number, "box"]));
    terminal.type_keys("two\r");
    terminal.screen.wait_for("two\r\ntwo\r\n");
    terminal.type_keys("\x10\x11");
    assert_eq!(terminal.finish().code, 0);
    let mut terminal = Terminal::start(home.command(["exec", "--reattach", number, "box"]));
    terminal.type_keys("three\r");
    terminal.screen.wait_for("three\r\nthree\r\n");
    terminal.type_keys("\x04");
    assert_eq!(terminal.finish().code, 0);
}

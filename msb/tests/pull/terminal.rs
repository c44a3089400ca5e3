//! What a terminal shows, and what it does not.

use microsandbox::images::Images;
use msb_tests::terminal::Terminal;

use super::*;

/// Runs it with a terminal as all three of its standard streams.
fn start(mut command: Command) -> Terminal {
    command.env("TERM", "xterm");
    Terminal::start(command)
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let registry = Registry::start();
    let user = User::new();
    let ca = registry.ca();
    let mut terminal = start(user.msb(&[
        "login",
        "--ca-certs",
        ca.to_str().unwrap(),
        &registry.name(),
    ]));
    terminal.screen.wait_for("User: ");
    terminal.type_keys(&format!("{USER}\r"));
    terminal.screen.wait_for("Password: ");
    terminal.type_keys(&format!("{PASSWORD}\r"));
    let closed = terminal.finish();
    assert_eq!(closed.code, 0, "{}", closed.screen);
    assert!(closed.screen.contains("logged in at"), "{}", closed.screen);
    assert!(!closed.screen.contains(PASSWORD), "{}", closed.screen);
    assert!(fs::read_to_string(user.config()).unwrap().contains(ENCODED));
}

/// The terminal shows keys again: [`Terminal::finish`] looks.
#[test]
fn who_gives_up_at_the_password_has_the_terminal_back() {
    let registry = Registry::start();
    let user = User::new();
    let login = user.msb(&["login", "-u", USER, &registry.name()]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap : INT; \"$@\"; echo \"ended with $?\"", "sh"])
        .arg(login.get_program())
        .args(login.get_args())
        .env("MSB_HOME", user.path().join("home"))
        .env("DOCKER_CONFIG", user.path().join("docker"));
    let mut terminal = start(shell);
    terminal.screen.wait_for("Password: ");
    terminal.type_keys("\x03");
    let closed = terminal.finish();
    assert!(
        closed.screen.contains("ended with 130"),
        "{}",
        closed.screen
    );
    assert!(!user.config().exists());
}

#[test]
fn the_progress_of_each_layer_is_shown_on_a_terminal_only() {
    let registry = Registry::start();
    let user = User::logged_in(&registry);
    let ca = registry.ca();
    let pull = |options: &[&str]| {
        let _ = fs::remove_dir_all(user.path().join("home"));
        let mut arguments = vec!["pull", "--ca-certs", ca.to_str().unwrap()];
        arguments.extend(options);
        let image = registry.image();
        arguments.push(&image);
        let closed = start(user.msb(&arguments)).finish();
        assert_eq!(closed.code, 0, "{}", closed.screen);
        closed.screen
    };
    let screen = pull(&[]);
    let details = Images::open(&user.home()).unwrap();
    let details = details.inspect(&registry.image()).unwrap();
    // Who is fast enough is not drawn.
    let is_shown = details.manifest.layers.iter().any(|layer| {
        let digits = layer.descriptor.digest.hex();
        screen.contains(&digits[..12])
    });
    assert!(is_shown, "{screen}");
    let quiet = pull(&["-q"]);
    assert_eq!(quiet.trim(), registry.digest().to_string());
    let _ = fs::remove_dir_all(user.path().join("home"));
    let piped = user.msb(&[
        "pull",
        "--ca-certs",
        ca.to_str().unwrap(),
        &registry.image(),
    ]);
    let output = { piped }.output().unwrap();
    assert_eq!(text(&output.stderr), "");
}

//! Handing PID 1 over to a program of the guest.
//!
//! agentd forks: PID 1, which is the old process, executes the program, and the new process goes on as agentd.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl::set_name;
use nix::unistd::{ForkResult, chdir, execve, fork, pause, pipe2, setsid};
use protocol::{Bytes, Failure, Init, Stage};

use crate::child::reset_inherited_state;
use crate::command::default_path;
use crate::failure::{OrFailed, failure, shown};
use crate::kernel_log;
use crate::profile::Profile;

/// Where [`Init::Auto`] looks, in this order.
const USUAL: [&str; 5] = [
    "/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/bin/init",
    "/etc/init",
];

/// Is there when systemd is PID 1, see sd_booted(3).
const SYSTEMD_IS_INIT: &str = "/run/systemd/system";

/// What starts `reboot.target` of systemd(1), counted from SIGRTMIN.
const SYSTEMD_REBOOT: i32 = 5;

unsafe extern "C" {
    /// See program_invocation_name(3); the libc crate does not have it.
    static program_invocation_name: *mut libc::c_char;
}

/// A program with all that execve(2) takes.
struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Checks what the protocol demands.
pub(crate) fn check(init: &Init) -> Result<(), Failure> {
    let Init::Program { path, args, env } = init else {
        return Ok(());
    };
    if !path.0.starts_with(b"/") {
        return Err(broken_rule(path, "is no absolute path of an init"));
    }
    for (name, _) in env {
        if name.0.is_empty() || name.0.contains(&b'=') {
            return Err(broken_rule(name, "cannot name a variable of an init"));
        }
    }
    let variables = env.iter().flat_map(|(name, value)| [name, value]);
    for bytes in args.iter().chain([path]).chain(variables) {
        if bytes.0.contains(&0) {
            return Err(broken_rule(bytes, "has a zero byte"));
        }
    }
    Ok(())
}

fn broken_rule(bytes: &Bytes, reason: &str) -> Failure {
    let message = format!("{:?} {reason}", shown(&bytes.0));
    failure(Stage::Init, Errno::EINVAL, message)
}

/// Makes `init` the program of this process. Returns in a child of it, as soon as that has happened; if it cannot, with the
/// reason, and PID 1 waits for the end of the machine.
pub(crate) fn hand_over(init: &Init, profile: Profile) -> Result<(), Failure> {
    let program = find(init, profile)?;
    let cannot = || "A process cannot be made for agentd".into();
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).or_failed(Stage::Init, cannot)?;
    // SAFETY: agentd has one thread, so the child finds all locks free and every data structure whole.
    match unsafe { fork() }.or_failed(Stage::Init, cannot)? {
        ForkResult::Parent { .. } => {
            drop(reader);
            let Err(error) = become_init(&program);
            let errno = error.raw_os_error().unwrap_or(0);
            let _ = File::from(writer).write_all(&errno.to_ne_bytes());
            // The end of PID 1 would be a panic of the kernel.
            loop {
                pause();
            }
        }
        ForkResult::Child => {
            drop(writer);
            let stays = || "agentd cannot become a process of its own".into();
            setsid().or_failed(Stage::Init, stays)?;
            rename().or_failed(Stage::Init, stays)?;
            let mut errno = [0; size_of::<i32>()];
            match File::from(reader).read_exact(&mut errno) {
                // The pipe was closed by the execution of the program.
                Err(_) => Ok(()),
                Ok(()) => Err(Failure {
                    stage: Stage::Init,
                    errno: i32::from_ne_bytes(errno),
                    message: format!(
                        "The init {} cannot be executed",
                        shown(program.path.to_bytes())
                    ),
                }),
            }
        }
    }
}

/// Takes all from this process that agentd has set up for itself, and executes the program. Every descriptor but the standard
/// streams closes with that.
fn become_init(program: &Program) -> io::Result<Infallible> {
    reset_inherited_state()?;
    chdir("/")?;
    Ok(execve(&program.path, &program.args, &program.env)?)
}

/// Changes what others see as the name and the arguments of this process. systemd spares processes whose arguments begin with
/// `@` when it kills all that are left, so that sessions and the host are served until the machine ends (systemd
/// `docs/ROOT_STORAGE_DAEMONS.md`).
fn rename() -> nix::Result<()> {
    set_name(c"agentd")?;
    // SAFETY: the C library has set this to the first argument, which the kernel has put on the stack, where it may be changed
    // (environ(7)); agentd has one thread and holds no reference to it.
    unsafe {
        let name = program_invocation_name;
        if !name.is_null() && *name != 0 {
            *name = b'@'.cast_signed();
        }
    }
    Ok(())
}

fn find(init: &Init, profile: Profile) -> Result<Program, Failure> {
    let (path, args, given): (&[u8], &[Bytes], &[(Bytes, Bytes)]) = match init {
        Init::Auto => (first_usual()?.as_bytes(), &[], &[]),
        Init::Program { path, args, env } => (&path.0, args, env),
    };
    let mut variables = vec![
        (b"PATH".to_vec(), default_path(profile)),
        (b"HOME".to_vec(), b"/".to_vec()),
    ];
    for (name, value) in given {
        variables.retain(|(known, _)| *known != name.0);
        variables.push((name.0.clone(), value.0.clone()));
    }
    let args = [path]
        .into_iter()
        .chain(args.iter().map(|arg| arg.0.as_slice()));
    let env = variables
        .into_iter()
        .map(|(name, value)| [name, value].join(&b'='));
    Ok(Program {
        path: c_string(path)?,
        args: args.map(c_string).collect::<Result<_, _>>()?,
        env: env
            .map(|entry| c_string(&entry))
            .collect::<Result<_, _>>()?,
    })
}

fn first_usual() -> Result<&'static str, Failure> {
    let is_program = |path: &&str| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    USUAL.into_iter().find(is_program).ok_or_else(|| {
        let message = format!(
            "The root has no init: none of {} is a program",
            USUAL.join(", ")
        );
        failure(Stage::Init, Errno::ENOENT, message)
    })
}

/// For strings that have been checked.
fn c_string(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|error| broken_rule(&Bytes(error.into_vec()), "has a zero byte"))
}

/// Asks PID 1 to end what runs and then the machine. That is a reboot, since nothing but a reset ends the machine: with its own
/// signal for systemd, else with the one that the kernel sends for Ctrl-Alt-Del (reboot(2)).
pub(crate) fn ask_to_reboot() {
    let signal = match Path::new(SYSTEMD_IS_INIT).is_dir() {
        true => libc::SIGRTMIN() + SYSTEMD_REBOOT,
        false => libc::SIGINT,
    };
    // SAFETY: kill(2) touches no memory.
    if let Err(error) = Errno::result(unsafe { libc::kill(1, signal) }) {
        kernel_log::debug(format_args!("the init cannot be asked to end: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes(text.into())
    }

    fn program(path: &str, args: &[&str], env: &[(&str, &str)]) -> Init {
        Init::Program {
            path: bytes(path),
            args: args.iter().copied().map(bytes).collect(),
            env: env
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        assert!(check(&Init::Auto).is_ok());
        assert!(check(&program("/i", &["", "-x"], &[("A", "a=b")])).is_ok());
        for init in [
            program("", &[], &[]),
            program("init", &[], &[]),
            program("/i\0", &[], &[]),
            program("/i", &["\0"], &[]),
            program("/i", &[], &[("", "a")]),
            program("/i", &[], &[("A=", "a")]),
            program("/i", &[], &[("A", "\0")]),
        ] {
            let failure = check(&init).unwrap_err();
            assert_eq!((failure.stage, failure.errno), (Stage::Init, libc::EINVAL));
        }
    }

    #[test]
    fn an_init_has_a_path_a_home_and_what_it_is_given() {
        let init = program("/i", &["-v"], &[("HOME", "/h"), ("A", "1"), ("A", "2")]);
        let Ok(found) = find(&init, Profile::default()) else {
            panic!("it is fine");
        };
        assert_eq!(found.args, [c"/i", c"-v"].map(CString::from));
        let env: Vec<_> = found
            .env
            .iter()
            .map(|entry| shown(entry.to_bytes()))
            .collect();
        assert!(env[0].starts_with("PATH=/usr/local/sbin:"));
        assert_eq!(env[1..], ["HOME=/h", "A=2"]);
    }
}

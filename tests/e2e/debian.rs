//! A Debian system, made by mmdebstrap, in a guest.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use msb_tests::{Home, product};

#[test]
fn its_own_tools_run() {
    let home = Home::new();
    let script = r#"
        . /etc/os-release; echo $ID
        dpkg -l bash coreutils perl-base | grep -c ^ii
        [ "$(dpkg -l | grep -c ^ii)" -gt 50 ] && echo many packages
        dpkg --verify base-files && echo verified
        perl -MPOSIX -e 'printf "perl %d\n", (POSIX::uname)[1] eq "deb" ? 6 * 7 : 0'
        apt-get --version | head -1 | cut -d' ' -f1
        bash -c 'a=(1 2 3); echo bash ${#a[@]} ${BASH_VERSION%%.*}'
        find /usr -name '*.so*' -type f | wc -l | grep -q '[1-9]' && echo libraries
        seq 1000 | sort -R | sort -n | tail -1
        df --output=fstype / | tail -1
        mountpoint -q /proc && mountpoint -q /sys && mountpoint -q /dev/shm && echo mounts"#;
    let finished = home
        .debian()
        .with(["--hostname=deb"])
        .run(["bash", "-c", script]);
    let expected = [
        "debian",
        "3",
        "many packages",
        "verified",
        "perl 42",
        "apt",
        "bash 3 5",
        "libraries",
        "1000",
        "overlay",
        "mounts",
    ];
    assert_eq!(finished.lines(), expected);
}

#[test]
fn programs_are_interpreted_and_compiled() {
    let home = Home::new();
    let script = r#"
        set -e
        cd /tmp
        cat >sum.py <<'END'
import os, struct, subprocess
with open('numbers', 'wb') as file:
    file.write(struct.pack('<3I', 1, 2, 39))
numbers = struct.unpack('<3I', open('numbers', 'rb').read())
print('python', sum(numbers), os.uname().machine, subprocess.check_output(['wc', '-c', 'numbers'], text=True)[:2])
END
        python3 sum.py
        cat >sum.pl <<'END'
use strict; use File::Temp; use List::Util 'sum';
my $file = File::Temp->new; print $file "$_
" for 1, 2, 39; close $file;
open my $in, '<', $file->filename or die; print 'perl ', sum(<$in>), "
";
END
        perl sum.pl
        cat >sum.h <<'END'
#define SUM(a, b, c) ((a) + (b) + (c))
END
        cat >sum.c <<'END'
#include <stdio.h>
#include <stdlib.h>
#include "sum.h"
int main(int argc, char **argv) {
    if (argc != 4) return 2;
    printf("C %d
", SUM(atoi(argv[1]), atoi(argv[2]), atoi(argv[3])));
}
END
        tcc -Wall -c sum.c && tcc -o sum sum.o && ./sum 1 2 39
        ldd ./sum | grep -c libc.so.6
        tcc -run sum.c 40 1 1"#;
    let finished = home.debian().run(["bash", "-c", script]);
    let expected = ["python 42 x86_64 12", "perl 42", "C 42", "1", "C 42"];
    assert_eq!(finished.lines(), expected);
}

#[test]
fn packages_are_installed_and_removed() {
    let home = Home::new();
    let script = r#"
        set -e
        cd /tmp && mkdir -p hello/DEBIAN hello/usr/bin
        printf '#!/bin/sh\necho hello from a package\n' >hello/usr/bin/hello && chmod +x hello/usr/bin/hello
        printf 'Package: hello-msb\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' >hello/DEBIAN/control
        printf '#!/bin/sh\necho configured\n' >hello/DEBIAN/postinst && chmod +x hello/DEBIAN/postinst
        dpkg-deb --build hello >/dev/null
        dpkg -i hello.deb 2>&1 | grep -x configured
        hello
        dpkg-query -W hello-msb
        # One that came with the system: its files are in the lower layer.
        dpkg --purge --force-all ncurses-base 2>/dev/null | grep -c Removing
        [ ! -e /lib/terminfo/x/xterm ] && echo gone
        dpkg -P hello-msb >/dev/null && hash -r && ! command -v hello && echo removed"#;
    let before = msb_tests::tree::snapshot(&product::debian().join("var/lib/dpkg"));
    let finished = home.debian().run(["bash", "-c", script]);
    let expected = [
        "configured",
        "hello from a package",
        "hello-msb\t1",
        "1",
        "gone",
        "removed",
    ];
    assert_eq!(finished.lines(), expected);
    assert_eq!(
        msb_tests::tree::snapshot(&product::debian().join("var/lib/dpkg")),
        before
    );
}

#[test]
fn users_are_those_of_its_passwd_and_group() {
    let home = Home::new();
    let ids = "echo $(id -u):$(id -g) groups $(id -G) home $HOME user ${USER-none}; pwd";
    let run = |user: &str, directory: &str| {
        let guest = home.debian().with(["-u", user, "-w", directory]);
        guest.shell(ids).lines().join(" in ")
    };
    let expected = "33:33 groups 33 home /var/www user www-data in /usr/share";
    assert_eq!(run("www-data", "/usr/share"), expected);
    assert_eq!(run("33", "/usr/share"), expected);
    let expected = "33:4 groups 4 home /var/www user www-data in /";
    assert_eq!(run("www-data:adm", "/"), expected);
    assert_eq!(run("33:4", "/"), expected);
    assert_eq!(
        run("4242:4243", "/tmp"),
        "4242:4243 groups 4243 home / user none in /tmp"
    );
    assert_eq!(
        run("4242", "/tmp"),
        "4242:0 groups 0 home / user none in /tmp"
    );
}

#[test]
fn a_directory_that_the_user_may_not_enter_is_refused() {
    let home = Home::new();
    let finished = home
        .debian()
        .with(["-u", "nobody", "-w", "/root"])
        .run(["true"]);
    finished.assert_error(125, "/root");
}

#[test]
fn a_shell_in_a_terminal_has_job_control() {
    let home = Home::new();
    let mut terminal = home
        .debian()
        .with(["-e", "PS1=> "])
        .terminal("exec bash --norc -i");
    terminal.screen.wait_for("> ");
    // What it prints differs from what is typed.
    terminal.type_keys("sh -c 'echo up $((1 + 1)); sleep 1000'\r");
    terminal.screen.wait_for("up 2");
    terminal.type_keys("\x1a");
    terminal.screen.wait_for("Stopped");
    terminal.type_keys("kill -9 %1; wait; tty; exit 3\r");
    let closed = terminal.finish();
    assert_eq!(closed.code, 3, "{}", closed.screen);
    assert!(closed.screen.contains("/dev/pts/0"), "{}", closed.screen);
    for complaint in [
        "no job control",
        "cannot set terminal process group",
        "not a tty",
    ] {
        assert!(!closed.screen.contains(complaint), "{}", closed.screen);
    }
}

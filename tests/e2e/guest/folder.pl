# What programs expect of a folder, in which this script may do as it likes. One line for each expectation: "ok NAME" or
# "not ok NAME: REASON". Needs nothing but perl-base and coreutils.
use strict;
use warnings;
use Errno qw(EACCES EEXIST EINVAL ENAMETOOLONG ENODATA ENOTEMPTY EWOULDBLOCK);
use Fcntl qw(:DEFAULT :flock :mode :seek F_SETLK F_WRLCK);
use POSIX ();
use Socket;

# Numbers of system calls on x86_64, for what Perl has no function for.
use constant {
    SYS_read => 0, SYS_write => 1, SYS_mmap => 9, SYS_munmap => 11, SYS_fdatasync => 75, SYS_setxattr => 188,
    SYS_getxattr => 191, SYS_listxattr => 194, SYS_removexattr => 197, SYS_fallocate => 285, SYS_renameat2 => 316,
    SYS_copy_file_range => 326,
};
use constant { AT_FDCWD => -100, PROT_READ_WRITE => 3, MAP_SHARED => 1, MAP_PRIVATE => 2, SEEK_DATA => 3 };
use constant { RENAME_NOREPLACE => 1, RENAME_EXCHANGE => 2, XATTR_CREATE => 1, PUNCH_HOLE_KEEP_SIZE => 3 };

my ($folder) = @ARGV;
chdir $folder or die "chdir $folder: $!";
umask 022;
$| = 1;

sub expect {
    my ($name, $check) = @_;
    my $place = $name =~ s/\W+/-/gr;
    mkdir $place and chdir $place or die "$place: $!";
    print eval { $check->(); 1 } ? "ok $name\n" : "not ok $name: " . ($@ =~ s/\s+/ /gr) . "\n";
    chdir ".." or die;
    system("rm", "-rf", $place) == 0 or print "not ok $name: its files cannot be removed\n";
}

# The error of a system call that must fail.
sub fails {
    my ($error, $what, $result) = @_;
    my $number = $! + 0;
    die "$what works" if defined $result && $result ne "" && $result ne "0" && $result ne "-1";
    die "$what fails with $!" unless $number == $error;
}

sub is { my ($got, $wanted, $what) = @_; die "$what is $got, not $wanted" unless $got eq $wanted }
sub spew { my ($name, $data) = @_; open my $f, ">", $name or die "$name: $!"; print $f $data; close $f or die $! }
sub slurp { my ($name) = @_; open my $f, "<", $name or die "$name: $!"; local $/; scalar <$f> // "" }
sub names { opendir my $d, "." or die $!; grep { !/^\.\.?$/ } readdir $d }

# What the child's code returns as its exit status.
sub child {
    my ($code) = @_;
    my $pid = fork // die "fork: $!";
    POSIX::_exit($code->()) unless $pid;
    waitpid $pid, 0;
    $? >> 8;
}

expect "files are written, read, appended to and truncated", sub {
    spew "f", "hello";
    open my $f, ">>", "f" or die $!;
    print $f " world";
    close $f or die $!;
    is slurp("f"), "hello world", "the file";
    truncate "f", 3 or die $!;
    is slurp("f"), "hel", "the shorter file";
    truncate "f", 5 or die $!;
    is slurp("f"), "hel\0\0", "the longer file";
};

expect "exclusive creation fails for what exists", sub {
    spew "f", "";
    fails EEXIST, "O_EXCL", sysopen(my $f, "f", O_CREAT | O_EXCL | O_WRONLY);
};

expect "requests of a mebibyte", sub {
    my $data = pack "L*", map { $_ * 2654435761 % 2**32 } 1 .. 2**18;
    sysopen my $f, "f", O_CREAT | O_RDWR or die $!;
    for (1 .. 8) { is syswrite($f, $data), 2**20, "written" }
    syscall(SYS_fdatasync, fileno $f) == 0 or die "fdatasync: $!";
    sysseek $f, 0, SEEK_SET;
    for my $block (1 .. 8) { is sysread($f, my $read, 2**20), 2**20, "read"; die "block $block differs" if $read ne $data }
};

expect "input and output past the cache", sub {
    my $data = pack "L*", map { $_ * 40503 % 2**32 } 1 .. 2**18;
    spew "f", $data x 2;
    system("dd if=f of=g bs=1M iflag=direct oflag=direct status=none") == 0 or die "dd";
    die "the copy differs" if slurp("g") ne $data x 2;
};

expect "sparse files take no space", sub {
    sysopen my $f, "f", O_CREAT | O_RDWR or die $!;
    sysseek $f, 2**30, SEEK_SET;
    syswrite $f, "end" or die $!;
    syscall(SYS_fdatasync, fileno $f);
    my ($size, $blocks) = (stat $f)[7, 12];
    is $size, 2**30 + 3, "the size";
    die "it takes $blocks blocks" if $blocks > 2048;
    my $data = sysseek $f, 0, SEEK_DATA;
    die "the data begins at $data" if $data < 2**29;
};

expect "space is reserved and given back", sub {
    sysopen my $f, "f", O_CREAT | O_RDWR or die $!;
    syscall(SYS_fallocate, fileno $f, 0, 0, 2**20) == 0 or die "fallocate: $!";
    is -s $f, 2**20, "the size";
    syswrite $f, "x" x 2**16;
    syscall(SYS_fallocate, fileno $f, PUNCH_HOLE_KEEP_SIZE, 0, 2**15) == 0 or die "punch: $!";
    sysseek $f, 2**15 - 1, SEEK_SET;
    sysread $f, my $read, 2;
    is $read, "\0x", "the end of the hole";
};

expect "a range is copied from file to file", sub {
    spew "f", "abcdefgh" x 1000;
    sysopen my $from, "f", O_RDONLY or die $!;
    sysopen my $to, "g", O_CREAT | O_RDWR or die $!;
    my $count = syscall(SYS_copy_file_range, fileno $from, 0, fileno $to, 0, 8000, 0);
    is $count, 8000, "copied ($!)";
    is slurp("g"), slurp("f"), "the copy";
};

expect "hard links are one file", sub {
    spew "f", "one";
    link "f", "g" or die $!;
    is join(",", (stat "f")[1, 3]), join(",", (stat "g")[1, 3]), "inode and links";
    is +(stat "g")[3], 2, "the number of links";
    spew "g", "two";
    is slurp("f"), "two", "the other name";
    unlink "f" or die $!;
    is +(stat "g")[3], 1, "the number of links";
    fails EEXIST, "link", do { spew "f", ""; link "g", "f" };
};

expect "symbolic links are kept as they are", sub {
    symlink "no such/../file", "s" or die $!;
    is readlink("s"), "no such/../file", "the target";
    die "it has one" if -e "s";
    spew "f", "data";
    symlink "f", "t" or die $!;
    is slurp("t"), "data", "what it leads to";
};

expect "renaming replaces", sub {
    spew "f", "new";
    spew "g", "old";
    open my $old, "<", "g" or die $!;
    rename "f", "g" or die $!;
    is slurp("g"), "new", "the file";
    is scalar(<$old>), "old", "what is still open";
    die "the old name is there" if -e "f";
    mkdir $_ or die $! for qw(a b a/c);
    fails ENOTEMPTY, "rename", rename("b", "a");
    fails EINVAL, "rename", rename("a", "a/c/d");
    rename "a", "b" or die $!;
    die "what is in it is lost" unless -d "b/c";
};

expect "renaming can be told not to replace, or to exchange", sub {
    spew $_, $_ for qw(f g);
    my ($f, $g) = qw(f g);
    fails EEXIST, "renameat2", syscall(SYS_renameat2, AT_FDCWD, $f, AT_FDCWD, $g, RENAME_NOREPLACE);
    syscall(SYS_renameat2, AT_FDCWD, $f, AT_FDCWD, $g, RENAME_EXCHANGE) == 0 or die $!;
    is slurp("f") . slurp("g"), "gf", "the files";
};

expect "a removed file is there while it is open", sub {
    open my $f, "+>", "f" or die $!;
    unlink "f" or die $!;
    syswrite $f, "still here";
    sysseek $f, 0, SEEK_SET;
    sysread $f, my $read, 100;
    is $read, "still here", "it";
    is +(stat $f)[3], 0, "the number of links";
};

expect "modes and times are kept", sub {
    umask 027;
    sysopen my $f, "f", O_CREAT | O_WRONLY, 0666 or die $!;
    umask 022;
    is sprintf("%o", S_IMODE((stat "f")[2])), "640", "the mode";
    chmod 06751, "f" or die $!;
    is sprintf("%o", S_IMODE((stat "f")[2])), "6751", "the mode";
    utime 1000000001, 1234567890, "f" or die $!;
    is join(",", (stat "f")[8, 9]), "1000000001,1234567890", "the times";
};

expect "directories list every name once", sub {
    my %made = map { ("name-$_" x (1 + $_ % 20) => 1) } 1 .. 500;
    $made{"\xff\xfe not text\n"} = 1;
    $made{"x" x 255} = 1;
    spew $_, "" for keys %made;
    fails ENAMETOOLONG, "a name of 256 bytes", open my $f, ">", "x" x 256;
    my %seen;
    $seen{$_}++ for names();
    is join("|", sort keys %seen), join("|", sort keys %made), "the list";
    is join(",", grep { $seen{$_} > 1 } keys %seen), "", "listed twice";
    # As rm does it: the directory changes under the reader.
    opendir my $d, "." or die $!;
    while (defined(my $name = readdir $d)) { unlink $name or die "$name: $!" unless $name =~ /^\.\.?$/ }
    is scalar(names()), 0, "what is left";
    mkdir "a" and mkdir "a/b" or die $!;
    fails ENOTEMPTY, "rmdir", rmdir "a";
};

expect "extended attributes", sub {
    spew "f", "";
    my ($file, $name, $other, $value) = ("f", "user.one", "user.two", "\0binary" x 100);
    my $buffer = "\xff" x 4096;
    syscall(SYS_setxattr, $file, $name, $value, length $value, 0) == 0 or die "set: $!";
    fails EEXIST, "set", syscall(SYS_setxattr, $file, $name, $value, 1, XATTR_CREATE);
    my $length = syscall(SYS_getxattr, $file, $name, $buffer, length $buffer);
    is substr($buffer, 0, $length), $value, "the value";
    $length = syscall(SYS_listxattr, $file, $buffer, length $buffer);
    die "it is not listed" unless substr($buffer, 0, $length) =~ /\buser\.one\0/;
    fails ENODATA, "get", syscall(SYS_getxattr, $file, $other, $buffer, length $buffer);
    syscall(SYS_removexattr, $file, $name) == 0 or die "remove: $!";
    fails ENODATA, "get", syscall(SYS_getxattr, $file, $name, $buffer, length $buffer);
};

expect "files are mapped into memory", sub {
    spew "f", "." x 8192;
    sysopen my $f, "f", O_RDWR or die $!;
    pipe my $reader, my $writer or die $!;
    for (["shared", MAP_SHARED], ["private", MAP_PRIVATE]) {
        my ($kind, $flags) = @$_;
        my $address = syscall SYS_mmap, 0, 8192, PROT_READ_WRITE, $flags, fileno $f, 0;
        die "mmap $kind: $!" if $address == -1;
        # To the second page of the memory and back, through the pipe.
        syswrite $writer, $kind;
        is syscall(SYS_read, fileno $reader, $address + 4096, 7) + 0, length $kind, "written to memory ($!)";
        syscall(SYS_write, fileno $writer, $address + 4095, 8) == 8 or die $!;
        sysread $reader, my $read, 8;
        is substr($read, 0, 1 + length $kind), ".$kind", "the memory";
        syscall(SYS_munmap, $address, 8192) == 0 or die $!;
        is substr(slurp("f"), 4096, 6), "shared", "the file";
    }
};

expect "locks exclude other processes", sub {
    open my $f, ">", "f" or die $!;
    flock $f, LOCK_EX or die $!;
    is child(sub { open my $g, "<", "f"; !flock($g, LOCK_SH | LOCK_NB) && $! == EWOULDBLOCK }), 1, "flock";
    flock $f, LOCK_UN or die $!;
    is child(sub { open my $g, "<", "f"; flock $g, LOCK_SH | LOCK_NB }), 1, "flock, when it is free,";
    my $lock = pack "s s l! l! i", F_WRLCK, SEEK_SET, 0, 0, 0;
    fcntl $f, F_SETLK, $lock or die $!;
    is child(sub { open my $g, "+<", "f"; !fcntl($g, F_SETLK, my $copy = $lock) && ($! == EWOULDBLOCK || $! == EACCES) }), 1, "fcntl";
};

expect "fifos and sockets connect processes", sub {
    POSIX::mkfifo("fifo", 0600) or die $!;
    my $pid = fork // die $!;
    unless ($pid) { spew "fifo", "through the fifo"; POSIX::_exit(0) }
    is slurp("fifo"), "through the fifo", "it";
    waitpid $pid, 0;
    socket my $server, PF_UNIX, SOCK_STREAM, 0 or die $!;
    bind $server, pack_sockaddr_un("socket") or die "bind: $!";
    listen $server, 1 or die $!;
    socket my $client, PF_UNIX, SOCK_STREAM, 0 or die $!;
    connect $client, pack_sockaddr_un("socket") or die "connect: $!";
    accept my $connection, $server or die $!;
    syswrite $client, "through the socket";
    sysread $connection, my $read, 100;
    is $read, "through the socket", "it";
};

expect "programs and scripts are executed", sub {
    spew "script", "#!/bin/sh\necho run by \$0\n";
    chmod 0755, "script";
    is `./script`, "run by ./script\n", "the script";
    system("cp", "/usr/bin/expr", "program") == 0 or die;
    is `./program 6 '*' 7`, "42\n", "the program";
    chmod 0644, "script";
    die "it is run without being executable" if system("./script 2>/dev/null") == 0;
};

expect "permissions are checked", sub {
    return if $> != 0;
    spew "f", "secret";
    chmod 0600, "f" or die $!;
    chmod 0755, "." or die $!;
    my $as_nobody = sub { my ($code) = @_; child(sub { $) = "65534 65534"; $> = 65534; $code->() }) };
    is $as_nobody->(sub { !open(my $f, "<", "f") && $! == EACCES }), 1, "opening for others";
    is $as_nobody->(sub { !mkdir("d") && $! == EACCES }), 1, "mkdir for others";
    chmod 0644, "f" or die $!;
    is $as_nobody->(sub { open(my $f, "<", "f") ? 1 : 0 }), 1, "opening what all may read";
};

//! Users and groups, from the guest's `/etc/passwd` and `/etc/group`.
//!
//! agentd reads these files itself. The functions of the C library (getpwnam(3) and its family)
//! load name service modules from the guest's file system, which a static program must not do.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use protocol::{Failure, Stage};

use crate::failure::{failure, shown};

/// Where passwd(5) is.
pub(crate) const PASSWD: &str = "/etc/passwd";
/// Where group(5) is.
pub(crate) const GROUP: &str = "/etc/group";

/// Largest passwd or group file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The shell of users who have none.
const DEFAULT_SHELL: &[u8] = b"/bin/sh";

/// Who a process shall be: the `user` of an `Exec` message, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserRequest {
    user: NameOrId,
    group: Option<NameOrId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NameOrId {
    Name(String),
    Id(u32),
}

impl UserRequest {
    /// The user 0.
    pub(crate) const ROOT: Self = Self {
        user: NameOrId::Id(0),
        group: None,
    };

    /// Reads `USER` or `USER:GROUP`; each is a number or a name.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let parts = (NameOrId::parse(user), group.map(NameOrId::parse));
        match parts {
            (Some(user), None) => Ok(Self { user, group: None }),
            (Some(user), Some(Some(group))) => Ok(Self {
                user,
                group: Some(group),
            }),
            _ => Err(failure(
                Stage::User,
                Errno::EINVAL,
                format!("`{text}` is neither USER nor USER:GROUP"),
            )),
        }
    }
}

impl NameOrId {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.contains(':') {
            return None;
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::Name(text.into()));
        }
        // The largest number means "leave it as it is" to setresuid(2).
        text.parse().ok().filter(|&id| id != u32::MAX).map(Self::Id)
    }
}

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups; the first is `gid`.
    pub(crate) groups: Vec<u32>,
    /// Name in the passwd file, if the user is there.
    pub(crate) name: Option<Vec<u8>>,
    /// Home directory, `/` without a better one.
    pub(crate) home: Vec<u8>,
    /// Login shell, `/bin/sh` without a better one.
    pub(crate) shell: Vec<u8>,
}

/// Finds the user and the groups that `request` means in the contents of the two files.
pub(crate) fn resolve(
    request: &UserRequest,
    passwd: &[u8],
    group: &[u8],
) -> Result<Identity, Failure> {
    let unknown = |what: &str, name: &str, file: &str| {
        failure(
            Stage::User,
            Errno::ENOENT,
            format!("There is no {what} `{name}` in {file}"),
        )
    };
    let account = match &request.user {
        NameOrId::Id(uid) => accounts(passwd)
            .find(|account| account.uid == *uid)
            .unwrap_or_else(|| Account::nameless(*uid)),
        NameOrId::Name(name) => accounts(passwd)
            .find(|account| account.name == name.as_bytes())
            .ok_or_else(|| unknown("user", name, PASSWD))?,
    };
    let (gid, groups) = match &request.group {
        None => (account.gid, account.groups(group)),
        Some(NameOrId::Id(gid)) => (*gid, vec![*gid]),
        Some(NameOrId::Name(name)) => {
            let gid = group_id(name.as_bytes(), group);
            let gid = gid.ok_or_else(|| unknown("group", name, GROUP))?;
            (gid, vec![gid])
        }
    };
    let or_default = |field: &[u8], default: &[u8]| {
        if field.is_empty() {
            default.to_vec()
        } else {
            field.to_vec()
        }
    };
    Ok(Identity {
        uid: account.uid,
        gid,
        groups,
        name: (!account.name.is_empty()).then(|| account.name.to_vec()),
        home: or_default(account.home, b"/"),
        shell: or_default(account.shell, DEFAULT_SHELL),
    })
}

/// The number of the group called `name`.
pub(crate) fn group_id(name: &[u8], group: &[u8]) -> Option<u32> {
    group_lines(group)
        .find(|line| line.name == name)
        .map(|line| line.gid)
}

/// Reads a passwd or group file; one that does not exist is empty.
pub(crate) fn read(path: &str) -> io::Result<Vec<u8>> {
    // Non-blocking, as the guest may have put a FIFO there.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(Errno::EINVAL.into());
    }
    let mut content = Vec::new();
    let count = file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if count as u64 > MAX_FILE {
        return Err(Errno::EFBIG.into());
    }
    Ok(content)
}

/// One line of the passwd file: `name:password:uid:gid:comment:home:shell`.
struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
    shell: &'a [u8],
}

impl Account<'_> {
    /// A user who is only a number.
    fn nameless(uid: u32) -> Self {
        Self {
            name: b"",
            uid,
            gid: 0,
            home: b"",
            shell: b"",
        }
    }

    /// The user's own group, and those that list the user.
    fn groups(&self, group: &[u8]) -> Vec<u32> {
        let mut groups = vec![self.gid];
        for line in group_lines(group) {
            let listed = line
                .members
                .split(|&byte| byte == b',')
                .any(|name| name == self.name);
            if listed && !self.name.is_empty() && !groups.contains(&line.gid) {
                groups.push(line.gid);
            }
        }
        groups
    }
}

/// The lines of a passwd file that make sense.
fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        let _comment = fields.next()?;
        let home = fields.next()?;
        let shell = fields.next().unwrap_or_default();
        Some(Account {
            name,
            uid,
            gid,
            home,
            shell,
        })
    })
}

/// One line of the group file: `name:password:gid:member,member`.
struct GroupLine<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// The lines of a group file that make sense.
fn group_lines(group: &[u8]) -> impl Iterator<Item = GroupLine<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let gid = number(fields.next()?)?;
        Some(GroupLine {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    })
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.starts_with(b"#"))
}

fn number(field: &[u8]) -> Option<u32> {
    str::from_utf8(field)
        .ok()?
        .parse()
        .ok()
        .filter(|&id| id != u32::MAX)
}

/// For messages: who is meant, as the client wrote it.
impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({}:{})", shown(name), self.uid, self.gid),
            None => write!(f, "{}:{}", self.uid, self.gid),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        # a comment:x:1:1::/:/bin/sh\n\
        broken line\n\
        :x:7:7::/:/bin/sh\n\
        minus:x:-1:5::/:/bin/sh\n\
        ada:x:1000:1000:Ada,,,:/home/ada:/bin/zsh\n\
        bare:x:1001:100::";
    const GROUP: &[u8] = b"root:x:0:\naudio:x:29:ada,bob\nvideo:x:44:bob,ada\nada:x:1000:ada\n\
        users:x:100:\nnear:x:45:adam,xada\n";

    fn who(text: &str) -> Result<Identity, Failure> {
        resolve(&UserRequest::parse(text)?, PASSWD, GROUP)
    }

    fn ids(text: &str) -> (u32, u32, Vec<u32>) {
        let identity = who(text).unwrap();
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn a_name_brings_its_groups_home_and_shell() {
        assert_eq!(ids("ada"), (1000, 1000, vec![1000, 29, 44]));
        let ada = who("ada").unwrap();
        assert_eq!(ada.home, b"/home/ada");
        assert_eq!(ada.shell, b"/bin/zsh");
        assert_eq!(ada.name.as_deref(), Some(&b"ada"[..]));
    }

    #[test]
    fn a_known_number_is_the_same_as_its_name() {
        assert_eq!(who("1000"), who("ada"));
        assert_eq!(resolve(&UserRequest::ROOT, PASSWD, GROUP), who("root"));
    }

    #[test]
    fn unknown_numbers_are_fine() {
        let nobody = who("4242").unwrap();
        assert_eq!(
            (nobody.uid, nobody.gid, &nobody.groups[..]),
            (4242, 0, &[0][..])
        );
        assert_eq!(
            (&nobody.home[..], &nobody.shell[..]),
            (&b"/"[..], &b"/bin/sh"[..])
        );
        assert_eq!(nobody.name, None);
        assert_eq!(ids("4242:4343"), (4242, 4343, vec![4343]));
    }

    #[test]
    fn an_explicit_group_is_the_only_one() {
        assert_eq!(ids("ada:users"), (1000, 100, vec![100]));
        assert_eq!(ids("1000:7"), (1000, 7, vec![7]));
    }

    #[test]
    fn empty_fields_get_defaults() {
        let bare = who("bare").unwrap();
        assert_eq!(
            (&bare.home[..], &bare.shell[..]),
            (&b"/"[..], &b"/bin/sh"[..])
        );
    }

    #[test]
    fn unknown_names_and_nonsense_are_refused() {
        for text in ["nobody", "ada:nogroup", "minus"] {
            let failure = who(text).unwrap_err();
            assert_eq!(
                (failure.stage, failure.errno),
                (Stage::User, libc::ENOENT),
                "{text}"
            );
        }
        for text in [
            "",
            ":",
            "ada:",
            ":users",
            "a:b:c",
            "4294967295",
            "99999999999",
        ] {
            let failure = who(text).unwrap_err();
            assert_eq!(
                (failure.stage, failure.errno),
                (Stage::User, libc::EINVAL),
                "{text}"
            );
        }
    }

    #[test]
    fn reads_only_ordinary_files_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(read(&path("missing")).unwrap(), b"");
        nix::unistd::mkfifo(&folder.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(
            read(&path("fifo")).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
        let large = std::fs::File::create(path("large")).unwrap();
        large.set_len(MAX_FILE + 1).unwrap();
        assert_eq!(
            read(&path("large")).unwrap_err().raw_os_error(),
            Some(libc::EFBIG)
        );
        large.set_len(MAX_FILE).unwrap();
        assert_eq!(read(&path("large")).unwrap().len() as u64, MAX_FILE);
    }

    proptest! {
        #[test]
        fn hostile_files_never_crash(
            passwd in "([a-z:0-9,#\n]|\\PC){0,200}",
            group in "([a-z:0-9,#\n]|\\PC){0,200}",
            request in "[a-z0-9:]{0,8}",
        ) {
            if let Ok(request) = UserRequest::parse(&request) {
                let _ = resolve(&request, passwd.as_bytes(), group.as_bytes());
            }
        }
    }
}

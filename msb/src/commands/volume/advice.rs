//! What to do about errors of volumes.

use microsandbox::database::DatabaseError;
use microsandbox::volumes::VolumeError;

use crate::failure::with_hint;
use crate::operand::operand;

/// Adds to an error what to do about it.
pub(in crate::commands) fn advise(error: VolumeError) -> anyhow::Error {
    let hint = match &error {
        VolumeError::InvalidName(_) => {
            "a name has 1 to 128 bytes, begins with no dot and contains neither / nor control characters".to_owned()
        }
        VolumeError::InvalidConfig { .. } => {
            "`msb volume create --help` describes both kinds".to_owned()
        }
        VolumeError::VolumeAlreadyExists { name } => {
            format!(
                "choose another name, or remove it with `msb volume rm {}`",
                operand(name)
            )
        }
        VolumeError::VolumeNotFound { .. } => "`msb volume ls` lists the volumes".to_owned(),
        VolumeError::VolumeInUse { .. } => "end what uses it first".to_owned(),
        VolumeError::Incompatible { .. } => "ask for what it is, or use another volume".to_owned(),
        VolumeError::SizeMissing { .. } => "give it one, such as --size 20G".to_owned(),
        VolumeError::Unrecorded { .. } => "move it away, or choose another name".to_owned(),
        VolumeError::DirectoryMissing { name, .. } => {
            format!(
                "put it back, or forget the volume with `msb volume rm {}`",
                operand(name)
            )
        }
        VolumeError::FilesRemain { path, .. } => format!("remove {} yourself", path.display()),
        VolumeError::NoMke2fs => "install e2fsprogs".to_owned(),
        VolumeError::Mke2fs { .. } => "look at the free room on its file system".to_owned(),
        VolumeError::Directory(_) => {
            "make it a directory of yours that nobody else can write".to_owned()
        }
        VolumeError::Database(error) => database(error),
        VolumeError::Io { .. } => "look at the permissions and the free room there".to_owned(),
    };
    with_hint(error, hint)
}

/// What to do about an error of the database.
pub(in crate::commands) fn database(error: &DatabaseError) -> String {
    match error {
        DatabaseError::Directory(_) => {
            "make it a directory of yours that nobody else can write".to_owned()
        }
        DatabaseError::Newer { .. } => {
            "use the later version of msb, or another MSB_HOME".to_owned()
        }
        DatabaseError::Damaged { path, .. } => format!(
            "put a backup of {} back, or move it away: the files of the volumes are untouched, but no volume and no sandbox is recorded then",
            path.display()
        ),
        DatabaseError::Record { path, .. } => format!(
            "put a backup of {} back, or take the record out with sqlite3(1): the other sandboxes are as they were",
            path.display()
        ),
        DatabaseError::Locked { path, .. } => {
            format!(
                "`fuser {}` names the programs that use it",
                operand(path.display())
            )
        }
        DatabaseError::ReadOnly { .. } | DatabaseError::Lock { .. } => {
            "its directory and the files in it must be writable for you".to_owned()
        }
        DatabaseError::Failed { .. } => "look at the free room on its file system".to_owned(),
    }
}
